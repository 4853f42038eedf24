"""Best of n: which rows and responses are candidates of one prompt, and which of them the reward puts first.

A row with several responses is one prompt with its candidates. Rows with one response each are candidates of one
prompt when their prompts (and tools and template variables) are equal, wherever in the file they are. What is kept in
memory is a few numbers per candidate; texts are read again when they are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewardsmith.data import fields
from rewardsmith.data.adapters.base import ranks_of
from rewardsmith.data.readers import Row
from rewardsmith.errors import DataError
from rewardsmith.scoring import row as rows_
from rewardsmith.scoring.row import ToScore
from rewardsmith.scoring.score_options import ScoreOptions
from rewardsmith.types import Text

RANK_COLUMN = "reward_rank"
PICK_COLUMNS = ("choice", "candidates")
GOLD_COLUMN = "gold"
# Of lists with one entry per response: what they say of the others does not belong to the one that is picked.
_PER_RESPONSE = ("responses", "chosen", "rejected", "scores", "ranks")

Result = Mapping[str, Any]


@dataclass(slots=True)
class Group:
    """The candidates of one prompt, in the order of the file.

    Args:
        prompt: stands for the prompt.
        places: row number in the file and index within the row, of each candidate.
        rewards: of each, by the model that chooses.
        golds: of each, None where unknown.
    """

    prompt: str
    places: list[tuple[int, int]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    golds: list[float | None] = field(default_factory=list)

    @property
    def choice(self) -> int:
        """Index of the highest reward, the first of equals."""
        return max(range(len(self.rewards)), key=self.rewards.__getitem__)

    def known(self) -> tuple[list[float], list[float]]:
        """Rewards and golds of the candidates whose gold is known."""
        both = [(reward, gold) for reward, gold in zip(self.rewards, self.golds, strict=True) if gold is not None]
        return [reward for reward, _ in both], [gold for _, gold in both]


def gather(
    rows: Iterable[Row],
    results: Iterable[Result],
    options: ScoreOptions,
    golds: Iterable[Result] | str | None = None,
    by: str = "reward",
) -> list[Group]:
    """Candidates by prompt, in order of first appearance. Responses without a reward are in no group.

    Args:
        rows, results: the rows and what ``score_chunk`` made of each.
        options: those of the scoring.
        golds: a second model's results for the same rows; or the name of a column with one number per response.
        by: which of the results decides: ``reward``, ``shaped``, or the column that holds it.

    Raises:
        DataError: a gold column that is missing or wrong, unless ``options.skip_bad``.
    """
    groups: dict[Any, Group] = {}
    second = iter(golds) if golds is not None and not isinstance(golds, str) else None
    for number, (row, result) in enumerate(_together(rows, results)):
        other = next(second) if second else None
        if result[by] is None:
            continue
        item = read(row, options)
        rewards = [result[by]] if item.single else result[by]
        known = [index for index, reward in enumerate(rewards) if reward is not None]  # a shaping may give none
        if not known:
            continue
        gold = _as_list(other["reward"], len(rewards)) if other else _column(row, item, golds, options)
        group = groups.setdefault(group_key(item, number), Group(prompt_key(item)))
        group.places += [(number, index) for index in known]
        group.rewards += [rewards[index] for index in known]
        group.golds += [gold[index] for index in known]
    return list(groups.values())


def read(row: Row, options: ScoreOptions) -> ToScore:
    """The prompt and responses of a row, as they were scored."""
    return rows_.read(row.data or {}, options.prompt_field, options.response_field)


def group_key(item: ToScore, number: int) -> Any:
    """Equal for candidates of one another: the responses of one row, or rows of one response with equal prompts."""
    key = prompt_key(item)
    return key if item.single else (key, number)


def numbers(row: Row, item: ToScore, column: str) -> list[float]:
    """The numbers of a column, one per response; of ``ranks``, where lower is better, minus the ranks; true is 1.

    Raises:
        DataError: missing, not a number, or another count than responses; the file and line are named.
    """
    data = row.data or {}
    try:
        if item.single:
            values = [_number(fields.required(data, column), column)]
        else:
            given = fields.json_value(data, column, list)
            if given is None or len(given) != len(item.responses):
                found = "missing" if given is None else f"{len(given)} numbers"
                raise DataError(f"{found} for {len(item.responses)} responses; it needs one for each", field=column)
            values = [_number(value, f"{column}[{index}]") for index, value in enumerate(given)]
    except DataError as error:
        raise DataError(error.message, file=row.source.file, line=row.source.line, field=error.field) from error
    return [-value for value in values] if column == "ranks" else values


def ranked(
    rows: Iterable[Row],
    results: Iterable[Result],
    groups: Sequence[Group],
    gold_column: str | None = None,
    by: str = "reward",
) -> Iterator[dict[str, Any]]:
    """Every row with its scores and ``reward_rank``: 0 is the best among the candidates of its prompt, equal is a tie.

    Where golds are known and not from a column, ``gold`` is added as well.

    Args:
        rows, results: as for ``gather``.
        groups: what it found.
        gold_column: the column that the golds came from, None when they came from a model or there are none.
        by: as for ``gather``.
    """
    found: dict[int, dict[int, tuple[int, float | None]]] = {}
    for group in groups:
        for (number, index), rank, gold in zip(group.places, ranks_of(group.rewards), group.golds, strict=True):
            found.setdefault(number, {})[index] = (rank, gold)
    with_gold = _has_gold(groups) and gold_column is None
    new = (RANK_COLUMN, GOLD_COLUMN) if with_gold else (RANK_COLUMN,)
    for number, (row, result) in enumerate(_together(rows, results)):
        columns: dict[str, Any] = dict.fromkeys(new)
        if number in found:
            several = isinstance(result[by], list)
            each = [found[number].get(index, (None, None)) for index in range(len(result[by]) if several else 1)]
            lists = {name: list(values) for name, values in zip(new, zip(*each, strict=True), strict=False)}
            columns = lists if several else {k: v[0] for k, v in lists.items()}
        yield {**_original(row, new), **result, **columns}


def picked(
    rows: Iterable[Row],
    results: Iterable[Result],
    groups: Sequence[Group],
    options: ScoreOptions,
    gold_column: str | None = None,
    by: str = "reward",
) -> Iterator[dict[str, Any]]:
    """One row per prompt: the choice, in the order of the file.

    Beside the row's own columns it has its ``reward`` and the like, ``choice`` (its place among the candidates of the
    prompt, from 0), ``candidates`` (how many) and, where known, ``gold``. Of a row with several responses, ``response``
    is the choice, and the columns that held one entry per response are gone. Args: as for ``ranked``.
    """
    chosen = {group.places[group.choice][0]: group for group in groups}
    with_gold = _has_gold(groups)
    lists = {*_PER_RESPONSE, gold_column}
    new = (*PICK_COLUMNS, GOLD_COLUMN) if with_gold and gold_column != GOLD_COLUMN else PICK_COLUMNS
    for number, (row, result) in enumerate(_together(rows, results)):
        if (group := chosen.get(number)) is None:
            continue
        index, original = group.places[group.choice][1], row.data or {}
        if isinstance(result[by], list):
            response = _plain(read(row, options).responses[index])
            original = {k: v for k, v in _original(row, ("response",)).items() if k not in lists}
            original["response"] = response
            result = {name: value[index] if isinstance(value, list) else value for name, value in result.items()}
        _original(row, new)
        gold = {GOLD_COLUMN: group.golds[group.choice]} if with_gold else {}
        yield {**original, **result, "choice": group.choice, "candidates": len(group.rewards), **gold}


def check_new(row: Row, item: ToScore, *, rank: bool, gold_column: str | None, gold_model: bool) -> None:
    """Refuse, before anything is scored, a row in which a new column is there already.

    Raises:
        DataError: naming the column, the file and the line.
    """
    if rank:
        new = (RANK_COLUMN, GOLD_COLUMN) if gold_model else (RANK_COLUMN,)
    else:
        gold = gold_model or gold_column not in (None, GOLD_COLUMN)
        new = (*PICK_COLUMNS, *["response"] * (not item.single), *[GOLD_COLUMN] * gold)
    _original(row, new)


def prompt_key(item: ToScore) -> str:
    """Equal for equal prompts with equal tools and template variables."""
    text = json.dumps([_plain(item.prompt), dict(item.variables)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _together(rows: Iterable[Row], results: Iterable[Result]) -> Iterator[tuple[Row, Result]]:
    try:
        yield from zip(rows, results, strict=True)
    except ValueError as error:
        if isinstance(error, DataError):  # of reading the rows
            raise
        raise DataError("the rows changed while they were being scored; score them again") from error


def _has_gold(groups: Sequence[Group]) -> bool:
    return any(gold is not None for group in groups for gold in group.golds)


def _column(row: Row, item: ToScore, column: Any, options: ScoreOptions) -> list[float | None]:
    if column is None:
        return [None] * len(item.responses)
    try:
        return list(numbers(row, item, column))
    except DataError:
        if not options.skip_bad:
            raise
        return [None] * len(item.responses)


def _number(value: Any, name: str) -> float:
    """A finite number; whether something holds counts as 1 or 0, in tables of text as well."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    return float(value) if isinstance(value, bool) else fields.number_value(value, name)


def _as_list(reward: Any, count: int) -> list[float | None]:
    if reward is None:  # the second model could not score the row
        return [None] * count
    return reward if isinstance(reward, list) else [reward]


def _original(row: Row, new: Sequence[str]) -> dict[str, Any]:
    """The row's columns, none of which may be among the new ones; of an unreadable row, its text."""
    data = row.data if row.data is not None else {"raw": row.raw}
    if taken := [name for name in new if name in data]:
        message = "is there already and would be overwritten; rename the column"
        raise DataError(message, file=row.source.file, line=row.source.line, field=taken[0])
    return data


def _plain(text: Text) -> Any:
    return text if isinstance(text, str) else [message.as_dict() for message in text]
