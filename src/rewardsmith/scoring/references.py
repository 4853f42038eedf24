"""References that a shaping compares with: rewards, or responses to the same prompt that are yet to be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardsmith.data import fields
from rewardsmith.errors import DataError
from rewardsmith.scoring import row as rows_
from rewardsmith.types import Text

Reference = float | Text


def several(value: Any) -> Sequence[Any]:
    """The references in a cell: a list holds several, but a list of messages is one."""
    many = isinstance(value, list | tuple) and value and not any(isinstance(one, Mapping) for one in value)
    return value if many else [value]


def reference(value: Any, name: str) -> Reference:
    """A finite number, or a response as text or turns.

    Raises:
        DataError: neither.
    """
    if isinstance(value, str):
        fields.text_value(value, name)
    if isinstance(value, str) or (isinstance(value, list | tuple) and value):
        return rows_.read({"prompt": "", name: value}, "prompt", name).responses[0]
    try:
        return fields.number_value(value, name)
    except DataError as error:
        raise DataError(f"{error.message}, or the text (or messages) of a response", field=name) from error


def references(data: Mapping[str, Any], name: str, step: str) -> list[Reference]:
    """One or several references in a row's column.

    Args:
        step: the shape that compares with it, for people.

    Raises:
        DataError: missing, or neither numbers nor responses.
    """
    try:
        value = fields.required(data, name)
    except DataError as error:
        need = f"{step} compares with a reference response to the prompt, its text or its reward"
        raise DataError(f"{error.message}; {need}: name its column (--reference-field)", field=name) from error
    return [reference(one, name) for one in several(value)]
