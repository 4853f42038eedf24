"""A good start: the head fitted exactly on the frozen features before fine-tuning begins.

A random head's first steps pull the features about for nothing. Linear probing first, then fine-tuning, keeps them
(Kumar et al. 2022, arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rewardsmith.model.bases import cache_dir
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import bradley_terry
from rewardsmith.training.bradley_terry import HeadFit
from rewardsmith.training.collator import labels, tree
from rewardsmith.training.cross_validation import choose_ridge
from rewardsmith.training.features import Report, extract
from rewardsmith.training.head import cache_name
from rewardsmith.training.pairs import Pairs


def probe_start(model: RewardModel, rows: Sequence[Mapping[str, Any]], report: Report | None = None) -> HeadFit:
    """The exact Bradley-Terry head on the frozen features of token rows, its ridge chosen by cross-validation.

    Args:
        model: the untrained network as a reward model.
        rows: the training data.
        report: called with tokens done and tokens in all.

    Features come from, and go to, the user's cache: ``train --method head`` on the same data shares them.
    """
    trees = [tree(row) for row in rows]
    folder = cache_dir() / "features" / cache_name(model)
    network = model.backbone.network
    training = network.training
    network.eval()
    cache, keys = extract(model, trees, folder, [model.backbone.layers], report=report)
    network.train(training)
    features = cache.get(keys, model.backbone.layers)
    pairs = _pairs(rows, trees)
    return bradley_terry.fit(features, pairs, choose_ridge(features, pairs).ridge)


def _pairs(rows: Sequence[Mapping[str, Any]], trees: Sequence[Any]) -> Pairs:
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
