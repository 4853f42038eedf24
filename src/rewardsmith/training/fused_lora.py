"""Plain LoRA layers in fewer passes over memory.

PEFT computes ``base(x) + B(A(x)) * s`` as five operations, and autograd keeps and adds what each of them left. With
small adapters on long rows that is memory traffic, not arithmetic. Here it is one function whose backward is written
out: the scaled product is accumulated into the base's output, and the gradients into one another.

    y = x W' + b + s (x A') B'            dx = dy W + s (dy B) A      dA = s (dy B)' x      dB = s dy' (x A')
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Fused(torch.autograd.Function):
    """x [..., in], W [out, in] frozen, b [out] or None frozen, A [r, in], B [out, r], s -> [..., out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        y = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        y.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, weight, a, b = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        d_low = (dy @ b).mul_(ctx.scale)
        d_a = d_low.t() @ flat
        d_b = (dy.t() @ low).mul_(ctx.scale)
        d_x = (dy @ weight).addmm_(d_low, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return d_x, None, None, d_a, d_b, None


class FusedLoraLinear(LoraLinear):
    """PEFT's LoRA layer with the fused computation wherever it applies, and PEFT's own wherever not."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] -> [..., out]."""
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        name = self.active_adapters[0]
        if name not in self.lora_A.keys() or name in self.lora_variant:  # noqa: SIM118  (a ModuleDict)
            return super().forward(x)
        dropout = self.lora_dropout[name]
        if self.training and isinstance(dropout, nn.Dropout) and dropout.p > 0:
            return super().forward(x)
        parts = (x, self.base_layer.weight, self.base_layer.bias, self.lora_A[name].weight, self.lora_B[name].weight)
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            parts = tuple(None if part is None else part.to(kind) for part in parts)
        elif len({part.dtype for part in parts if part is not None}) > 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return _Fused.apply(*parts, self.scaling[name])  # type: ignore[return-value]


def fuse(model: nn.Module) -> int:
    """Let every plain LoRA layer of ``model`` compute fused; the number of layers that do.

    Only the class of the layer changes, and with it ``forward``: parameters, names and checkpoints stay PEFT's. Layers
    over quantised or trained base weights, DoRA and other variants are left alone.
    """
    count = 0
    for module in model.modules():
        if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
            continue
        base = module.base_layer
        trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        biased = any(layer.bias is not None for layer in (*module.lora_A.values(), *module.lora_B.values()))
        if not trained and not biased:
            module.__class__ = FusedLoraLinear
            count += 1
    return count
