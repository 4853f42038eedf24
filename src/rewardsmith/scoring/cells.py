"""Columns that say something of each response, read in one way by all who score, shape or fit. Without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rewardsmith.errors import DataError


def parsed(value: Any) -> Any:
    """A cell of a table, which may be text, as the JSON value that it was; blank is None."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):  # said to be no number where it is used
        return json.loads(value) if value.strip() else None
    return value


def per_response(data: Mapping[str, Any], column: str, count: int) -> list[Any]:
    """A column's value for each of a row's responses: of a list its entries, else the same for all; None when absent.

    Raises:
        DataError: a list of another length.
    """
    value = parsed(data.get(column))
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        message = f"needs a number, or one for each of the {count} responses, not {value!r:.60}"
        raise DataError(message, field=column)
    return list(value)
