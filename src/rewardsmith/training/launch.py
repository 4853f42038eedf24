"""How the processes of a run were started, and what of it the trainer must refuse or set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from rewardsmith.errors import UsageError
from rewardsmith.training.config import RewardConfig

if TYPE_CHECKING:
    from rewardsmith.training.trainer import RewardTrainer


def prepare_launch(trainer: RewardTrainer) -> None:
    """One GPU a process; rewards in float32 under FSDP.

    Raises:
        UsageError: several GPUs for one process, or a setting that sharding does not go with.
    """
    if trainer.args.n_gpu > 1:
        raise UsageError(
            "several GPUs are visible to one process: start it with accelerate launch or torchrun, "
            "or make one visible with CUDA_VISIBLE_DEVICES"
        )
    if trainer.args.tokens_per_forward and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise UsageError("tokens_per_forward does not go with FSDP or DeepSpeed: take a smaller batch instead")
    if trainer.is_fsdp_enabled:
        _keep_float32(trainer.accelerator.state.fsdp_plugin)


def _keep_float32(plugin: Any) -> None:
    """Let rewards leave FSDP as they were computed: it would round them to bfloat16, where close ones tie (trap 9)."""
    policy = plugin.mixed_precision_policy
    if getattr(policy, "output_dtype", None) is not None:
        plugin.mixed_precision_policy = replace(policy, output_dtype=None)


def offloading(args: RewardConfig, model: Any) -> Callable[[], Any]:
    """A context for a forward and backward pass; activations wait in CPU memory where the settings say so.

    The backward pass also needs weights. Those stay where they are: torch's ``save_on_cpu`` would copy them as well.
    """
    if not args.activation_offloading:
        return contextlib.nullcontext
    pin = args.device.type == "cuda"

    def context() -> Any:
        local = (getattr(one, "_local_tensor", one) for one in (*model.parameters(), *model.buffers()))
        weights = {one.untyped_storage().data_ptr() for one in local} - {0}

        def pack(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.device, torch.Tensor]:
            if tensor.untyped_storage().data_ptr() in weights:
                return tensor
            return tensor.device, to_cpu(tensor, pin)

        def unpack(packed: Any) -> torch.Tensor:
            return packed if isinstance(packed, torch.Tensor) else packed[1].to(packed[0], non_blocking=pin)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

    return context


def to_cpu(tensor: torch.Tensor, pin: bool) -> torch.Tensor:
    """A tensor in CPU memory, pinned for fast copies if asked for."""
    if not pin:
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
