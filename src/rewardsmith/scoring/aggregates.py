"""How the rewards of several members become one. Without torch, so that a wrong name is said at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rewardsmith.errors import UsageError
from rewardsmith.types import ScoredResponse

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

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


def aggregate_for(name: str, models: Sequence[RewardModel]) -> Aggregate | None:
    """The function that makes one reward of the members', None for the main head.

    Raises:
        UsageError: no model, an unknown name, or one that needs members the model does not have.
    """
    if not models:
        raise UsageError("a scorer needs at least one reward model")
    check_aggregate(name)
    if len(models) > 1:
        return AGGREGATES["mean" if name == "auto" else name]
    if name == "auto":
        return None
    if models[0].ensemble is None:
        raise UsageError(f"aggregate {name!r} {NO_MEMBERS}")
    return AGGREGATES[name]


def combined(results: Sequence[ScoredResponse], aggregate: Aggregate | None) -> ScoredResponse:
    """The models' results of one response as one."""
    if len(results) > 1:
        members = tuple(result.reward for result in results)
        longest = max(results, key=lambda result: result.tokens)
        truncated = any(result.truncated for result in results)
        # The members' spread is at hand (disagreement); a standard error of one head is not that of the vote.
        first = replace(longest, reward_se=None, truncated=truncated, members=members, attributes=None)
    else:
        first = results[0]
    if aggregate is None:
        return first
    assert first.members is not None
    return replace(first, reward=float(aggregate(first.members)), reward_se=None)


def name_of(aggregate: Aggregate | None) -> str:
    """The name by which an aggregate is asked for; empty for None, the reward of one head."""
    return next((name for name, known in AGGREGATES.items() if known is aggregate), "")
