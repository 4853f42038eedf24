"""One response as a picture: each step shaded by what it changes of the reward. Plain HTML, nothing loaded, no scripts.

With a process head, steps are shaded by the probability that they are right: blue above one half, orange below.

Texts are data of strangers, so every one is escaped. Blue and orange are told apart by colour-blind readers too, and
colours are half transparent over those of the page, so that light and dark both do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rewardsmith.evaluation.thinking_curve import curve_svg, escaped

if TYPE_CHECKING:
    from rewardsmith.model.steps import Step
    from rewardsmith.model.thinking_scores import ThinkingScore

_RISE, _FALL = "40,120,215", "232,119,0"
_FAINT, _STRONG = 0.06, 0.6  # opacity of the least and of the greatest change

_WRAP = "white-space:pre-wrap;overflow-wrap:anywhere"
_LINE = "border-bottom:1px solid rgba(128,128,128,.3)"
_CHIP = "font-size:75%;border:1px solid currentColor;border-radius:3px;padding:0 5px;margin-right:6px;opacity:.75"
_BOX = f"{_WRAP};line-height:1.7;border:1px solid rgba(128,128,128,.35);border-radius:6px;padding:10px 14px"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem;
  background: Canvas; color: CanvasText; }}
h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1rem; margin: 1.6rem 0 .4rem; }}
</style></head>
<body><h1>{title}</h1>{prompt}{body}</body></html>
"""


def page(score: ThinkingScore, prompt: str = "", *, title: str = "What earned the reward") -> str:
    """A whole page that stands alone.

    Args:
        score: of one response.
        prompt: as text; shown above, ``""`` for none.
        title: its head line.
    """
    asked = f'<h2>Prompt</h2><div style="{_BOX}">{escaped(prompt)}</div>' if prompt else ""
    return _PAGE.format(title=escaped(title), prompt=asked, body=fragment(score))


def fragment(score: ThinkingScore) -> str:
    """The picture without the page around it, for a notebook: response, curve, and the reward's parts."""
    # The first step's change is mostly that there is a response at all: beside it all others would look alike.
    scale = max((abs(step.change) for step in score.steps[1:]), default=0.0)

    def shade(step: Step) -> str:
        if step.probability is not None:
            return colour(2 * step.probability - 1, 1.0)
        return "transparent" if step is score.steps[0] else colour(step.change, scale)

    response = "".join(_shaded(score, shade)) or '<span style="opacity:.6">(empty)</span>'
    curve = f"<h2>Reward after each step</h2>{curve_svg(score, shade)}" if score.steps else ""
    legend = _legend(score, scale) if score.steps else ""
    return (
        f'<div style="color:inherit;max-width:54rem"><h2>Response</h2><div style="{_BOX}">{response}</div>'
        f"{legend}{curve}<h2>Where the reward comes from</h2>{_table(score)}</div>"
    )


def colour(change: float, scale: float) -> str:
    """The shade of a change of reward: orange for a fall, blue for a rise, stronger for more of it.

    Args:
        change: any finite number.
        scale: the greatest change shown, >= 0.
    """
    if change == 0 or scale == 0:
        return "transparent"
    strength = _FAINT + (_STRONG - _FAINT) * min(1.0, abs(change) / scale)
    return f"rgba({_RISE if change > 0 else _FALL},{strength:.2f})"


def number(value: float | None, *, signed: bool = False) -> str:
    """A reward as people read it, ``–`` for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", "−")


def _shaded(score: ThinkingScore, shade: Callable[[Step], str]) -> Iterator[str]:
    """The response's text, step by step; what lies between is tags and blanks."""
    at, part, (worst, mark) = 0, None, marked(score)
    for index, step in enumerate(score.steps):
        if gap := score.response[at : step.start]:
            yield f'<span style="opacity:.6">{escaped(gap)}</span>'
        if step.part != part and score.has_thinking:
            yield f'<span style="{_CHIP}">{step.part}</span>'
        yield _step(step, index, shade(step), mark if index == worst else "")
        at, part = step.end, step.part
    if rest := score.response[at:]:
        yield f'<span style="opacity:.6">{escaped(rest)}</span>'


