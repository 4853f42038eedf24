"""Values that cross stage boundaries. Plain, frozen, without behaviour beyond their own shape.

Nothing here imports numpy or torch: the command line imports this file before it knows whether it needs them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Of a message: where thinking stands that a server or a tokenizer has parsed out of the content."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: the text of the turn.
        extra: other keys of the source message (``tool_calls``, ``name`` ...), handed to the chat template untouched.
    """

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates expect it."""
        return {"role": self.role, "content": self.content, **self.extra}


Text = str | tuple[Message, ...]
"""A prompt or a response: plain text, or chat turns."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row came from, for messages to people: ``file:line``."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt, two or more responses, and what is known of their order.

    Args:
        prompt: text or chat turns; ``""`` only when ``token_ids`` is given.
        responses: K >= 2 responses. A pair is ``(chosen, rejected)``.
        ranks: one per response, lower is better, equal is a tie. A pair is ``(0, 1)``; a tied pair ``(0, 0)``.
        scores: one human or reference score per response, when known (higher is better).
        attributes: per response what is known of it by name, such as ``{"helpfulness": 4.0, "verbosity": 2.0}``; a
            response may miss some. None when nothing is known of any.
        margin: how much better chosen is, in units of the reward (pairs only), >= 0.
        weight: importance of this comparison, > 0. None means 1.
        probability: that the first response is better (pairs only), in [0, 1]; 0.5 is a tie. None means 1.
        subset: name of the part of the data it belongs to.
        id: the source's identifier.
        tools: tool specifications for the chat template.
        chat_template_kwargs: further variables for the chat template.
        token_ids: one token list per response, prompt included, for pre-tokenised data.
        source: file and line it was read from.
    """

    prompt: Text
    responses: tuple[Text, ...]
    ranks: tuple[int, ...] = (0, 1)
    scores: tuple[float, ...] | None = None
    attributes: tuple[Mapping[str, float], ...] | None = None
    margin: float | None = None
    weight: float | None = None
    probability: float | None = None
    subset: str | None = None
    id: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    token_ids: tuple[tuple[int, ...], ...] | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Stepwise:
    """A prompt, a response in steps, and what is known of each step.

    Args:
        prompt: text or chat turns.
        steps: n >= 1 texts, none of them blank. ``separator.join(steps)`` is the response.
        labels: one per step: the probability that it is right, in [0, 1], 1 for right, 0 for wrong; None when nobody
            judged it.
        separator: what stands between two steps.
        id: the source's identifier.
        source: file and line it was read from.
    """

    prompt: Text
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    separator: str = "\n"
    id: str | None = None
    source: Source | None = None

    @property
    def response(self) -> str:
        """The steps as one text."""
        return self.separator.join(self.steps)

    @property
    def first_error(self) -> int | None:
        """Index of the first wrong step, -1 when all are right; None when a step before it was not judged."""
        for index, label in enumerate(self.labels):
            if label is None:
                return None
            if label < 0.5:
                return index
        return -1


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """The reward of one response.

    Args:
        reward: the head's output, normalised when the contract says so. Unbounded.
        reward_se: its standard error under the head's Laplace posterior, None when the model has none.
        truncated: True when oldest turns or tokens were dropped to fit ``max_length``.
        tokens: length of the rendered sequence that was scored.
        response_tokens: how many of them are the response's (with what the template puts behind it).
        members: the reward each member of an ensemble gives, None without one.
        attributes: the reward of each attribute by name, not normalised; None for a model without attribute heads.
    """

    reward: float
    reward_se: float | None
    truncated: bool
    tokens: int
    response_tokens: int = 0
    members: tuple[float, ...] | None = None
    attributes: Mapping[str, float] | None = field(default=None, hash=False)

    @property
    def disagreement(self) -> float | None:
        """Standard deviation of the members' rewards (over K), None without members."""
        return None if self.members is None else statistics.pstdev(self.members)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number with its 95% interval and the count it rests on."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """The form every ``--json`` report uses."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
