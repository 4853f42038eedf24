"""The fused RMS norm against transformers' own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rewardsmith.training.fused_norm import _Fused, fuse
from tests.training.conftest import assert_same_gradients, chats, gradients, trainer


def frozen(kind: Any = LlamaRMSNorm, width: int = 24) -> Any:
    torch.manual_seed(0)
    norm = kind(width)
    norm.weight.data.normal_(mean=1.0)
    return norm.requires_grad_(False)


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 5


def both_ways(norm: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and the gradient of the sum of its cubes."""
    x = x.clone().requires_grad_()
    y = norm(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def is_fused(norm: nn.Module, x: torch.Tensor) -> bool:
    return type(norm(x).grad_fn).__name__ == "_FusedBackward"


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (2, 3, 5, 24)])
def test_equals_the_norms_own_forward_and_backward(kind, shape) -> None:
    slow = frozen(kind)
    fast = copy.deepcopy(slow)
    assert fuse(fast) == 1
    x = states(*shape)
    assert is_fused(fast, x.requires_grad_())
    for expected, found in zip(both_ways(slow, x.detach()), both_ways(fast, x.detach()), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


def test_gradients_by_finite_differences() -> None:
    x, weight = states(4, 6).double().requires_grad_(), states(6).double()
    assert torch.autograd.gradcheck(lambda x: _Fused.apply(x, weight, 1e-3), (x,))


def test_where_no_gradient_is_wanted_the_score_stays_the_same_to_the_last_bit() -> None:
    slow = frozen()
    fast = copy.deepcopy(slow)
    fuse(fast)
    x = states(9, 24)
    with torch.no_grad():
        assert torch.equal(fast(x), slow(x))
    assert torch.equal(fast(x), slow(x))


def test_other_norms_keep_their_own_forward() -> None:
    gemma = frozen(GemmaRMSNorm)  # scales by 1 + w
    assert fuse(nn.ModuleList([gemma, frozen(nn.LayerNorm), LlamaRMSNorm(24), frozen().bfloat16()])) == 0


def test_a_norm_set_free_and_other_precisions_go_the_own_way() -> None:
    norm = frozen()
    fuse(norm)
    x = states(3, 24).requires_grad_()
    assert is_fused(norm, x)
    assert not is_fused(norm, x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(norm, x)
    norm.requires_grad_(True)
    norm(x).sum().backward()
    assert norm.weight.grad is not None


def test_a_copy_reads_its_own_weight() -> None:
    norm = frozen()
    fuse(norm)
    twin = copy.deepcopy(norm)
    twin.weight.data.zero_()
    assert not twin(states(2, 24).requires_grad_()).any()
    assert fuse(twin) == 0  # it is already


def test_trying_a_norm_calls_no_hook_of_others() -> None:
    norm, seen = frozen(), []
    norm.register_forward_hook(lambda *_: seen.append(1))
    assert fuse(norm) == 1 and not seen


def test_what_was_trained_has_its_own_norms_again_and_can_be_pickled(trainable, tmp_path) -> None:
    parts = {"peft_config": LoraConfig(r=4, target_modules="all-linear")}
    made = trainer(trainable["llama"], chats(4), tmp_path, parts=parts)
    network = made.reward_model().backbone.network
    assert not any("forward" in one.__dict__ for one in network.modules())
    norm = next(one for one in made.model.modules() if type(one).__name__ == "LlamaRMSNorm")
    again = pickle.loads(pickle.dumps(norm))
    again.weight.data.zero_()
    assert not again(states(2, len(again.weight)).requires_grad_()).any()  # it reads its own weight
    assert norm(states(2, len(norm.weight)).requires_grad_()).any()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_step_of_training_has_the_gradients_of_transformers_norms(trainable, tmp_path, family) -> None:
    found = []
    for fused in (True, False):
        adapters = {"peft_config": LoraConfig(r=4, target_modules="all-linear")}
        made = trainer(trainable[family], chats(4), tmp_path, fuse_adapters=fused, parts=adapters)
        norms = [one for one in made.model.modules() if type(one).__name__.endswith("RMSNorm")]
        assert norms
        assert all(("forward" in one.__dict__) == fused for one in norms)
        found.append(gradients(made))
    assert_same_gradients(*found)
