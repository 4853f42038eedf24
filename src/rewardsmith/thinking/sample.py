"""A good response taken apart, so that it can be made worse: from a problem, or from a user's own text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rewardsmith.thinking.parse import CLOSE, OPEN, split_thinking
from rewardsmith.thinking.phrases import ALL, Phrases
from rewardsmith.thinking.problems import Problem
from rewardsmith.thinking.style import Style, style_of
from rewardsmith.thinking.tags import Tags

_SENTENCE = re.compile(r"(?<=[.!?])[ \t]+(?=\S)")


@dataclass(frozen=True, slots=True)
class Wrong:
    """A derivation with one false step and the wrong answer it leads to.

    Args:
        step: 0-based index of the false step in ``steps``.
        steps: all steps.
        closing: the closing line.
        answer: what follows the closing tag.
    """

    step: int
    steps: tuple[str, ...]
    closing: str
    answer: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A good response in pieces: ``open`` + opening line, steps, closing line + ``close`` + ``answer``.

    Args:
        prompt: what was asked, as plain text.
        steps: the thinking line by line, one or more (a text without line breaks: sentence by sentence), without what
            ``bullet`` adds. Each may have its own white space behind it.
        answer: what is shown after the closing tag.
        open: the opening tag with the white space behind it.
        close: the white space in front of the closing tag, the tag, and the white space behind it.
        gap: what stands between two lines.
        opening, closing: first and last line of the thinking, which are no steps; ``""`` for none.
        bullet: how a step is written, with ``{step}`` and perhaps ``{number}``.
        slips: known ways to get it wrong; empty when nobody knows the truth.
        phrases: what a corruption may say.
    """

    prompt: str
    steps: tuple[str, ...]
    answer: str
    open: str = f"{OPEN}\n"
    close: str = f"\n{CLOSE}\n\n"
    gap: str = "\n"
    opening: str = ""
    closing: str = ""
    bullet: str = "{step}"
    slips: tuple[Wrong, ...] = ()
    phrases: Phrases = ALL

    @property
    def first(self) -> int:
        """Index of the first step among the lines."""
        return 1 if self.opening else 0

    def thinking(self, steps: Sequence[str], closing: str | None = None) -> str:
        """Steps as the text between the tags, without white space at the ends; ``closing`` replaces the last line."""
        written = [self.bullet.format(number=number, step=step) for number, step in enumerate(steps, start=1)]
        lines = [self.opening, *written, self.closing if closing is None else closing]
        return "".join(line if line[-1].isspace() else line + self.gap for line in lines if line).rstrip()

    def response(self, steps: Sequence[str], answer: str, closing: str | None = None) -> str:
        """A whole response."""
        return self.open + self.thinking(steps, closing) + self.close + answer

    @property
    def good(self) -> str:
        """The response as it was."""
        return self.response(self.steps, self.answer)

    @property
    def size(self) -> int:
        """Length of the thinking in characters."""
        return len(self.thinking(self.steps))


def sample_of_problem(problem: Problem, style: Style | None = None, phrases: Phrases = ALL) -> Sample:
    """A problem's true derivation and its slips.

    Args:
        problem: question, steps, answer, slips.
        style: how the response is dressed; by default as it belongs to the question.
        phrases: what a corruption of it may say.
    """
    style = style or style_of(problem)

    def ending(answer: str) -> tuple[str, str]:
        return style.closing.format(answer=answer), style.answer.format(answer=answer)

    closing, answer = ending(problem.answer)
    slips = tuple(Wrong(slip.step, slip.steps, *ending(slip.answer)) for slip in problem.slips)
    return Sample(
        problem.question,
        problem.steps,
        answer,
        opening=style.opening,
        closing=closing,
        bullet=style.bullet,
        slips=slips,
        phrases=phrases,
    )


def sample_of_text(prompt: str, response: str, tags: Tags | None = None) -> Sample | None:
    """A user's good response; None when it has no closed thinking of one block with text in it, or no answer.

    ``sample.good`` is the response, byte for byte.
    """
    parts = split_thinking(response, tags=tags)
    if len(parts.blocks) != 1 or not parts.closed or not parts.blocks[0].text.strip() or not parts.answer.strip():
        return None
    block = parts.blocks[0]
    body, start = block.text.strip(), len(block.text) - len(block.text.lstrip())
    lead, tail = block.text[:start], block.text[start + len(body) :]
    answer = block.after.lstrip()
    steps = re.findall(r"[^\n]+(?:\n\s*)?", body) if "\n" in body else _sentences(body)
    return Sample(
        prompt,
        tuple(steps),
        answer,
        open=parts.before + block.open + lead,
        close=tail + block.close + block.after[: len(block.after) - len(answer)],
        gap="\n\n" if "\n\n" in body else "\n" if "\n" in body else " ",
    )


def _sentences(text: str) -> list[str]:
    """A line's sentences, each with the blanks behind it."""
    ends = [found.end() for found in _SENTENCE.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
