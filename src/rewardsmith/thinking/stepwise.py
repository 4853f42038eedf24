"""Thinking pairs as responses judged step by step: which line went wrong is known from how it was made wrong."""

from __future__ import annotations

from collections.abc import Iterator

from rewardsmith.errors import UsageError
from rewardsmith.thinking.pairs import ThinkingPair
from rewardsmith.thinking.parse import Thinking, split_thinking
from rewardsmith.thinking.tags import Tags
from rewardsmith.types import Stepwise

CORRUPTIONS = ("wrong_step_wrong_answer", "wrong_step_right_answer")
"""Those that leave every line before the first wrong one as it was, and say which it is."""


def stepwise(pair: ThinkingPair, tags: Tags | None = None) -> tuple[Stepwise, Stepwise]:
    """The good and the corrupted response of a pair, a step a line of thinking and one for the answer.

    The lines before the wrong one are right. After it, a line is wrong where it follows from the wrong one, as the
    wrong answer does, and right where the slip left it as it was: it then names no wrong result, and is as true as in
    the true derivation. Where what follows passes over the wrong line (``wrong_step_right_answer``), nobody can say
    what true results are worth that contradict what stands before them: those have no label. Tags stand with the lines
    beside them, so that the steps joined by line breaks are the response.

    Raises:
        UsageError: a corruption of which no line is known to be the first wrong one.
    """
    item, wrong = pair.comparison, pair.corrupted_step
    if item.subset not in CORRUPTIONS or wrong is None:
        raise UsageError(f"corruption {item.subset!r} has no labels for steps; known are {', '.join(CORRUPTIONS)}")
    good, bad = (_steps(split_thinking(str(text), tags=tags)) for text in item.responses)
    passes_over = item.subset == "wrong_step_right_answer"
    after = (None if passes_over else float(step == true) for step, true in zip(bad, good, strict=True))
    labels = (*(1.0,) * wrong, 0.0, *list(after)[wrong + 1 :])
    assert isinstance(item.prompt, str)
    return (
        Stepwise(item.prompt, good, (1.0,) * len(good), id=f"{item.id}/good"),
        Stepwise(item.prompt, bad, labels, id=f"{item.id}/bad"),
    )


def _steps(parts: Thinking) -> tuple[str, ...]:
    (block,) = parts.blocks
    lines = list(_lines(block.text))
    return (block.open + block.text[: len(block.text) - len(block.text.lstrip())] + lines[0], *lines[1:], _end(parts))


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.strip().split("\n") if line.strip())


def _end(parts: Thinking) -> str:
    """The closing tag with the answer behind it."""
    (block,) = parts.blocks
    tail = block.text[len(block.text.rstrip()) :].removeprefix("\n")
    return tail + block.close + block.after
