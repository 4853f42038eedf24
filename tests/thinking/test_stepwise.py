"""Thinking pairs as step labels: the steps joined are the response, and the labels turn at the wrong line."""

from __future__ import annotations

import pytest

from rewardsmith.errors import UsageError
from rewardsmith.thinking.pairs import synthesize
from rewardsmith.thinking.stepwise import CORRUPTIONS, stepwise
from rewardsmith.thinking.tags import custom_tags


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
        after = 0.0 if corruption == "wrong_step_wrong_answer" else None
        assert set(bad.labels[at + 1 :]) == {after}


def test_other_tags_and_other_corruptions() -> None:
    tags = custom_tags("<plan>", "</plan>")
    (pair,) = synthesize(1, corruptions=["wrong_step_wrong_answer"])
    good, _ = stepwise(pair.with_tags(tags), tags)
    assert good.steps[0].startswith("<plan>")
    (other,) = synthesize(1, corruptions=["loop"])
    with pytest.raises(UsageError, match="'loop' has no labels for steps"):
        stepwise(other)
