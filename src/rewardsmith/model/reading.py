"""Trees through the backbone, a budget of positions at a time, no prompt computed twice.

A group of responses that does not fit into the budget is read in pieces. Where attention works tree by tree, the
first piece leaves the prompt's keys and values behind and the others use them; elsewhere each piece reads the prompt
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from rewardsmith.encoding import pack
from rewardsmith.encoding.template import common_prefix
from rewardsmith.encoding.tree import Tree, first_places, split
from rewardsmith.model.backbone import Backbone
from rewardsmith.model.tree_attention import Past

Features = Iterator[tuple[list[int], torch.Tensor]]
Progress = Callable[[int], None]


def read(
    backbone: Backbone,
    trees: Sequence[Tree],
    pad_id: int,
    budget: int,
    *,
    layers: Sequence[int] | None = None,
    pasts: Sequence[Past | None] | None = None,
    progress: Progress | None = None,
) -> Features:
    """Run the backbone over trees.

    Args:
        budget: positions per forward pass; a single longer sequence is read whole.
        layers: 1-based layer numbers; None for the last.
        pasts: per tree, keys and values of its first tokens: used when they are there, else filled. An empty one must
            not reach beyond the tree's prefix nor beyond where its responses begin. Only for ``backbone.by_tree``.
        progress: called with the tokens of the trees read since the last call.

    Yields:
        places: R indices into the trees' responses, counted through (tree 0's first, tree 0's second, ...).
        features: [N layers, R, d] float32.
    """
    if backbone.by_tree:
        yield from _read_by_tree(backbone, trees, pad_id, budget, layers, pasts or [None] * len(trees), progress)
        return
    arranged, batches = backbone.arrange(trees, budget)
    first = first_places(arranged)
    for rows in batches:
        batch = backbone.collate(arranged, rows, pad_id)
        yield [first[tree] + k for tree, k in batch.owner], backbone.features(batch, layers)
        if progress:
            progress(sum(len(arranged[index]) for row in rows for index in row))


def _read_by_tree(
    backbone: Backbone,
    trees: Sequence[Tree],
    pad_id: int,
    budget: int,
    layers: Sequence[int] | None,
    pasts: Sequence[Past | None],
    progress: Progress | None,
) -> Features:
    first = first_places(trees)
    known = [known_tokens(tree, past) for tree, past in zip(trees, pasts, strict=True)]
    lengths = [len(tree) - skip for tree, skip in zip(trees, known, strict=True)]
    whole = [index for index, tree in enumerate(trees) if lengths[index] <= budget or len(tree.branches) == 1]
    for rows in pack.plan([lengths[index] for index in whole], budget):
        chosen = [whole[place] for row in rows for place in row]
        some = [trees[index] for index in chosen]
        row, here = [range(len(some))], [pasts[index] for index in chosen]
        if any(here):
            batch = pack.collate(some, row, pad_id, known=[known[index] for index in chosen])
        else:
            batch = backbone.collate(some, row, pad_id)
        features = backbone.features(batch, layers, here)
        yield [first[chosen[tree]] + k for tree, k in batch.owner], features
        if progress:
            progress(sum(map(len, some)))
    for index in sorted(set(range(len(trees))) - set(whole)):
        yield from _read_in_pieces(
            backbone, trees[index], first[index], pad_id, budget, layers, pasts[index], known[index], progress
        )


def _read_in_pieces(
    backbone: Backbone,
    tree: Tree,
    place: int,
    pad_id: int,
    budget: int,
    layers: Sequence[int] | None,
    past: Past | None,
    known: int,
    progress: Progress | None,
) -> Features:
    """One large group: its first piece fills the past that the others use."""
    past = past or Past(tree.prefix[: min(tree.response_starts)])
    for piece in split(tree, budget, len(past.tokens)):
        batch = pack.collate([piece], [[0]], pad_id, known=[known])
        yield list(range(place, place + len(piece.branches))), backbone.features(batch, layers, [past])
        place, known = place + len(piece.branches), known_tokens(piece, past)
        if progress:
            progress(len(piece))


def known_tokens(tree: Tree, past: Past | None) -> int:
    """How many of a tree's first tokens a past knows: never a response's own, which pooling may read."""
    if past is None or not past.layers:
        return 0
    return min(common_prefix(past.tokens, tree.prefix), *tree.response_starts)
