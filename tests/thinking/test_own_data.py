"""Pairs from a user's data: labelled solutions, and good responses made worse."""

from __future__ import annotations

from collections import Counter

import pytest

from rewardsmith.data import load_comparisons
from rewardsmith.errors import UsageError
from rewardsmith.model.steps import split_steps
from rewardsmith.thinking import custom_tags, split_thinking
from rewardsmith.thinking.own_data import LABELLED, TEXT_CORRUPTIONS, corrupted_pairs, labelled_pairs, with_tags
from rewardsmith.thinking.pairs import counting
from rewardsmith.types import Comparison, Message

GOOD = [
    (
        f"What is {n} + 27?",
        f"<think>\nTo answer this I have to add the numbers {n} and 27.\nI take 20 first, which gives {n + 20}.\n"
        f"That is {n} + 27 = {n + 27}.\nTaking 27 off again gives {n}, so it fits.\n</think>\n\n{n + 27}",
    )
    for n in range(1, 31)
]


def test_every_right_solution_against_every_wrong_one() -> None:
    given = Comparison("q", ("r1", "w1", "r2", "w2"), ranks=(0, 1, 0, 1), id="x")
    made = [pair.comparison for pair in labelled_pairs([given])]
    assert [pair.responses for pair in made] == [("r1", "w1"), ("r1", "w2"), ("r2", "w1"), ("r2", "w2")]
    assert {pair.subset for pair in made} == {LABELLED}
    assert [pair.id for pair in made] == ["x/0", "x/1", "x/2", "x/3"]
    assert list(labelled_pairs([Comparison("q", ("a", "b"), ranks=(0, 0))])) == []
    marked = Comparison("q", ("r\nA: 1", "w", "<think>w</think>2", "A: 3"), ranks=(0, 1, 1, 1))
    texts = [pair.comparison.responses for pair in labelled_pairs([marked], "A:")]
    better = "<think>\nr\n</think>\n\nA: 1"
    assert texts == [(better, "<think>w</think>2"), (better, "A: 3")]  # "w" lacks the mark


@pytest.mark.parametrize(
    "response,expected",
    [
        ("15 + 27 = 42\nA: 42", "<think>\n15 + 27 = 42\n</think>\n\nA: 42"),
        ("A: no\nA: 42\n", "<think>\nA: no\n</think>\n\nA: 42\n"),
        ("A: 42", "A: 42"),
        ("42", "42"),
        ("<think>a\nA: b</think>c", "<think>a\nA: b</think>c"),
    ],
)
def test_an_answer_mark_makes_thinking_of_what_is_before_it(response, expected) -> None:
    assert with_tags(response, "A:") == expected
    assert with_tags(response, None) == response
    assert with_tags(response, "A:", custom_tags("[T]", "[/T]")).count("[T]") == ("\nA:" in response)


ONE_LINE = [
    (
        f"What is {n} + 27?",
        f"<think>I add {n} and 20, that is {n + 20}. Then I add 7. So it is {n + 27}!</think>It is {n + 27}.",
    )
    for n in range(1, 31)
]
CHINESE = "<think>{0}先加二十。再加七！所以是四十二。</think>{0}"
MIXED = [
    (prompt, (response.replace("To answer", "Well. To answer"), CHINESE.format(n), ONE_LINE[n][1])[n % 3])
    for n, (prompt, response) in enumerate(GOOD)
]


@pytest.mark.parametrize("good", [GOOD, ONE_LINE, MIXED], ids=["lines", "sentences", "mixed"])
def test_the_corrupted_step_is_counted_as_steps_are_scored(good) -> None:
    """Lines, or sentences of thinking in one line: the index is one into ``split_steps``."""
    found = Counter()
    for pair in corrupted_pairs(good, 9 * len(good)):
        if pair.corrupted_step is None:
            continue
        better, worse = (split_thinking(str(text)).thinking.strip() for text in pair.comparison.responses)
        lines = steps_of(better if "\n" in worse else better.split("\n")[0])
        at, worse = pair.corrupted_step, steps_of(worse)
        assert at < len(worse) and worse[:at] == lines[:at], pair
        cut_between = pair.comparison.subset == "truncated" and at == len(worse) - 1
        assert at >= len(lines) or worse[at] != lines[at] or cut_between, pair
        found[pair.comparison.subset] += 1
    assert set(found) >= {"truncated", "loop", "self_doubt", "rationalised"}


