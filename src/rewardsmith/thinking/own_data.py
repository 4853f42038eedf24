"""Preference pairs from a user's own data: right against wrong solutions, and good responses made worse."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from rewardsmith.errors import UsageError
from rewardsmith.thinking.corruptions import CORRUPTIONS, NEEDS_TRUTH
from rewardsmith.thinking.lines import first_unlike
from rewardsmith.thinking.pairs import ThinkingPair, known_corruptions
from rewardsmith.thinking.parse import split_thinking
from rewardsmith.thinking.sample import Sample, sample_of_text
from rewardsmith.thinking.tags import THINK, Tags
from rewardsmith.types import Comparison, Text

TEXT_CORRUPTIONS = tuple(name for name in CORRUPTIONS if name not in NEEDS_TRUTH)
"""Corruptions that a text can be given without knowing what is true."""

LABELLED = "labelled"
"""The ``subset`` of pairs whose order the data itself says."""


def labelled_pairs(
    comparisons: Iterable[Comparison], answer_mark: str | None = None, tags: Tags = THINK
) -> Iterator[ThinkingPair]:
    """Every better response against every worse one.

    Args:
        comparisons: with two responses or more, ranked; ties give no pair.
        answer_mark: how the answer's line begins in responses without tags, such as ``"A:"``: what stands before it
            becomes thinking, between tags. Responses that lack it are in no pair: beside others with tags, the tags
            alone would tell.
        tags: to put there.
    """
    for comparison in comparisons:
        texts = [
            (rank, with_tags(text, answer_mark, tags))
            for rank, text in zip(comparison.ranks, map(text_of, comparison.responses), strict=True)
            if not lacks_mark(text, answer_mark, tags)
        ]
        made = 0
        for better_rank, better in texts:
            for worse_rank, worse in texts:
                if better_rank < worse_rank and better != worse:
                    name = comparison.id or (str(comparison.source) if comparison.source else None)
                    pair = Comparison(
                        comparison.prompt,
                        (better, worse),
                        subset=comparison.subset or LABELLED,
                        id=f"{name}/{made}" if name else None,
                    )
                    made += 1
                    yield ThinkingPair(pair)


def corrupted_pairs(
    responses: Sequence[tuple[Text, str]],
    n: int | None = None,
    seed: int = 0,
    corruptions: Sequence[str] | None = None,
    tags: Tags | None = None,
) -> list[ThinkingPair]:
    """Good responses against the same made worse.

    Args:
        responses: prompt and good response. Those without one closed block of thinking and an answer are left out.
        n: number of pairs; by default one for each usable response. Every response is used before any is used again,
            and none meets a corruption twice.
        seed: the same seed gives the same pairs.
        corruptions: names in ``TEXT_CORRUPTIONS``; all by default, about as often as one another.
        tags: of the responses; by default any known family's.

    Raises:
        UsageError: no response is usable, an unknown corruption or one that must know the truth, or more pairs than
            responses times corruptions.
    """
    names = known_corruptions(corruptions, CORRUPTIONS if corruptions else TEXT_CORRUPTIONS)
    if knowing := [name for name in names if name in NEEDS_TRUTH]:
        raise UsageError(
            f"{knowing[0]} needs to know what is wrong, which a text does not tell; "
            f"for own responses there are {', '.join(TEXT_CORRUPTIONS)}"
        )
    usable = [
        (prompt, sample)
        for prompt, response in responses
        if (sample := sample_of_text(text_of(prompt), response, tags)) is not None
    ]
    if len(usable) < 2:
        raise UsageError(
            f"{len(usable)} of {len(responses)} responses have thinking between tags and an answer behind it; two or "
            "more are needed. Name other tags (--think-tags), or what the answer's line begins with (--answer-mark)"
        )
    n = len(usable) if n is None else n
    if n > len(usable) * len(names):
        raise UsageError(
            f"-n {n}: {len(usable)} usable responses and {len(names)} corruptions give {len(usable) * len(names)} "
            "pairs; ask for fewer"
        )
    rng = random.Random(f"corrupted-{seed}")
    rng.shuffle(usable)
    made = []
    for index in range(n):
        turn, place = divmod(index, len(usable))
        name = names[(place + turn) % len(names)]
        made.append(_corrupted(*usable[place], name, usable, rng, f"corrupted/{name}/{seed}-{index}", tags))
    return made


def with_tags(response: str, answer_mark: str | None, tags: Tags = THINK) -> str:
    """A response whose last line that begins with ``answer_mark`` is the answer, with tags around what is before it.

    Responses with tags, without the mark, or with nothing before it are given back as they are.
    """
    if answer_mark is None or split_thinking(response, tags=tags).blocks:
        return response
    place = _mark_place(response, answer_mark)
    before = response[: max(place, 0)].rstrip()
    return f"{tags.open}\n{before}\n{tags.close}\n\n{response[place:].lstrip()}" if before else response


def lacks_mark(response: str, answer_mark: str | None, tags: Tags = THINK) -> bool:
    """Whether a mark is asked for, and a response has neither it nor tags, so that nobody knows what its answer is."""
    if answer_mark is None or _mark_place(response, answer_mark) >= 0:
        return False
    return not split_thinking(response, tags=tags).blocks


def is_usable(response: str, tags: Tags | None = None) -> bool:
    """Whether a response can be corrupted: one closed block of thinking with text in it, and an answer."""
    return sample_of_text("", response, tags) is not None


def _mark_place(response: str, answer_mark: str) -> int:
    """Where the last line that begins with the mark does; -1 for none."""
    return ("\n" + response).rfind("\n" + answer_mark)


def text_of(text: Text) -> str:
    """Text as it is, of chat turns the last one's content."""
    return text if isinstance(text, str) else text[-1].content


def _corrupted(
    prompt: Text,
    sample: Sample,
    name: str,
    usable: list[tuple[Text, Sample]],
    rng: random.Random,
    id: str,
    tags: Tags | None,
) -> ThinkingPair:
    others = [other for _, other in rng.sample(usable, min(6, len(usable))) if other.prompt != sample.prompt]
    other = min(others, key=lambda one: abs(one.size - sample.size), default=None)
    if other is None:
        other = next((one for _, one in usable if one.prompt != sample.prompt), None)
    if other is None:
        raise UsageError("all responses are to one prompt; unrelated thinking needs another")
    bad = CORRUPTIONS[name](sample, rng, other)
    both = (sample.good, bad.response)
    thoughts = (split_thinking(text, tags=tags).thinking or "" for text in both)
    step = None if bad.line is None else first_unlike(*thoughts)
    return ThinkingPair(Comparison(prompt, both, subset=name, id=id), corrupted_step=step)
