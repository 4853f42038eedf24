"""Losses of pairs: a cost of the difference of two rewards. And how often that difference has the right sign."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rewardsmith.errors import UsageError
from rewardsmith.training.losses.scored import Scored, difference_of, margin_of


def bradley_terry(scored: Scored, *, label_smoothing: float = 0.0) -> Tensor:
    """cost(D) = -log sigma(D - m): the loss of most reward models, and the one to begin with.

    Bradley & Terry (1952); the margin is that of Llama 2 (Touvron et al. 2023, equation 2); a probability is a soft
    label. Smoothing by e turns p into p (1 - e) + (1 - p) e, as if a share e of the labels were wrong (Mitchell 2023),
    so that D does not grow for ever.

    Args:
        scored: rewards [R].
        label_smoothing: e in [0, 0.5), or UsageError.
    """
    margin = margin_of(scored)
    return reduce(scored, per_pair(scored, lambda d: -logsigmoid(d - margin), label_smoothing))


def margin_scaled(scored: Scored, *, label_smoothing: float = 0.0) -> Tensor:
    """cost(D) = -m log sigma(D): a pair counts as much as its margin, which is not subtracted.

    The scaled Bradley-Terry loss of HelpSteer2-Preference (Wang et al. 2024), there with m = 1, 2, 3 for slightly
    better, better, much better. For grades that are no differences of rewards. A pair of margin 0 teaches nothing.

    Args:
        scored: rewards [R], and a margin [P]: UsageError without one.
        label_smoothing: e in [0, 0.5), as in ``bradley_terry``.
    """
    if scored.margin is None:
        raise UsageError("margin-scaled needs a margin for each pair; use bradley-terry for data without")
    return reduce(scored, margin_of(scored) * per_pair(scored, lambda d: -logsigmoid(d), label_smoothing))


def hinge(scored: Scored, *, gap: float = 1.0) -> Tensor:
    """cost(D) = max(0, gap + m - D): a pair that is apart by the gap stops pushing.

    The ranking SVM (Joachims 2002). For clean labels, when rewards should not grow without bound. Its D are no log
    odds: calibrate them before reading them as probabilities.

    Args:
        scored: rewards [R].
        gap: asked of every pair beyond its margin, in units of the reward; finite and >= 0, or UsageError.
    """
    if not 0 <= gap < math.inf:
        raise UsageError(f"gap must be finite and >= 0, not {gap}")
    margin = margin_of(scored)
    return reduce(scored, per_pair(scored, lambda d: relu(gap + margin - d)))


@torch.no_grad()
def accuracy(scored: Scored) -> Tensor:
    """1.0 where the rewards order a pair as its label does, 0.5 where they are equal, 0.0 otherwise: [P], no gradient.

    Equal rewards are neither right nor wrong. A pair of probability exactly 0.5 has no order to get right: it is NaN,
    as is one whose reward is NaN. Leave these out of a mean, and count them.
    """
    difference = difference_of(scored)
    order = torch.where(difference.isnan(), math.nan, difference.sign())  # the sign of NaN is 0 in torch
    if scored.probability is None:
        return (1 + order) / 2
    label = (scored.probability - 0.5).sign().to(order.dtype)
    return torch.where(label == 0, math.nan, (1 + order * label) / 2)


def per_pair(scored: Scored, cost: Callable[[Tensor], Tensor], label_smoothing: float = 0.0) -> Tensor:
    """p * cost(D) + (1 - p) * cost(-D), [P]."""
    if not 0 <= label_smoothing < 0.5:
        raise UsageError(f"label_smoothing must be in [0, 0.5), not {label_smoothing}: from 0.5 on labels say nothing")
    difference = difference_of(scored)
    if scored.probability is None and not label_smoothing:
        return cost(difference)
    given = 1.0 if scored.probability is None else scored.probability.to(difference.dtype)
    p = given * (1 - label_smoothing) + (1 - given) * label_smoothing
    return p * cost(difference) + (1 - p) * cost(-difference)


def reduce(scored: Scored, losses: Tensor) -> Tensor:
    """Losses of pairs [P], weighted and divided by N."""
    return (losses if scored.weight is None else losses * scored.weight.to(losses.dtype)).sum() / scored.count
