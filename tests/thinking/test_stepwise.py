"""Thinking pairs as step labels: the steps joined are the response, and the labels turn at the wrong line."""

from __future__ import annotations

import pytest

from rewardsmith.errors import UsageError
from rewardsmith.thinking.pairs import ThinkingPair, synthesize
from rewardsmith.thinking.stepwise import CORRUPTIONS, stepwise
from rewardsmith.thinking.tags import custom_tags
from rewardsmith.types import Comparison


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_steps_are_the_response_and_labels_turn_at_the_wrong_one(corruption) -> None:
    for pair in synthesize(60, seed=3, corruptions=[corruption]):
        good, bad = stepwise(pair)
        assert (good.response, bad.response) == pair.comparison.responses
        assert good.first_error == -1
        assert bad.first_error == pair.corrupted_step
        at = bad.first_error
        assert good.steps[:at] == bad.steps[:at]  # nothing differs before the wrong step
        assert good.steps[at] != bad.steps[at]
        if corruption == "wrong_step_right_answer":
            assert set(bad.labels[at + 1 :]) == {None}
        else:  # a step that the slip left as it was does not follow from it
            assert bad.labels[at + 1 :] == tuple(
                float(one == true) for one, true in zip(bad.steps[at + 1 :], good.steps[at + 1 :], strict=True)
            )
            assert bad.labels[-1] == 0.0  # the answer is wrong


def test_a_true_step_that_does_not_hang_on_the_slip_stays_right() -> None:
    better = "<think>\nMugs: 3 * 4 = 12.\nCoins: 9 * 11 = 99.\nTogether 111.\n</think>\n\n111"
    worse = "<think>\nMugs: 3 * 4 = 13.\nCoins: 9 * 11 = 99.\nTogether 112.\n</think>\n\n112"
    pair = ThinkingPair(Comparison("?", (better, worse), subset="wrong_step_wrong_answer"), corrupted_step=0)
    assert stepwise(pair)[1].labels == (0.0, 1.0, 0.0, 0.0)


def test_other_tags_and_other_corruptions() -> None:
    tags = custom_tags("<plan>", "</plan>")
    (pair,) = synthesize(1, corruptions=["wrong_step_wrong_answer"])
    good, _ = stepwise(pair.with_tags(tags), tags)
    assert good.steps[0].startswith("<plan>")
    (other,) = synthesize(1, corruptions=["loop"])
    with pytest.raises(UsageError, match="'loop' has no labels for steps"):
        stepwise(other)
