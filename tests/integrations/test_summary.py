"""The metrics of a batch, and where rewards count as saturated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from rewardsmith.integrations.judge import Verdict
from rewardsmith.integrations.summary import length_correlation, summarise
from rewardsmith.shaping import Center, Clip, Context, Isotonic, Pipeline, Platt, RunningNormalise, parse
from rewardsmith.shaping.bounds import at_bounds
from rewardsmith.types import ScoredResponse


def verdict(raw: float, shaped: float | None, *, tokens: int = 5, group: int = 0, **more) -> Verdict:
    return Verdict(ScoredResponse(raw, None, False, 9, tokens, **more), shaped, False, group)


def test_summary() -> None:
    rows = [
        verdict(1.0, 0.5, members=(0.0, 2.0), tokens=3),
        verdict(3.0, 1.5, members=(3.0, 3.0), tokens=6),
        verdict(9.0, None, members=(0.0, 9.0)),
        Verdict(None, None, False, 1, "no message"),
    ]
    assert summarise(rows) == {
        "unscored": 0.5,
        "raw_mean": 2.0,
        "raw_std": pytest.approx(np.sqrt(2)),
        "shaped_mean": 1.0,
        "truncated": 0.0,
        "saturated": 0.0,
        "disagreement": 0.5,
        "length_correlation": pytest.approx(1.0),
    }
    assert summarise([]) == {}
    assert summarise(rows[3:]) == {"unscored": 1.0}
    assert "raw_std" not in summarise(rows[:1])


def test_length_correlation_is_within_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(range(40), 4)
    hard = np.repeat(rng.normal(size=40) * 100, 4)  # long prompts' answers are long and have low rewards
    noise, lengths = rng.normal(size=160), rng.normal(size=160)
    assert np.corrcoef(noise - hard, lengths + hard)[0, 1] < -0.99
    assert abs(length_correlation(noise - hard, lengths + hard, groups)) < 0.2
    assert length_correlation(lengths - hard, lengths + hard, groups) == pytest.approx(1)
    assert length_correlation([1.0, 2.0], [5, 5], [0, 0]) is None
    assert length_correlation([1.0, 2.0], [5, 6], [0, 1]) is None


def test_saturation() -> None:
    rewards = [-5.0, -1.0, 0.0, 2.0, 5.0]

    def found(pipeline: Pipeline, context: Context | None = None) -> list[bool]:
        pipeline(rewards, context)
        return at_bounds(pipeline, rewards, context or Context()).tolist()

    assert found(parse("clip(low=-1, high=4)")) == [True, True, False, False, True]
    assert found(Pipeline([Clip(low=-1), Center().fit([9.0, 11.0])])) == [True, True, False, False, False]
    assert found(parse("group_zscore"), Context(groups=[0] * 5)) == [False] * 5
    assert found(parse("par"), Context(reference=[0.0] * 5)) == [True, False, False, False, True]
    edge = [5.0 - float(logit(0.99)) + shift for shift in (0.001, -0.001)]
    assert at_bounds(parse("par"), [5.0, 5.0], Context(reference=edge)).tolist() == [False, True]
    assert found(parse("lsc"), Context(reference=[0.0] * 5)) == [False, False, False, False, True]
    pairs = Context(groups=[0, 0, 1, 1], preferred=[True, False, True, False])
    for shape in (Platt(), Isotonic()):
        flat = found(Pipeline([shape.fit([2.0, 0.0, 1.0, 1.5], pairs)]))
        assert flat[0] is flat[-1] is isinstance(shape, Isotonic)
    running = RunningNormalise()
    found(Pipeline([running, Clip(low=-1)]))
    assert running.count_ == 5
