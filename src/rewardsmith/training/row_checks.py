"""What of one row of the training data is refused, with its number, the column, the value and the rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewardsmith.errors import DataError
from rewardsmith.types import Comparison

_NO_START = (
    "and pooling 'mean' must know where the response begins: give text as prompt, chosen and rejected, tokens with a "
    "column response_start, one number a response"
)


def sequences(row: Mapping[str, Any]) -> list[list[int]]:
    """The token lists of a token row, chosen first."""
    return row["ids"] if row.get("ids") else [row["chosen_ids"], row["rejected_ids"]]


def check_labels(row: Mapping[str, Any], index: int) -> None:
    """Refuse labels that mean nothing.

    Raises:
        DataError: naming the row, the column, the value and the rule.
    """
    rules = {
        "probability": (lambda value: 0 <= value <= 1, "must be in [0, 1]"),
        "weight": (lambda value: 0 < value < math.inf, "must be finite and > 0"),
        "margin": (lambda value: 0 <= value < math.inf, "must be finite and >= 0"),
    }
    for name, (holds, rule) in rules.items():
        value = row.get(name)
        if value is not None and not (isinstance(value, (int, float)) and holds(value)):
            raise DataError(f"{value!r}: {rule}", file="row", line=index + 1, field=name)


def check_ratings(row: Mapping[str, Any], index: int, attributes: Sequence[str]) -> None:
    """Rows that are tokens already have a rating of each attribute, None or NaN where it is unknown."""
    responses, count, scores = len(sequences(row)), len(attributes), row.get("scores")
    sizes = [len(one) if isinstance(one, list) else 0 for one in scores] if isinstance(scores, list) else None
    if sizes != [count] * responses:
        rule = f"must hold for each of {responses} responses a list of {count} numbers: {', '.join(attributes)}"
        raise DataError(f"{rule} (null for unknown)", file="row", line=index + 1, field="scores")


def check_tokens(row: Mapping[str, Any], index: int, vocabulary: int) -> None:
    """Refuse token rows that the network cannot read.

    Raises:
        DataError: an empty response, or a token id outside [0, ``vocabulary``); naming the row, the column and the id.
    """
    lists = [("ids", ids) for ids in row.get("ids") or ()]
    for name, ids in lists or [(name, row.get(name)) for name in ("chosen_ids", "rejected_ids")]:
        if not ids:
            raise DataError("holds no token: a response needs one at least", file="row", line=index + 1, field=name)
        wrong = next((one for one in (min(ids), max(ids)) if not 0 <= one < vocabulary), None)
        if wrong is not None:
            rule = f"token {wrong} is not in [0, {vocabulary}): tokenise with this model's tokenizer"
            raise DataError(rule, file="row", line=index + 1, field=name)


def check_starts(row: Mapping[str, Any], index: int, *, needed: bool) -> None:
    """Refuse token rows whose ``response_start`` names no place of theirs, or is missing where it is ``needed``.

    Raises:
        DataError: naming the row, the value and the rule.
    """
    starts, lengths = row.get("response_start"), [len(ids) for ids in sequences(row)]
    if starts is None:
        if needed:
            raise DataError(f"is missing, {_NO_START}", file="row", line=index + 1, field="response_start")
        return
    if len(starts) != len(lengths) or not all(0 <= at < n for at, n in zip(starts, lengths, strict=True)):
        rule = f"must hold one place a response, from 0 and below {lengths}"
        raise DataError(f"{starts}: {rule}", file="row", line=index + 1, field="response_start")


def check_prompt(comparison: Comparison, index: int, *, joined: bool = False) -> None:
    """Refuse comparisons that do not say where the response begins: tokens, and text that begins with its prompt.

    Args:
        joined: the prompt stands in the responses.

    Raises:
        DataError: naming the row and the remedy.
    """
    if comparison.token_ids is not None:
        raise DataError(f"holds tokens, {_NO_START}", file="row", line=index + 1)
    if joined:
        raise DataError(f"is missing, {_NO_START}", file="row", line=index + 1, field="prompt")
