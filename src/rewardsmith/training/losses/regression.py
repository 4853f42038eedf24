"""The loss of scores: rewards that predict ratings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rewardsmith.errors import DataError, UsageError
from rewardsmith.training.losses.scored import Scored, floats, require_shape


def regression(scored: Scored, *, attribute_weights: Sequence[float] | Tensor | None = None) -> Tensor:
    """sum over comparisons of the mean over a comparison's known entries of (r - score)^2, divided by N.

    For attributes: of each alone, then sum of w_a * that, divided by the sum of w_a. Rewards that predict ratings
    (HelpSteer2, Wang et al. 2024; ArmoRM, Wang et al. 2024); the plain mean squared error when all is known and all
    comparisons are of one size. A comparison counts once, however many responses it has; one of which nothing is known
    adds 0. Pairs and their weights have no part in it.

    Args:
        scored: rewards and score of one shape, [R] or [R, A], or UsageError; NaN is unknown. DataError without scores.
        attribute_weights: w [A], finite, >= 0 and not all 0, or UsageError; None means 1. A is 1 for rewards [R].
    """
    if scored.score is None:
        raise DataError("regression needs scores; use bradley-terry for comparisons without", field="score")
    require_shape("score", scored.score, "that of rewards", scored.rewards.shape)
    known, rewards = ~scored.score.isnan(), floats(scored.rewards)
    error = torch.where(known, rewards - scored.score.to(rewards.dtype), 0.0)  # before squaring: no NaN gradient

    def by_comparison(values: Tensor) -> Tensor:
        return values.new_zeros(scored.count, *values.shape[1:]).index_add(0, scored.comparison, values)

    means = by_comparison(error.square()) / by_comparison(known.to(rewards.dtype)).clamp(min=1)  # [N] or [N, A]
    mean = means.sum(0).reshape(-1) / scored.count
    if attribute_weights is None:
        return mean.mean()
    weights = torch.as_tensor(attribute_weights, dtype=mean.dtype, device=mean.device)
    require_shape("attribute_weights", weights, "[A]", mean.shape)
    if not bool((weights >= 0).all()) or not 0 < weights.sum().item() < math.inf:
        raise UsageError(f"attribute_weights must be finite, >= 0 and not all 0, not {weights.tolist()}")
    return (weights * mean).sum() / weights.sum()
