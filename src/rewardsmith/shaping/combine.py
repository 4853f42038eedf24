"""One reward out of several: this one and those in ``Context.rewards``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rewardsmith.errors import UsageError
from rewardsmith.shaping.context import Context
from rewardsmith.shaping.shape import Shape, number


@dataclass
class _Combined(Shape):
    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rewards"})


@dataclass
class WeightedSum(_Combined):
    """r' = own r + sum over k of weights[k] r_k.

    Args:
        weights: weight of each other reward by its name; may be negative for what counts as a cost.
        own: weight of the reward being shaped, >= 0.
    """

    name: ClassVar[str] = "weighted_sum"
    weights: Mapping[str, float] = field(default_factory=dict)
    own: float = 1.0

    def __post_init__(self) -> None:
        self.weights = _numbers(self.name, "weights", self.weights)
        self.own = number(self.name, "own", self.own, low=0)

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        total = self.own * values
        for name, weight in self.weights.items():
            total = total + weight * context.reward(name, len(values), self.name)
        return total


@dataclass
class Minimum(_Combined):
    """r' = min(r, r_1, r_2, ...): as good as the worst property, a logical AND of rewards in one unit.

    Args:
        names: of the other rewards.
    """

    name: ClassVar[str] = "minimum"
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        given = self.names
        if isinstance(given, str) or not given or not all(isinstance(name, str) for name in given):
            raise UsageError(f"{self.name}: names must list other rewards, e.g. names=['safety'], not {given!r}")
        self.names = tuple(given)

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(self.names)

    def apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        return np.minimum.reduce([values, *(context.reward(name, len(values), self.name) for name in self.names)])


@dataclass
class AllAbove(_Combined):
    """r' = passed where every reward reaches its threshold, else failed: a logical AND.

    Args:
        thresholds: least value of each other reward by its name.
        own: least value of the reward being shaped; None when it has none to reach.
        passed: what a response gets that passes; None: its reward, so that the others only gate it.
        failed: what the others get; None: 0.

    Raises:
        UsageError: a response could lose by passing: passed < failed; or, when passed is None, own < failed, or neither
            is given, as rewards may be below 0.
    """

    name: ClassVar[str] = "all_above"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    own: float | None = None
    passed: float | None = 1.0
    failed: float | None = None

    def __post_init__(self) -> None:
        self.thresholds = _numbers(self.name, "thresholds", self.thresholds)
        self.own = None if self.own is None else number(self.name, "own", self.own)
        self.passed = None if self.passed is None else number(self.name, "passed", self.passed)
        if self.passed is None and self.own is None and self.failed is None:
            raise UsageError(
                f"{self.name}: with passed=None a response may pass with a reward below that of one that fails (0): "
                "give own, the least reward that passes, or failed, below all rewards"
            )
        self.failed = None if self.failed is None else number(self.name, "failed", self.failed)
        least = self.own if self.passed is None else self.passed
        if least is not None and least < self._failed:
            what = "own" if self.passed is None else "passed"
            raise UsageError(
                f"{self.name}: {what} must be >= failed, not {least:g} and {self._failed:g}: passing would cost"
            )

    @property
    def _failed(self) -> float:
        return 0.0 if self.failed is None else self.failed

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(self.thresholds)

    def apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        unknown, holds = np.isnan(values), np.ones(len(values), dtype=bool)
        if self.own is not None:
            holds &= values >= self.own
        for name, least in self.thresholds.items():
            other = context.reward(name, len(values), self.name)
            unknown, holds = unknown | np.isnan(other), holds & (other >= least)
        shaped = np.where(holds, values if self.passed is None else self.passed, self._failed)
        return np.where(unknown, np.nan, shaped)


def _numbers(step: str, name: str, given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping) or not given or not all(isinstance(key, str) for key in given):
        raise UsageError(f"{step}: {name} must name other rewards, e.g. {name}={{'safety': 0.5}}, not {given!r}")
    return {key: number(step, f"{name}[{key!r}]", value) for key, value in given.items()}
