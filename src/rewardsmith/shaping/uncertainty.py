"""Less reward where the members of an ensemble disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rewardsmith.shaping.context import Context
from rewardsmith.shaping.shape import UNITS, Shape, number


@dataclass
class UncertaintyPenalty(Shape):
    """r' = r - k std, where r is the mean over an ensemble and std its ``Context.disagreement``.

    A lower confidence bound. Uncertainty-weighted optimisation (Coste et al. 2024, arXiv 2310.02743) subtracts the
    variance; the standard deviation has the unit of the reward, so that one k fits any scale.

    Whoever scores and shapes in one go (``score --shaping``, ``best-of-n``, reward functions) takes the mean by itself
    where no vote was named; rewards that are there already must be means: ``score --aggregate mean``.

    Args:
        k: standard deviations to subtract, >= 0.
    """

    name: ClassVar[str] = "uncertainty_penalty"
    k: float = 1.0

    def __post_init__(self) -> None:
        self.k = number(self.name, "k", self.k, low=0)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"disagreement"})

    @property
    def keeps(self) -> frozenset[str]:
        return UNITS

    def apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        return values - self.k * context.amounts("disagreement", len(values), self.name)
