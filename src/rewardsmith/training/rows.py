"""Rows of any preference data set as token rows, the only thing the collator reads.

A token row holds ``chosen_ids`` and ``rejected_ids`` (as TRL's does), or ``ids`` and ``ranks`` for two or more
responses, ``response_start`` of each response, and ``margin``, ``weight``, ``probability`` and ``scores`` where the
data have them: one score per response, or a list of one per attribute, None for what is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewardsmith.data import fields
from rewardsmith.encoding.template import Template, coerce
from rewardsmith.errors import DataError
from rewardsmith.training.prepare import IDENTICAL, TOO_LONG, render_all
from rewardsmith.training.row_checks import (
    check_labels,
    check_prompt,
    check_ratings,
    check_starts,
    check_tokens,
    sequences,
)
from rewardsmith.types import Comparison, Source, Text

COLUMNS = ("chosen_ids", "rejected_ids", "ids", "ranks", "response_start", "margin", "weight", "probability", "scores")
_LEGACY = {"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"}
_DROP = "_dropped_because"


@dataclass
class RowCount:
    """What became of a data set: rows kept, rows dropped by reason, tokens. Counts of a stream are None."""

    kept: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.kept is None:
            return "rows: a stream"
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        return f"{self.kept:,} rows kept, dropped: {dropped}"


@dataclass(frozen=True)
class Renderer:
    """Turns one row into a token row; a plain value, so that it may be sent to other processes.

    Args:
        template: renders text.
        max_length: in tokens, None for no limit. Longer rows get the reason why they are to be dropped.
        attributes: names of the ratings that are ``scores``; None for the scores themselves.
        starts: it must be known where each response begins.
    """

    template: Template
    max_length: int | None
    attributes: Sequence[str] | None = None
    starts: bool = False

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Render a row of text, messages or tokens.

        Raises:
            DataError: the row cannot be read or rendered; the message has its number.
        """
        check_labels(row, index)
        comparison = comparison_of(row, index, rated=self.attributes is not None)
        if self.starts:
            check_prompt(comparison, index, joined=comparison.prompt == "" and isinstance(row.get("chosen"), str))
        return token_row(self.template, comparison, self.max_length, self.attributes)


def token_row(
    template: Template, comparison: Comparison, max_length: int | None, attributes: Sequence[str] | None = None
) -> dict[str, Any]:
    """One comparison as a token row, best response first, with every column of :data:`COLUMNS`, None where it has none.

    A reason to drop it is added under a key that :func:`prepare_rows` removes.
    """
    rendered = render_all(template, comparison)
    order = sorted(range(len(rendered)), key=lambda place: comparison.ranks[place])
    ids = [list(rendered[place].ids) for place in order]
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"response_start": [rendered[place].response_start for place in order], "weight": comparison.weight}
    if attributes:
        known = comparison.attributes or ({},) * len(ids)
        row["scores"] = [[known[place].get(name) for name in attributes] for place in order]
    elif comparison.scores is not None:
        row["scores"] = [comparison.scores[place] for place in order]
    if len(ids) == 2:
        row |= {"chosen_ids": ids[0], "rejected_ids": ids[1], "margin": comparison.margin}
        row["probability"] = _probability(comparison, swapped=order[0] == 1)
    else:
        row |= {"ids": ids, "ranks": [comparison.ranks[place] for place in order]}
    row[_DROP] = _reason(ids, max_length)
    return row


def _probability(comparison: Comparison, *, swapped: bool) -> float | None:
    if comparison.probability is None:
        return 0.5 if comparison.ranks[0] == comparison.ranks[1] else None
    return 1.0 - comparison.probability if swapped else comparison.probability


def _reason(ids: Sequence[Sequence[int]], max_length: int | None) -> str:
    if max_length is not None and max(map(len, ids)) > max_length:
        return TOO_LONG
    return IDENTICAL if all(other == ids[0] for other in ids[1:]) else ""


