"""Shapes one after the other, saved with the model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from rewardsmith.errors import DataError, FileError, RewardsmithError, UsageError
from rewardsmith.shaping import arrays
from rewardsmith.shaping.calibrate import Platt, Temperature
from rewardsmith.shaping.center import Center
from rewardsmith.shaping.clip import Clip
from rewardsmith.shaping.combine import AllAbove, Minimum, WeightedSum
from rewardsmith.shaping.context import Context
from rewardsmith.shaping.fitted_on import FittedOn
from rewardsmith.shaping.isotonic import Isotonic
from rewardsmith.shaping.length import LengthDebias, LengthPenalty
from rewardsmith.shaping.normalise import GroupZScore, Normalise, ZScore
from rewardsmith.shaping.reference import LSC, PAR
from rewardsmith.shaping.repetition import RepetitionPenalty
from rewardsmith.shaping.running import RunningNormalise
from rewardsmith.shaping.shape import SCOPES, UNITS, Scope, Shape, nearest
from rewardsmith.shaping.uncertainty import UncertaintyPenalty
from rewardsmith.shaping.unit_margin import UnitMargin

FILE = "shaping.json"
"""The name beside a model's weights."""

FORMAT = "rewardsmith shaping 1"

_ALL: tuple[type[Shape], ...] = (
    *(Normalise, ZScore, GroupZScore, RunningNormalise, Clip, Center, UnitMargin, Temperature, Platt, Isotonic),
    *(PAR, LSC, LengthDebias, LengthPenalty, RepetitionPenalty, WeightedSum, Minimum, AllAbove, UncertaintyPenalty),
)
SHAPES: dict[str, type[Shape]] = {shape.name: shape for shape in _ALL}
"""Every shape by the name it has in text and in JSON."""


