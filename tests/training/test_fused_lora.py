"""The fused LoRA layer against PEFT's own."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rewardsmith.training.fused_lora import FusedLoraLinear, _Fused, fuse


class Net(nn.Module):
    """Two linear layers, with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 20), nn.Linear(20, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapted(**options) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], **options)
    model = get_peft_model(Net(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()  # PEFT starts it at zero, which would hide the other half
    return model


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    return [output.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def test_equals_pefts_forward_and_backward() -> None:
    slow = adapted()
    fast = copy.deepcopy(slow)
    assert fuse(fast) == 2
    x = torch.randn(3, 5, 12)
    for expected, found in zip(gradients(slow, x), gradients(fast, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((7, 5), (3, 5), (3,), (2, 5), (3, 2))
    ]
    x, weight, bias, a, b = parts
    for one in (x, a, b):
        one.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a, b: _Fused.apply(x, weight, bias, a, b, 1.7), (x, a, b))


def test_equals_pefts_under_autocast() -> None:
    slow = adapted()
    fast = copy.deepcopy(slow)
    fuse(fast)
    x = torch.randn(4, 12)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = slow(x), fast(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2)


def test_dropout_dora_disabled_and_merged_adapters_stay_pefts() -> None:
    assert fuse(adapted(use_dora=True)) == 2  # swapped, but the variant takes PEFT's way
    x = torch.randn(4, 12)
    for options in ({"use_dora": True}, {"lora_dropout": 0.5}):
        slow = adapted(**options)
        fast = copy.deepcopy(slow)
        fuse(fast)
        results = []
        for model in (slow, fast):
            torch.manual_seed(3)
            results.append(model(x))
        torch.testing.assert_close(results[1], results[0])
    fast = adapted()
    fuse(fast)
    with fast.disable_adapter():
        torch.testing.assert_close(fast(x), fast.get_base_model()(x))
    before = fast(x)
    fast.merge_adapter()
    torch.testing.assert_close(fast(x), before, rtol=1e-4, atol=1e-4)


def test_only_plain_frozen_layers_are_fused() -> None:
    model = adapted()
    next(m for m in model.modules() if getattr(m, "base_layer", None)).base_layer.weight.requires_grad_()
    assert fuse(model) == 1
    assert fuse(model) == 0
    assert sum(isinstance(m, FusedLoraLinear) for m in model.modules()) == 1
    assert fuse(adapted(lora_bias=True)) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_merging_a_fused_model_gives_its_outputs(bias: bool) -> None:
    model = adapted()
    fuse(model)
    x = torch.randn(4, 12)
    expected = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), expected, rtol=1e-4, atol=1e-4)
