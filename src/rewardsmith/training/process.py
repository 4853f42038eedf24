"""Train a process head: features of step ends from the frozen backbone once, then the exact optimum.

Process supervision: Uesato et al. 2022 (arXiv 2211.14275), Lightman et al. 2023 (2305.20050), Wang et al. 2024
(Math-Shepherd, 2312.08935).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewardsmith.errors import DataError, UsageError
from rewardsmith.model import contract as contracts
from rewardsmith.model.adapter import is_adapter
from rewardsmith.model.backbone import Pooling
from rewardsmith.model.bases import cache_dir, resolve
from rewardsmith.model.cut import check_layer, cut
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.load import LoadOptions, has_reward_head, stored_dtype
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.quantise import is_quantised
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.thinking_scores import check_causal
from rewardsmith.training.cross_validation import CrossValidation
from rewardsmith.training.head import cache_name
from rewardsmith.training.process_features import PreparedSteps, Report, extract_steps, prepare_steps
from rewardsmith.training.process_fit import Loss, ProcessFit, fit_steps
from rewardsmith.types import Stepwise


@dataclass(frozen=True)
class ProcessConfig:
    """How to train a process head.

    Args:
        loss: ``soft``, ``binary`` or ``pairwise``; see :mod:`rewardsmith.training.process_fit`.
        ridge: strength of the Gaussian prior, > 0; None chooses it by cross-validation over prompts.
        layer: read the hidden state after this layer and cut the saved backbone there; None means the last. Only for a
            base without a reward head.
        folds, seed: of the cross-validation.
        max_length: tokens; longer responses are dropped and counted.
        budget: positions per forward pass; None for the device's default.
        cache: folder for features; None for the user's cache.
    """

    loss: Loss = "soft"
    ridge: float | None = None
    layer: int | None = None
    folds: int = 5
    seed: int = 0
    max_length: int = 2048
    budget: int | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class ProcessResult:
    """A model with a process head and how it came about.

    Args:
        model: ready to score steps and to save.
        prepared: the data used, and what was dropped.
        fit: of the head.
        validation: over ridges; None when the ridge was given.
        seconds: ``features`` (0 when all were cached) and ``fit``.
    """

    model: RewardModel
    prepared: PreparedSteps
    fit: ProcessFit
    validation: CrossValidation | None
    seconds: dict[str, float] = field(default_factory=dict)


def open_base(base: str | Path, options: LoadOptions | None = None, *, pooling: Pooling | None = None) -> RewardModel:
    """A reward model, to which a process head will be added; or a base, which will have a process head alone.

    A reward model keeps its dtype, so that its rewards stay what they are.

    Args:
        base: a folder, a Hugging Face id, or ``smollm2``.
        options: how to put it on this machine.
        pooling: what the head reads; None for the model's own, or the default of its kind.

    Raises:
        UsageError: an option that would change the rewards of a reward model.
        ModelError: no such model, or an encoder, whose tokens all see the whole response.
    """
    options, folder = options or LoadOptions(), resolve(str(base), adapters=True)
    contract = contracts.read(folder)
    if contract is None and not is_adapter(folder) and not has_reward_head(folder):
        model = RewardModel.from_base(base, options, pooling=pooling)
        check_causal(model)
        with torch.no_grad():  # no one has trained it, so it must not look as if it said something
            model.head.weight.zero_()
        model.contract = replace(model.contract, reward_head=False)
        return model
    if options.load_in_4bit:
        raise UsageError(f"--load-in-4bit: {base} is a reward model, whose rewards would change; leave it out")
    dtype = contract.dtype if contract else "auto" if is_adapter(folder) else stored_dtype(folder)
    if options.dtype not in ("auto", dtype) and dtype != "auto":
        raise UsageError(f"--dtype {options.dtype}: {base} is a reward model in {dtype}, whose rewards would change")
    model = RewardModel.load(base, replace(options, dtype=dtype if options.dtype == "auto" else options.dtype))
    check_causal(model)
    if pooling not in (None, model.contract.pooling):
        raise UsageError(f"--pooling {pooling}: {base} is a reward model that reads {model.contract.pooling}")
    return model


def train_process(
    model: RewardModel,
    rows: Iterable[Stepwise],
    config: ProcessConfig | None = None,
    *,
    data: dict[str, Any] | None = None,
    report: Report | None = None,
) -> ProcessResult:
    """Fit a process head to judged steps. The backbone's weights do not change, nor does the reward head.

    Args:
        model: from :func:`open_base`, or any causal reward model.
        rows: the training data.
        config: see :class:`ProcessConfig`.
        data: facts about the data for the contract, e.g. file names.
        report: called with tokens done and tokens in all while features are computed.

    Raises:
        DataError: no judged step is left, or they say nothing.
        UsageError: a setting that cannot work.
        ModelError: the model is an encoder.
    """
    config = config or ProcessConfig()
    check_causal(model)
    max_length = min(config.max_length, model.contract.max_length)
    prepared = prepare_steps(model, rows, max_length)
    if not prepared.asked:
        reasons = ", ".join(f"{count} {reason}" for reason, count in prepared.dropped.items()) or "there were none"
        raise DataError(f"no response is left to train on: {reasons}")
    if config.layer is not None:
        _cut(model, config.layer)
    folder = (config.cache or cache_dir()) / "features" / cache_name(model)
    started = time.perf_counter()
    features = extract_steps(model, prepared.asked, folder, budget=config.budget, report=report)
    extracted = time.perf_counter()
    options: dict[str, Any] = {"loss": config.loss, "ridge": config.ridge, "folds": config.folds, "seed": config.seed}
    fit, validation = fit_steps(features, prepared.labels, prepared.groups, **options)
    fitted = time.perf_counter()
    head = ProcessHead(
        torch.tensor(fit.weight[None], dtype=torch.float32), torch.tensor([fit.bias], dtype=torch.float32)
    )
    trained = replace(model, process=head.to(model.backbone.device))
    changes: dict[str, Any] = {"process": {**_facts(config, prepared, fit, validation, model), **(data or {})}}
    if not model.contract.reward_head:
        changes |= {"max_length": max_length, "dtype": dtype_name(model.backbone.dtype)}
    seconds = {"features": extracted - started, "fit": fitted - extracted}
    return ProcessResult(trained.sealed(**changes), prepared, fit, validation, seconds)


def _cut(model: RewardModel, layer: int) -> None:
    if model.contract.reward_head:
        own = model.backbone.layers
        raise UsageError(f"--layer {layer}: the model's reward head reads layer {own}; leave --layer out")
    check_layer(model.backbone.network, layer)
    cut(model.backbone.network, layer)


def _facts(
    config: ProcessConfig,
    prepared: PreparedSteps,
    fit: ProcessFit,
    validation: CrossValidation | None,
    model: RewardModel,
) -> dict[str, Any]:
    chosen = "given" if validation is None else f"{validation.folds}-fold cross-validation over prompts"
    facts: dict[str, Any] = {
        "method": "linear process head on a frozen backbone, exact optimum",
        "loss": config.loss,
        "ridge": fit.ridge,
        "ridge chosen by": chosen,
        "seed": config.seed,
        "separator": prepared.separator,
        "responses": len(prepared.asked),
        "prompts": len(np.unique(prepared.groups)),
        "steps": len(prepared.labels),
        "steps that are right": int((prepared.labels > 0.5).sum()),
        "dropped": prepared.dropped,
        "tokens": prepared.tokens,
        "features computed in": "4-bit NF4" if is_quantised(model.backbone.network) else "full weights",
        "sha256": prepared.sha256(),
    }
    if validation is not None and validation.folds:
        kind = "pairs" if config.loss == "pairwise" else "steps"
        facts[f"cross-validated accuracy, {kind}"] = validation.accuracy[validation.best].as_dict()
        facts["cross-validated log loss"] = float(np.round(validation.log_loss[validation.best], 6))
    return facts
