"""Features at many places of many responses, each token computed once.

A causal model's state at a token knows nothing of what follows, so the features there are those of the sequence cut
behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from rewardsmith.encoding import pack
from rewardsmith.encoding.pack import Batch
from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import Tree, build, first_places
from rewardsmith.model.backbone import Backbone

_POOLED = 2**16  # tokens whose states are averaged at a time: every place of a mean reads the response up to there


def tree_of(rendered: Sequence[Rendered], places: Sequence[Sequence[int]]) -> Tree:
    """The tree of responses that share as much as they can while every place is in a branch of its own.

    Args:
        rendered: K >= 1 responses.
        places: per response, the indices into its sequence that will be read, none before its first own token.
    """
    tree = build(rendered)
    depth = min([len(tree.prefix), *(min(some) for some in places if some)])
    return Tree(tree.prefix[:depth], tuple(item.ids[depth:] for item in rendered), tree.response_starts)


def read_places(
    backbone: Backbone,
    trees: Sequence[Tree],
    places: Sequence[Sequence[int]],
    pad_id: int,
    budget: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Run the backbone over trees and read its last layer at ``places``.

    Args:
        trees: whose prefixes end before the first place.
        places: per response, counted through the trees, the indices into its sequence that are read.
        budget: positions per forward pass.
        progress: called with tokens done and tokens in all after each pass.

    Yields:
        numbers: of each reading the response it is of, counted through the trees; a response's readings are in order.
        features: [readings, d] float32.
    """
    arranged, batches = backbone.arrange(trees, budget)
    first = first_places(arranged)
    total, done = sum(map(len, arranged)), 0
    for rows in batches:
        batch = backbone.collate(arranged, rows, pad_id).to(backbone.device)
        states = backbone.states(batch).last_hidden_state
        lengths = [len(arranged[tree].prefix) + len(arranged[tree].branches[k]) for tree, k in batch.owner]
        read = pack.read_at(batch, lengths, [places[first[tree] + k] for tree, k in batch.owner])
        for part in _portions(read):
            yield [first[tree] + k for tree, k in part.owner], backbone.pool(states, part)
        done += sum(len(arranged[index]) for row in rows for index in row)
        if progress:
            progress(done, total)


def _portions(batch: Batch) -> Iterator[Batch]:
    """Some of the places at a time, so that means over long responses do not fill the memory."""
    longest = max((sum(stop - start for start, stop in spans) for spans in batch.spans), default=1)
    size = max(1, _POOLED // longest)
    for at in range(0, len(batch.owner), size):
        part = slice(at, at + size)
        yield replace(batch, last=batch.last[part], owner=batch.owner[part], spans=batch.spans[part])
