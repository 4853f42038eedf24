"""Thinking in a field of its own (``reasoning_content``), where servers and tokenizers that parse responses put it."""

from __future__ import annotations

from dataclasses import replace

from rewardsmith.thinking.tags import Tags
from rewardsmith.types import THINKING_FIELDS, Text


def parted(response: Text) -> tuple[Text, str]:
    """The response without the thinking that stands in a field of its last turn, and that thinking, ``""`` for none."""
    if isinstance(response, str) or not response:
        return response, ""
    last = response[-1]
    found = (last.extra.get(name) for name in THINKING_FIELDS)
    thought = next((value for value in found if isinstance(value, str) and value.strip()), "")
    extra = {name: value for name, value in last.extra.items() if name not in THINKING_FIELDS}
    return (*response[:-1], replace(last, extra=extra)), thought


def in_content(response: Text, tags: Tags) -> Text:
    """The response with that thinking in its content, between tags; as it is where there is none, or tags already."""
    bare, thought = parted(response)
    if not thought or isinstance(bare, str) or tags.close in bare[-1].content:
        return response
    content = f"{tags.open}\n{thought.strip(chr(10))}\n{tags.close}\n\n{bare[-1].content}"
    return (*bare[:-1], replace(bare[-1], content=content))
