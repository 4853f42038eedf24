"""Ways in which thinking goes bad. Each function makes one worse response of a good one.

Signature: ``(sample, rng, other) -> Corrupted``, where ``other`` is a good response to another question. To add one,
write the function and list it in ``CORRUPTIONS``, and in ``NEEDS_TRUTH`` when it uses ``sample.slips``. Apart from what
it breaks, a corrupted response equals the good one: same style, and about the same length, or as often shorter as
longer. Only ``truncated`` cannot help being shorter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewardsmith.thinking.sample import Sample


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A worse response.

    Args:
        response: the text.
        line: 0-based index, among the lines between the tags that are not blank, of the first bad one; None when no
            single line is bad.
    """

    response: str
    line: int | None = None


def no_thinking(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """An answer without thinking, right or (where known) wrong with equal odds; half of the time after small talk."""
    return Corrupted(_bare_answer(sample, rng))


def empty_thinking(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """Tags with nothing between them, then an answer as in ``no_thinking``."""
    blank = rng.choice(("", "\n", "\n\n", "\n...\n"))
    return Corrupted(f"{sample.open.rstrip()}{blank}{sample.close.lstrip()}{_bare_answer(sample, rng)}")


def wrong_step_wrong_answer(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """One false step; what follows is consistent with it, down to a wrong answer."""
    slip = rng.choice(sample.slips)
    return Corrupted(sample.response(slip.steps, slip.answer, slip.closing), sample.first + slip.step)


def wrong_step_right_answer(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """One false step that what follows passes over, and the right answer."""
    slip = rng.choice(sample.slips)
    steps = list(sample.steps)
    steps[slip.step] = slip.steps[slip.step]
    return Corrupted(sample.response(steps, sample.answer), sample.first + slip.step)


def contradicting_answer(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """True thinking, then an answer that it does not support."""
    return Corrupted(sample.response(sample.steps, rng.choice(sample.slips).answer))


def truncated(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """Thinking that stops in the middle of a step: either the response ends there, or it jumps to the right answer."""
    at = rng.randrange(len(sample.steps))
    whole = sample.steps[at].rstrip()
    part = whole[: rng.randint(len(whole) // 3, 2 * len(whole) // 3)].rstrip()
    steps = [*sample.steps[:at], part] if part else sample.steps[:at]
    if rng.random() < 0.5:
        return Corrupted(sample.open + sample.thinking(steps, closing=""), sample.first + at)
    return Corrupted(sample.response(steps, sample.answer, closing=""), sample.first + at)


def loop(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """A step said three times or more: a stutter, with all other steps there, or a loop in place of what follows."""
    steps = list(sample.steps)
    at = rng.randrange(len(steps))
    if rng.random() < 0.5:
        steps[at : at + 1] = [steps[at]] * rng.randint(3, 5)
        return Corrupted(sample.response(steps, sample.answer), sample.first + at + 1)
    at = rng.randrange(max(1, len(steps) - 2))
    # No longer than the good response, so a step that does not fit three times is said in part.
    words = steps[at].split(" ")
    while len(words) > 1 and len(sample.thinking([*steps[:at], *[" ".join(words)] * 3])) > sample.size:
        words.pop()
    piece = " ".join(words)
    looped = [*steps[:at], *[piece] * 3]
    while len(longer := sample.thinking([*looped, piece])) <= sample.size and len(longer) < 20_000:
        looped.append(piece)
    return Corrupted(sample.response(looped, sample.answer), sample.first + at + (piece == steps[at]))


def padding(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """Sentences that say nothing: among the true steps, as many or more; or instead of them, all but the last."""
    *steps, last = sample.steps
    if rng.random() < 0.5:
        for filler in _some(rng, sample.phrases.fillers, len(steps) + 1 + rng.randint(1, 4)):
            # Never after the last step, so that the thinking still ends in its result.
            steps.insert(rng.randint(0, len(steps)), filler)
        return Corrupted(sample.response([*steps, last], sample.answer))
    fillers = _filled(sample, [], _some(rng, sample.phrases.fillers), sample.size * rng.uniform(0.6, 0.9), [last])
    return Corrupted(sample.response([*fillers, last], sample.answer), sample.first)


def unrelated(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """The thinking about another question in front of the right answer."""
    return Corrupted(sample.response(other.steps, sample.answer, other.closing), sample.first)


def rationalised(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """The answer is given away first; what follows only says that it must be so. The answer is right."""
    verdict = rng.choice(sample.phrases.verdicts)
    short = re.sub(r"\s+", " ", sample.answer).strip()
    first = verdict.format(short if len(short) <= 120 else short[:120].rsplit(" ", 1)[0] + " ...")
    steps = _filled(sample, [first], _some(rng, sample.phrases.rationales), sample.size * rng.uniform(0.8, 1.2))
    return Corrupted(sample.response(steps, sample.answer), sample.first)


def self_doubt(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """Doubt without a reason, then the right answer: after true steps, or instead of most of them."""
    if rng.random() < 0.5:
        at = rng.randint(1, len(sample.steps))
        steps = [*sample.steps[:at], *_some(rng, sample.phrases.doubts, rng.randint(2, 4)), *sample.steps[at:]]
    else:
        at = rng.randint(0, max(0, len(sample.steps) - 3))
        steps = _filled(
            sample, list(sample.steps[:at]), _some(rng, sample.phrases.doubts), sample.size * rng.uniform(0.6, 0.95)
        )
    return Corrupted(sample.response(steps, sample.answer), sample.first + at)


def copied_prompt(sample: Sample, rng: random.Random, other: Sample) -> Corrupted:
    """The question said again, in part or over and over, in place of thinking. The answer is right."""
    said = [line.strip() for line in re.split(r"\n+|(?<=[.?!])\s+", sample.prompt) if line.strip()] or ["..."]
    steps = _filled(
        sample, [], said * (1 + 2 * sample.size // len("".join(said))), sample.size * rng.uniform(0.85, 1.15)
    )
    return Corrupted(sample.response(steps, sample.answer), sample.first)


def _bare_answer(sample: Sample, rng: random.Random) -> str:
    """The answer, half of the time behind small talk that makes it a little longer than the good response."""
    answer = sample.answer if rng.random() < 0.5 or not sample.slips else rng.choice(sample.slips).answer
    if rng.random() < 0.5:
        return answer
    room, talk = len(sample.good) * rng.uniform(1.0, 1.2), ""
    for filler in _some(rng, sample.phrases.fillers):
        talk += filler + " "
        if len(talk) + len(answer) >= room:
            break
    return talk + answer


def _filled(
    sample: Sample, steps: list[str], sentences: Sequence[str], room: float, end: Sequence[str] = ()
) -> list[str]:
    """Adds sentences, one at least, while they bring the thinking (with ``end``) closer to ``room`` characters."""
    size = len(sample.thinking([*steps, *end]))
    for count, sentence in enumerate(sentences):
        more = len(sample.thinking([*steps, sentence, *end]))
        if count and more - room > room - size:
            break
        steps, size = [*steps, sentence], more
    return steps


def _some(rng: random.Random, pool: Sequence[str], count: int = 200) -> list[str]:
    """``count`` sentences, none again before all were said."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(pool, len(pool))
    return found[:count]


CORRUPTIONS: dict[str, Callable[[Sample, random.Random, Sample], Corrupted]] = {
    "no_thinking": no_thinking,
    "empty_thinking": empty_thinking,
    "wrong_step_wrong_answer": wrong_step_wrong_answer,
    "wrong_step_right_answer": wrong_step_right_answer,
    "contradicting_answer": contradicting_answer,
    "truncated": truncated,
    "loop": loop,
    "padding": padding,
    "unrelated": unrelated,
    "rationalised": rationalised,
    "self_doubt": self_doubt,
    "copied_prompt": copied_prompt,
}
"""Corruption name (the ``subset`` of a pair) to the function that makes the worse response."""

NEEDS_TRUTH = ("wrong_step_wrong_answer", "wrong_step_right_answer", "contradicting_answer")
"""Corruptions that need to know what is wrong: for problems only, not for a user's own responses."""

FORMER_NAMES = {
    "wrong_step": "wrong_step_wrong_answer",
    "contradiction": "contradicting_answer",
    "repetition": "loop",
}
"""Names that still work where a corruption is asked for."""
