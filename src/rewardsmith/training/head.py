"""Train a reward head on a frozen backbone: features once, then the exact optimum."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rewardsmith.errors import DataError, UsageError
from rewardsmith.model import posterior as posteriors
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.bases import cache_dir
from rewardsmith.model.cut import check_layer, cut
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.fingerprint import fingerprint as network_fingerprint
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.quantise import is_quantised
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import bradley_terry
from rewardsmith.training.bradley_terry import HeadFit, Ties
from rewardsmith.training.cross_validation import CrossValidation, choose_ridge
from rewardsmith.training.ensemble import fit_members
from rewardsmith.training.features import Report, extract
from rewardsmith.training.layer_choice import LayerChoice, choose_layer
from rewardsmith.training.prepare import Prepared, fingerprint, pairs_of, prepare
from rewardsmith.types import Comparison


@dataclass(frozen=True)
class HeadConfig:
    """How to train a head.

    Args:
        ridge: strength of the Gaussian prior, > 0; None chooses it by cross-validation over prompts.
        layer: read the hidden state after this layer, 1 to the model's depth, and cut the saved backbone there;
            ``auto`` chooses by cross-validation; None means the last.
        ties: how a pair of probability 0.5 counts: ``soft`` or ``rao-kupper``.
        folds, seed: of the cross-validation.
        max_length: tokens; longer comparisons are dropped and counted.
        normalise: record mean and standard deviation of the training rewards, so that scores come out with mean 0
            and standard deviation 1. Other tools then give the raw number unless they read them (OpenRLHF does).
        budget: positions per forward pass; None for the device's default.
        cache: folder for features; None for the user's cache.
        ensemble: K further heads on bootstraps of the prompts, K >= 2, with the same ridge; None for none.
    """

    ridge: float | None = None
    layer: int | Literal["auto"] | None = None
    ties: Ties = "soft"
    folds: int = 5
    seed: int = 0
    max_length: int = 2048
    normalise: bool = False
    budget: int | None = None
    cache: Path | None = None
    ensemble: int | None = None

    def __post_init__(self) -> None:
        if self.ensemble is not None and self.ensemble < 2:
            raise UsageError(f"ensemble {self.ensemble}: must be at least 2")


@dataclass(frozen=True)
class HeadResult:
    """A trained model and how it came about.

    Args:
        model: ready to score and to save.
        prepared: the data used, and what was dropped.
        fit: of the head.
        validation: over ridges; None when the ridge was given.
        layers: the comparison of layers, for ``layer="auto"``.
        seconds: ``features`` (0 when all were cached), ``layers``, ``fit`` and ``ensemble``.
    """

    model: RewardModel
    prepared: Prepared
    fit: HeadFit
    validation: CrossValidation | None
    layers: LayerChoice | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens that one pass over the data computes: shared prefixes once, where the backbone can share."""
        return self.model.contract.data["tokens"]


