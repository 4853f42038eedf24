"""Token rows into what one training step computes: trees packed into forward passes, and the labels of their pairs.

Shapes: N comparisons, R responses, P pairs in a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rewardsmith.encoding import pack
from rewardsmith.encoding.template import Rendered, common_prefix
from rewardsmith.encoding.tree import Tree, build, first_places, trunk, unshare
from rewardsmith.training.pairs import Pairs
from rewardsmith.training.rows import sequences


@dataclass(frozen=True)
class TreeCollator:
    """Makes a batch of token rows ready for the trainer.

    Args:
        pad_id: of the tokenizer; it only fills rows up and is never read.
        share: put a prompt once for its responses, and once what all prompts begin with. False: every response is a
            sequence of its own.
        one_row: all trees of a forward pass in one row, without padding (attention is computed tree by tree).
        one_per_row: never two sequences in a row, for networks that cannot keep them apart.
        tokens: most positions in a forward pass, padding included; None for no limit. A comparison is never split.
        multiple_of: pad rows to a multiple of this many tokens.
        language: also say which tokens of the preferred responses a language model would have to predict.

    Call it with a list of token rows; the result has

        ``count``: [N] int64 of ones; first, because transformers takes a batch's size from its first tensor.
        ``passes``: a list of forward passes, each a dict for :func:`objective.scored` and the network's forward:
            ``batch``: the packed trees, :class:`pack.Batch`;
            ``labels``: tensors ``first``, ``second`` [P], ``comparison``, ``rank``, ``tokens`` [R] (lengths of the
            sequences, each on its own), and where the rows have them ``weight``, ``margin``, ``probability`` [P] and
            ``scores`` [R] or [R, A];
            ``share``: N of the whole batch, which the losses of the passes are divided by;
            ``language`` when asked for: [2, T] int64, places in the flattened rows and the tokens to predict there, and
            ``language_share``: T of the whole batch.
    """

    pad_id: int
    share: bool = True
    one_row: bool = False
    one_per_row: bool = False
    tokens: int | None = None
    multiple_of: int | None = None
    language: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        trees = [tree(row) for row in rows]
        groups = self._groups(trees)
        passes = [self._one_pass([rows[i] for i in group], [trees[i] for i in group], len(rows)) for group in groups]
        if self.language:
            total = sum(one["language"].shape[1] for one in passes)
            passes = [{**one, "language_share": total} for one in passes]
        return {"count": torch.ones(len(rows), dtype=torch.int64), "passes": passes}

    def _groups(self, trees: Sequence[Tree]) -> list[list[int]]:
        """Comparisons of each forward pass: in the order of the batch, as many as fit."""
        if self.tokens is None:
            return [list(range(len(trees)))]
        groups: list[list[int]] = []
        lengths: list[int] = []  # of the pieces in the last group
        for index, tree in enumerate(trees):
            more = [len(piece) for piece in self._pieces([tree])]
            if not groups or self._positions(lengths + more) > self.tokens:
                groups.append([])
                lengths = []
            groups[-1].append(index)
            lengths += more
        return groups

    def _pieces(self, trees: Sequence[Tree]) -> list[Tree]:
        return list(trees) if self.share else [single for tree in trees for single in unshare(tree)]

    def _positions(self, lengths: Sequence[int]) -> int:
        """Of the forward pass that pieces of these lengths make, padding included."""
        rows = self._rows(lengths)
        width = max(sum(lengths[index] for index in row) for row in rows)
        return len(rows) * (width + -width % (self.multiple_of or 1))

    def _one_pass(self, rows: list[Mapping[str, Any]], trees: list[Tree], share: int) -> dict[str, Any]:
        pieces = self._pieces(trees)
        root = trunk(pieces) if self.share else 0
        arranged = self._rows([len(piece) for piece in pieces])
        batch = pack.collate(pieces, arranged, self.pad_id, self.multiple_of, trunk=root)
        # The batch's responses come in the order of its rows; labels count them in the order of the comparisons.
        first = first_places(pieces)
        order = sorted(range(len(batch.owner)), key=lambda place: first[batch.owner[place][0]] + batch.owner[place][1])
        batch = batch.reordered(order)
        found = {"batch": batch, "labels": labels(rows), "share": share}
        return {**found, "language": _predictions(batch, found["labels"], pieces)} if self.language else found

    def _rows(self, lengths: Sequence[int]) -> list[list[int]]:
        if self.one_row:
            return [list(range(len(lengths)))]
        if self.one_per_row:
            return [[index] for index in range(len(lengths))]
        # As few rows of the longest tree's width as the trees fit into.
        return [row for rows in pack.plan(lengths, sum(lengths)) for row in rows] if len(lengths) > 1 else [[0]]


def _predictions(batch: pack.Batch, labels: Mapping[str, torch.Tensor], trees: Sequence[Tree]) -> torch.Tensor:
    """[2, T]: where the tokens of each comparison's best response are to be predicted from, and the tokens.

    A branch's first token follows the last of its prefix, which is not its neighbour in the row.
    """
    ids, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    places, tokens = [], []
    ranks = labels["rank"].tolist()
    best: dict[int, int] = {}
    for response, comparison in enumerate(labels["comparison"].tolist()):
        if ranks[response] < ranks[best.setdefault(comparison, response)]:
            best[comparison] = response
    for response in best.values():
        tree, branch = batch.owner[response]
        prefix, end = len(trees[tree].prefix), int(batch.last[response]) + 1
        begin = end - len(trees[tree].branches[branch])
        # the prefix stands before the first branch of its tree
        at = begin - sum(len(trees[tree].branches[k]) for k in range(branch)) - prefix + batch.trunk
        row = begin - begin % batch.input_ids.shape[1]
        path = [*range(row, row + batch.trunk), *range(at, at + prefix - batch.trunk), *range(begin, end)]
        start = max(1, trees[tree].response_starts[branch])
        places += path[start - 1 : -1]
        tokens += path[start:]
        assert int(positions[path[-1]]) == len(path) - 1
    return torch.stack([torch.tensor(places, dtype=torch.int64), ids[torch.tensor(tokens, dtype=torch.int64)]])


def tree(row: Mapping[str, Any]) -> Tree:
    ids = sequences(row)
    # Rows that came as tokens do not say where the response begins: at the first difference, at the latest.
    shared = min(common_prefix(ids[0], other) for other in ids[1:])
    starts = row.get("response_start") or [min(shared, len(one) - 1) for one in ids]
    return build([Rendered(tuple(one), start) for one, start in zip(ids, starts, strict=True)])


def labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Who is to be preferred to whom, and how strongly; responses counted through all rows, chosen before rejected."""
    ranks = [list(row["ranks"]) if row.get("ids") else _pair_ranks(row) for row in rows]
    pairs = Pairs.from_ranks(ranks, weight=[_or(row.get("weight"), 1.0) for row in rows])
    probability, margin = pairs.probability.copy(), pairs.margin.copy()
    at = 0
    for row, rank in zip(rows, ranks, strict=True):
        if len(rank) == 2:
            probability[at] = _or(row.get("probability"), probability[at])
            margin[at] = _or(row.get("margin"), 0.0)
        at += len(rank) * (len(rank) - 1) // 2
    found = {
        "first": torch.from_numpy(pairs.first),
        "second": torch.from_numpy(pairs.second),
        "comparison": torch.tensor([n for n, rank in enumerate(ranks) for _ in rank]),
        "rank": torch.tensor([one for rank in ranks for one in rank]),
        "tokens": torch.tensor([len(ids) for row in rows for ids in sequences(row)]),
    }
    # What no row has is left out, so that a loss that needs it can say so. Scores are there with their column: a pass
    # of a split batch may know none.
    for name, values, default in (("weight", pairs.weight, 1.0), ("probability", probability, 1.0)):
        if (values != default).any():
            found[name] = torch.from_numpy(values).float()
    if any(row.get("margin") is not None for row in rows):
        found["margin"] = torch.from_numpy(margin).float()
    if any("scores" in row for row in rows):
        found["scores"] = _scores(rows, [len(rank) for rank in ranks])
    return found


def _pair_ranks(row: Mapping[str, Any]) -> list[int]:
    return [0, 0] if row.get("probability") == 0.5 else [0, 1]


def _scores(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> torch.Tensor:
    """[R] or [R, A] float; NaN where a row has none."""
    width = next((len(_row(row["scores"][0])) for row in rows if row.get("scores") is not None), 1)
    unknown = [[float("nan")] * width]
    values = [
        [_row(one) for one in row["scores"]] if row.get("scores") is not None else unknown * size
        for row, size in zip(rows, sizes, strict=True)
    ]
    tensor = torch.tensor([one for row in values for one in row], dtype=torch.float32)
    return tensor[:, 0] if width == 1 else tensor


def _row(score: Any) -> list[float]:
    if isinstance(score, Sequence):
        return [float("nan") if one is None else float(one) for one in score]
    return [float("nan") if score is None else float(score)]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
