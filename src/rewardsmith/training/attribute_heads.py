"""One head per attribute while a network is trained; one output again, the weighted sum of them, when it is done."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewardsmith.errors import UsageError
from rewardsmith.model.attributes import AttributeHeads, set_outputs
from rewardsmith.model.backbone import find_head, head_name
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import bradley_terry
from rewardsmith.training.assemble import Assembled
from rewardsmith.training.attributes import given_mix
from rewardsmith.training.collator import tree
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.probe_start import pairs_of_rows

logger = logging.getLogger("rewardsmith")

RIDGE = 1.0  # about one pair's worth of doubt in each weight
_READ = 4000  # comparisons that weights are learnt from; a handful of numbers needs no more


def widen(found: Assembled, names: list[str]) -> None:
    """Give a network one output per attribute, drawn as transformers draws a new head, in place.

    Raises:
        UsageError: it has adapters already, which hold a copy of its head.
    """
    if found.model is not found.network:
        raise UsageError("attributes need a model without adapters, for its head changes; give peft_config instead")
    if not found.fresh:
        logger.warning("the reward head of %s gives way to one head for each attribute", found.name)
    network = found.network
    spread = getattr(network.config.get_text_config(), "initializer_range", 0.02)
    set_outputs(network, spread * torch.randn(len(names), find_head(network).in_features), None, names)


def narrow(network: Any, config: RewardConfig) -> AttributeHeads:
    """Take the heads out of a trained network, which has one output afterwards: their weighted sum.

    The weights are the given ones, or 1 / A each.
    """
    head = find_head(network)
    names, mix = tuple(config.attributes or ()), given_mix(config)
    mix = torch.full((len(names),), 1 / len(names)) if mix is None else mix
    bias = None if head.bias is None else head.bias.detach().float().clone()
    heads = AttributeHeads(names, head.weight.detach().float().clone(), mix.to(head.weight.device), bias)
    set_outputs(network, *heads.collapsed(), ["reward"])
    return heads


def with_heads(model: RewardModel, heads: AttributeHeads) -> RewardModel:
    """The model with these attribute heads, its reward their weighted sum."""
    weight, bias = heads.collapsed()
    for head in (model.head, model.backbone.head):
        head.weight.data.copy_(weight)
        if head.bias is not None and bias is not None:
            head.bias.data.copy_(bias)
    return replace(model, attributes=heads)


def learn_mix(model: RewardModel, heads: AttributeHeads, rows: Any, seed: int = 0) -> AttributeHeads:
    """The heads with the weights under which the preferences of the training data are likeliest:

        w = argmin sum_i -p_i log sigma(w . D_i - m_i) - (1 - p_i) log sigma(-w . D_i - m_i) + RIDGE/2 |S w|^2

    D_i [A] is what the attributes of pair i's first response have above the second's, p_i the probability that it is
    preferred, S the attributes' standard deviations: ``bradley_terry.fit`` with attributes for features. ArmoRM (Wang
    et al. 2024) learns its mixture so too, from preferences over frozen attribute heads, but for each prompt anew.
    So rewards are log-odds.

    Args:
        model: the trained network; only its backbone is read.
        heads: with any weights.
        rows: the training data, a ``Dataset`` of token rows; of many, a sample is read.
        seed: of the sample.

    Raises:
        DataError: fewer than two pairs, or all of them are ties.
    """
    rows = rows if len(rows) <= _READ else rows.shuffle(seed=seed).select(range(_READ))
    logger.info("reading %d training comparisons to learn the weights of the attributes", len(rows))
    listed = rows.to_list()
    trees = [tree(row) for row in listed]
    rewards = np.zeros((sum(len(one.branches) for one in trees), len(heads.names)))
    heads = heads.to(model.backbone.device)
    with torch.inference_mode(), torch.autocast(model.backbone.device.type, enabled=False):
        for places, features in model.read(trees):
            rewards[places] = heads.rewards(features[0]).double().cpu().numpy()
    fit = bradley_terry.fit(rewards, pairs_of_rows(listed, trees), RIDGE)
    return replace(heads, mix=torch.from_numpy(fit.weight).float().to(heads.mix.device))


def into_adapter(folder: Path, model: RewardModel) -> None:
    """Make an adapter that PEFT has saved load as ``model``: with one output, and the attribute heads beside it."""
    from safetensors.torch import load_file, save_file

    assert model.attributes is not None
    file, name = folder / "adapter_model.safetensors", head_name(model.backbone.network)
    tensors = load_file(file)
    for key in tensors:
        if key.endswith(f".{name}.weight"):
            tensors[key] = model.head.weight.detach().cpu().contiguous()
        elif key.endswith(f".{name}.bias") and model.head.bias is not None:
            tensors[key] = model.head.bias.detach().cpu().contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    model.attributes.write(folder)
