"""Rewards with gradients: the network's own ``forward``, taught to read packed trees.

transformers' trainer wraps the network (DDP, FSDP, DeepSpeed, PEFT, autocast, compile), and every wrapper acts in the
call of the whole network. So the packed way in is part of that call: ``network(packed=batch)``. Any other call is the
network's own, unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.modeling_outputs import SequenceClassifierOutput

from rewardsmith.encoding.pack import Batch
from rewardsmith.model.backbone import Backbone, head_name


def teach(backbone: Backbone) -> None:
    """Let ``backbone.network`` take ``packed``. Do it before PEFT or anything else wraps the network."""
    network = backbone.network
    if "_own_forward" in network.__dict__:
        forget(network)
    network._reader, network._head_name = backbone, head_name(network)
    network._own_forward = network.forward
    # A bound method, not a closure: a deep copy of the network then reads with the copy.
    network.forward = MethodType(_forward, network)


def forget(network: Any) -> None:
    """Undo :func:`teach`."""
    network.forward = network._own_forward
    if network.forward.__func__ is type(network).forward:
        del network.__dict__["forward"]
    for name in ("_reader", "_head_name", "_own_forward"):
        del network.__dict__[name]


def _forward(self: Any, *args: Any, packed: Batch | None = None, with_states: bool = False, **kwargs: Any) -> Any:
    if packed is None:
        with _float32_inside(self.get_submodule(self._head_name)):
            return self._own_forward(*args, **kwargs)
    return _rewards(self, packed, with_states)


def _float32(head: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The head in float32, also where its weights are not: under FSDP's mixed precision, or loaded so."""
    weights = dict(head.named_parameters())
    if all(one.dtype == torch.float32 for one in weights.values()):
        return head(inputs)
    return torch.func.functional_call(head, {name: one.float() for name, one in weights.items()}, (inputs,))


@contextlib.contextmanager
def _float32_inside(head: Any) -> Iterator[None]:
    """The same for a head that the network calls itself, which would have autocast round the rewards to bfloat16."""

    def exact(_module: Any, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias.float()
        with torch.autocast(inputs[0].device.type, enabled=False):
            return linear(inputs[0].float(), head.weight.float(), bias)

    # A float32 head refuses what a bfloat16 body gives.
    handles = [
        head.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to(head.weight.dtype),)),
        head.register_forward_hook(exact),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rewards(network: Any, packed: Batch, with_states: bool) -> SequenceClassifierOutput:
    """[R, A] rewards in the order of ``packed.owner``; with the last hidden states of all positions if asked for.

    The head computes in float32 whatever the backbone's precision: close scores must not tie (trap 9).
    """
    reader: Backbone = network._reader
    head = network.get_submodule(network._head_name)
    if reader.pooling == "model":
        with _float32_inside(head):
            logits = network._own_forward(**reader.plain_inputs(packed)).logits
        return SequenceClassifierOutput(logits=logits[packed.last // packed.input_ids.shape[1]])
    states = reader.states(packed).last_hidden_state
    pooled = reader.pool(states, packed)
    with torch.autocast(pooled.device.type, enabled=False):
        rewards = _float32(head, pooled)
    return SequenceClassifierOutput(logits=rewards, hidden_states=(states,) if with_states else None)
