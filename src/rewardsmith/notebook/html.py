"""Scores and comparisons to look at in a notebook: plain HTML, no scripts, nothing loaded, dark or light.

Colours are those of the page: text inherits, lines and bars are half transparent. Prompts and responses are data of
strangers, so every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rewardsmith.encoding.template import coerce, plain
from rewardsmith.errors import RewardsmithError, UsageError
from rewardsmith.types import ScoredResponse

_SHORT = 160  # characters shown before a text is folded
_LIMIT = 50  # rows shown

_LINE = "border-bottom:1px solid rgba(128,128,128,.35)"
_CELL = f"padding:4px 8px;vertical-align:top;text-align:left;{_LINE}"
_NUMBER = f"padding:4px 8px;vertical-align:top;text-align:right;white-space:nowrap;{_LINE}"
_WRAP = "white-space:pre-wrap;overflow-wrap:anywhere"
_BLUE, _RED = "rgba(76,130,214,.75)", "rgba(214,98,76,.75)"  # readable on white and on black
_TRACK = "background:rgba(128,128,128,.2);height:10px"


@dataclass(frozen=True)
class Row:
    """One response as it is shown; ``problem`` instead of a reward where it could not be scored."""

    prompt: str
    response: str
    reward: float | None
    reward_se: float | None
    flags: tuple[str, ...]
    problem: str | None = None


@dataclass(frozen=True, repr=False)
class ScoreTable:
    """What ``show`` gives: a table in a notebook, lines of text elsewhere."""

    rows: tuple[Row, ...]
    limit: int

    def _repr_html_(self) -> str:
        known = [row.reward for row in self.rows if row.reward is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        shown, body, last = self.rows[: self.limit], [], None
        for row in shown:
            body.append(_html_row(row, (low, high), repeated=row.prompt == last))
            last = row.prompt
        heads = (("prompt", _CELL), ("response", _CELL), ("reward", _NUMBER), ("", _CELL), ("", _CELL))
        head = "".join(f'<th style="{style}">{name}</th>' for name, style in heads)
        more = len(self.rows) - len(shown)
        rest = f'<p style="opacity:.7">and {more:,} more rows</p>' if more else ""
        table = f'<table style="border-collapse:collapse;width:100%"><tr>{head}</tr>{"".join(body)}</table>'
        return f'<div style="color:inherit">{table}{rest}</div>'

    def __repr__(self) -> str:
        shown, lines, last = self.rows[: self.limit], [], None
        for row in shown:
            lines += [] if row.prompt == last else [_one_line(row.prompt)]
            lines.append(f"{_number(row):>18}  {_one_line(row.response)}")
            last = row.prompt
        more = len(self.rows) - len(shown)
        return "\n".join([*lines, *([f"and {more:,} more rows"] if more else [])])


@dataclass(frozen=True, repr=False)
class ComparisonView:
    """What ``show_comparison`` gives: two responses side by side and how likely each is to be preferred."""

    prompt: str
    rows: tuple[Row, Row]
    probability: float

    def _repr_html_(self) -> str:
        share = 100 * self.probability
        bar = (
            f'<div style="display:flex;{_TRACK}"><div style="width:{share:.2f}%;background:{_BLUE}"></div>'
            f'<div style="width:{100 - share:.2f}%;background:{_RED}"></div></div>'
        )
        heads = (f"A · P(preferred) = {self.probability:.3f}", f"B · P(preferred) = {1 - self.probability:.3f}")
        cells = "".join(
            f'<td style="width:50%;{_CELL}"><b>{head}</b><br>reward {escape(_number(row))} {_badges(row)}'
            f'<div style="margin-top:6px;max-height:24em;overflow:auto;{_WRAP}">{escape(row.response)}</div></td>'
            for head, row in zip(heads, self.rows, strict=True)
        )
        return (
            f'<div style="color:inherit"><div style="{_WRAP};opacity:.8">{escape(self.prompt)}</div>{bar}'
            f'<table style="border-collapse:collapse;width:100%;table-layout:fixed"><tr>{cells}</tr></table></div>'
        )

    def __repr__(self) -> str:
        sides = zip("AB", self.rows, strict=True)
        lines = [f"{name}  {_number(row):>18}  {_one_line(row.response)}" for name, row in sides]
        return "\n".join([_one_line(self.prompt), f"P(A preferred to B) = {self.probability:.3f}", *lines])


def show(prompts: Sequence[Any], responses: Sequence[Any], scored: Sequence[Any], *, limit: int = _LIMIT) -> ScoreTable:
    """A table of scored responses: reward with a bar, standard error, what is to be known of it, and the text.

    The bar goes from the lowest to the highest reward shown: a reward has no zero of its own.

    Args:
        prompts, responses: text or messages, equally many.
        scored: what ``Scorer.score``, ``Scorer.try_score`` or ``model.score_responses`` gave; or plain numbers, such as
            shaped rewards (None or NaN where there is none).
        limit: rows shown, > 0.

    Raises:
        UsageError: unequal lengths.
        TemplateError: a prompt or response that is neither text nor messages.
    """
    if not len(prompts) == len(responses) == len(scored):
        counts = f"{len(prompts)}, {len(responses)} and {len(scored)}"
        raise UsageError(f"prompts, responses and scored must be equally many, not {counts}")
    return ScoreTable(tuple(_row(*item) for item in zip(prompts, responses, scored, strict=True)), limit)


def show_comparison(model: Any, prompt: Any, a: Any, b: Any) -> ComparisonView:
    """Two responses side by side, with the probability that each is preferred (Bradley-Terry).

    Args:
        model: a :class:`rewardsmith.RewardModel`.
        prompt, a, b: text or messages.
    """
    first, second = model.score_responses([prompt, prompt], [a, b])
    rows = (_row(prompt, a, first), _row(prompt, b, second))
    return ComparisonView(rows[0].prompt, rows, model.compare(prompt, a, b))


def _row(prompt: Any, response: Any, scored: Any) -> Row:
    texts = plain(coerce(prompt)).strip(), plain(coerce(response)).strip()
    if isinstance(scored, RewardsmithError):
        return Row(*texts, None, None, (), str(scored))
    if isinstance(scored, ScoredResponse):
        flags = ["truncated"] if scored.truncated else []
        if scored.disagreement is not None:
            flags.append(f"disagreement {scored.disagreement:.2f}")
        return Row(*texts, scored.reward, scored.reward_se, tuple(flags))
    value = float("nan") if scored is None else float(scored)
    if value != value:
        return Row(*texts, None, None, (), "no reward")
    return Row(*texts, value, None, ())


def _html_row(row: Row, limits: tuple[float, float], *, repeated: bool) -> str:
    prompt = '<span style="opacity:.4">〃</span>' if repeated else _folded(row.prompt)
    bar = "" if row.reward is None else _bar(row.reward, *limits)
    return (
        f'<tr><td style="{_CELL}">{prompt}</td><td style="{_CELL}">{_folded(row.response)}</td>'
        f'<td style="{_NUMBER}">{escape(_number(row))}</td><td style="min-width:80px;{_CELL}">{bar}</td>'
        f'<td style="{_CELL}">{_badges(row)}</td></tr>'
    )


def _bar(reward: float, low: float, high: float) -> str:
    """Full for the highest reward, empty for the lowest; half when all are equal."""
    share = 50.0 if high == low else 100 * (reward - low) / (high - low)
    filled = f'<div style="width:{share:.1f}%;height:100%;background:{_BLUE}"></div>'
    return f'<div style="{_TRACK};margin-top:5px">{filled}</div>'


def _badges(row: Row) -> str:
    said = [*row.flags, *([row.problem] if row.problem else [])]
    style = f"border:1px solid {_RED};border-radius:3px;padding:0 4px;font-size:85%"
    return " ".join(f'<span style="{style}">{escape(text)}</span>' for text in said)


def _folded(text: str) -> str:
    if len(text) <= _SHORT:
        return f'<span style="{_WRAP}">{escape(text)}</span>'
    return (
        f"<details><summary>{escape(text[:_SHORT])}… ({len(text):,} characters)</summary>"
        f'<div style="{_WRAP}">{escape(text)}</div></details>'
    )


def _number(row: Row) -> str:
    if row.reward is None:
        return "–"
    return f"{row.reward:.3f}" + ("" if row.reward_se is None else f" ± {row.reward_se:.3f}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