def train_head(
    model: RewardModel,
    comparisons: Iterable[Comparison],
    config: HeadConfig | None = None,
    *,
    data: dict[str, Any] | None = None,
    report: Report | None = None,
) -> HeadResult:
    """Fit the head of ``model`` to comparisons. The backbone's weights do not change; it may lose its last layers.

    Args:
        model: from :meth:`RewardModel.from_base`.
        comparisons: the training data.
        config: see :class:`HeadConfig`.
        data: facts about the data for the contract, e.g. file names.
        report: called with tokens done and tokens in all while features are computed.

    Raises:
        DataError: no comparison is left, or they say nothing.
        UsageError: a setting that cannot work.
    """
    config = config or HeadConfig()
    max_length = min(config.max_length, model.contract.max_length)
    prepared = prepare(model.template, comparisons, max_length)
    if not prepared.trees:
        reasons = ", ".join(f"{count} {reason}" for reason, count in prepared.dropped.items()) or "there were none"
        raise DataError(f"no comparison is left to train on: {reasons}")
    pairs = pairs_of(prepared.comparisons)

    depth = model.backbone.layers
    layers = _layers(model, config.layer)
    folder = (config.cache or cache_dir()) / "features" / cache_name(model)
    if len(layers) == 1 and layers[0] < depth:
        cut(model.backbone.network, layers[0])
    started = time.perf_counter()
    # The probe before fine-tuning reads in the precision of the training; here it is the model's own.
    cache, keys = as_loaded(extract)(model, prepared.trees, folder, layers, budget=config.budget, report=report)
    extracted = time.perf_counter()

    choice, validation, ridge = None, None, config.ridge
    if config.layer == "auto":
        choice = choose_layer(
            lambda layer: cache.get(keys, layer),
            pairs,
            layers=layers,
            folds=config.folds,
            seed=config.seed,
            ties=config.ties,
        )
        layers = [choice.layer]
        if choice.layer < depth:
            cut(model.backbone.network, choice.layer)
        validation = choice.cross_validation
    features = cache.get(keys, layers[0])
    loaded = time.perf_counter()
    if ridge is None:
        if validation is None:
            validation = choose_ridge(features, pairs, folds=config.folds, seed=config.seed, ties=config.ties)
        ridge = validation.ridge
    fit = bradley_terry.fit(features, pairs, ridge, ties=config.ties)
    fitted = time.perf_counter()
    ensemble = None
    if config.ensemble:
        ensemble = fit_members(features, pairs, fit, config.ensemble, seed=config.seed, ties=config.ties)
    drawn = time.perf_counter()

    _install(model, fit, ensemble)
    rewards = bradley_terry.predict(features, fit)
    changes: dict[str, Any] = {
        "max_length": max_length,
        "dtype": dtype_name(model.backbone.dtype),
        "training": _facts(config, fit, validation, choice, quantised=is_quantised(model.backbone.network)),
        "data": {
            **(data or {}),
            "comparisons": len(prepared.comparisons),
            "pairs": len(pairs),
            "dropped": prepared.dropped,
            "tokens": prepared.tokens if model.backbone.shares else prepared.tokens_unshared,
            "sha256": fingerprint(prepared.trees, pairs),
        },
        "metrics": _metrics(validation, choice),
        # An older head's scale says nothing about this one.
        **{"mean": 0.0, "std": 1.0, "temperature": 1.0},
    }
    if config.normalise:
        changes |= {"mean": float(rewards.mean()), "std": float(rewards.std()) or 1.0}
    return HeadResult(
        model.sealed(**changes),
        prepared,
        fit,
        validation,
        choice,
        {
            **{"features": extracted - started, "layers": loaded - extracted},
            **{"fit": fitted - loaded, "ensemble": drawn - fitted},
        },
    )


def _layers(model: RewardModel, layer: int | Literal["auto"] | None) -> list[int]:
    depth = model.backbone.layers
    if layer is None:
        return [depth]
    if model.backbone.pooling == "model":
        raise UsageError("--layer: an encoder's own pooling reads its last layer; leave --layer out")
    check_layer(model.backbone.network, depth if layer == "auto" else layer)
    return list(range(1, depth + 1)) if layer == "auto" else [layer]


def cache_name(model: RewardModel) -> str:
    """Model, template, tokenizer, pooling and dtype: whatever changes a feature. The text is in each row's key."""
    network, backbone = model.backbone.network, model.backbone
    config = {k: v for k, v in network.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    quantised = "nf4" if is_quantised(network) else ""
    how = (backbone.pooling, dtype_name(backbone.dtype), quantised, f"shares={backbone.shares}")
    settings = json.dumps(config, sort_keys=True, default=str)
    return network_fingerprint(network, *model.template.fingerprint().values(), *how, settings)


@torch.no_grad()
def _install(model: RewardModel, fit: HeadFit, ensemble: Ensemble | None) -> None:
    model.head.weight.copy_(torch.tensor(fit.weight, dtype=torch.float32)[None])
    if model.head.bias is not None:
        model.head.bias.zero_()  # preferences say nothing of a constant
    posterior = posteriors.from_covariance(fit.center, fit.covariance)
    model.posterior = posterior.to(model.backbone.device)
    model.ensemble = ensemble.to(model.backbone.device) if ensemble else None


def _facts(
    config: HeadConfig,
    fit: HeadFit,
    validation: CrossValidation | None,
    choice: LayerChoice | None,
    *,
    quantised: bool,
) -> dict[str, Any]:
    chosen = "given" if validation is None else f"{validation.folds}-fold cross-validation over prompts"
    return {
        "method": "head on a frozen backbone, exact Bradley-Terry optimum",
        "ridge": fit.ridge,
        "ridge chosen by": chosen,
        "layer chosen by": "cross-validation" if choice else "given" if config.layer else "default: last",
        "ties": config.ties,
        "tie threshold": fit.tie_threshold,
        "features computed in": "4-bit NF4" if quantised else "full weights",
        "seed": config.seed,
        **({"ensemble": f"{config.ensemble} heads on bootstraps of the prompts"} if config.ensemble else {}),
    }


def _metrics(validation: CrossValidation | None, choice: LayerChoice | None) -> dict[str, Any]:
    if validation is None or not validation.folds:
        return {}
    best = validation.best
    best_of = f", the best of {len(choice.layers)} layers" if choice else ""
    return {
        f"cross-validated accuracy{best_of}": validation.accuracy[best].as_dict(),
        f"cross-validated log loss{best_of}": float(np.round(validation.log_loss[best], 6)),
    }
