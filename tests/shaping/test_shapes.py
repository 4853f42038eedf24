"""Each shape against its equation, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rewardsmith.errors import UsageError
from rewardsmith.shaping import (
    LSC,
    PAR,
    AllAbove,
    Center,
    Clip,
    Context,
    GroupZScore,
    LengthPenalty,
    Minimum,
    Normalise,
    Pipeline,
    RepetitionPenalty,
    RunningNormalise,
    UncertaintyPenalty,
    UnitMargin,
    WeightedSum,
    ZScore,
    parse,
)

REWARDS = np.random.default_rng(1).normal(2, 3, size=24)
GROUPS = np.repeat(["a", "b", "c"], 8)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_normalise() -> None:
    shape = Normalise().fit(REWARDS)
    shaped = shape(REWARDS)
    assert shaped.mean() == pytest.approx(0, abs=1e-12) and shaped.std() == pytest.approx(1)
    assert shape([10.0]) == pytest.approx([(10 - REWARDS.mean()) / REWARDS.std()])


def test_zscore() -> None:
    expected = (REWARDS - REWARDS.mean()) / (REWARDS.std(ddof=1) + 0.5)
    np.testing.assert_allclose(ZScore(ddof=1, epsilon=0.5)(REWARDS), expected, rtol=1e-12)


def test_group_zscore_is_the_advantage_of_trl() -> None:
    """TRL's GRPO: rewards.view(-1, G), minus mean, over (std + 1e-4), torch's std having ddof 1."""
    rewards = torch.tensor(REWARDS).view(-1, 8)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    found = GroupZScore(ddof=1, epsilon=1e-4)(torch.tensor(REWARDS), Context(groups=GROUPS))
    torch.testing.assert_close(found, expected.flatten(), atol=1e-12, rtol=1e-12)


def test_the_groups_may_be_mixed() -> None:
    order = np.random.default_rng(2).permutation(24)
    straight = GroupZScore()(REWARDS, Context(groups=GROUPS))
    mixed = GroupZScore()(REWARDS[order], Context(groups=GROUPS[order]))
    np.testing.assert_allclose(mixed, straight[order], atol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -3.3])
def test_zero_variance_gives_exactly_zero(value) -> None:
    """The mean of three times 0.1 is not 0.1, and the rounding error over itself would be 1."""
    assert ZScore()([value] * 3) == [0.0] * 3 and ZScore()([value]) == [0.0]
    assert GroupZScore()([value] * 3 + [1.0], Context(groups=[1, 1, 1, 2])) == [0.0] * 4


def test_running_normaliser_includes_the_call() -> None:
    shape = RunningNormalise()
    assert shape([5.0]) == [0.0]
    assert shape([7.0]) == pytest.approx([(7 - 6) / 1])
    assert shape([None, 6.0, math.inf])[:2] == [None, 0.0]
    assert (shape.count_, shape.mean_, shape.scope) == (3, 6.0, "stream")
    before = shape.freeze().to_dict()
    assert shape([100.0]) == pytest.approx([94 / math.sqrt(2 / 3)])
    assert shape.to_dict() == before and shape.scope == "row"
    for change in (lambda: shape.update([1.0]), lambda: shape.merge(RunningNormalise())):
        with pytest.raises(UsageError, match="frozen"):
            change()
    with pytest.raises(UsageError, match="seen no reward"):
        RunningNormalise().freeze()
    assert shape.fit([1.0, 2.0]).count_ == 2 and not shape.frozen_


def test_clip_and_center() -> None:
    assert Clip(high=1)([-9, 9]) == [-9.0, 1.0] and Clip(low=1)([-9, 9]) == [1.0, 9.0]
    assert Center().fit([1.0, 3.0])([2.0, 5.0]) == [0.0, 3.0]
    assert Center(by="batch")([2.0, 5.0]) == [-1.5, 1.5]
    assert Center(by="group")([2.0, 5.0, 7.0], Context(groups=[1, 2, 2])) == [0.0, -1.0, 1.0]


def test_unit_margin() -> None:
    context = Context(groups=[0, 0, 1, 1, 1, 2], preferred=[True, False, False, True, None, True])
    shape = UnitMargin().fit([4.0, 1.0, 2.0, 3.0, 99.0, 50.0], context)
    assert shape.margin_ == 2.0 and shape([4.0]) == [2.0]


def test_par_is_the_mean_sigmoid_of_the_lead() -> None:
    assert PAR()([1.5], Context(reference=[0.5])) == pytest.approx([sigmoid(1.0)])
    several = Context(reference=[[0.5, 1.5, -1.0], [2.0]])
    expected = [(sigmoid(1) + sigmoid(0) + sigmoid(2.5)) / 3, sigmoid(-1)]
    assert PAR()([1.5, 1.0], several) == pytest.approx(expected)
    assert PAR()([1000.0, -1000.0], Context(reference=[0, 0])) == [1.0, 0.0]


def test_lsc_is_the_log_sigmoid_of_the_lead() -> None:
    assert LSC()([1.5], Context(reference=[0.5])) == pytest.approx([math.log(sigmoid(1.0))])
    references = [0.0, 1.0, 2.0, 5.0]
    found = LSC(quantile=0.85)([1.0], Context(reference=[references]))
    assert found == pytest.approx([math.log(sigmoid(1 - np.quantile(references, 0.85)))])
    assert LSC()([-1000.0], Context(reference=[0.0])) == [-1000.0]  # no underflow to -inf


def test_a_sum_of_lsc_is_the_log_probability_that_all_is_good() -> None:
    first, second = (LSC()([r], Context(reference=[0.0])) for r in (0.3, -0.7))
    both = WeightedSum(weights={"second": 1})(first, Context(rewards={"second": second}))
    assert both == pytest.approx([math.log(sigmoid(0.3) * sigmoid(-0.7))])


def test_length_penalty_is_the_soft_overlong_punishment() -> None:
    most, cache = 100, 20

    def dapo(length: float) -> float:
        if length <= most - cache:
            return 0.0
        return (most - cache - length) / cache if length <= most else -1.0

    lengths = [0, 80, 81, 90, 100, 101, 500]
    shape = LengthPenalty(per_token=1 / cache, free=most - cache, limit=1)
    assert shape([0.0] * 7, Context(lengths=lengths)) == pytest.approx([dapo(length) for length in lengths])
    assert LengthPenalty(per_token=0.5)([1.0], Context(lengths=[10])) == [-4.0]


def test_repetition_penalty() -> None:
    shape = RepetitionPenalty()
    assert shape.share("a b c d a B c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert shape.share("a b c") == 0 and shape.share("") == 0
    assert RepetitionPenalty(ngram=1).share("no, no, no") == pytest.approx(1 - 2 / 5)
    assert RepetitionPenalty(ngram=2, unit="character").share("对对 对") == pytest.approx(1 / 2)
    penalty = RepetitionPenalty(weight=2, ngram=1, free=0.25)
    assert penalty([1.0, 1.0], Context(texts=["x x x x", "x y"])) == [1 - 2 * (0.75 - 0.25), 1.0]


def test_combinations() -> None:
    context = Context(rewards={"code": [1.0, 0.0, None], "safe": [0.5, 0.9, 0.9]})
    rewards = [2.0, -4.0, 2.0]
    shaped = WeightedSum(weights={"code": 0.5, "safe": -1}, own=2)(rewards, context)
    assert shaped[:2] == [4.0, -8.9] and math.isnan(shaped[2])
    assert Minimum(names=["safe"])(rewards, context) == [0.5, -4.0, 0.9]
    passes = AllAbove(thresholds={"code": 1, "safe": 0.5})(rewards, context)
    assert passes[:2] == [1.0, 0.0] and math.isnan(passes[2])
    gated = AllAbove(thresholds={"safe": 0.6}, passed=None, failed=-9)(rewards, context)
    assert gated == [-9.0, -4.0, 2.0]
    gated = AllAbove(thresholds={"safe": 0.6}, passed=None, own=0)
    assert gated(rewards, context) == [0.0, 0.0, 2.0]
    assert Pipeline.from_json(Pipeline([gated]).to_json()).steps == (gated,) == parse(str(gated)).steps


def test_uncertainty_penalty() -> None:
    assert UncertaintyPenalty(k=2)([1.0, 2.0], Context(disagreement=[0.25, 0.0])) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("shape", "context"),
    [
        (PAR(), Context(reference=[None, 0.0])),
        (PAR(), Context(reference=[[], [0.0]])),
        (LSC(), Context(reference=[[None], [0.0, None]])),
        (LengthPenalty(), Context(lengths=[None, 0])),
        (RepetitionPenalty(), Context(texts=[None, ""])),
        (UncertaintyPenalty(), Context(disagreement=[math.nan, 0.0])),
        (Minimum(names=["a"]), Context(rewards={"a": [None, 0.0]})),
    ],
)
def test_what_is_missing_in_the_context_has_no_shaped_reward(shape, context) -> None:
    shaped = shape([0.0, 0.0], context)
    assert math.isnan(shaped[0]) and math.isfinite(shaped[1])


@pytest.mark.parametrize(
    ("shape", "context", "message"),
    [
        (PAR(), None, r"par: needs the reward of a reference .* Context\(reference=...\)"),
        (PAR(), Context(reference=[1.0]), "2 rewards but 1 entries of reference"),
        (GroupZScore(), Context(groups=[{}, {}]), "groups must be hashable"),
        (LengthPenalty(), Context(lengths=[-1, 2]), "lengths must be finite and >= 0"),
        (LengthPenalty(), Context(lengths=["a", 2]), "lengths must be numbers"),
        (RepetitionPenalty(), Context(texts=[["turn"], ""]), "texts must be strings, not list"),
        (Minimum(names=["safe"]), Context(rewards={"code": [1, 2]}), "no other reward 'safe' .given: 'code'."),
        (Normalise(), None, "normalise: not fitted"),
    ],
)
def test_a_wrong_context_is_named(shape, context, message) -> None:
    with pytest.raises(UsageError, match=message):
        shape([0.0, 0.0], context)
