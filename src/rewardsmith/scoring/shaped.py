"""Which shaping is meant: that of a file, of a line of text, or the one a model was saved with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.errors import UsageError
from rewardsmith.shaping import Pipeline, Shape, parse

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel


def resolve_shaping(shaping: Any, models: Sequence[RewardModel]) -> Pipeline | None:
    """The pipeline that is meant.

    Args:
        shaping: a pipeline, a shape, the text form, the path of a saved one, None for the models' own, False for none.
        models: they may carry one.

    Raises:
        UsageError: unknown steps, a pipeline that is not fitted, or several models of which one brings its own.
        FileError, DataError: a path that holds no pipeline.
    """
    if shaping is None:
        carried = [model.shaping for model in models]
        if len(carried) > 1 and any(carried):
            raise UsageError(
                "one of several models brings its own shaping; name the one that shall hold by its file or text"
            )
        pipeline = carried[0]
    elif shaping is False:
        pipeline = None
    elif isinstance(shaping, Pipeline):
        pipeline = shaping
    elif isinstance(shaping, Shape):
        pipeline = Pipeline([shaping])
    elif isinstance(shaping, Path) or shaping.endswith(".json") or os.path.isdir(shaping):
        pipeline = Pipeline.load(shaping)
    else:
        pipeline = parse(shaping)
    if pipeline and not pipeline.fitted:
        step = next(step for step in pipeline.steps if not step.fitted)
        raise UsageError(f"{step.name}: not fitted; fit it to rewards of reference responses, save it, give its path")
    if pipeline and models:
        check_members(pipeline, models)
    return pipeline


def check_shaping(shaping: Pipeline) -> None:
    """Refuse what would give a row another value in another file."""
    for step in shaping.steps:
        if step.scope not in ("row", "group"):
            raise UsageError(
                f"shaping {step.name}: depends on the other rows of its {step.scope}, so a row would get another value "
                "in another file; use a step that is fitted once, e.g. normalise (rewardsmith shape), or freeze it"
            )
        if not step.fitted:
            raise UsageError(f"shaping {step.name}: is not fitted; fit it with: rewardsmith shape")


def check_members(pipeline: Pipeline, models: Sequence[RewardModel]) -> None:
    """Refuse a pipeline that needs the disagreement of one model without an ensemble.

    Raises:
        UsageError: it does.
    """
    check_disagreement(pipeline, len(models) > 1 or models[0].ensemble is not None)


def check_disagreement(pipeline: Pipeline, votes: bool) -> None:
    """The same before a model is loaded: ``votes`` says whether there are members."""
    if "disagreement" in pipeline.needs and not votes:
        raise UsageError(
            "the shaping needs the disagreement of an ensemble: give several models (--with), or one trained with "
            "--ensemble K"
        )
