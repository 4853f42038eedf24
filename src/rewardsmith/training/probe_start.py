"""A good start: the head fitted exactly on the frozen features before fine-tuning begins.

A random head's first steps pull the features about for nothing. Linear probing first, then fine-tuning, keeps them
(Kumar et al. 2022, arXiv 2202.10054).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import tqdm

from rewardsmith.encoding.tree import Tree
from rewardsmith.errors import UsageError
from rewardsmith.model.bases import cache_dir
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import attribute_fit, bradley_terry
from rewardsmith.training.attribute_fit import AttributeFit
from rewardsmith.training.bradley_terry import HeadFit
from rewardsmith.training.collator import labels, tree
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.cross_validation import choose_ridge
from rewardsmith.training.features import Report, extract
from rewardsmith.training.head import cache_name
from rewardsmith.training.pairs import Pairs

logger = logging.getLogger("rewardsmith")


def start_head(source: RewardModel, rows: Any, args: RewardConfig, report: Report | None) -> HeadFit | AttributeFit:
    """Fit the network's head on its frozen features: of pairs, or of ratings for ``regression``."""
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        raise UsageError("head_init 'probe' reads all the data before the first step: it cannot be a stream")
    hidden = report is not None or args.disable_tqdm or not args.should_log
    with tqdm(desc="features", unit=" tokens", disable=hidden) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if args.loss == "regression":
            return _start_regression(source, rows.to_list(), args, report or show)
        fit = probe_start(source, rows.to_list(), args, report or show)
    install(source.backbone.head, fit)
    logger.info("the head starts at the optimum on frozen features: loss %.4f, ridge %.3g", fit.loss, fit.ridge)
    return fit


def _start_regression(
    source: RewardModel, rows: Sequence[Mapping[str, Any]], args: RewardConfig, report: Report
) -> AttributeFit:
    head, found = source.backbone.head, labels(rows)
    scores = found["scores"].reshape(-1, head.out_features).double().numpy()
    features, _ = frozen_features(source, rows, args, report)
    fit = attribute_fit.fit_attributes(features, scores, found["comparison"].numpy(), intercept=head.bias is not None)
    attribute_fit.install(head, fit)
    ridges = ", ".join(f"{ridge:.3g}" for ridge in fit.ridge)
    logger.info("the head starts at least squares on frozen features: ridges %s", ridges)
    return fit


def probe_start(
    model: RewardModel, rows: Sequence[Mapping[str, Any]], args: RewardConfig, report: Report | None = None
) -> HeadFit:
    """The exact Bradley-Terry head on the frozen features of token rows, its ridge chosen by cross-validation.

    Args:
        model, rows, args, report: see :func:`frozen_features`.
    """
    features, trees = frozen_features(model, rows, args, report)
    pairs = pairs_of_rows(rows, trees)
    return bradley_terry.fit(features, pairs, choose_ridge(features, pairs).ridge)


def frozen_features(
    model: RewardModel, rows: Sequence[Mapping[str, Any]], args: RewardConfig, report: Report | None = None
) -> tuple[np.ndarray, list[Tree]]:
    """What the head reads of every response, [R, d], and the trees they stand in.

    Features come from, and go to, the user's cache: ``train --method head`` on the same data in the same precision
    shares them. Of several processes each computes its part, then all read those of the others from the cache; where
    machines have no cache in common, each of them computes what it lacks.

    Args:
        model: the untrained network as a reward model.
        rows: the training data.
        args: where features are computed, and in which precision: as training will read them.
        report: called with tokens done and tokens in all, of this process.
    """
    trees, layers = [tree(row) for row in rows], [model.backbone.layers]
    folder = cache_dir() / "features" / _cache_name(model, args)
    with _as_in_training(model, args):
        if args.world_size > 1:
            extract(model, trees[args.process_index :: args.world_size], folder, layers, report=report)
            assert args.distributed_state is not None
            args.distributed_state.wait_for_everyone()
        cache, keys = extract(model, trees, folder, layers, report=report)
    return cache.get(keys, layers[0]), trees


@contextlib.contextmanager
def _as_in_training(model: RewardModel, args: RewardConfig) -> Iterator[None]:
    """The network where it will train, in the precision it will be read in; afterwards where it was."""
    network, dtype = model.backbone.network, _autocast_dtype(model, args)
    training, before = network.training, model.backbone.device
    moves = before != args.device and getattr(network, "hf_quantizer", None) is None  # which is where it will train
    network.eval()
    if moves:
        network.to(args.device)
    try:
        with torch.autocast(args.device.type, dtype=dtype, enabled=dtype is not None):
            yield
    finally:
        if moves:
            network.to(before)
        network.train(training)


def _autocast_dtype(model: RewardModel, args: RewardConfig) -> torch.dtype | None:
    """None where weights are in half precision themselves: ``train --method head`` then has the same features."""
    if model.backbone.dtype != torch.float32:
        return None
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


def _cache_name(model: RewardModel, args: RewardConfig) -> str:
    dtype = _autocast_dtype(model, args)
    return cache_name(model) + (f"-{dtype_name(dtype)}" if dtype else "")


def pairs_of_rows(rows: Sequence[Mapping[str, Any]], trees: Sequence[Any]) -> Pairs:
    """All pairs, grouped by prompt (the tokens that the responses share), so that no fold sees a held-out prompt."""
    found = labels(rows)
    prompts: dict[tuple[int, ...], int] = {}
    groups = np.array([prompts.setdefault(one.prefix, len(prompts)) for one in trees])
    first = found["first"].numpy()
    options = {name: found[name].numpy() for name in ("probability", "margin", "weight") if name in found}
    return Pairs.of(first, found["second"].numpy(), group=groups[found["comparison"].numpy()[first]], **options)


@torch.no_grad()
def install(head: torch.nn.Linear, fit: HeadFit) -> None:
    """Put a fitted head's weight into ``head``."""
    head.weight.copy_(torch.tensor(fit.weight, dtype=head.weight.dtype, device=head.weight.device)[None])
    if head.bias is not None:
        head.bias.zero_()