def steps_of(thinking: str) -> list[str]:
    return [thinking[start:end] for start, end, _ in split_steps(split_thinking(thinking))]


def test_own_responses_are_kept_byte_for_byte_and_corrupted() -> None:
    made = corrupted_pairs(GOOD, 90)
    assert corrupted_pairs(GOOD, 90) == made != corrupted_pairs(GOOD, 90, seed=1)
    assert all((pair.comparison.prompt, pair.comparison.responses[0]) in GOOD for pair in made)
    assert all(pair.comparison.responses[0] != pair.comparison.responses[1] for pair in made)
    subsets = Counter(pair.comparison.subset for pair in made)
    assert set(subsets) == set(TEXT_CORRUPTIONS) and max(subsets.values()) - min(subsets.values()) <= 3
    assert len({(pair.comparison.prompt, pair.comparison.subset) for pair in made}) == 90
    assert set(Counter(pair.comparison.prompt for pair in made).values()) == {3}
    assert {pair.corrupted_step is None for pair in made if pair.comparison.subset == "loop"} == {False}
    assert all(pair.family is None and pair.difficulty is None for pair in made)


def test_unusable_responses_are_left_out_and_chat_prompts_stay() -> None:
    chat = ((Message("user", "What is 9 + 9?"),), "<think>\n9 + 9 = 18\nYes.\n</think>\n\n18")
    made = corrupted_pairs([chat, ("q", "no thinking"), *GOOD[:3]])
    assert len(made) == 4
    assert sum(pair.comparison.prompt == chat[0] for pair in made) == 1


def test_longer_does_not_win_on_own_data_either() -> None:
    found = counting(pair.comparison for pair in corrupted_pairs(GOOD, 270))
    for name, counted in found.items():
        share = counted.longer_wins / counted.pairs
        assert share == 1 if name == "truncated" else 0.2 < share < 0.8, (name, share)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: corrupted_pairs([("q", "42")]), "0 of 1 responses have thinking"),
        (lambda: corrupted_pairs(GOOD, 1000), "-n 1000: 30 usable responses and 9 corruptions give 270"),
        (
            lambda: corrupted_pairs(GOOD, corruptions=["wrong_step"]),
            "wrong_step_wrong_answer needs to know",
        ),
        (lambda: corrupted_pairs(GOOD, corruptions=["noise"]), "unknown corruption 'noise'"),
        (lambda: corrupted_pairs([GOOD[0], GOOD[0]], 2), "all responses are to one prompt"),
    ],
)
def test_wrong_arguments_say_what_is_missing(call, message) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_custom_tags_are_found_in_own_data() -> None:
    changed = [(prompt, split_thinking(text).retag("[T]", "[/T]").join()) for prompt, text in GOOD]
    made = corrupted_pairs(changed, tags=custom_tags("[T]", "[/T]"))
    assert len(made) == 30 and all("[T]" in pair.comparison.responses[0] for pair in made)


def test_real_solutions(real_data) -> None:
    file = real_data / "gsm8k-solutions" / "test.jsonl"
    made = [pair.comparison for pair in labelled_pairs(load_comparisons(file), "A:")]
    assert len(made) > 500
    parts = [split_thinking(str(text)) for pair in made for text in pair.responses]
    assert sum(part.closed and part.answer.strip().startswith("A:") for part in parts) > 0.95 * len(parts)
    assert 0.45 < counting(made)["all"].longer_wins / len(made) < 0.6
