"""Preference pairs for thinking quality, a good response against a corrupted one, and what counting makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewardsmith.errors import UsageError
from rewardsmith.thinking.corruptions import CORRUPTIONS, FORMER_NAMES
from rewardsmith.thinking.parse import split_thinking
from rewardsmith.thinking.phrases import ALL, Phrases
from rewardsmith.thinking.problems import DIFFICULTIES, FAMILIES, USUAL, Problem, draw_problem
from rewardsmith.thinking.sample import Sample, sample_of_problem
from rewardsmith.thinking.style import style_of
from rewardsmith.thinking.tags import THINK, Tags
from rewardsmith.types import Comparison

TRIES = 1000
"""Draws for one new pair before a set counts as exhausted; a family has several thousand questions or more."""

OTHERS = 3
"""Other questions drawn for unrelated thinking, of which the one closest in length is taken."""


@dataclass(frozen=True, slots=True)
class ThinkingPair:
    """A pair and how it was made.

    Args:
        comparison: responses ``(good, corrupted)``; the corruption is its ``subset``.
        family: key of ``FAMILIES``; None for pairs made from a user's data.
        difficulty: of the problem, 1 to 5; None for a user's data.
        corrupted_step: 0-based index, among the lines of the rejected response's thinking that are not blank, of the
            first bad one; among its sentences where it is a single line (a user's data). None when no single one is.
    """

    comparison: Comparison
    family: str | None = None
    difficulty: int | None = None
    corrupted_step: int | None = None

    def with_tags(self, tags: Tags) -> ThinkingPair:
        """The same with other think tags in both responses."""
        better, worse = (split_thinking(str(text), tags=THINK) for text in self.comparison.responses)
        responses = (better.retag(tags.open, tags.close).join(), worse.retag(tags.open, tags.close).join())
        return replace(self, comparison=replace(self.comparison, responses=responses))

    @property
    def extra(self) -> dict[str, Any]:
        """The fields beside those of the comparison, for a row of a file."""
        fields = {"family": self.family, "difficulty": self.difficulty, "corrupted_step": self.corrupted_step}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Counting:
    """What can be won without understanding, over some pairs.

    Args:
        pairs: how many.
        longer_wins: pairs whose better response is the longer one in characters; a tie counts one half.
        tag_wins: pairs whose better response has thinking and whose worse one has none; otherwise one half.
    """

    pairs: int
    longer_wins: float
    tag_wins: float


def thinking_pairs(
    n: int,
    seed: int = 0,
    families: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    difficulties: Sequence[int] = USUAL,
) -> list[Comparison]:
    """``synthesize`` without the account of how each pair was made."""
    return [pair.comparison for pair in synthesize(n, seed, families, corruptions, difficulties)]


def synthesize(
    n: int,
    seed: int = 0,
    families: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    difficulties: Sequence[int] = USUAL,
    phrases: Phrases = ALL,
) -> list[ThinkingPair]:
    """Makes ``n`` pairs whose labels are known from how they were made.

    Args:
        n: number of pairs, >= 0.
        seed: the same seed gives the same pairs; other seeds give other questions, though a few may coincide.
        families: keys of ``FAMILIES``; all by default.
        corruptions: keys of ``CORRUPTIONS``; all by default.
        difficulties: from 1 to 5; drawn with equal odds.
        phrases: what corruptions may say; ``phrases.halves()`` gives training and test different ones.

    Returns:
        Comparisons with the question as prompt, responses ``(good, corrupted)``, the corruption as ``subset`` and an
        id ``thinking/family/corruption/seed-index``. Every combination of family and corruption occurs equally often
        to within one, no question meets the same corruption twice, and a larger ``n`` only adds pairs at the end.

    Raises:
        UsageError: for an unknown name or difficulty or a negative ``n``, or when the families have no new question
            left.
    """
    if n < 0:
        raise UsageError(f"n is {n}; it must be 0 or more")
    if not difficulties or not set(difficulties) <= set(DIFFICULTIES):
        raise UsageError(f"difficulties are {list(difficulties)}; give one or more from 1 to {DIFFICULTIES[-1]}")
    kinds = [
        (family, corruption)
        for family in _known(families, FAMILIES, "family")
        for corruption in known_corruptions(corruptions)
    ]
    rng = random.Random(f"thinking-{seed}")
    seen: set[tuple[str, str]] = set()
    pairs: list[ThinkingPair] = []
    while len(pairs) < n:
        rng.shuffle(kinds)
        for family, corruption in kinds[: n - len(pairs)]:
            problem = _fresh(family, corruption, seen, rng, difficulties)
            name = f"thinking/{family}/{corruption}/{seed}-{len(pairs)}"
            pairs.append(_pair(sample_of_problem(problem, phrases=phrases), problem, corruption, kinds, rng, name))
    return pairs


def known_corruptions(names: Sequence[str] | None, among: Iterable[str] = CORRUPTIONS) -> list[str]:
    """The corruptions asked for, by their present names; all of ``among`` by default."""
    asked = None if names is None else [FORMER_NAMES.get(name, name) for name in names]
    return _known(asked, dict.fromkeys(among), "corruption")


def held_out_families(test: int = 2, seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits the families, so that a model is tested on kinds of problems it never saw.

    Args:
        test: number of families held out, in [1, len(FAMILIES) - 1].
        seed: which ones.

    Returns:
        ``(train, test)``: disjoint, together all families.
    """
    return split_families(None, test, seed)


def split_families(
    families: Sequence[str] | None, test: int | Sequence[str], seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits some families; ``test`` is how many are held out, drawn with ``seed``, or which.

    Raises:
        UsageError: an unknown family, or one side would have none.
    """
    known = _known(families, FAMILIES, "family")
    if isinstance(test, int):
        if not 1 <= test < len(known):
            raise UsageError(f"test is {test}; it must be from 1 to {len(known) - 1}, so that both sides have a family")
        held = set(random.Random(seed).sample(sorted(known), test))
    else:
        held = set(_known(test, dict.fromkeys(known), "family"))
        if len(held) == len(known):
            raise UsageError("all families are held out; leave one or more for training")
    return tuple(name for name in known if name not in held), tuple(name for name in known if name in held)


def length_baseline(pairs: Iterable[Comparison]) -> dict[str, float]:
    """How often "pick the longer response" is right, by subset and over ``all``: the accuracy to beat.

    Returns:
        Shares in [0, 1] by characters, ties counted as half. Empty for no pairs.
    """
    return {name: counted.longer_wins / counted.pairs for name, counted in counting(pairs).items()}


def counting(pairs: Iterable[Comparison], tags: Tags | None = None) -> dict[str, Counting]:
    """What "pick the longer one" and "pick the one that thinks" win, over ``all`` and by subset.

    Args:
        pairs: the better response first.
        tags: of the thinking; by default any known family's.
    """
    found: dict[str, Counting] = {}
    for pair in pairs:
        better, worse = (text if isinstance(text, str) else text[-1].content for text in pair.responses[:2])
        longer = (1 + (len(better) > len(worse)) - (len(better) < len(worse))) / 2
        thinks = [split_thinking(text, tags=tags).thinking is not None for text in (better, worse)]
        tagged = (1 + thinks[0] - thinks[1]) / 2
        for name in ("all", pair.subset or "none"):
            old = found.get(name, Counting(0, 0, 0))
            found[name] = Counting(old.pairs + 1, old.longer_wins + longer, old.tag_wins + tagged)
    return found


def _known(names: Sequence[str] | None, table: Mapping[str, object], what: str) -> list[str]:
    if names is None:
        return list(table)
    for name in names:
        if name not in table:
            raise UsageError(f"unknown {what} {name!r}; known are {', '.join(table)}")
    if not names:
        raise UsageError(f"no {what} given; known are {', '.join(table)}")
    return list(dict.fromkeys(names))


def _fresh(
    family: str, corruption: str, seen: set[tuple[str, str]], rng: random.Random, difficulties: Sequence[int]
) -> Problem:
    """A problem whose question has not met this corruption yet."""
    for _ in range(TRIES):
        problem = draw_problem(family, rng, difficulties)
        if (problem.question, corruption) not in seen:
            seen.add((problem.question, corruption))
            return problem
    raise UsageError(f"no new {family} question in {TRIES} draws; ask for fewer pairs or for more families")


def _pair(
    sample: Sample, problem: Problem, corruption: str, kinds: list[tuple[str, str]], rng: random.Random, id: str
) -> ThinkingPair:
    others = [_other(problem, kinds, rng) for _ in range(OTHERS if corruption == "unrelated" else 1)]
    other = min(others, key=lambda one: abs(one.size - sample.size))
    bad = CORRUPTIONS[corruption](sample, rng, other)
    pair = Comparison(prompt=problem.question, responses=(sample.good, bad.response), subset=corruption, id=id)
    return ThinkingPair(pair, problem.family, problem.difficulty, bad.line)


def _other(problem: Problem, kinds: list[tuple[str, str]], rng: random.Random) -> Sample:
    """A good response to another question, dressed like the one to this."""
    # Half of the time of the same family: thinking about the same kind of thing is the harder one to tell.
    family = problem.family if rng.random() < 0.5 else rng.choice(kinds)[0]
    other = problem
    while other.question == problem.question or other.answer == problem.answer:
        other = draw_problem(family, rng, [problem.difficulty])
    return sample_of_problem(other, style_of(problem))
