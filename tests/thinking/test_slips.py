"""A slip is false for what it says, and for nothing that its form gives away."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from rewardsmith.thinking.problems import DIFFICULTIES, FAMILIES, Problem, Slip, draw_problem

DRAWS = 1500


def drawn(family: str, marker: str) -> Iterator[tuple[Problem, Slip]]:
    """Problems of a family whose question has ``marker``, with each of their slips."""
    rng = random.Random(21)
    for _ in range(DRAWS):
        problem = draw_problem(family, rng, DIFFICULTIES)
        if marker in problem.question:
            yield from ((problem, slip) for slip in problem.slips)


@pytest.mark.parametrize("marker,than", [("Which is", "larger|smaller"), ("cheaper", "less")])
def test_no_slip_compares_a_number_with_itself(marker, than) -> None:
    found = 0
    for problem, slip in drawn("comparisons", marker):
        for step in (*problem.steps, *slip.steps):
            if told := re.search(rf"([\d.]+) is (?:{than}) than ([\d.]+)[,.]", step):
                assert told[1] != told[2], step
                found += 1
    assert found > 100


@pytest.mark.parametrize("marker", ["Which is", "cheaper"])
def test_an_inequality_is_false_only_where_the_slip_is(marker) -> None:
    for problem, slip in drawn("comparisons", marker):
        for at, step in enumerate(slip.steps):
            if told := re.search(r"([\d.]+) is (larger|smaller|less) than ([\d.]+)[,.]", step):
                holds = (float(told[1]) > float(told[3])) == (told[2] == "larger")
                assert holds == (at != slip.step), (problem, slip)


def test_a_slip_leaves_one_tallest_and_one_shortest() -> None:
    found = 0
    for _, slip in drawn("comparisons", "cm tall"):
        told = re.match(r"Of (.+) cm, the (\w+) is", slip.steps[-1])
        heights = [int(height) for height in told[1].split(", ")]
        assert heights.count(max(heights) if told[2] == "tallest" else min(heights)) == 1, slip
        found += 1
    assert found > 100


def test_numbers_that_a_program_keeps_stay_in_its_order() -> None:
    found = 0
    for problem, slip in drawn("traces", "total += n"):
        numbers = iter(re.findall(r"\d+", re.search(r"\[(.+)\]", problem.question)[1]))
        kept = re.findall(r"\d+", slip.steps[0].split(" are ")[1])
        assert all(number in numbers for number in kept), (problem.question, slip.steps[0])
        found += slip.step == 0
    assert found > 50


def test_no_vowel_is_left_where_vowels_are_dropped() -> None:
    found = 0
    for _, slip in drawn("strings", "drop every vowel"):
        assert not re.search("[aeiou]", slip.answer), slip
        found += 1
    assert found > 50


def test_a_share_is_a_share() -> None:
    found = 0
    for problem, slip in drawn("percentages", "What percentage"):
        assert 0 < float(slip.answer.split()[0]) < 100, (problem.question, slip)
        found += 1
    assert found > 50


def test_a_wrong_factor_is_as_often_too_small_and_one_that_true_steps_have() -> None:
    true, wrong, signs = set(), set(), Counter()
    for problem, slip in drawn("sequences", "times the same number"):
        factor, said = (int(steps[0].rstrip(".").split(" = ")[1]) for steps in (problem.steps, slip.steps))
        true.add(factor)
        if slip.step == 0:
            wrong.add(said)
            signs[said > factor] += 1
    assert wrong <= true
    assert min(signs.values()) > 0.3 * signs.total()


def test_every_family_still_has_slips() -> None:
    rng = random.Random(3)
    for family in FAMILIES:
        assert sum(len(draw_problem(family, rng, DIFFICULTIES).slips) for _ in range(50)) > 50
