"""What a pipeline was fitted on, kept with it: rewards of another kind have another mean and unit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rewardsmith.errors import UsageError

FEW = 100
"""Rewards below which a mean is rough: with 100 it is known to a tenth of a standard deviation."""

_NORMALISERS = frozenset({"normalise", "running", "center", "debias_length"})


@dataclass(frozen=True)
class FittedOn:
    """The rewards that a pipeline was fitted on.

    Args:
        rewards: how many were finite.
        mean, std: theirs, before any step; std divides by N.
        pairs: whether they were of chosen and rejected responses of a data set.
        scored_by: which model and vote gave them (``Scorer.provenance``); None when it is not known.
    """

    rewards: int
    mean: float
    std: float
    pairs: bool = False
    scored_by: str | None = None

    @classmethod
    def of(cls, values: np.ndarray, preferred: Any, scored_by: str | None) -> FittedOn | None:
        """Of float64 rewards [N]; None when none is finite."""
        found = values[np.isfinite(values)]
        if not len(found):
            return None
        pairs = preferred is not None and any(one is not None for one in preferred)
        return cls(len(found), float(found.mean()), float(found.std()), pairs, scored_by)

    @classmethod
    def from_dict(cls, found: Any) -> FittedOn:
        """What ``as_dict`` gave.

        Raises:
            UsageError: it is something else.
        """
        try:
            made = cls(**found)
            valid = isinstance(made.rewards, int) and math.isfinite(made.mean) and math.isfinite(made.std)
        except TypeError:
            valid = False
        if not valid:
            raise UsageError(f"fitted_on must be an object with rewards, mean and std, not {found!r:.60}")
        return made

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def notes(self, learned: list[str]) -> list[str]:
        """What is to be known of a fit, one line each.

        Args:
            learned: names of the steps that were fitted.
        """
        normalisers = [name for name in learned if name in _NORMALISERS]
        if not normalisers:
            return []
        found, step = [], normalisers[0]
        if self.rewards < FEW:
            off = 1 / math.sqrt(self.rewards)
            found.append(
                f"{step}: fitted on {self.rewards} rewards; with fewer than {FEW} the mean is rough (here to about "
                f"{off:.2f} standard deviations): score more responses"
            )
        if self.pairs:
            found.append(
                f"{step}: fitted on chosen and rejected responses of a data set, so 0 is their mean; for a run, fit it "
                "on responses of the policy that the run begins with"
            )
        return found
