"""thinking_pairs: reproducible, balanced, without doubles, and not to be won by counting."""

import random
import subprocess
import sys
from collections import Counter

import pytest

from rewardsmith.errors import UsageError
from rewardsmith.thinking import custom_tags, held_out_families, length_baseline, thinking_pairs
from rewardsmith.thinking import pairs as module
from rewardsmith.thinking.corruptions import CORRUPTIONS
from rewardsmith.thinking.pairs import counting, split_families, synthesize
from rewardsmith.thinking.phrases import ALL, halves
from rewardsmith.thinking.problems import FAMILIES
from rewardsmith.types import Comparison


@pytest.fixture(scope="module")
def pairs():
    return thinking_pairs(600, seed=11)


def test_pairs_are_comparisons_with_good_first(pairs):
    for index, pair in enumerate(pairs):
        _, family, corruption, place = pair.id.split("/")
        assert family in FAMILIES and corruption == pair.subset and place == f"11-{index}"
        assert pair.prompt and pair.ranks == (0, 1) and pair.responses[0] != pair.responses[1]
        assert pair.responses[0].startswith("<think>\n") and "</think>\n\n" in pair.responses[0]


def test_no_pair_twice(pairs):
    assert len({(pair.prompt, pair.subset) for pair in pairs}) == len(pairs)
    assert len({(pair.prompt, pair.responses) for pair in pairs}) == len(pairs)
    assert len({pair.id for pair in pairs}) == len(pairs)


def test_families_and_corruptions_are_balanced(pairs):
    kinds = Counter(tuple(pair.id.split("/")[1:3]) for pair in pairs)
    assert len(kinds) == len(FAMILIES) * len(CORRUPTIONS) and set(kinds.values()) == {5}
    uneven = Counter(pair.subset for pair in thinking_pairs(100))
    assert set(uneven) == set(CORRUPTIONS) and max(uneven.values()) - min(uneven.values()) <= len(FAMILIES)


def test_the_seed_decides_and_more_pairs_only_add(pairs):
    assert thinking_pairs(200, seed=11) == pairs[:200]
    assert {pair.prompt for pair in thinking_pairs(200, seed=12)} != {pair.prompt for pair in pairs[:200]}


def test_the_same_in_another_process():
    """Nothing hangs on the hash seed, which differs between processes."""
    code = "from rewardsmith.thinking import thinking_pairs; print(thinking_pairs(64, seed=2))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(thinking_pairs(64, seed=2))


def test_counting_wins_nothing_where_the_corruption_allows(pairs):
    """0.5 within chance, 3 standard deviations of 150 pairs. Only truncated thinking is always the shorter one."""
    found = counting(thinking_pairs(1800, seed=4))
    assert set(found) == {"all", *CORRUPTIONS}
    assert set(length_baseline(pairs)) == set(found)
    for name, counted in found.items():
        longer, tagged = counted.longer_wins / counted.pairs, counted.tag_wins / counted.pairs
        assert longer == 1 if name == "truncated" else 0.36 < longer < 0.64, (name, longer)
        assert tagged == {"no_thinking": 1, "all": tagged}.get(name, 0.5), name
    assert 0.5 < found["all"].longer_wins / found["all"].pairs < 0.58
    assert 0.5 < found["all"].tag_wins / found["all"].pairs < 0.56


def test_what_was_done_is_told_beside_the_pair():
    made = synthesize(240, seed=3, difficulties=[2, 5])
    assert [pair.comparison for pair in made] == thinking_pairs(240, seed=3, difficulties=[2, 5])
    assert {pair.difficulty for pair in made} == {2, 5}
    assert all(pair.family == pair.comparison.id.split("/")[1] for pair in made)
    steps = {pair.comparison.subset for pair in made if pair.corrupted_step is not None}
    assert {"wrong_step_wrong_answer", "wrong_step_right_answer", "truncated", "loop"} <= steps
    assert not {"no_thinking", "empty_thinking", "contradicting_answer"} & steps
    assert made[0].extra.keys() <= {"family", "difficulty", "corrupted_step"}


