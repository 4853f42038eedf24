"""JSON as the standard defines it: no NaN, no duplicate keys, no text that cannot be written back as UTF-8.

Python's parser accepts all three, and each one turns into a wrong number or a lost value much later.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rewardsmith.data.problems import RowError, one_line, shown

# A lone surrogate can only come in through an escape, so the (slow) test runs only on rows that hold one.
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _reject_constant(name: str) -> Any:
    raise RowError(f"holds {name}, JSON numbers are finite; write a number or null", rule="bad-json")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RowError(
                    "appears twice in one object, a key may be given once; remove one of them",
                    field=one_line(key),
                    rule="duplicate-key",
                )
            seen.add(key)
    return result


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_reject_constant)
"""The strict decoder, for callers that decode a buffer piece by piece."""


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``.

    Raises:
        RowError: not JSON, not an object, a duplicate key, NaN or Infinity, or text that is not valid Unicode.
    """
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(_syntax_message(text, error), rule="bad-json") from error
    except RecursionError as error:
        raise RowError("is nested too deeply to be a data row", rule="bad-json") from error
    except RowError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise RowError(f"is not usable JSON: {error}".splitlines()[0], rule="bad-json") from error
    if not isinstance(value, dict):
        raise RowError(f"is {shown(value)}, a row must be a JSON object {{...}}", rule="not-object")
    if SURROGATE_ESCAPE.search(text):
        require_unicode(value)
    return value


def require_unicode(value: Any) -> None:
    """Raises RowError when a string inside ``value`` holds half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "holds half of a surrogate pair (\\ud800 to \\udfff), text must be valid Unicode"
        raise RowError(message, rule="bad-encoding") from error


def _syntax_message(text: str, error: json.JSONDecodeError) -> str:
    if "\x00" in text:
        return f"holds a NUL byte at column {text.index(chr(0)) + 1}, the file is binary or damaged"
    what = error.msg.removesuffix(" at")
    return f"is not valid JSON: {what} at column {error.colno}, each line must be one complete JSON object"
