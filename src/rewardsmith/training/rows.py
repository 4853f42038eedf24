"""Rows of any preference data set as token rows, the only thing the collator reads.

A token row holds ``chosen_ids`` and ``rejected_ids`` (as TRL's does), or ``ids`` and ``ranks`` for two or more
responses, ``response_start`` of each response, and ``margin``, ``weight``, ``probability`` and ``scores`` where the
data have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewardsmith.encoding.template import Template, coerce
from rewardsmith.errors import DataError
from rewardsmith.training.prepare import IDENTICAL, TOO_LONG, render_all
from rewardsmith.types import Comparison, Text

COLUMNS = ("chosen_ids", "rejected_ids", "ids", "ranks", "response_start", "margin", "weight", "probability", "scores")
_LEGACY = {"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"}
_DROP = "_dropped_because"


@dataclass
class RowCount:
    """What became of a data set: rows kept, rows dropped by reason, tokens. Counts of a stream are None."""

    kept: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Renderer:
    """Turns one row into a token row; a plain value, so that it may be sent to other processes.

    Args:
        template: renders text.
        max_length: in tokens, None for no limit. Longer rows get the reason why they are to be dropped.
    """

    template: Template
    max_length: int | None

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Render a row of text, messages or tokens.

        Raises:
            DataError: the row cannot be read or rendered; the message has its number.
        """
        comparison = comparison_of(row, index)
        return token_row(self.template, comparison, self.max_length)


def token_row(template: Template, comparison: Comparison, max_length: int | None) -> dict[str, Any]:
    """One comparison as a token row. A reason to drop it is added under a key that :func:`prepare_rows` removes."""
    rendered = render_all(template, comparison)
    ids = [list(item.ids) for item in rendered]
    row: dict[str, Any] = {"response_start": [item.response_start for item in rendered]}
    if len(ids) == 2:
        better = 0 if comparison.ranks[0] <= comparison.ranks[1] else 1
        row |= {"chosen_ids": ids[better], "rejected_ids": ids[1 - better]}
        row["response_start"] = [row["response_start"][better], row["response_start"][1 - better]]
        probability = comparison.probability
        if probability is None and comparison.ranks[0] == comparison.ranks[1]:
            probability = 0.5
        elif probability is not None and better == 1:
            probability = 1.0 - probability
        row |= {"margin": comparison.margin, "probability": probability}
        row["scores"] = (
            None if comparison.scores is None else [comparison.scores[better], comparison.scores[1 - better]]
        )
    else:
        row |= {"ids": ids, "ranks": list(comparison.ranks), "scores": comparison.scores and list(comparison.scores)}
    row["weight"] = comparison.weight
    row[_DROP] = _reason(ids, max_length)
    return row


def _reason(ids: Sequence[Sequence[int]], max_length: int | None) -> str:
    if max_length is not None and max(map(len, ids)) > max_length:
        return TOO_LONG
    return IDENTICAL if all(other == ids[0] for other in ids[1:]) else ""


def prepare_rows(
    dataset: Any, template: Template, max_length: int | None, *, processes: int | None = None, name: str = "train"
) -> tuple[Any, RowCount]:
    """A ``datasets`` set as token rows; one that already holds tokens is only filtered. Idempotent.

    Args:
        dataset: a ``Dataset`` or an ``IterableDataset``, in any format TRL's trainer reads, or any that
            ``rewardsmith data`` reads; or a list of comparisons.
        template: renders text.
        max_length: rows with a longer response are dropped.
        processes: that render (map-style sets only).
        name: for messages.

    Returns:
        The set, and the count of its rows (not known for a stream).

    Raises:
        DataError: a row that cannot be read, or no row is left.
    """
    from datasets import Dataset

    if isinstance(dataset, list):
        dataset = Dataset.from_list(rows_of(template, dataset, max_length))
    columns = _columns(dataset)
    for old, new in _LEGACY.items():
        if old in columns and new not in columns:
            dataset = dataset.rename_column(old, new)
    columns = _columns(dataset)
    rows = isinstance(dataset, Dataset)
    options: dict[str, Any] = {"num_proc": processes} if rows else {}
    if {"chosen_ids", "rejected_ids"} <= set(columns) or "ids" in columns:
        if rows:
            options["desc"] = f"checking {name} data"
        dataset = dataset.map(_mark, fn_kwargs={"max_length": max_length}, **options)
    else:
        if rows:
            options["desc"] = f"rendering {name} data"
        dataset = dataset.map(Renderer(template, max_length), with_indices=True, remove_columns=columns, **options)
    return _without_dropped(dataset, rows, name)


def _mark(row: dict[str, Any], max_length: int | None) -> dict[str, str]:
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
    return dataset.remove_columns([_DROP]), RowCount(len(dataset), dropped)


def _columns(dataset: Any) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))


def sequences(row: Mapping[str, Any]) -> list[list[int]]:
    """The token lists of a token row, chosen first."""
    return row["ids"] if row.get("ids") else [row["chosen_ids"], row["rejected_ids"]]


def is_standard(dataset: Any) -> bool:
    """True when a data set's rows are plain text pairs, which TRL joins without a chat template."""
    if isinstance(dataset, list):
        return False  # comparisons are rendered as they will be scored
    row = next(iter(dataset))
    return isinstance(row.get("chosen"), str)


def comparison_of(row: Mapping[str, Any], index: int) -> Comparison:
    """A row in TRL's preference format (text or messages, prompt explicit or implicit), or any shape that
    ``rewardsmith data`` reads, as a comparison.

    Raises:
        DataError: the row cannot be read.
    """
    row = {key: value for key, value in row.items() if value is not None}
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)) or "responses" in row:
        return _any_shape(row, index)
    try:
        prompt, responses = _split(row.get("prompt"), coerce(chosen), coerce(rejected))
    except ValueError as error:
        raise DataError(str(error), file="row", line=index + 1) from error
    return Comparison(
        prompt,
        responses,
        margin=row.get("margin"),
        weight=row.get("weight"),
        probability=row.get("probability"),
        tools=_tools(row.get("tools"), index),
        chat_template_kwargs=_without_none(row.get("chat_template_kwargs")),
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


def rows_of(template: Template, comparisons: Sequence[Comparison], max_length: int | None) -> list[dict[str, Any]]:
    """Token rows of comparisons read by :mod:`rewardsmith.data`, for ``Dataset.from_list``."""
    return [
        {name: value for name, value in token_row(template, comparison, max_length).items() if name != _DROP}
        for comparison in comparisons
    ]


def text_template(template: Template) -> Template:
    """The same tokenizer, joining prompt and response as plain text with EOS at the end: TRL's standard format."""
    return replace(template, mode="text")
