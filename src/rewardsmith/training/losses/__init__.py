"""What rewards cost, given what people said of them: every loss as a pure function of tensors.

With D = r_first - r_second and p the probability that first is better, a loss of pairs is

    sum over pairs of  weight * [p * cost(D) + (1 - p) * cost(-D)],  divided by N, the number of comparisons,

and each function has its own cost. A margin m asks for D >= m of whichever response is preferred, as in
``likelihood.py``. Dividing by N, never by the sum of the weights, keeps gradient accumulation and data parallelism
exact: the loss of a batch is the mean of the losses of its equal parts. All is computed in float32 at least.

Bradley-Terry over all pairs of K responses (InstructGPT, Ouyang et al. 2022, equation 1) has no function of its own: it
is ``bradley_terry`` on all K(K-1)/2 pairs, each of weight 2 / (K(K-1)), as ``Pairs.from_ranks`` makes them.

Every loss but ``regression`` raises a UsageError, which is a ValueError, unless the rewards are [R].
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rewardsmith.training.losses.pairwise import accuracy, bradley_terry, hinge, margin_scaled
from rewardsmith.training.losses.rankings import plackett_luce
from rewardsmith.training.losses.regression import regression
from rewardsmith.training.losses.regularisers import centering, distance_to, language_model
from rewardsmith.training.losses.scored import Scored
from rewardsmith.training.losses.ties import davidson, rao_kupper

LOSSES: dict[str, Callable[..., Tensor]] = {
    "bradley-terry": bradley_terry,
    "margin-scaled": margin_scaled,
    "hinge": hinge,
    "rao-kupper": rao_kupper,
    "davidson": davidson,
    "plackett-luce": plackett_luce,
    "regression": regression,
}

__all__ = [
    "LOSSES",
    "Scored",
    "accuracy",
    "bradley_terry",
    "centering",
    "davidson",
    "distance_to",
    "hinge",
    "language_model",
    "margin_scaled",
    "plackett_luce",
    "rao_kupper",
    "regression",
]
