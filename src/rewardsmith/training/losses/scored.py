"""Rewards and labels: what every loss is a function of, and how losses read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewardsmith.errors import UsageError


@dataclass(frozen=True, eq=False)
class Scored:
    """Comparisons with their rewards: what every loss is a function of.

    R responses, P pairs, N comparisons, A attributes. Shapes and integer types are checked here, once for all losses: a
    column [P, 1] would broadcast to [P, P] and train on nonsense. Values are not, as that would stall a GPU at every
    step; ``Pairs`` checks them where data is read.

    Args:
        rewards: [R] float; [R, A] for a regression on attributes.
        first: index in [0, R) of the response labelled better, [P] int64.
        second: index of the other one, [P] int64.
        comparison: which comparison in [0, N) a response belongs to, [R] int64, non-decreasing.
        rank: lower is better, equal is a tie, [R] int64.
        count: N >= 1.
        weight: importance of each pair, [P] > 0, None means 1. Pairs of one K-wise comparison share its weight.
        margin: how much better the preferred response is, in units of the reward, [P] >= 0; None means 0.
        probability: that first is better, [P] in [0, 1], 0.5 is a tie; None means 1.
        score: reference scores, [R] or [R, A], NaN where unknown.

    Raises:
        UsageError: a shape or an integer type is another one; the message names both.
    """

    rewards: Tensor
    first: Tensor
    second: Tensor
    comparison: Tensor
    rank: Tensor
    count: int
    weight: Tensor | None = None
    margin: Tensor | None = None
    probability: Tensor | None = None
    score: Tensor | None = None

    def __post_init__(self) -> None:
        if self.rewards.ndim not in (1, 2) or self.first.ndim != 1:
            shapes = f"{list(self.rewards.shape)} and {list(self.first.shape)}"
            raise UsageError(f"rewards must have shape [R] or [R, A] and first [P], not {shapes}; flatten them")
        for name in ("second", "weight", "margin", "probability"):
            require_shape(name, getattr(self, name), "[P]", self.first.shape)
        for name in ("comparison", "rank"):
            require_shape(name, getattr(self, name), "[R]", self.rewards.shape[:1])
        if self.score is not None:
            require_shape("score", self.score, "[R] or [R, A]", self.rewards.shape[:1] + self.score.shape[1:2])
        for name in ("first", "second", "comparison", "rank"):
            if getattr(self, name).dtype != torch.int64:
                raise UsageError(f"{name} must be int64, not {getattr(self, name).dtype}")
        if self.count < 1:
            raise UsageError(f"count must be >= 1, not {self.count}: it is the number of comparisons")


def rewards_of(scored: Scored) -> Tensor:
    """[R], in float32 at least; a UsageError for rewards of several attributes."""
    if scored.rewards.ndim != 1:
        shape = list(scored.rewards.shape)
        raise UsageError(f"rewards must have shape [R] for this loss, not {shape}; squeeze, or choose one attribute")
    return floats(scored.rewards)


def difference_of(scored: Scored) -> Tensor:
    """D of each pair, [P]."""
    rewards = rewards_of(scored)
    return rewards[scored.first] - rewards[scored.second]


def margin_of(scored: Scored) -> Tensor | float:
    """m of each pair, [P]; 0 without margins."""
    return 0.0 if scored.margin is None else scored.margin.to(floats(scored.rewards).dtype)


def ties_of(scored: Scored) -> Tensor:
    """Which pairs are labelled a tie, [P]."""
    return torch.zeros_like(scored.first, dtype=torch.bool) if scored.probability is None else scored.probability == 0.5


def floats(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def require_shape(name: str, value: Tensor | None, rule: str, expected: torch.Size) -> None:
    """UsageError unless the shape is the expected one; None passes."""
    if value is not None and value.shape != expected:
        found = list(value.shape)
        raise UsageError(f"{name} must have shape {rule}, here {list(expected)}, not {found}: it would broadcast")