def marked(score: ThinkingScore) -> tuple[int | None, str]:
    """The step to look at first, and what is said of it: the least likely one to be right, or the largest fall.

    None where no step is more likely wrong than right, or the fall is small beside the other changes.
    """
    right = [step.probability for step in score.steps if step.probability is not None]
    if right:
        least = min(right)
        if len(right) < 2 or least >= 0.5:
            return None, ""
        place = next(index for index, step in enumerate(score.steps) if step.probability == least)
        return place, f"least likely right, p = {number(least)}"
    fall = score.curve.fall
    return (None, "") if fall is None else (fall, f"largest fall {number(score.steps[fall].change, signed=True)}")


def _step(step: Step, index: int, shade: str, mark: str) -> str:
    first = "" if index else " since the start"
    said = f"step {index + 1}: {number(step.change, signed=True)}{first}, reward {number(step.reward)}"
    if step.probability is not None:
        said += f", right with p = {number(step.probability)}"
    style = f"background:{shade};border-radius:3px;padding:1px 2px"
    if mark:
        style += f";border-bottom:2px solid rgb({_FALL})"
        mark = f' <span style="{_CHIP};margin-left:4px">▼ {mark}</span>'
    return f'<span title="{said}" style="{style}">{escaped(step.text)}</span>{mark}'


def _legend(score: ThinkingScore, scale: float) -> str:
    judged = score.steps[0].probability is not None
    said = "probability that the step is right" if judged else "change of the reward in a step (not of the first)"
    if not judged and not scale:
        return ""  # one step alone, or none that changes anything: there is no scale to show
    values = ("0", "0.5", "1") if judged else [number(value, signed=bool(value)) for value in (-scale, 0.0, scale)]
    widest = 1.0 if judged else scale
    stops = ",".join(colour(share * widest, widest) for share in (-1, -0.5, 0, 0.5, 1))
    ends = "".join(f"<span>{value}</span>" for value in values)
    edge = "height:10px;border-radius:3px;border:1px solid rgba(128,128,128,.35)"
    bar = f'<div style="{edge};background:linear-gradient(90deg,{stops})"></div>'
    numbers = f'<div style="display:flex;justify-content:space-between">{ends}</div>'
    return f'<div style="max-width:20rem;margin-top:8px;font-size:85%">{said}{bar}{numbers}</div>'


def parts(score: ThinkingScore) -> list[tuple[str, float | None, str]]:
    """Name, reward and meaning of each part of a response's reward."""
    return [
        ("overall", score.overall, "the whole response"),
        ("answer alone", score.answer_alone, "the response with its thinking taken out"),
        ("contribution of the thinking", score.contribution, "overall − answer alone"),
        ("thinking", score.thinking, "read where the thinking ends"),
        ("answer given thinking", score.answer_given_thinking, "overall − thinking"),
        ("lowest step", score.min_step, "the least reward at the end of a step, of thinking or answer"),
        ("mean over steps", score.mean_step, "the mean reward at the ends of all steps"),
        ("last step", score.last_step, "at the end of the last step, before the token that ends the turn"),
    ]


SCALE = (
    "Rewards are on the scale of this model, which has no zero and no unit of its own: compare them with each other, "
    "for one prompt, as differences."
)


def _table(score: ThinkingScore) -> str:
    rows = "".join(
        f'<tr><td style="padding:3px 12px 3px 0;{_LINE}">{name}</td>'
        f'<td style="padding:3px 12px;text-align:right;font-variant-numeric:tabular-nums;{_LINE}">{number(value)}</td>'
        f'<td style="padding:3px 0;opacity:.7;text-align:left;{_LINE}">{meaning}</td></tr>'
        for name, value, meaning in parts(score)
    )
    facts = " · ".join(_facts(score))
    return (
        f'<table style="border-collapse:collapse">{rows}</table><p style="opacity:.8">{facts}</p>'
        f'<p style="opacity:.7;font-size:85%">{SCALE}</p>'
    )


def _facts(score: ThinkingScore) -> Iterator[str]:
    yield f"{score.thinking_tokens:,} tokens of thinking ({score.share:.0%}), {score.answer_tokens:,} of answer"
    if not score.has_thinking:
        yield "no thinking"
        return
    yield f"{score.repetition:.0%} of the thinking's 4-grams are repeated"
    yield "opening tag in the response" if score.opened else "opening tag in the prompt"
    yield "closed" if score.closed else "never closed"
    if score.scored.truncated:
        yield "the oldest text was cut off to fit the model"
