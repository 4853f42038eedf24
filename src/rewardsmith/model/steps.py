"""The steps of a response, and one number of their rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal

from rewardsmith.thinking.lines import lines_or_sentences
from rewardsmith.thinking.parse import Thinking

Part = Literal["thinking", "answer"]

_COUNTS = 0.5
_LEAST = 1e-3  # rewards are equal to 1e-4 in float32, and are shown to three places


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a response.

    Args:
        text: without blanks around it.
        start, end: its characters [start, end) in the response.
        part: whether it is thinking or answer.
        reward: of the response up to the step's end.
        change: from the reward before the step.
        probability: that the step is right, of a model with a process head.
    """

    text: str
    start: int
    end: int
    part: Part
    reward: float
    change: float
    probability: float | None = None


def split_steps(parts: Thinking, separator: str = "\n") -> list[tuple[int, int, Part]]:
    """Characters [start, end) of each step of a response, in ``parts.join()``, and the part that it belongs to.

    A step is a line that is not blank. Of a stretch of thinking, or of answer, that is a single line, each sentence is
    one. With another ``separator`` a step is what stands between two of these. Tags belong to no step.

    Example:
        >>> from rewardsmith.thinking import split_thinking
        >>> text = "<think>15 + 20 = 35. Plus 7 is 42.</think>The answer\\nis 42."
        >>> [text[start:end] for start, end, _ in split_steps(split_thinking(text))]
        ['15 + 20 = 35.', 'Plus 7 is 42.', 'The answer', 'is 42.']
    """
    stretches: list[tuple[str, int, Part]] = [(parts.head, 0, "answer")]
    for block, (start, end) in zip(parts.blocks, parts.spans, strict=True):
        stretches.append((block.text, start, "thinking"))
        stretches.append((block.after, end + len(block.close), "answer"))
    cut = lines_or_sentences if separator == "\n" else partial(_parted, separator=separator)
    return [(at + start, at + end, part) for text, at, part in stretches for start, end in cut(text)]


def _parted(text: str, separator: str) -> Iterator[tuple[int, int]]:
    at = 0
    for piece in text.split(separator):
        if bare := piece.strip():
            start = at + piece.index(bare)
            yield start, start + len(bare)
        at += len(piece) + len(separator)


@dataclass(frozen=True, slots=True)
class Curve:
    """Rewards r_1 ... r_n at the ends of a response's steps, and r_0 before the first.

    With changes d_i = r_i - r_(i-1) as process rewards, their sum is r_n - r_0: a policy paid for it gains by many
    small rises. The min form pays for the weakest step instead and is what kept RL stable in PURE (Cheng et al. 2025,
    arXiv 2504.15275), whose return of a step is the least reward from there on.

        min_step = min_i r_i      last_step = r_n      mean_step = (1/n) sum_i r_i      worst = argmin_i d_i

    The steps are those of the whole response, of its thinking and of its answer; without thinking, of the answer alone.

    Args:
        start: r_0, read just before the first step; at the first token of a response that begins with a step.
        steps: in order.
    """

    start: float | None
    steps: tuple[Step, ...]

    @property
    def rewards(self) -> list[float]:
        """r_1 ... r_n."""
        return [step.reward for step in self.steps]

    @property
    def min_step(self) -> float | None:
        """The least reward at a step's end; None without steps, as for the others."""
        return min(self.rewards, default=None)

    @property
    def last_step(self) -> float | None:
        """The reward at the last step's end, before what the template puts behind the response."""
        return self.steps[-1].reward if self.steps else None

    @property
    def mean_step(self) -> float | None:
        """The mean reward over the steps' ends."""
        return sum(self.rewards) / len(self.steps) if self.steps else None

    @property
    def worst(self) -> int | None:
        """Index of the step at which the reward falls most (or rises least), the first of equals."""
        return min(range(len(self.steps)), key=lambda index: self.steps[index].change) if self.steps else None

    @property
    def fall(self) -> int | None:
        """Index of the step with the largest fall, where it is one to look at; None where no step is.

        The first step is left out: its change is mostly that there is a response at all. A fall counts when it is at
        least ``_COUNTS`` times the median absolute change of the other steps, of which there must be one.
        """
        later = range(1, len(self.steps))
        if len(later) < 2:
            return None
        worst = min(later, key=lambda index: self.steps[index].change)
        usual = median(abs(self.steps[index].change) for index in later if index != worst)
        return worst if self.steps[worst].change <= -max(_LEAST, _COUNTS * usual) else None


def curve(
    start: float | None,
    found: Sequence[tuple[int, int, Part]],
    rewards: Sequence[float],
    text: str,
    probabilities: Sequence[float] | None = None,
) -> Curve:
    """The curve of steps that were read.

    Args:
        start: the reward before the first; None where there are none.
        found: characters and part of each step, as ``split_steps`` gives them.
        rewards: at their ends.
        text: the response.
        probabilities: that each is right; None without a process head.
    """
    before, right = [start, *rewards], probabilities or [None] * len(rewards)
    return Curve(
        start,
        tuple(
            Step(text[a:b], a, b, part, reward, reward - earlier, p)  # type: ignore[operator]
            for (a, b, part), reward, earlier, p in zip(found, rewards, before, right, strict=False)
        ),
    )
