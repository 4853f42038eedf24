"""What a row of a file asks to be scored: one prompt and one or more responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rewardsmith.data import fields
from rewardsmith.data.adapters.canonical import without_repeated_prompt
from rewardsmith.errors import DataError
from rewardsmith.types import Message, Text

PROMPTS = ("prompt", "question", "instruction", "input", "query")
RESPONSES = ("response", "completion", "answer", "output", "solution")
CONVERSATIONS = ("messages", "conversation", "conversations")

_RULE = (
    "a row to score needs a prompt (prompt, question, instruction ...) with a response (response, completion, answer "
    "...), responses (a list) or chosen and rejected; or messages that end with an assistant turn"
)


@dataclass(frozen=True, slots=True)
class ToScore:
    """A prompt with its responses.

    Args:
        prompt, responses: text or chat turns.
        single: the row holds one response, not a list of them.
        variables: ``tools`` and ``kwargs`` of the chat template, where the row has them.
    """

    prompt: Text
    responses: tuple[Text, ...]
    single: bool
    variables: Mapping[str, Any] = field(default_factory=dict)


def read(row: Mapping[str, Any], prompt_field: str | None = None, response_field: str | None = None) -> ToScore:
    """Find prompt and responses in a row by the usual names, or by the names given.

    Raises:
        DataError: a field is missing, empty or of the wrong type; the message names it and the row's keys.
    """
    found = variables(row)
    conversation = next((name for name in CONVERSATIONS if name in row), None)
    several = "responses" in row or ("chosen" in row and "rejected" in row)
    if conversation and not several and not prompt_field and not response_field:
        turns = _conversation(conversation, row[conversation])
        return ToScore(turns[:-1], (turns[-1:],), True, found)
    if not prompt_field and row.get("instruction") and row.get("input"):
        message = (
            "instruction and input are two halves of a prompt; join them in one column, or name one (--prompt-field)"
        )
        raise DataError(message, field="input")
    prompt = _field(row, (prompt_field,) if prompt_field else PROMPTS, "prompt")
    if not response_field and "responses" in row:
        responses = row["responses"]
        if not isinstance(responses, list | tuple) or not responses:
            raise DataError(f"must be a list of one or more responses, not {responses!r:.60}", field="responses")
        return ToScore(prompt, tuple(_reply(_text(item, "responses"), "responses") for item in responses), False, found)
    if not response_field and "chosen" in row and "rejected" in row:
        # As in training: both may repeat the prompt's turns, which then are split off.
        chosen, rejected = _text(row["chosen"], "chosen"), _text(row["rejected"], "rejected")
        prompt, chosen, rejected = without_repeated_prompt(prompt, chosen, rejected)
        return ToScore(prompt, (_reply(chosen, "chosen"), _reply(rejected, "rejected")), False, found)
    names = (response_field,) if response_field else RESPONSES
    name = next((name for name in names if name in row), "response")
    return ToScore(prompt, (_reply(_field(row, names, "response"), name),), True, found)


def variables(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the chat template gets beside the turns, the same as in training."""
    found = {
        "tools": fields.json_value(row, "tools", list),
        "kwargs": fields.json_value(row, "chat_template_kwargs", dict),
    }
    return {name: value for name, value in found.items() if value}


def _field(row: Mapping[str, Any], names: tuple[str, ...], what: str) -> Text:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(f"missing; the row has {', '.join(sorted(map(str, row))) or 'no keys'}; {_RULE}", field=what)
    return _text(row[name], name)


def _text(value: Any, name: str) -> Text:
    if value is None or (not isinstance(value, str) and not value):
        raise DataError(f"empty ({value!r}); {_RULE}", field=name)
    return value if isinstance(value, str) else fields.text_or_messages(value, name)


def _reply(reply: Text, name: str) -> Text:
    if not isinstance(reply, str) and reply[0].role != "assistant":
        raise DataError(
            f"begins with a {reply[0].role} turn, a response begins with the assistant's; keep the prompt in its own "
            "column, or give the whole conversation as messages",
            field=name,
        )
    return reply


def _conversation(name: str, value: Any) -> tuple[Message, ...]:
    turns = _text(value, name)
    if isinstance(turns, str) or len(turns) < 2 or turns[-1].role != "assistant":
        raise DataError("must be two or more messages, the last one the assistant's", field=name)
    return turns