def prepare_rows(
    dataset: Any,
    template: Template,
    max_length: int | None,
    *,
    vocabulary: int | None = None,
    attributes: Sequence[str] | None = None,
    starts: bool = False,
    processes: int | None = None,
    name: str = "train",
) -> tuple[Any, RowCount]:
    """A ``datasets`` set as token rows; one that already holds tokens is only filtered. Idempotent.

    Args:
        dataset: a ``Dataset`` or an ``IterableDataset``, in any format TRL's trainer reads, or any that
            ``rewardsmith data`` reads; or a list of comparisons.
        template: renders text.
        max_length: rows with a longer response are dropped.
        vocabulary: token ids that the network knows, [0, vocabulary); None for those of the tokenizer.
        attributes: names of the ratings to learn, in the order of the heads; None for the one score.
        starts: it must be known where each response begins (:func:`check_starts`, :func:`check_prompt`).
        processes: that render (map-style sets only).
        name: for messages.

    Returns:
        The set, and the count of its rows (not known for a stream).

    Raises:
        DataError: a row that cannot be read, or no row is left.
    """
    from datasets import Dataset, Features

    if isinstance(dataset, list):
        if not dataset:
            raise DataError(f"no row of the {name} data is left: there were none")
        kept = {name: kind for name, kind in _features(attributes).items() if name != _DROP}
        found = rows_of(template, dataset, max_length, attributes, starts=starts)
        dataset = Dataset.from_list(found, features=Features(kept))
    columns = _columns(dataset, name)
    for old, new in _LEGACY.items():
        if old in columns and new not in columns:
            dataset = dataset.rename_column(old, new)
    columns = _columns(dataset, name)
    rows = isinstance(dataset, Dataset)
    options: dict[str, Any] = {"num_proc": processes} if rows else {}
    if is_tokens(dataset):
        if rows:
            options["desc"] = f"checking {name} data"
        limits = {"max_length": max_length, "vocabulary": vocabulary or len(template.tokenizer)}
        more = {"attributes": attributes, "starts": starts}
        dataset = dataset.map(_mark, fn_kwargs={**limits, **more}, with_indices=True, **options)
    else:
        if rows:
            options["desc"] = f"rendering {name} data"
        options["features"] = _features(attributes)  # a first thousand rows of None would make a column of nothing
        dataset = dataset.map(
            Renderer(template, max_length, attributes, starts), with_indices=True, remove_columns=columns, **options
        )
    return _without_dropped(dataset, rows, name)


def _features(attributes: Sequence[str] | None) -> Any:
    """The types of a token row."""
    from datasets import Features, List, Value

    token, number = Value("int64"), Value("float64")
    kinds = {"chosen_ids": List(token), "rejected_ids": List(token), "ids": List(List(token)), "ranks": List(token)}
    kinds |= {"response_start": List(token), "margin": number, "weight": number, "probability": number}
    scores = List(List(number)) if attributes else List(number)
    return Features({**kinds, "scores": scores, _DROP: Value("string")})


def _mark(
    row: dict[str, Any],
    index: int,
    max_length: int | None,
    vocabulary: int,
    attributes: Sequence[str] | None,
    starts: bool,
) -> dict[str, str]:
    check_labels(row, index)
    check_tokens(row, index, vocabulary)
    check_starts(row, index, needed=starts)
    if attributes:
        check_ratings(row, index, attributes)
    return {_DROP: _reason(sequences(row), max_length)}


def _without_dropped(dataset: Any, counted: bool, name: str) -> tuple[Any, RowCount]:
    if not counted:
        return dataset.filter(lambda row: not row[_DROP]).remove_columns([_DROP]), RowCount()
    reasons = dataset[_DROP]
    dropped = {reason: reasons.count(reason) for reason in (TOO_LONG, IDENTICAL) if reason in reasons}
    if dropped:
        dataset = dataset.select([index for index, reason in enumerate(reasons) if not reason])
    if not len(dataset):
        what = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"
        raise DataError(f"no row of the {name} data is left: {what}")
    # What no row has is no column: other collators take the presence of a column for the presence of values.
    table = dataset.with_format("arrow")
    empty = [name for name in dataset.column_names if name in COLUMNS and table[name].null_count == len(dataset)]
    return dataset.remove_columns([_DROP, *empty]), RowCount(len(dataset), dropped)


def _columns(dataset: Any, name: str) -> list[str]:
    first = next(iter(dataset), None)
    if first is None:
        raise DataError(f"no row of the {name} data is left: there were none")
    return list(dataset.column_names or first)


def is_tokens(dataset: Any) -> bool:
    """True when a data set's rows are tokens already."""
    return not isinstance(dataset, list) and _holds_tokens(next(iter(dataset), {}))


