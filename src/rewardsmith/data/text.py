"""Prompts and responses as plain strings, for comparing and counting. Never for scoring: that is `encoding`'s work."""

from __future__ import annotations

import hashlib
import json

from rewardsmith.types import THINKING_FIELDS, Comparison, Message, Text


def flat(text: Text) -> str:
    """The words of a text or of all its turns, thinking in a field of its own included, without roles."""
    return text if isinstance(text, str) else "\n".join([_words(message) for message in text])


def _words(message: Message) -> str:
    if not message.extra:
        return message.content
    thought = [str(message.extra[name]) for name in THINKING_FIELDS if message.extra.get(name)]
    return "\n".join([*thought, message.content])


def normalised(text: Text) -> str:
    """``flat`` with white space collapsed and case folded: texts that a person would call the same compare equal."""
    return " ".join(flat(text).split()).casefold()


def identity(text: Text) -> str:
    """A string that is equal for two texts exactly when a chat template renders them alike."""
    if isinstance(text, str):
        return text.strip()
    return "\x1e".join([f"{turn.role}\x1d{turn.content.strip()}\x1d{_plain(turn)}" for turn in text])


def _plain(turn: Message) -> str:
    return json.dumps(turn.extra, sort_keys=True, default=str) if turn.extra else ""


def prompt_text(comparison: Comparison) -> str:
    """The normalised prompt, or what stands for it in data without one.

    Token ids: the longest common prefix. Plain texts with an implicit prompt: the two texts, in a fixed order, so that
    at least equal rows stay together.
    """
    if comparison.prompt:
        return normalised(comparison.prompt)
    if comparison.token_ids is not None:
        first, second = comparison.token_ids[:2]
        size = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        return " ".join(map(str, first[:size] if size is not None else min(first, second, key=len)))
    return "\n".join(sorted(normalised(response) for response in comparison.responses))


def digest(text: str, seed: bytes = b"") -> int:
    """A 64-bit hash that is the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, key=seed).digest(), "little")
