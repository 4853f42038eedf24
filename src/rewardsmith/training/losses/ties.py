"""Losses of pairs that know of ties: a tie has a probability of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewardsmith.errors import UsageError
from rewardsmith.training.losses.pairwise import per_pair, reduce
from rewardsmith.training.losses.scored import Scored, difference_of, floats, margin_of, ties_of


def rao_kupper(scored: Scored, *, threshold: float | Tensor) -> Tensor:
    """cost(D) = -log sigma(D - m - eta) of a win; -log P(tie) of a pair of probability exactly 0.5.

    Rao & Kupper (1967), eta = log theta: a tie is a difference too small to see. P(first) = sigma(D - eta), P(second) =
    sigma(-D - eta), P(tie) = (exp(2 eta) - 1) sigma(D - eta) sigma(-D - eta), which sum to one. A tie has no margin.
    As in ``likelihood.py``. For data whose annotators may answer "the same".

    Args:
        scored: rewards [R].
        threshold: eta, in units of the reward, a number or a 0-dimensional tensor; to learn it, pass softplus of a
            parameter. Finite and >= 0, or UsageError; at 0 this is ``bradley_terry``, and ties are a UsageError.
    """
    eta, margin, difference = _scalar("threshold", threshold, scored), margin_of(scored), difference_of(scored)
    value = eta.item()
    if not 0 <= value < math.inf:
        raise UsageError(f"threshold must be finite and >= 0, not {value}; to learn it, pass softplus of a parameter")
    losses = per_pair(scored, lambda d: -logsigmoid(d - margin - eta))
    tie = ties_of(scored)
    if value == 0 and bool(tie.any()):
        raise UsageError("threshold must be > 0 where there are ties: at 0 a tie is impossible and its loss infinite")
    if value > 0:  # the logarithm has no gradient at 0, not even under torch.where
        log_expm1 = 2 * eta + torch.log(-torch.expm1(-2 * eta))
        losses = torch.where(tie, -logsigmoid(difference - eta) - logsigmoid(-difference - eta) - log_expm1, losses)
    return reduce(scored, losses)


def davidson(scored: Scored, *, log_nu: float | Tensor) -> Tensor:
    """cost(D) = log(1 + exp(-x) + nu exp(-x/2)) of a win, x = D - m; -log P(tie) of a pair of probability exactly 0.5.

    Davidson (1970): first, second and tie are as exp(D/2) : exp(-D/2) : nu. A tie has no margin. Like
    ``rao_kupper``, for data whose annotators may answer "the same"; nu needs no bounds, and the odds of a win to a loss
    stay exp(D) whatever it is.

    Args:
        scored: rewards [R].
        log_nu: log odds of a tie to a win between equals, a finite number or 0-dimensional tensor (UsageError for other
            shapes), which can be learnt as it is. Towards -inf this is ``bradley_terry``.
    """
    log_nu, margin, difference = _scalar("log_nu", log_nu, scored), margin_of(scored), difference_of(scored)

    def win(d: Tensor) -> Tensor:
        return torch.logaddexp(-logsigmoid(d - margin), log_nu - (d - margin) / 2)

    tied = torch.logaddexp(torch.logaddexp(difference / 2, -difference / 2), log_nu) - log_nu
    return reduce(scored, torch.where(ties_of(scored), tied, per_pair(scored, win)))


def _scalar(name: str, value: float | Tensor, scored: Scored) -> Tensor:
    number = torch.as_tensor(value, dtype=floats(scored.rewards).dtype, device=scored.rewards.device)
    if number.ndim:
        raise UsageError(f"{name} must be a number or a 0-dimensional tensor, not of shape {list(number.shape)}")
    return number
