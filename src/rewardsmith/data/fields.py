"""Reading one field of a row: the type, the range and the remedy are checked here and nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from rewardsmith.data.problems import RowError, shown
from rewardsmith.types import Message, Text

Fields = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")
_ROLE_HINTS = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def required(row: Fields, key: str) -> Any:
    """The value of ``key``; null counts as missing, as columnar files fill absent values with null."""
    value = row.get(key)
    if value is None:
        what = "is null" if key in row else "is missing"
        raise RowError(f"{what}, every row of this format needs it", field=key, rule="missing-field")
    return value


def text_value(value: Any, field: str) -> str:
    """``value`` as text that is not blank."""
    if not isinstance(value, str):
        raise RowError(f"is {shown(value)}, must be text (in quotes)", field=field, rule="wrong-type")
    if not value or value.isspace():
        raise RowError(f"is empty ({shown(value)}), it must hold text", field=field, rule="empty-field")
    return value


def text(row: Fields, key: str) -> str:
    """The text of ``key``, which must be there and not be blank."""
    return text_value(required(row, key), key)


def messages(value: Any, field: str) -> tuple[Message, ...]:
    """``value`` as one or more chat turns."""
    if not isinstance(value, (list, tuple)):
        raise RowError(f"is {shown(value)}, must be a list of messages", field=field, rule="wrong-type")
    if not value:
        raise RowError("is an empty list, it must hold at least one message", field=field, rule="empty-field")
    return tuple([_message(item, f"{field}[{index}]") for index, item in enumerate(value)])


def text_or_messages(value: Any, field: str) -> Text:
    """``value`` as text or chat turns."""
    if isinstance(value, str):
        return text_value(value, field)
    if isinstance(value, (list, tuple)):
        return messages(value, field)
    raise RowError(f"is {shown(value)}, must be text or a list of messages", field=field, rule="wrong-type")


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, Mapping):
        message = f'is {shown(item)}, a message is {{"role": ..., "content": ...}}'
        raise RowError(message, field=field, rule="wrong-type")
    role = item.get("role")
    if role not in ROLES:
        hint = f"; did you mean {_ROLE_HINTS[role]}?" if isinstance(role, str) and role in _ROLE_HINTS else ""
        found = "is missing" if "role" not in item else f"is {shown(role)}"
        message = f"{found}, must be one of {', '.join(ROLES)}{hint}"
        raise RowError(message, field=f"{field}.role", rule="unknown-role")
    # Columnar files give every message every key of any message: null means absent.
    extra = {key: value for key, value in item.items() if key not in ("role", "content") and value is not None}
    return Message(role, _content(item.get("content"), extra, f"{field}.content"), extra)


def _content(value: Any, extra: Fields, field: str) -> str:
    if isinstance(value, str):
        return value
    if value is None and extra.get("tool_calls"):
        return ""  # a turn may consist of tool calls alone
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    found = "is missing" if value is None else f"is {shown(value)}"
    raise RowError(f"{found}, must be text (images and audio are not supported)", field=field, rule="wrong-type")


def number(row: Fields, key: str, *, low: float = -math.inf, high: float = math.inf) -> float | None:
    """The finite number at ``key`` in [low, high], or None when absent."""
    value = row.get(key)
    return None if value is None else number_value(value, key, low=low, high=high)


def number_value(value: Any, field: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` as a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are
        raise RowError(f"is {shown(value)}, must be a number", field=field, rule="wrong-type")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or not low <= value <= high:
        limits = "finite" if (low, high) == (-math.inf, math.inf) else f"between {low:g} and {high:g}"
        raise RowError(f"is {value!r}, must be {limits}", field=field, rule="out-of-range")
    return value


def integer(row: Fields, key: str, *, low: int, high: int) -> int:
    """The whole number at ``key`` in [low, high]; 2.0 is accepted, as columnar files store nullable integers so."""
    value = number_value(required(row, key), key, low=low, high=high)
    if value != int(value):
        raise RowError(f"is {value!r}, must be a whole number", field=key, rule="wrong-type")
    return int(value)


def choice(row: Fields, key: str, options: Mapping[Any, Any]) -> Any:
    """The meaning of ``key``'s value, which must be a key of ``options``."""
    value = required(row, key)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value in options:
        return options[value]
    known = ", ".join(map(repr, options))
    raise RowError(f"is {shown(value)}, must be one of {known}", field=key, rule="bad-label")


def items(row: Fields, key: str, at_least: int = 1) -> Sequence[Any]:
    """The list at ``key``, with at least so many entries."""
    value = required(row, key)
    if not isinstance(value, (list, tuple)):
        raise RowError(f"is {shown(value)}, must be a list", field=key, rule="wrong-type")
    if len(value) < at_least:
        raise RowError(f"has {len(value)} entries, must have at least {at_least}", field=key, rule="empty-field")
    return value


def ratings(row: Fields, key: str, count: int) -> tuple[dict[str, float], ...] | None:
    """One object of finite numbers by name for each of ``count`` responses; None when ``key`` is absent.

    Null is unknown, of a number and of a whole object: columnar files give every object every key of any object.
    """
    if row.get(key) is None:
        return None
    given = items(row, key)
    if len(given) != count:
        message = f"has {len(given)} entries for {count} responses, needs one object for each"
        raise RowError(message, field=key, rule="wrong-length")
    return tuple(_numbers_by_name(item, f"{key}[{index}]") for index, item in enumerate(given))


def _numbers_by_name(item: Any, field: str) -> dict[str, float]:
    if item is None:
        return {}
    if not isinstance(item, Mapping):
        message = f'is {shown(item)}, must be an object such as {{"helpfulness": 4}}'
        raise RowError(message, field=field, rule="wrong-type")
    return {str(name): number_value(value, f"{field}.{name}") for name, value in item.items() if value is not None}


def nested(row: Fields, key: str) -> Fields:
    """The object at ``key``."""
    value = required(row, key)
    if not isinstance(value, Mapping):
        raise RowError(f"is {shown(value)}, must be an object", field=key, rule="wrong-type")
    return value


def name(row: Fields, key: str) -> str | None:
    """An identifier: text or a number, as text; None when absent."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowError(f"is {shown(value)}, must be text or a number", field=key, rule="wrong-type")
    return str(value)


def json_value(row: Fields, key: str, kind: type) -> Any:
    """A list or object at ``key``, given as such or as JSON text; None when absent or empty."""
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"is {shown(value)}, which is not JSON", field=key, rule="wrong-type") from error
    if value is None or value == "" or (isinstance(value, kind) and not value):
        return None
    if not isinstance(value, kind):
        raise RowError(f"is {shown(value)}, must be a JSON {kind.__name__}", field=key, rule="wrong-type")
    return value