def test_halves_of_the_phrases_have_nothing_in_common_but_their_kind():
    first, second = halves()
    for name in ("fillers", "rationales", "doubts", "verdicts"):
        one, other = getattr(first, name), getattr(second, name)
        assert len(one) == len(other) and {*one, *other} == set(getattr(ALL, name)) and not set(one) & set(other)
        assert len(set(getattr(ALL, name))) == len(getattr(ALL, name))


def test_a_half_of_the_phrases_says_none_of_the_other():
    first, second = halves()
    wordy = ["no_thinking", "empty_thinking", "padding", "rationalised", "self_doubt"]
    for own, foreign in ((first, second), (second, first)):
        made = synthesize(200, seed=5, corruptions=wordy, phrases=own)
        assert made == synthesize(200, seed=5, corruptions=wordy, phrases=own)
        text = "\n".join(str(pair.comparison.responses[1]) for pair in made)
        for name in ("fillers", "rationales", "doubts"):
            assert any(phrase in text for phrase in getattr(own, name))
            assert not any(phrase in text for phrase in getattr(foreign, name))


def test_former_names_of_corruptions_still_work():
    old = thinking_pairs(6, corruptions=["wrong_step", "repetition", "contradiction"], families=["sets"])
    assert {pair.subset for pair in old} == {"wrong_step_wrong_answer", "loop", "contradicting_answer"}


def test_other_tags_can_be_written():
    (pair,) = synthesize(1, corruptions=["contradicting_answer"])
    changed = pair.with_tags(custom_tags("[T]", "[/T]")).comparison
    for old, new in zip(pair.comparison.responses, changed.responses, strict=True):
        assert new == old.replace("<think>", "[T]").replace("</think>", "[/T]")


def test_length_baseline_counts_ties_as_half():
    ties = [Comparison("q", ("aa", "bb"), subset="s"), Comparison("q", ("aaa", "b"), subset="s")]
    assert length_baseline(ties) == {"all": 0.75, "s": 0.75}
    assert length_baseline([]) == {}


def test_families_and_corruptions_can_be_chosen():
    chosen = thinking_pairs(30, families=["units", "dates"], corruptions=["padding"])
    assert {pair.id.split("/")[1] for pair in chosen} == {"units", "dates"}
    assert {pair.subset for pair in chosen} == {"padding"}
    assert all("<think>" in pair.responses[1] for pair in chosen)
    assert thinking_pairs(0) == []


def test_held_out_families_are_disjoint_and_cover_all():
    train, test = held_out_families()
    assert len(test) == 2 and not set(train) & set(test) and {*train, *test} == set(FAMILIES)
    assert held_out_families() == (train, test)
    assert len({held_out_families(seed=seed)[1] for seed in range(10)}) > 1
    trained = {pair.prompt for pair in thinking_pairs(200, families=train)}
    assert not trained & {pair.prompt for pair in thinking_pairs(200, families=test)}


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: thinking_pairs(-1), "n is -1"),
        (lambda: thinking_pairs(1, families=["sums"]), "unknown family 'sums'; known are arithmetic, units"),
        (lambda: thinking_pairs(1, corruptions=["noise"]), "unknown corruption 'noise'; known are no_thinking"),
        (lambda: thinking_pairs(1, families=[]), "no family given"),
        (lambda: held_out_families(test=0), "test is 0; it must be from 1 to 9"),
        (lambda: thinking_pairs(1, difficulties=[0]), r"difficulties are \[0\]; give one or more from 1 to 5"),
        (lambda: split_families(["sets"], ["logic"]), "unknown family 'logic'; known are sets"),
        (lambda: split_families(["sets"], ["sets"]), "all families are held out"),
        (lambda: held_out_families(test=10), "test is 10"),
    ],
)
def test_wrong_arguments_say_what_is_known(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_a_family_without_new_questions_says_so(monkeypatch):
    """Better than a loop without end."""
    problem, other = (module.draw_problem(family, random.Random(0)) for family in ("units", "dates"))
    drawn = iter([problem, other])
    monkeypatch.setattr(module, "draw_problem", lambda family, rng, difficulties: next(drawn, problem))
    with pytest.raises(UsageError, match="no new units question in 1000 draws"):
        thinking_pairs(2, families=["units"], corruptions=["padding"])
