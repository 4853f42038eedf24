"""Which model gave a reward, and how its members voted: a few characters that travel with the rows.

A shaping that was fitted to the rewards of one model or vote has no meaning for those of another: they have another
mean and another unit. So rows carry ``scored_by``, a fitted pipeline keeps it, and who applies it compares.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from rewardsmith.model.contract import Contract
from rewardsmith.shaping import Pipeline

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

logger = logging.getLogger("rewardsmith")

COLUMN = "scored_by"
# What decides the scale of a reward, on any machine and in any dtype. Training changes the head, whatever the method.
_PARTS = (
    "mode",
    "template_sha256",
    "tokenizer_sha256",
    "max_length",
    "pooling",
    "layers",
    "mean",
    "std",
    "head_sha256",
    "members_sha256",
)


def mark_of(model: RewardModel) -> str:
    """12 hexadecimal digits that stand for a model."""
    from rewardsmith.model.fingerprint import sha256

    contract, head = model.contract, model.head
    if not contract.head_sha256:  # not sealed yet, or a checkpoint that came without a contract
        found = sha256(*[one for one in (head.weight, head.bias) if one is not None])
        contract = replace(contract, head_sha256=found)
    if model.ensemble and not contract.members_sha256:
        contract = replace(contract, members_sha256=model.ensemble.sha256())
    return mark_of_contract(contract)


def mark_of_contract(contract: Contract) -> str:
    """The same from what lies beside the weights."""
    parts = {name: getattr(contract, name) for name in _PARTS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def mismatch(fitted_by: str | None, scored_by: str | None) -> str | None:
    """In words how the rewards that a shaping was fitted to differ from those at hand; None when they do not.

    Args:
        fitted_by, scored_by: :meth:`Scorer.provenance` of both; None where it is not known, which says nothing.
    """
    if fitted_by is None or scored_by is None or fitted_by == scored_by:
        return None
    (models, how), (now, vote) = _split(fitted_by), _split(scored_by)
    if models != now:
        return f"was fitted to the rewards of another model ({models}, these are of {now})"
    return f"was fitted to rewards of aggregate {how}, and these are of {vote}"


def no_mean(pipeline: Pipeline, scored_by: str | None) -> str | None:
    """In words why the members' disagreement should not be taken off these rewards; None when it may be."""
    step = next((step.name for step in pipeline.steps if "disagreement" in step.needs), None)
    if step is None or scored_by is None:
        return None
    vote = scored_by.partition(" ")[2]
    if vote == "uncertainty":
        return f"{step}: the vote (uncertainty) has it in already, so the disagreement is subtracted twice; use mean"
    return None if vote else f"{step}: these are rewards of the main head, not the members' mean: --aggregate mean"


def warn_of_mismatch(pipeline: Pipeline | None, scored_by: str, who: str = "shaping") -> None:
    """Say on the log that a pipeline is applied to other rewards than it was fitted to, or is meant for."""
    fitted = pipeline and pipeline.fitted_on
    if fitted and (problem := mismatch(fitted.scored_by, scored_by)):
        logger.warning("%s: it %s, whose mean and unit differ; fit it to these: rewardsmith shape", who, problem)
    if pipeline and (problem := no_mean(pipeline, scored_by)):
        logger.warning("%s", problem)


def _split(scored_by: str) -> tuple[str, str]:
    models, _, how = scored_by.partition(" ")
    return models, how or "auto (the main head)"
