"""How the rewards of several members become one. Without torch, so that a wrong name is said at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from rewardsmith.errors import UsageError

Aggregate = Callable[[Sequence[float]], float]


def uncertainty(rewards: Sequence[float]) -> float:
    """Mean minus one standard deviation: disagreement costs (Coste et al. 2024, arXiv 2310.02743)."""
    return statistics.fmean(rewards) - statistics.pstdev(rewards)


AGGREGATES: dict[str, Aggregate] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "uncertainty": uncertainty,
}


NO_MEMBERS = "needs members: give several models, or one trained with --method head --ensemble K"


def check_aggregate(name: str) -> None:
    """Refuse an unknown way to vote.

    Raises:
        UsageError: naming those known.
    """
    if name != "auto" and name not in AGGREGATES:
        raise UsageError(f"aggregate {name!r}: use auto, {', '.join(AGGREGATES)}")


def name_of(aggregate: Aggregate | None) -> str:
    """The name by which an aggregate is asked for; empty for None, the reward of one head."""
    return next((name for name, known in AGGREGATES.items() if known is aggregate), "")
