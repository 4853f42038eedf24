"""Adapters into weights: a plain network that gives the rewards of the adapted one."""

from __future__ import annotations

import copy
from typing import Any

import torch

from rewardsmith.model.quantise import dequantise, is_quantised
from rewardsmith.training.forward import forget


def plain(model: Any, network: Any) -> Any:
    """A copy of ``network`` without adapters, quantisation or our forward; ``model`` itself stays as it is.

    Args:
        model: the PEFT model around ``network``, or ``network``.
        network: the ``*ForSequenceClassification``.

    A 4-bit network's adapters were trained around its 4-bit values: those are what they are added to.
    """
    if model is network:
        copied = copy.deepcopy(network)
        return _untaught(dequantise(copied) if is_quantised(copied) else copied)
    copied = copy.deepcopy(model)
    if not is_quantised(network):
        return _untaught(copied.merge_and_unload())
    changes = _changes(copied)
    bare = dequantise(copied.unload())
    with torch.no_grad():
        for name, change in changes.items():
            weight = bare.get_submodule(name).weight
            weight.add_(change.to(weight.dtype))
    return _untaught(bare)


def _changes(model: Any) -> dict[str, torch.Tensor]:
    """What the active adapters add to the weight of each layer, by the layer's name in the bare network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, torch.Tensor] = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, BaseTunerLayer) and (change := getattr(layer, "get_delta_weight", None)):
            changes = [change(adapter) for adapter in layer.active_adapters]
            found[name] = torch.stack(changes).sum(0)
    return found


def _untaught(network: Any) -> Any:
    if "_own_forward" in network.__dict__:
        forget(network)
    return network.eval()
