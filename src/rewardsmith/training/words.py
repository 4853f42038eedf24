"""The language-model loss of hidden states, a chunk of tokens at a time: all their logits are too large to keep."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rewardsmith.training import losses

TOKENS = 1024  # of a chunk; [TOKENS, V] float32 for V of 150,000 are 0.6 GB


def language_loss(states: Tensor, words: Tensor, tokens: Tensor, *, count: float) -> Tensor:
    """``losses.language_model`` of the logits states @ words.T, which are computed again for the backward pass.

    Args:
        states: [T, d], each of the position before its token.
        words: [V, d], without gradient.
        tokens: [T] int64.
        count: tokens to divide by.
    """

    def part(some: Tensor, labels: Tensor) -> Tensor:
        return losses.language_model(torch.nn.functional.linear(some.to(words.dtype), words), labels, count=count)

    chunks: Iterable[tuple[Tensor, Tensor]] = zip(states.split(TOKENS), tokens.split(TOKENS), strict=True)
    return torch.stack([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks]).sum()
