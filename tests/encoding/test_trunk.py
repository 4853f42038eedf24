"""What all trees of a row begin with, laid out once."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.encoding import pack
from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import Tree, build, trunk

TOKEN = st.integers(1, 3)
GROUPS = st.lists(
    st.tuples(st.lists(TOKEN, max_size=4), st.lists(st.lists(TOKEN, min_size=1, max_size=6), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def trees_of(groups: list[tuple[list[int], list[list[int]]]], system: int) -> list[Tree]:
    """Trees of prompts and responses that all begin with ``system`` tokens."""
    head = tuple(range(10, 10 + system))
    return [
        build([Rendered((*head, *prompt, *ids), system + len(prompt)) for ids in responses])
        for prompt, responses in groups
    ]


def paths(batch: pack.Batch, window: int | None = None) -> list[list[int]]:
    """Per response the positions that its last token may look at, in the order of the sequence."""
    found = []
    for last in batch.last.tolist():
        row, at = divmod(last, batch.input_ids.shape[1])
        tree, branch, place = batch.tree[row], batch.branch[row], batch.position_ids[row]
        seen = pack.attends(tree[at], branch[at], place[at], tree, branch, place, window).nonzero().flatten()
        found.append((row * batch.input_ids.shape[1] + seen[place[seen].argsort()]).tolist())
    return found


@given(GROUPS, st.integers(0, 12))
def test_the_trunk_is_common_and_holds_nothing_of_a_response(groups, system) -> None:
    trees = trees_of(groups, system)
    length = trunk(trees)
    assert length == 0 or (length >= 8 and len(trees) > 1)
    assert length >= (system if system >= 8 and len(trees) > 1 else 0)
    sequences = [tree.sequence(k) for tree in trees for k in range(len(tree.branches))]
    assert len({ids[:length] for ids in sequences}) == 1
    assert all(length <= start for tree in trees for start in tree.response_starts)
    assert all(length <= len(tree.prefix) for tree in trees if len(tree.branches) > 1)


@given(GROUPS, st.integers(8, 12), st.sampled_from([None, 3, 8]), st.booleans())
def test_every_response_is_read_whole_and_sees_itself_alone(groups, system, window, one_row) -> None:
    trees = trees_of(groups, system)
    lengths, length = [len(tree) for tree in trees], trunk(trees)
    rows = [list(range(len(trees)))] if one_row else pack.plan(lengths, 2 * max(lengths))[0]
    batch = pack.collate(trees, rows, pad_id=0, trunk=length)
    plain = pack.collate(trees, rows, pad_id=0)
    assert batch.owner == plain.owner
    assert batch.input_ids.numel() <= plain.input_ids.numel()
    if one_row:
        assert batch.input_ids.numel() == plain.input_ids.numel() - length * max(0, len(trees) - 1)
    flat, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    for path, seen, spans, (tree, k) in zip(paths(batch), paths(batch, window), batch.spans, batch.owner, strict=True):
        sequence = trees[tree].sequence(k)
        assert flat[path].tolist() == list(sequence)
        assert positions[path].tolist() == list(range(len(sequence)))
        assert seen == path[-window:] if window else seen == path
        own = [place for start, stop in spans for place in range(start, stop)]
        assert own == path[trees[tree].response_starts[k] :]
    mask = pack.dense_mask(batch, torch.float32, window)[:, 0] == 0
    assert mask.any(-1).all()  # no softmax over nothing
    real = batch.tree != pack.PAD
    assert not (mask & (real[:, :, None] ^ real[:, None, :])).any()  # padding and text never see each other
    roots = batch.tree == pack.TRUNK
    assert not (mask & roots[:, :, None] & ~roots[:, None, :]).any()  # the trunk sees nothing that follows


@given(GROUPS, st.integers(8, 12))
def test_readings_within_a_response_are_at_the_tokens_they_name(groups, system) -> None:
    trees = trees_of(groups, system)
    batch = pack.collate(trees, [list(range(len(trees)))], pad_id=0, trunk=trunk(trees))
    lengths = [len(trees[tree].sequence(k)) for tree, k in batch.owner]
    places = [
        list(range(max(len(trees[tree].prefix), trees[tree].response_starts[k]), n))
        for (tree, k), n in zip(batch.owner, lengths, strict=True)
    ]
    read = pack.read_at(batch, lengths, places)
    whole = dict(zip(batch.owner, paths(batch), strict=True))
    wanted = [whole[owner][place] for owner, row in zip(batch.owner, places, strict=True) for place in row]
    assert read.last.tolist() == wanted
    assert all(spans[-1][1] == at + 1 for spans, at in zip(read.spans, wanted, strict=True))