class Pipeline:
    """Steps in order, each on what the one before it gives.

    Rewards in ``Context.reference`` go through the same steps, so that PAR and LSC compare like with like.

    Args:
        steps: one or more shapes.

    ``fitted_on`` says which rewards it was fitted on; None when nothing was learned, or nobody knows.

    Raises:
        UsageError: a step needs the reference or the disagreement in the units of the reward, and comes after a step
            that changes these.
    """

    def __init__(self, steps: Sequence[Shape]):
        self.steps = tuple(steps)
        self.fitted_on: FittedOn | None = None
        wrong = next((step for step in self.steps if not isinstance(step, Shape)), None)
        if not self.steps or wrong is not None:
            raise UsageError(f"a pipeline needs one or more shapes, not {wrong!r:.60}")
        _check_order(self.steps)

    @property
    def scope(self) -> Scope:
        """The widest of the steps' scopes."""
        return SCOPES[max(SCOPES.index(step.scope) for step in self.steps)]

    @property
    def scopes(self) -> frozenset[Scope]:
        """The scopes of all steps: a wide one hides no other."""
        return frozenset(step.scope for step in self.steps)

    @property
    def needs(self) -> frozenset[str]:
        """The fields of Context that a call reads."""
        return frozenset().union(*(step.needs for step in self.steps))

    @property
    def others(self) -> tuple[str, ...]:
        """The names in ``Context.rewards`` that a call reads, in order."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.others))

    @property
    def fitted(self) -> bool:
        """Whether it can be called."""
        return all(step.fitted for step in self.steps)

    def fit(self, rewards: Any, context: Context | None = None, *, scored_by: str | None = None) -> Self:
        """Fit each step on the output of the one before it. Steps behind the last one that learns are not called.

        Args:
            rewards: [N].
            context: what is known of each.
            scored_by: which model and vote gave them (``Scorer.provenance()``), so that their use elsewhere is noticed.

        Raises:
            UsageError: as the steps' own ``fit``.
        """
        values, _ = arrays.read(rewards)
        context = context or Context()
        last = max((number for number, step in enumerate(self.steps) if step.learns), default=-1)
        given = FittedOn.of(values, context.preferred, scored_by) if last >= 0 else None
        for number, step in enumerate(self.steps[: last + 1]):
            step.learn(values, context)
            if number < last:
                values, context = step.apply(values, context), step.carry(context)
        self.fitted_on = given
        return self

    def __call__(self, rewards: Any, context: Context | None = None) -> Any:
        """The shaped rewards, of the kind and length given.

        Raises:
            UsageError: as the steps' own calls.
        """
        values, give_back = arrays.read(rewards)
        return give_back(self._apply(values, context or Context()))

    def _apply(self, values: np.ndarray, context: Context) -> np.ndarray:
        for step in self.steps:
            step.observe(values)
            values, context = step.apply(values, context), step.carry(context)
        return values

    def freeze(self) -> Self:
        """Freeze the running normalisers among the steps: from then on they learn no more."""
        for step in self.steps:
            if isinstance(step, RunningNormalise):
                step.freeze()
        return self

    def restore(self, kept: Pipeline) -> Self:
        """Take over what a pipeline of the same steps has learned.

        Raises:
            UsageError: it has other steps.
        """
        if str(self) != str(kept):
            raise UsageError(
                f"the shaping that was kept is {str(kept)!r}, this one is {str(self)!r}; use that one again"
            )
        for step, other in zip(self.steps, kept.steps, strict=True):
            vars(step).update(vars(other))
        return self

    def to_dict(self) -> dict[str, Any]:
        """``{"format", "steps"}`` and, where known, ``"fitted_on"``: plain JSON values."""
        steps = {"format": FORMAT, "steps": [step.to_dict() for step in self.steps]}
        return {**steps, "fitted_on": self.fitted_on.as_dict()} if self.fitted_on else steps

    def notes(self) -> list[str]:
        """What is to be known of its fit, one line each: few rewards, or of another kind than the policy's."""
        learned = [step.name for step in self.steps if step.learns]
        return self.fitted_on.notes(learned) if self.fitted_on else []

    @classmethod
    def from_dict(cls, found: Any) -> Self:
        """The pipeline that ``to_dict`` described, to the last bit.

        Raises:
            UsageError: another format, an unknown step, or a parameter or state that is not the step's.
        """
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("steps"), list):
            raise UsageError(f'not a shaping pipeline: needs "format": "{FORMAT}" and a list of steps')
        pipeline = cls([_step(step) for step in found["steps"]])
        if found.get("fitted_on") is not None:
            pipeline.fitted_on = FittedOn.from_dict(found["fitted_on"])
        return pipeline

    def to_json(self) -> str:
        """The pipeline as JSON text; floats keep every bit."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The pipeline of ``to_json``.

        Raises:
            UsageError: the text is not JSON, or not a pipeline.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UsageError(f"not JSON: {error}") from error
        return cls.from_dict(found)

    def save(self, path: str | Path) -> Path:
        """Write to a ``.json`` file, or to ``shaping.json`` in an existing folder such as a model's. Returns the file.

        Raises:
            FileError: it cannot be written.
            UsageError: the name is neither.
        """
        target = file_of(path)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            scratch.write_text(self.to_json(), encoding="utf-8")
            os.replace(scratch, target)
        except OSError as error:
            raise FileError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):  # it was renamed, or could not be made
                scratch.unlink()
        return target

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file, or ``shaping.json`` in a folder.

        Raises:
            FileError: it cannot be read.
            DataError: it is not a pipeline.
        """
        source = file_of(path)
        try:
            return cls.from_json(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise FileError(f"{source}: cannot be read: {error.strerror or error}") from error
        except (RewardsmithError, UnicodeDecodeError) as error:
            raise DataError(f"{error}; make it anew with: rewardsmith shape", file=str(source)) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.steps == other.steps

    __hash__ = None  # type: ignore[assignment]  # steps change when they are fitted

    def __str__(self) -> str:
        """As ``parse`` reads it."""
        return ", ".join(map(str, self.steps))

    def __repr__(self) -> str:
        return f"Pipeline([{', '.join(map(repr, self.steps))}])"


def file_of(path: str | Path) -> Path:
    """The file that a file's or folder's name means.

    Raises:
        UsageError: neither an existing folder nor a ``.json`` name.
    """
    found = Path(path).expanduser()
    if found.is_dir():
        return found / FILE
    if found.suffix != ".json":
        raise UsageError(f"{path}: must be a .json file, or an existing folder to hold {FILE}")
    return found


def shape_named(name: str) -> type[Shape]:
    """The shape of this name.

    Raises:
        UsageError: there is none; the message lists those known.
    """
    if name not in SHAPES:
        raise UsageError(f"unknown step {name!r}{nearest(name, list(SHAPES))}; known: {', '.join(SHAPES)}")
    return SHAPES[name]


def _step(found: Any) -> Shape:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise UsageError(f"a step must be an object with a name, not {found!r:.60}")
    shape = shape_named(found["name"])
    for part in ("parameters", "state"):
        if not isinstance(found.get(part), dict):
            raise UsageError(f"{shape.name}: its {part} must be an object, not {found.get(part)!r:.60}")
    return shape.from_dict(found)


def _check_order(steps: Sequence[Shape]) -> None:
    """Refuse a comparison of a shaped reward with a reference, or a standard deviation, that is not in its units."""
    for number, step in enumerate(steps):
        for before in steps[:number]:
            for lost in sorted((step.needs & UNITS) - before.keeps):
                raise UsageError(
                    f"{step.name}: must come before {before.name}, after which the {lost} is no longer in the units of "
                    "the reward"
                )
