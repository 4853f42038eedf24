"""Adapters into weights: a plain network that gives the rewards of the adapted one."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from rewardsmith.errors import UsageError
from rewardsmith.model.adapter import merge
from rewardsmith.model.quantise import dequantise, is_quantised
from rewardsmith.training import fused_norm
from rewardsmith.training.forward import forget

logger = logging.getLogger("rewardsmith")


def plain(model: Any, network: Any) -> Any:
    """A copy of ``network`` without adapters, quantisation or our forward; ``model`` itself stays as it is.

    Args:
        model: the PEFT model around ``network``, or ``network``.
        network: the ``*ForSequenceClassification``.
    """
    if model is network:
        copied = copy.deepcopy(network)
        return _untaught(dequantise(copied) if is_quantised(copied) else copied)
    return _untaught(merge(copy.deepcopy(model)))


@contextlib.contextmanager
def away(model: Any) -> Iterator[None]:
    """A model in CPU memory while it is copied: an accelerator that trained it may have no room for a second one."""
    device = next(model.parameters()).device
    if device.type == "cpu":
        yield
        return
    model.to("cpu")
    try:
        yield
    finally:
        model.to(device)


def placed(network: Any, device: torch.device) -> Any:
    """The network on a device, or on the CPU where it does not fit; returns it."""
    try:
        return network.to(device)
    except torch.OutOfMemoryError:
        logger.warning("the merged model does not fit %s beside the trained one; it stays in CPU memory", device)
        return network.to("cpu")


def is_sharded(model: Any) -> bool:
    """True when FSDP2 or ZeRO-3 keep a part of every weight on each process: no copy is whole, it must be gathered."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_shape") for parameter in model.parameters())


def whole(model: Any, network: Any, state: Mapping[str, torch.Tensor]) -> Any:
    """What :func:`plain` gives, of a sharded model whose gathered weights are ``state``.

    Args:
        model, network: as for :func:`plain`.
        state: the state dict of ``model``, whole, on the CPU. Its tensors become the network's own.

    Raises:
        UsageError: the weights are quantised.
    """
    from accelerate import init_empty_weights

    if is_quantised(network):
        raise UsageError("sharded 4-bit weights cannot be merged: save the adapter with save_model and merge it alone")
    with init_empty_weights(include_buffers=False):  # buffers are not all in the state
        made: Any = _unsharded(type(network))(copy.deepcopy(network.config))
        if model is not network:
            from peft import get_peft_model

            made = get_peft_model(made, copy.deepcopy(model.peft_config[model.active_adapter]))
    made.load_state_dict(state, assign=True)
    return (made.merge_and_unload() if model is not network else made).eval()


def _unsharded(kind: type) -> type:
    """The class as it was before FSDP2 put its own in front."""
    from torch.distributed.fsdp import FSDPModule

    return next(one for one in kind.__mro__ if not issubclass(one, FSDPModule))


def _untaught(network: Any) -> Any:
    if "_own_forward" in network.__dict__:
        forget(network)
    fused_norm.restore(network)
    return network.eval()
