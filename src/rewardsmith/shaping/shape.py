"""What all shapes have in common."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np

from rewardsmith.errors import UsageError
from rewardsmith.shaping import arrays
from rewardsmith.shaping.context import Context

Scope = Literal["row", "group", "batch", "stream"]
SCOPES: tuple[Scope, ...] = ("row", "group", "batch", "stream")  # narrow to wide

UNITS = frozenset({"reference", "disagreement"})
"""Context fields in the units of the reward: a step that changes the reward leaves them behind, or takes them along."""


@dataclass
class Shape:
    """A function of rewards that is fitted, called and saved.

    A subclass is a dataclass: what its constructor takes are parameters, fields that end in ``_`` are what ``fit``
    found, None before. All shapes are non-decreasing in the reward, other things equal. NaN in is NaN out and changes
    no other value; infinite rewards enter no statistic and no fit.
    """

    name: ClassVar[str]

    @property
    def scope(self) -> Scope:
        """What a value depends on beside its own reward and context: nothing ("row"), its group, batch or history."""
        return "row"

    @property
    def needs(self) -> frozenset[str]:
        """The fields of Context that a call reads."""
        return frozenset()

    @property
    def others(self) -> tuple[str, ...]:
        """The names in ``Context.rewards`` that a call reads."""
        return ()

    @property
    def keeps(self) -> frozenset[str]:
        """Which of ``UNITS`` are still in the units of the reward after this step."""
        return frozenset()

    @property
    def learns(self) -> bool:
        """Whether fitting has something to find."""
        return bool(self._state())

    @property
    def fitted(self) -> bool:
        """Whether it can be called."""
        return all(value is not None for value in self._state().values())

    def fit(self, rewards: Any, context: Context | None = None) -> Self:
        """Learn the state from rewards [N]; nothing happens where there is none to learn.

        Raises:
            UsageError: a context field is missing, or the rewards cannot be learned from (none finite, all equal ...).
        """
        values, _ = arrays.read(rewards)
        self.learn(values, context or Context())
        return self

    def __call__(self, rewards: Any, context: Context | None = None) -> Any:
        """The shaped rewards: list, tuple, array or tensor as given, in order, of the same length and dtype.

        Raises:
            UsageError: not fitted, or a context field is missing or of another length.
        """
        values, give_back = arrays.read(rewards)
        self.observe(values)
        return give_back(self.apply(values, context or Context()))

    def learn(self, values: np.ndarray, context: Context) -> None:
        """``fit`` on a float64 array [N]."""

    def observe(self, values: np.ndarray) -> None:
        """See the rewards of a call before they are shaped: where running statistics are updated."""
        if not self.fitted:
            raise UsageError(f"{self.name}: not fitted; call fit(rewards, context) first, or load a fitted pipeline")

    def apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        """The shaped float64 array [N]; changes nothing."""
        raise NotImplementedError

    def carry(self, context: Context) -> Context:
        """The context for the steps after this one."""
        return context

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "parameters", "state"}``: plain JSON values, and the same shape again by ``from_dict``."""
        parameters = {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.init}
        return {"name": self.name, "parameters": parameters, "state": _plain(self._state())}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """The shape that ``to_dict`` described.

        Raises:
            UsageError: another shape's, an unknown parameter, or a state that is not this shape's.
        """
        if found.get("name") != cls.name:
            raise UsageError(f"{cls.name}: cannot be read from a description of {found.get('name')!r}")
        shape = cls.make(found.get("parameters", {}))
        state = found.get("state", {})
        if set(state) != set(shape._state()):
            raise UsageError(f"{cls.name}: its state is {', '.join(shape._state()) or 'empty'}, not {sorted(state)}")
        for key, value in state.items():
            if not _is_state(value):
                raise UsageError(f"{cls.name}: {key} must be numbers, not {value!r:.60}")
            setattr(shape, key, tuple(value) if isinstance(value, list) else value)
        if len({len(value) for value in state.values() if isinstance(value, list)} | {0}) > 2:
            raise UsageError(f"{cls.name}: {' and '.join(state)} must be equally long")
        return shape

    @classmethod
    def make(cls, parameters: dict[str, Any]) -> Self:
        """The shape with these parameters.

        Raises:
            UsageError: a parameter is unknown, or its value is not allowed.
        """
        known = [field.name for field in fields(cls) if field.init]
        unknown = [name for name in parameters if name not in known]
        if unknown:
            meant = nearest(unknown[0], known)
            takes = ", ".join(known) or "none"
            raise UsageError(f"{cls.name}: unknown parameter {unknown[0]!r}{meant}; it takes {takes}")
        return cls(**parameters)

    def __str__(self) -> str:
        """As ``parse`` reads it: the parameters that are not the default ones."""
        changed = [
            f"{field.name}={_plain(getattr(self, field.name))!r}"
            for field in fields(self)
            if field.init and getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def _state(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name.endswith("_")}


@dataclass
class Elementwise(Shape):
    """A shape that is one function of the reward alone, so that a reference reward goes through it as well."""

    @property
    def keeps(self) -> frozenset[str]:
        return frozenset({"reference"})

    def map(self, values: np.ndarray) -> np.ndarray:
        """The function, on an array of any shape."""
        raise NotImplementedError

    def apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        return self.map(values)

    def carry(self, context: Context) -> Context:
        if context.reference is None:
            return context
        return replace(context, reference=self.map(context.references(len(context.reference), self.name)))


def nearest(name: str, known: Sequence[str]) -> str:
    """``, did you mean normalise?`` for a name that is much like a known one; empty for others."""
    found = difflib.get_close_matches(name.lower(), known, n=1)
    return f", did you mean {found[0]}?" if found else ""


def finite(values: np.ndarray, step: str, least: int = 1) -> np.ndarray:
    """The finite rewards, of which a fit needs at least a few.

    Raises:
        UsageError: there are fewer.
    """
    found = values[np.isfinite(values)]
    if len(found) < least:
        needed = "a finite reward" if least == 1 else f"{least} finite rewards"
        raise UsageError(f"{step}: fitting needs at least {needed}, and {len(found)} of {len(values)} are finite")
    return found


def number(step: str, name: str, value: Any, *, low: float = -math.inf, above: bool = False) -> float:
    """A parameter as a finite float >= low (> low with ``above``).

    Raises:
        UsageError: it is another.
    """
    valid = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not valid or value < low or (above and value == low):
        rule = "" if low == -math.inf else f" {'>' if above else '>='} {low:g}"
        raise UsageError(f"{step}: {name} must be a finite number{rule}, not {value!r}")
    return float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _is_state(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, float | int) and math.isfinite(item) for item in value)
    return value is None or (isinstance(value, bool | int | float) and math.isfinite(value))
