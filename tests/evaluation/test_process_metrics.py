"""Metrics of step judgements against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from rewardsmith.errors import DataError, UsageError
from rewardsmith.evaluation.metrics import share
from rewardsmith.evaluation.process_metrics import auc, process_metrics
from rewardsmith.model.process_scores import StepScores
from rewardsmith.types import Stepwise


def row(prompt: str, labels: list[float | None]) -> Stepwise:
    return Stepwise(prompt, tuple("x" * (k + 1) for k in range(len(labels))), tuple(labels))


def scores(*logits: float | None) -> StepScores:
    return StepScores(("x",) * len(logits), logits, False, 10)


ROWS = [
    row("a", [1, 0, 0]),  # first error found, and it is the lowest
    row("b", [1, 1, 0]),  # called wrong too early; the lowest is right
    row("c", [1, 1]),  # passed
    row("d", [1, 1]),  # a right step called wrong
    row("e", [1, 0, None]),  # nothing called wrong; what follows is not judged
    row("f", [None, 0.0]),  # an alternative: counts for steps alone
    row("g", [0.5, 1]),  # one half is no judgement of the step, and no error
]
SCORES = [
    scores(2.0, -3.0, 1.0),
    scores(1.0, -1.0, -2.0),
    scores(0.5, 0.0),
    scores(-0.5, 3.0),
    scores(1.5, 2.5, 4.0),
    scores(-9.0, -1.5),
    scores(5.0, 0.25),
]


def test_against_hand_computed_values() -> None:
    found = process_metrics(ROWS, SCORES)
    # Judged steps and what is made of them: a 1>1 0>0 0>1, b 1>1 1>0 0>0, c 1>1 1>1, d 1>0 1>1, e 1>1 0>1, f 0>0, g 1>1
    truth = np.array([1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1])
    called = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    logits = [2, -3, 1, 1, -1, -2, 0.5, 0, -0.5, 3, 1.5, 2.5, -1.5, 0.25]
    assert found.steps == 14
    assert found.wrong_steps == 5
    assert found.step_accuracy.value == pytest.approx(10 / 14)
    assert found.baselines.always_right.value == pytest.approx(9 / 14)
    assert found.over_always_right.value == pytest.approx(1 / 14)
    assert found.auc.value == pytest.approx(roc_auc_score(truth, logits))
    assert found.macro_f1 == pytest.approx(f1_score(truth, called, average="macro"))
    assert found.responses == 6
    assert (found.first_error.value, found.first_error.n) == (pytest.approx(1 / 3), 3)  # type: ignore[union-attr]
    assert found.lowest.value == pytest.approx(2 / 3)  # type: ignore[union-attr]
    assert found.baselines.last_step.value == pytest.approx(1 / 3)  # type: ignore[union-attr]
    assert (found.all_right.value, found.all_right.n) == (pytest.approx(2 / 3), 3)  # type: ignore[union-attr]
    assert found.f1 == pytest.approx(2 * (1 / 3) * (2 / 3) / (1 / 3 + 2 / 3))
    assert found.response_accuracy.value == pytest.approx(4 / 6)  # type: ignore[union-attr]
    assert found.cut == 0
    position = -np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 1, 1, 1])
    assert found.baselines.position.value == pytest.approx(roc_auc_score(truth, position))
    assert found.baselines.length.value == pytest.approx(roc_auc_score(truth, position))  # as long as they are late
    for estimate in (found.step_accuracy, found.auc, found.first_error, found.over_always_right):
        assert estimate is not None
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low < estimate.high
    plain = found.as_dict()
    assert plain["auc"]["n"] == 14
    assert plain["baselines"]["last_step"]["n"] == 3


def test_what_was_cut_off_is_left_out_and_counted() -> None:
    found = process_metrics([row("a", [1, 0]), row("b", [1, 0])], [scores(None, -1.0), scores(1.0, -1.0)])
    assert (found.cut, found.steps, found.responses) == (1, 3, 1)
    assert found.all_right is None
    assert found.f1 is None


def test_the_area_under_the_curve_counts_ties_half() -> None:
    right = np.array([1.0, 1, 0, 0])
    assert auc(np.array([1.0, 2, 1, 0]), right) == pytest.approx(3.5 / 4)
    assert auc(np.zeros(4), right) == 0.5
    assert auc(np.zeros(2), np.ones(2)) == 0.5


def test_an_outcome_that_every_prompt_shares_alike_still_has_an_interval() -> None:
    # Each prompt has one right and one wrong response, so drawing prompts anew always gives one half.
    found = share(np.array([1.0, 0, 1, 0]), np.array([0, 0, 1, 1]), 0)
    assert found.value == 0.5
    assert found.high - found.low > 0.5


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(DataError, match="no step is judged"):
        process_metrics([row("a", [None, 0.5])], [scores(1.0, 1.0)])
    with pytest.raises(UsageError, match="1 scores for 2 responses"):
        process_metrics([row("a", [1]), row("b", [1])], [scores(1.0)])
