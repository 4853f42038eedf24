"""The loss of a whole ranking of K responses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewardsmith.errors import DataError, UsageError
from rewardsmith.training.losses.scored import Scored, rewards_of


def plackett_luce(scored: Scored) -> Tensor:
    """-log of the product over responses i of exp(r_i) / sum of exp(r_j) over the j not ranked better than i.

    Plackett (1975), Luce (1959): the best is chosen of all, the next of the rest, and so on, K - 1 choices. For whole
    rankings. Weighted with the sum of the weights of a comparison's pairs (1 without weights), and divided by N.
    Ties are averaged over their orders, each of them chosen of all that are tied (Breslow 1974), and the choice of the
    last, of one, is free; so K = 2 is ``bradley_terry``, ties included. It learns from ``rank``, not from margins.

    Args:
        scored: rewards [R]. Comparisons must be contiguous, or UsageError; a probability must be the 1, 0.5 or 0 that
            the ranks say, or DataError. Needs memory for N K^2 numbers.
    """
    rewards, rank = rewards_of(scored), scored.rank
    _require_rankings(scored)
    size = torch.bincount(scored.comparison, minlength=scored.count)
    place = torch.arange(len(rewards), device=rank.device) - (size.cumsum(0) - size)[scored.comparison]
    cell, shape = (scored.comparison, place), (scored.count, int(size.max()))

    def table(values: Tensor) -> Tensor:
        return values.new_zeros(shape).index_put(cell, values)  # [N, K]

    rewards, rank, real = table(rewards), table(rank), table(torch.ones_like(rank)).bool()
    # [N, i, j]: j could have been chosen instead of i. Padding sees only padding, so that no row is empty.
    rivals = (rank[:, None] >= rank[:, :, None]) & (real[:, None] == real[:, :, None])
    last = ~(rivals & (rank[:, None] > rank[:, :, None])).any(-1)
    choices = torch.where(last, 1 - 1 / rivals.sum(-1, dtype=rewards.dtype), 1.0) * real
    total = rewards[:, None].expand_as(rivals).masked_fill(~rivals, -math.inf).logsumexp(-1)
    losses = (choices * (total - rewards)).sum(-1)
    if scored.weight is not None:
        weight = scored.weight.to(losses.dtype)
        losses = losses * torch.zeros_like(losses).index_add(0, scored.comparison[scored.first], weight)
    return losses.sum() / scored.count


def _require_rankings(scored: Scored) -> None:
    """Contiguous comparisons, and no label that a ranking cannot express."""
    comparison = scored.comparison
    if len(comparison) and bool((comparison.diff() < 0).any() | (comparison[-1] >= scored.count)):
        raise UsageError(f"comparison must not decrease, and must stay below count = {scored.count}")
    said = 0.5 + (scored.rank[scored.second] - scored.rank[scored.first]).sign() / 2
    if scored.probability is not None and bool((scored.probability != said).any()):
        at = int((scored.probability != said).nonzero()[0])
        rule = f"the ranks of pair {at} say {said[at].item():g}, its probability {scored.probability[at].item():g}"
        raise DataError(f"{rule}; plackett-luce learns from ranks: use bradley-terry for soft labels")