def _holds_tokens(row: Mapping[str, Any]) -> bool:
    several = row.get("ids")
    pair = row.get("chosen_ids", row.get("chosen_input_ids"))
    return isinstance(pair, list) or (isinstance(several, list) and bool(several) and isinstance(several[0], list))


def is_standard(dataset: Any) -> bool:
    """True when a data set's rows are plain text pairs, which TRL joins without a chat template."""
    if isinstance(dataset, list):
        return False  # comparisons are rendered as they will be scored
    return isinstance(next(iter(dataset), {}).get("chosen"), str)


def holds_messages(dataset: Any) -> bool:
    """True when a data set's rows are pairs of conversations, which TRL renders with the chat template."""
    return not isinstance(dataset, list) and isinstance(next(iter(dataset), {}).get("chosen"), list)


def comparison_of(row: Mapping[str, Any], index: int, *, rated: bool) -> Comparison:
    """A row in TRL's preference format (text or messages, prompt explicit or implicit), or any shape that
    ``rewardsmith data`` reads, as a comparison.

    Args:
        rated: whether a column ``attributes`` is one of ratings; else it is not looked at.

    Raises:
        DataError: the row cannot be read.
    """
    row = {key: value for key, value in row.items() if value is not None}
    chosen, rejected = row.get("chosen"), row.get("rejected")
    mixed = isinstance(row.get("prompt"), str) and isinstance(chosen, list)
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)) or "ranks" in row or mixed:
        return _any_shape(row, index)
    try:
        prompt, responses = _split(row.get("prompt"), coerce(chosen), coerce(rejected))
    except ValueError as error:
        raise DataError(str(error), file="row", line=index + 1) from error
    return Comparison(
        prompt,
        responses,
        attributes=_ratings(row, index) if rated else None,
        margin=row.get("margin"),
        weight=row.get("weight"),
        probability=row.get("probability"),
        tools=_tools(row.get("tools"), index),
        chat_template_kwargs=_without_none(row.get("chat_template_kwargs")),
        source=Source("row", index + 1),
    )


def _split(prompt: Any, chosen: Text, rejected: Text) -> tuple[Text, tuple[Text, Text]]:
    """Prompt and responses; an implicit prompt is the turns that both conversations begin with."""
    if prompt is not None:
        return coerce(prompt), (chosen, rejected)
    if isinstance(chosen, str):
        return "", (chosen, rejected)
    assert not isinstance(rejected, str)
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], (chosen[shared:], rejected[shared:])


def _ratings(row: Mapping[str, Any], index: int) -> tuple[dict[str, float], ...] | None:
    try:
        return fields.ratings(row, "attributes", 2)
    except DataError as error:
        raise DataError(error.message, file="row", line=index + 1, field=error.field) from error


def _any_shape(row: Mapping[str, Any], index: int) -> Comparison:
    from rewardsmith.data.load import parse_comparison

    try:
        found = parse_comparison(dict(row))
    except DataError as error:
        raise DataError(error.message, file="row", line=index + 1, field=error.field) from error
    if len(found) != 1:
        message = f"holds {len(found)} comparisons; convert the data first: rewardsmith data convert"
        raise DataError(message, file="row", line=index + 1)
    return found[0]


def _tools(tools: Any, index: int) -> tuple[Mapping[str, Any], ...] | None:
    """Tools as a list, or as JSON text (data sets store them so, since their keys differ from row to row)."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"tools is not JSON: {error}", file="row", line=index + 1, field="tools") from error
    return tuple(tools) if tools else None


def _without_none(kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A data set gives every row the keys of all rows, None where a row has none."""
    return {key: value for key, value in kwargs.items() if value is not None} if kwargs else None


def rows_of(
    template: Template,
    comparisons: Sequence[Comparison],
    max_length: int | None,
    attributes: Sequence[str] | None = None,
    *,
    starts: bool = False,
) -> list[dict[str, Any]]:
    """Token rows of comparisons read by :mod:`rewardsmith.data`, for ``Dataset.from_list``."""
    for index, comparison in enumerate(comparisons if starts else ()):
        check_prompt(comparison, index)
    return [
        {key: value for key, value in token_row(template, comparison, max_length, attributes).items() if key != _DROP}
        for comparison in comparisons
    ]


def text_template(template: Template) -> Template:
    """The same tokenizer, joining prompt and response as plain text with EOS at the end: TRL's standard format."""
    return replace(template, mode="text")
