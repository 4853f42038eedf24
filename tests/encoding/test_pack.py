"""Trees, rows and the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.encoding import pack
from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import Tree, build, first_places, split, unshare

SEQUENCES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=1, max_size=6)


def tree_of(sequences: list[list[int]]) -> Tree:
    return build([Rendered(tuple(ids), len(ids) // 2) for ids in sequences])


@given(SEQUENCES)
def test_a_tree_holds_its_sequences(sequences: list[list[int]]) -> None:
    tree = tree_of(sequences)
    assert [list(tree.sequence(k)) for k in range(len(sequences))] == sequences
    assert all(len(branch) >= 1 for branch in tree.branches)


@given(SEQUENCES, st.integers(1, 40))
def test_splitting_keeps_sequences_and_order(sequences: list[list[int]], budget: int) -> None:
    tree = tree_of(sequences)
    pieces = split(tree, budget)
    assert [piece.sequence(k) for piece in pieces for k in range(len(piece.branches))] == [*map(tuple, sequences)]
    assert all(len(piece) <= budget or len(piece.branches) == 1 for piece in pieces)
    alone = unshare(tree)
    assert [single.sequence(0) for single in alone] == [*map(tuple, sequences)]
    assert [single.response_starts[0] for single in alone] == list(tree.response_starts)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 128), st.booleans())
def test_the_plan_places_every_tree_once_within_the_budget(lengths: list[int], budget: int, alone: bool) -> None:
    batches = pack.plan(lengths, budget, one_per_row=alone)
    assert sorted(index for rows in batches for row in rows for index in row) == list(range(len(lengths)))
    for rows in batches:
        width = max(sum(lengths[index] for index in row) for row in rows)
        assert width == max(lengths[index] for row in rows for index in row)
        assert len(rows) == 1 or len(rows) * width <= budget
        assert not alone or all(len(row) == 1 for row in rows)


def test_rows_of_like_lengths_are_nearly_full() -> None:
    lengths = [20 + (37 * k) % 400 for k in range(500)]
    batches = pack.plan(lengths, 2048)
    positions = sum(len(rows) * max(sum(lengths[i] for i in row) for row in rows) for rows in batches)
    assert sum(lengths) / positions > 0.95


def slow_mask(trees: list[Tree], rows: list[list[int]], window: int | None) -> torch.Tensor:
    """Which positions may see which, by walking the sequences one by one."""
    width = max(sum(len(trees[i]) for i in row) for row in rows)
    allowed = torch.zeros(len(rows), width, width, dtype=torch.bool)
    for b, row in enumerate(rows):
        at = 0
        for index in row:
            tree = trees[index]
            prefix = list(range(at, at + len(tree.prefix)))
            at += len(prefix)
            for branch in tree.branches:
                places = prefix + list(range(at, at + len(branch)))
                at += len(branch)
                for q, query in enumerate(places):
                    for k in range(q + 1):
                        if window is None or q - k < window:
                            allowed[b, query, places[k]] = True
    return allowed


@given(st.lists(SEQUENCES, min_size=1, max_size=4), st.sampled_from([None, 3, 8]))
def test_the_mask_is_the_obvious_one(groups: list[list[list[int]]], window: int | None) -> None:
    trees = [tree_of(group) for group in groups]
    rows = pack.plan([len(tree) for tree in trees], 64)[0]
    batch = pack.collate(trees, rows, pad_id=0)
    real = batch.tree != pack.PAD
    seen = pack.dense_mask(batch, torch.float32, window)[:, 0] == 0
    both = real[:, :, None] & real[:, None, :]
    assert torch.equal(seen & both, slow_mask(trees, rows, window))
    assert not (seen & (real[:, :, None] ^ real[:, None, :])).any()  # padding and text never see each other
    assert seen.any(-1).all()  # no softmax over nothing


@given(st.lists(SEQUENCES, min_size=1, max_size=4))
def test_collate_reads_each_response_at_its_last_token(groups: list[list[list[int]]]) -> None:
    trees = [tree_of(group) for group in groups]
    rows = pack.plan([len(tree) for tree in trees], 4096)[0]
    batch = pack.collate(trees, rows, pad_id=0)
    flat, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    assert len(batch.owner) == len(set(batch.owner)) == first_places([*trees, trees[0]])[-1]
    for last, (index, k), spans in zip(batch.last.tolist(), batch.owner, batch.spans, strict=True):
        sequence, start = trees[index].sequence(k), trees[index].response_starts[k]
        assert flat[last] == sequence[-1]
        assert positions[last] == len(sequence) - 1
        own = [token for a, b in spans for token in flat[a:b].tolist()]
        assert own == list(sequence[start:])


@pytest.mark.parametrize("trunk", [0, 1])
def test_block_mask_is_the_dense_mask(trunk) -> None:
    trees = [tree_of([[1, 2, 3, 1], [1, 2, 2], [1, 2, 3, 3, 3]]), tree_of([[1, 2, 1, 1, 3]])]
    batch = pack.collate(trees, [[0, 1], [1]], pad_id=0, trunk=trunk)
    for window in (None, 2):
        predicate = pack.block_mask(batch, window).mask_mod
        dense = pack.dense_mask(batch, torch.float32, window)[:, 0] == 0
        rows, width = batch.tree.shape
        for b in range(rows):
            for q in range(width):
                for k in range(width):
                    place = (torch.tensor(b), torch.tensor(0), torch.tensor(q), torch.tensor(k))
                    assert bool(predicate(*place)) == bool(dense[b, q, k])
