"""The rewards at the ends of a response's steps as a line, in SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewardsmith.model.steps import Step
    from rewardsmith.model.thinking_scores import ThinkingScore

_WIDTH, _HEIGHT = 760, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 92, 18, 34
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SHORT = 80  # characters of a step in its hover title


def curve_svg(score: ThinkingScore, colour: Callable[[Step], str]) -> str:
    """The curve: a point per step, the whole response's reward behind it, and that of the answer alone as a level.

    Args:
        score: with one or more steps.
        colour: of a step's point.
    """
    rewards = [score.curve.start or 0.0, *score.curve.rewards]
    levels = ticks(min(*rewards, score.overall, score.answer_alone), max(*rewards, score.overall, score.answer_alone))
    x = _scale(0, len(rewards), _LEFT, _WIDTH - _RIGHT)
    y = _scale(levels[0], levels[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_level(y(value), _number(value, levels[1] - levels[0])) for value in levels]
    if score.has_thinking:
        parts.append(_dashed(_LEFT, y(score.answer_alone), _WIDTH - _RIGHT, y(score.answer_alone)))
        parts.append(_label(_WIDTH - _RIGHT + 6, y(score.answer_alone) + 4, "answer alone"))
    before = [step.part for step in score.steps]
    for index in range(1, len(before)):
        if before[index] != before[index - 1]:
            middle = x(index + 0.5)
            parts += [_dashed(middle, _TOP, middle, _HEIGHT - _BOTTOM), _label(middle + 4, _TOP + 12, before[index])]
    line = " ".join(f"{x(index):.1f},{y(reward):.1f}" for index, reward in enumerate(rewards))
    parts.append(f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity=".55"/>')
    parts.append(_point(x(0), y(rewards[0]), "transparent", f"before the first step: {rewards[0]:.3f}"))
    for index, step in enumerate(score.steps, start=1):
        title = f"step {index}: {step.change:+.3f}, reward {step.reward:.3f}\n{step.text[:_SHORT]}"
        parts.append(_point(x(index), y(step.reward), colour(step), title))
    parts.append(_diamond(x(len(rewards)), y(score.overall), f"overall: {score.overall:.3f}"))
    near = score.has_thinking and abs(y(score.overall) - y(score.answer_alone)) < 14
    parts.append(_label(x(len(rewards)) + 10, y(score.overall) + (4 if not near else 18), "overall"))
    every = max(1, len(score.steps) // 15)
    parts += [_label(x(index), _HEIGHT - _BOTTOM + 16, str(index), "middle") for index in range(1, len(rewards), every)]
    parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, "step", "middle"))
    return (
        f'<div style="overflow-x:auto"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" style="width:100%;min-width:560px;'
        f'max-width:{_WIDTH}px;height:auto" role="img" aria-label="reward after each step" font-size="11" '
        f'fill="currentColor">{"".join(parts)}</svg></div>'
    )


def escaped(text: str) -> str:
    """Text as it may stand in a page: lone surrogates and control characters, which none may hold, are replaced."""
    return escape(_UNSHOWN.sub("�", text.replace("\r", "")))


def ticks(low: float, high: float) -> list[float]:
    """Two to seven round numbers, evenly spaced, that hold [low, high] between them."""
    width = max(high - low, 1e-6 * max(1.0, abs(low), abs(high)))
    power = 10 ** math.floor(math.log10(width / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= width / 5)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [index * step for index in range(first, last + 1)]


def _number(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "−")


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _level(y: float, text: str) -> str:
    ends = f'x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"'
    return f'<line {ends} stroke="currentColor" stroke-opacity=".15"/>' + _label(_LEFT - 8, y + 4, text, "end")


def _dashed(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" stroke-opacity=".5" '
        'stroke-dasharray="4 4"/>'
    )


def _label(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill-opacity=".8">{escape(text)}</text>'


def _point(x: float, y: float, fill: str, title: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="currentColor" stroke-opacity=".8">'
        f"<title>{escaped(title)}</title></circle>"
    )


def _diamond(x: float, y: float, title: str) -> str:
    return (
        f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" fill="currentColor" fill-opacity=".8">'
        f"<title>{escaped(title)}</title></path>"
    )
