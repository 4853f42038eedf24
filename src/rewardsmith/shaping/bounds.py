"""Where a shaping stops telling rewards apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rewardsmith.shaping.calibrate import Platt
from rewardsmith.shaping.clip import Clip
from rewardsmith.shaping.context import Context
from rewardsmith.shaping.isotonic import Isotonic
from rewardsmith.shaping.pipeline import Pipeline
from rewardsmith.shaping.reference import LSC, PAR
from rewardsmith.shaping.shape import Shape

MOSTLY = 0.5  # the share of rewards at a bound from which it is worth a warning
MARGIN = 0.01  # of a probability, from 0 or 1: there a sigmoid's slope is 1% of 1, a 25th of its steepest


def at_bounds(pipeline: Pipeline, rewards: Sequence[float], context: Context) -> np.ndarray:
    """Which of N rewards lie at a bound of one of the steps, where a better response gets no better reward. [N] bool.

    At a bound are: what ``clip`` cuts; what ``par`` and ``platt`` bring within 0.01 of 0 or 1 and ``lsc`` above
    log 0.99; what ``isotonic`` gives its least or greatest probability. Running statistics are taken as they are: call
    it after the pipeline.
    """
    values = np.asarray(rewards, dtype=float)
    found = np.zeros(len(values), dtype=bool)
    for step in pipeline.steps:
        before, values = values, step.apply(values, context)
        context = step.carry(context)
        if at := _BOUNDS.get(type(step)):
            found |= at(step, before, values)
    return found


def saturation_warning(at_bound: int, total: int) -> str | None:
    """A line where more than half of the shaped rewards lie at a bound; None elsewhere."""
    if not total or at_bound <= MOSTLY * total:
        return None
    return (
        f"{at_bound / total:.0%} of {total:,} shaped rewards lie at a bound of the shaping, where better is not told "
        "from worse: widen the bounds, put normalise before them, or fit it to rewards of this kind"
    )


def _clip(step: Any, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before <= (-np.inf if step.low is None else step.low)) | (
        before >= (np.inf if step.high is None else step.high)
    )


def _probability(step: Any, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (after < MARGIN) | (after > 1 - MARGIN)


def _log_probability(step: Any, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return after > np.log1p(-MARGIN)


def _knots(step: Any, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (after <= step.probabilities_[0]) | (after >= step.probabilities_[-1])


_BOUNDS: dict[type[Shape], Callable[[Any, np.ndarray, np.ndarray], np.ndarray]] = {
    Clip: _clip,
    PAR: _probability,
    Platt: _probability,
    LSC: _log_probability,
    Isotonic: _knots,
}
