"""Trees into rows, rows into batches, and the one mask predicate.

Shapes: B rows, L positions a row, R responses in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rewardsmith.encoding.tree import Tree, rooted

if TYPE_CHECKING:
    import torch

PAD = -1  # tree id of padding
TRUNK = -2  # tree id of the tokens that all trees of a row begin with


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows, ready for one forward pass.

    Args:
        input_ids: [B, L] int64.
        position_ids: [B, L] int64; restart at 0 for each tree and at the prefix's end for each branch.
        tree: [B, L] int32, which tree a position belongs to, :data:`PAD` or :data:`TRUNK`.
        branch: [B, L] int32, 0 for a prefix, 1..K for a branch.
        last: [R] int64, index into the flattened [B * L] of each response's last token.
        owner: [R] pairs (index of the tree in the caller's list, index of the response in its tree).
        spans: [R] lists of flattened index ranges (start, stop) that hold the response's own tokens, for mean pooling.
        sizes: per tree, in the order of the rows, the lengths of its prefix and of its branches.
        known: per tree, how many tokens of its prefix are left out, because their keys and values are there already.
        trunk: so many tokens stand at the beginning of each row for all of its trees; ``known`` is that many then.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    tree: torch.Tensor
    branch: torch.Tensor
    last: torch.Tensor
    owner: list[tuple[int, int]]
    spans: list[list[tuple[int, int]]]
    sizes: list[tuple[int, ...]]
    known: list[int]
    trunk: int = 0

    def to(self, device: Any) -> Batch:
        """The same batch with its tensors on ``device``."""
        names = ("input_ids", "position_ids", "tree", "branch", "last")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def reordered(self, order: Sequence[int]) -> Batch:
        """The same rows with the responses read in another order, ``order`` a permutation of [0, R)."""
        return replace(
            self,
            last=self.last[list(order)],
            owner=[self.owner[place] for place in order],
            spans=[self.spans[place] for place in order],
        )


def plan(lengths: Sequence[int], budget: int, *, one_per_row: bool = False) -> list[list[list[int]]]:
    """Arrange trees into batches of rows.

    Longest first: a batch's row length is its longest tree, its row count what the budget allows, and shorter trees
    fill what is left of the rows. Neighbours in length meet, so rows are nearly full and attention, which costs the
    square of the row, stays cheap.

    Args:
        lengths: tokens of each tree, >= 1.
        budget: positions per batch (B * L). A tree longer than the budget gets a batch of its own.
        one_per_row: never put two trees into one row, for backbones that cannot keep them apart.

    Returns:
        Batches of rows of tree indices. Every index appears exactly once. Deterministic.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[list[int]]] = []
    start = 0
    while start < len(order):
        width = lengths[order[start]]
        rows = [[] for _ in range(max(1, budget // width))]
        room = [width] * len(rows)
        row = 0
        # Fill rows one tree each, then come round again with the trees that follow, until one fits nowhere.
        while start < len(order):
            size = lengths[order[start]]
            tried = 0
            while tried < len(rows) and room[row] < size:
                row, tried = (row + 1) % len(rows), tried + 1
            if tried == len(rows):
                break
            rows[row].append(order[start])
            room[row] = 0 if one_per_row else room[row] - size
            row, start = (row + 1) % len(rows), start + 1
        batches.append([row for row in rows if row])
    return batches


def collate(
    trees: Sequence[Tree],
    rows: Sequence[Sequence[int]],
    pad_id: int,
    multiple_of: int | None = None,
    known: Sequence[int] | None = None,
    trunk: int = 0,
) -> Batch:
    """Lay the trees of ``rows`` (indices into ``trees``) out as one padded batch.

    Args:
        multiple_of: the width of the rows is a multiple of it.
        known: per tree, how many tokens of its prefix to leave out, at most up to where its responses begin.
        trunk: put the first so many tokens of all these trees (:func:`tree.trunk`) at the beginning of each row, once;
            not together with ``known``.
    """
    import torch

    left_out = known or [trunk] * len(trees)
    width = trunk + max(sum(len(trees[index]) - left_out[index] for index in row) for row in rows)
    width += -width % (multiple_of or 1)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_id, dtype=torch.int64)
    positions = torch.zeros(shape, dtype=torch.int64)
    tree_ids = torch.full(shape, PAD, dtype=torch.int32)
    branch_ids = torch.zeros(shape, dtype=torch.int32)
    last: list[int] = []
    owner: list[tuple[int, int]] = []
    spans: list[list[tuple[int, int]]] = []
    sizes: list[tuple[int, ...]] = []
    for b, row in enumerate(rows):
        at = trunk
        if trunk:
            ids[b, :trunk] = torch.tensor(trees[row[0]].sequence(0)[:trunk], dtype=torch.int64)
            positions[b, :trunk] = torch.arange(trunk)
            tree_ids[b, :trunk] = TRUNK
        for index in row:
            tree = trees[index]
            tree = tree if len(tree.prefix) >= trunk else rooted(tree, trunk)
            skipped, depth = left_out[index], len(tree.prefix)
            begin = at - skipped
            sizes.append((depth, *map(len, tree.branches)))
            for k, tokens in enumerate((tree.prefix[skipped:], *tree.branches)):
                stop = at + len(tokens)
                first = skipped if k == 0 else depth
                ids[b, at:stop] = torch.tensor(tokens, dtype=torch.int64)
                positions[b, at:stop] = torch.arange(first, first + len(tokens))
                tree_ids[b, at:stop] = index
                branch_ids[b, at:stop] = k
                if k:
                    last.append(b * width + stop - 1)
                    owner.append((index, k - 1))
                    spans.append(_span(tree, k - 1, b * width + begin, b * width + at))
                at = stop
    places = torch.tensor(last, dtype=torch.int64)
    skips = [left_out[index] for row in rows for index in row]
    return Batch(ids, positions, tree_ids, branch_ids, places, owner, spans, sizes, skips, trunk)


def _span(tree: Tree, branch: int, prefix_at: int, branch_at: int) -> list[tuple[int, int]]:
    """Flattened ranges of a response's tokens: the part that fell into the shared prefix, then its branch."""
    start, depth = tree.response_starts[branch], len(tree.prefix)
    own = (branch_at + max(0, start - depth), branch_at + len(tree.branches[branch]))
    shared = (prefix_at + start, prefix_at + depth)
    return [shared, own] if start < depth else [own]


def read_at(batch: Batch, lengths: Sequence[int], places: Sequence[Sequence[int]]) -> Batch:
    """The same rows read at other tokens than the last: in a causal model, the scores of the sequences cut there.

    With mean pooling, a place reads the mean over the response's tokens up to it.

    Args:
        lengths: of each response's whole sequence, prefix and branch, in the order of ``batch.owner``, [R].
        places: per response, n indices into that sequence, each a token of the response and of its own branch.

    Returns:
        The batch with one reading per place, those of the first response first; ``owner`` says of which response.

    Raises:
        ValueError: a place in the prompt, in the shared prefix or behind the end.
    """
    import torch

    last: list[int] = []
    owner: list[tuple[int, int]] = []
    spans: list[list[tuple[int, int]]] = []
    for end, who, own, length, wanted in zip(
        batch.last.tolist(), batch.owner, batch.spans, lengths, places, strict=True
    ):
        (first, stop), earlier = own[-1], own[:-1]
        for place in wanted:
            at = end - (length - 1 - place)
            if not first <= at < stop:
                low = length - (stop - first)
                raise ValueError(f"place {place} is not a token of the response's own branch, [{low}, {length})")
            last.append(at)
            owner.append(who)
            spans.append([*earlier, (first, at + 1)])
    return replace(batch, last=torch.tensor(last, dtype=torch.int64), owner=owner, spans=spans)


def attends(
    query_tree, query_branch, query_position, key_tree, key_branch, key_position, window: int | None = None
) -> torch.Tensor:
    """The mask predicate, for tensors that broadcast: may the query look at the key?

    Same tree, and the key is in the prefix or in the query's own branch; or the key is in the trunk. The key is not
    later, in positions of the single sequence. With a sliding ``window``, it is fewer than ``window`` positions back.
    """
    allowed = (query_tree == key_tree) & ((key_branch == 0) | (key_branch == query_branch))
    allowed = (allowed | (key_tree == TRUNK) & (query_tree != PAD)) & (key_position <= query_position)
    if window is not None:
        allowed = allowed & (query_position - key_position < window)
    return allowed


def dense_mask(batch: Batch, dtype: torch.dtype, window: int | None = None) -> torch.Tensor:
    """The predicate as an additive mask, [B, 1, L, L]: 0 where allowed, the dtype's lowest value elsewhere."""
    import torch

    tree, branch, position = batch.tree, batch.branch, batch.position_ids
    allowed = attends(
        tree[:, :, None],
        branch[:, :, None],
        position[:, :, None],
        tree[:, None, :],
        branch[:, None, :],
        position[:, None, :],
        window,
    )
    # Padding is a tree of its own and attends to padding, so that no softmax runs over an empty set.
    mask = torch.zeros(allowed.shape, dtype=dtype, device=tree.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def block_mask(batch: Batch, window: int | None = None) -> Any:
    """The predicate as a FlexAttention block mask for the whole batch."""
    from torch.nn.attention.flex_attention import create_block_mask

    tree, branch, position = batch.tree, batch.branch, batch.position_ids

    def predicate(b, _head, q, k):
        return attends(tree[b, q], branch[b, q], position[b, q], tree[b, k], branch[b, k], position[b, k], window)

    rows, width = tree.shape
    return create_block_mask(predicate, rows, None, width, width, device=str(tree.device))
