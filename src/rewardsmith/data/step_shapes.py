"""Which of the published shapes of judged steps a row has; apart from their reading, so that any reader can ask."""

from __future__ import annotations

from collections.abc import Mapping

from rewardsmith.data.fields import Fields

TITLES = {
    "trl": "TRL's stepwise rows",
    "prm800k": "PRM800K",
    "math-shepherd": "Math-Shepherd",
    "processbench": "ProcessBench",
}
"""Shape to what people call it."""


def shape_of(row: Fields) -> str | None:
    """The name of a row's shape in ``stepwise.SHAPES``, by its keys; None for an unknown one."""
    if "completions" in row and "prompt" in row:
        return "trl"
    if isinstance(row.get("question"), Mapping) and isinstance(row.get("label"), Mapping):
        return "prm800k"
    if isinstance(row.get("input"), str) and isinstance(row.get("label"), str):
        return "math-shepherd"
    return "processbench" if {"problem", "steps", "label"} <= row.keys() else None
