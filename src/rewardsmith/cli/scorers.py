"""From options to a scorer and its shaping: what ``score`` and ``best-of-n`` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.cli import checks
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.model.load import LoadOptions
    from rewardsmith.scoring.scorer import Scorer
    from rewardsmith.shaping import Pipeline


_ENSEMBLE = "ensemble.safetensors"  # as rewardsmith.model.ensemble.FILE, which takes torch with it


def check(aggregate: str, shaping: str | None, reference_field: str | None, cache: Path | None) -> Pipeline | None:
    """Refuse, without importing torch, what cannot be scored so. Returns the shaping, unless it comes with the model.

    Raises:
        RewardsmithError: naming the option.
    """
    from rewardsmith.scoring.aggregates import check_aggregate

    check_aggregate(aggregate)
    pipeline = None
    if shaping not in (None, "model"):
        from rewardsmith.scoring.shaped import check_shaping, resolve_shaping

        pipeline = resolve_shaping(shaping, [])
        assert pipeline is not None
        check_shaping(pipeline)
    if reference_field and shaping != "model" and not (pipeline and "reference" in pipeline.needs):
        raise UsageError(
            f"--reference-field {reference_field}: no shaping compares with a reference; leave it out, or add par or "
            "lsc to --shaping"
        )
    checks.cache_file(cache)
    return pipeline


def check_folders(models: Sequence[str], aggregate: str, shaping: str | None, pipeline: Pipeline | None) -> None:
    """Refuse what the folders of local models tell, before one is loaded. Comes after ``checks.model_folders``.

    Args:
        pipeline: what ``check`` returned.

    Raises:
        UsageError: a vote, or a shaping that needs one, without members; the model's own shaping, and it has none.
    """
    if not models or not all(Path(name).expanduser().is_dir() for name in models):
        return
    from rewardsmith.model.bases import resolve
    from rewardsmith.scoring.aggregates import NO_MEMBERS
    from rewardsmith.scoring.shaped import check_disagreement
    from rewardsmith.shaping import FILE, Pipeline

    folders = [resolve(name, adapters=True) for name in models]
    carrying = [folder for folder in folders if (folder / FILE).is_file()] if shaping == "model" else []
    if shaping == "model" and not carrying:
        raise UsageError(_no_shaping(models[0]))
    votes = len(models) > 1 or (folders[0] / _ENSEMBLE).is_file()
    if aggregate != "auto" and not votes:
        raise UsageError(f"aggregate {aggregate!r} {NO_MEMBERS}")
    if carrying and len(models) == 1:
        pipeline = Pipeline.load(carrying[0])
    if pipeline:
        check_disagreement(pipeline, votes)


def make(
    models: Sequence[str],
    loading: LoadOptions,
    *,
    thinking: bool = False,
    tags: Any = None,
    attributes: bool = False,
    **options: Any,
) -> Scorer:
    """The scorer of these models.

    Args:
        models: folders or ids; several vote.
        loading: how they are loaded.
        thinking, tags: whether rewards are taken apart, and at which tags.
        attributes: whether the rewards of attributes are columns of their own.
        options: of :class:`Scorer`.
    """
    from rewardsmith.model.reward_model import RewardModel

    loaded = [RewardModel.load(name, loading) for name in models]
    if thinking:
        from rewardsmith.scoring.thinking_columns import ThinkingScorer

        return ThinkingScorer(loaded[0], tags=tags, aggregate=options["aggregate"], budget=options["budget"])
    if attributes:
        from rewardsmith.scoring.attribute_columns import AttributeScorer

        return AttributeScorer(loaded[0], budget=options["budget"])
    from rewardsmith.scoring.scorer import Scorer

    return Scorer(loaded, **options)


def own_shaping(scorer: Scorer, name: str) -> Pipeline:
    """What the model was saved with, for ``--shaping model``.

    Raises:
        UsageError: nothing, or one of several models brings its own.
    """
    from rewardsmith.scoring.shaped import resolve_shaping

    pipeline = resolve_shaping(None, scorer.models)
    if pipeline is None:
        raise UsageError(_no_shaping(name))
    return pipeline


def _no_shaping(name: str) -> str:
    return f"--shaping model: {name} was saved without one; make one with: rewardsmith shape"
