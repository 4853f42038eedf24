"""Which attributes a regression trains, and with which weights they make the one reward: the settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.training.config import RewardConfig

LEARNED = "learned"


def names_of(given: Any) -> list[str] | None:
    """Names as a list, as JSON, or as text with commas; None when there are none to train.

    Raises:
        UsageError: anything else, an empty name, or one that is there twice.
    """
    if given is None:
        return None
    try:
        found = given
        if isinstance(given, str):
            found = json.loads(given) if given.strip().startswith("[") else [part.strip() for part in given.split(",")]
    except ValueError as error:
        raise UsageError(
            f"attributes {given!r}: not JSON; use names with commas, like helpfulness,verbosity"
        ) from error
    if not isinstance(found, (list, tuple)) or not found or not all(isinstance(one, str) and one for one in found):
        raise UsageError(f"attributes {given!r}: must be names, like [helpfulness, verbosity]")
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"attributes: {twice!r} is there twice; each gets one head")
    return list(found)


def check(config: RewardConfig) -> None:
    """Refuse settings of attributes that cannot work.

    Raises:
        UsageError: naming the setting, the rule and the remedy.
    """
    names, weights = config.attributes, config.attribute_weights
    if names is None:
        if weights is not None:
            raise UsageError("attribute_weights: there are no attributes to weigh; set attributes to their names")
        return
    if config.loss != "regression":
        raise UsageError(f"attributes are learnt from ratings by loss 'regression', not {config.loss!r}; set loss")
    if config.center_rewards_coefficient is not None:
        raise UsageError("center_rewards_coefficient centres one reward, not several attributes; leave it out")
    of_losses = config.loss_options().get("attribute_weights")
    if isinstance(of_losses, (list, tuple)) and len(of_losses) != len(names):
        raise UsageError(f"loss_kwargs attribute_weights: {len(of_losses)} numbers for {len(names)} attributes")
    if isinstance(weights, Mapping):
        _check_weights(weights, names)
    elif weights not in (None, LEARNED):
        raise UsageError(f"attribute_weights {weights!r}: must be numbers by name, or {LEARNED!r}")


def given_mix(config: RewardConfig) -> torch.Tensor | None:
    """w [A] float32 as it was given; None when it is to be learnt, or all weigh alike."""
    if not isinstance(config.attribute_weights, Mapping):
        return None
    return torch.tensor([float(config.attribute_weights[name]) for name in config.attributes or ()])


def _check_weights(weights: Mapping[str, Any], names: Any) -> None:
    for name in weights:
        if name not in names:
            raise UsageError(f"attribute_weights: {name!r} is none of the attributes {', '.join(names)}")
    for name in names:
        value = weights.get(name)
        if name not in weights:
            raise UsageError(f"attribute_weights: no weight for {name!r}; give 0 to leave it out of the reward")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"attribute_weights {name} {value!r}: must be a finite number")
    if not any(weights.values()):
        raise UsageError("attribute_weights: all are 0, and so would be every reward")
