"""How a file is scored. Without torch, so that rows can be looked over before a model is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from rewardsmith.shaping import Pipeline

CHUNK = 512  # rows scored together: enough to find rows of equal length, few enough to lose little


@dataclass(frozen=True)
class ScoreOptions:
    """How a file is scored.

    Args:
        prompt_field, response_field: column names, when not the usual ones.
        skip_bad: give a bad row the reward null and its problem in ``reward_error``, instead of stopping.
        chunk: rows scored together.
        budget: positions per forward pass; None for the device's default.
        split: split name of a Hub data set.
        shaping: gives the columns ``shaped`` and ``saturated``; its scope must be ``row``, or ``group`` with a
            group's responses in one row. None for none.
        reference_field: column with the reference that the shaping asks for, ``reference`` when None: its reward, or
            a response (text or messages), which is scored by the same model; or a list of several of the prompt.
    """

    prompt_field: str | None = None
    response_field: str | None = None
    skip_bad: bool = False
    chunk: int = CHUNK
    budget: int | None = None
    split: str | None = None
    shaping: Pipeline | None = None
    reference_field: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(replace(self, shaping=None)), "shaping": self.shaping and self.shaping.to_dict()}
