"""The number that a forward pass is to lower, from the rewards it gave and the labels of its pairs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rewardsmith.errors import UsageError
from rewardsmith.training import losses
from rewardsmith.training.losses import Scored

# What a comparison adds to the running metrics, in this order.
MEASURES = ("loss", "pairs", "right", "margin", "responses", "lowest", "reward", "highest", "tokens")


def scored(rewards: Tensor, labels: Mapping[str, Tensor], share: int) -> Scored:
    """Rewards [R, 1] or [R, A] with their labels.

    Raises:
        UsageError: the network gave another number of rewards than there are responses (trap 11).
    """
    count = len(labels["rank"])
    if rewards.ndim != 2 or len(rewards) != count:
        raise UsageError(
            f"the network gave rewards of shape {list(rewards.shape)} for {count} responses; wanted [R, 1]"
        )
    known = {name: labels[name] for name in ("weight", "margin", "probability") if name in labels}
    flat = rewards[:, 0] if rewards.shape[1] == 1 else rewards
    pairs = (labels["first"], labels["second"], labels["comparison"], labels["rank"])
    return Scored(flat, *pairs, count=share, **known, score=labels.get("scores"))


@dataclass(frozen=True)
class Objective:
    """A loss with its regularisers.

    Args:
        loss: a function of :class:`Scored`.
        centering: coefficient of ``losses.centering``; None for none.
    """

    loss: Callable[[Scored], Tensor]
    centering: float | None = None

    def __call__(self, rated: Scored) -> Tensor:
        """The loss of a forward pass; the passes of a batch add up to the batch's."""
        value = self.loss(rated)
        if self.centering is not None:
            value = value + self.centering * losses.centering(rated)
        return value

    @torch.no_grad()
    def each(self, rated: Scored) -> Tensor:
        """The loss of every comparison of a forward pass alone, [n], so that any of them may be left out of a mean."""
        return torch.stack([self(part) for part in _alone(rated, int(rated.comparison[-1]) + 1)])


def _alone(rated: Scored, n: int) -> Iterator[Scored]:
    """Every comparison as if there were no other."""
    of_pair = rated.comparison[rated.first]
    for number in range(n):
        here, pairs = (rated.comparison == number).nonzero()[:, 0], of_pair == number
        columns = {name: getattr(rated, name) for name in ("weight", "margin", "probability")}
        yield Scored(
            rated.rewards[here],
            rated.first[pairs] - here[0],
            rated.second[pairs] - here[0],
            torch.zeros_like(here),
            rated.rank[here],
            count=1,
            score=None if rated.score is None else rated.score[here],
            **{name: None if column is None else column[pairs] for name, column in columns.items()},
        )


def combined(rewards: Tensor, mix: Tensor | None) -> Tensor:
    """[R] or [R, A] -> [R]: of several attributes their sum weighted by ``mix`` [A], their mean without."""
    table = rewards.reshape(len(rewards), -1)
    return table.mean(1) if mix is None else table @ mix.to(table)


@torch.no_grad()
def measure(rated: Scored, labels: Mapping[str, Tensor], each: Tensor | None, mix: Tensor | None = None) -> Tensor:
    """What each comparison says, [n, len(MEASURES)] float64, for n comparisons of the pass.

    ``each`` is :meth:`Objective.each`; None leaves the loss out; ``mix`` is for :func:`combined`. Pairs that people
    call a tie count for no accuracy; a tie of the rewards counts half.
    """
    n = int(labels["comparison"][-1]) + 1
    table = torch.zeros(n, len(MEASURES), dtype=torch.float64, device=rated.rewards.device)
    column = {name: table[:, place] for place, name in enumerate(MEASURES)}
    rewards = combined(rated.rewards.detach().double(), mix)
    of_pair = labels["comparison"][labels["first"]]
    known = ~torch.isnan(right := losses.accuracy(replace(rated, rewards=rewards)).double())
    if each is not None:
        column["loss"] += each.double()
    column["pairs"].index_add_(0, of_pair, known.double())
    column["right"].index_add_(0, of_pair, right.nan_to_num(0.0))
    difference = rewards[rated.first] - rewards[rated.second]
    share = 1.0 / torch.bincount(of_pair, minlength=n)[of_pair]  # a comparison's margin is the mean over its pairs
    column["margin"].index_add_(0, of_pair, difference * share)
    column["responses"].index_add_(0, labels["comparison"], torch.ones_like(rewards))
    column["reward"].index_add_(0, labels["comparison"], rewards)
    column["lowest"].scatter_reduce_(0, labels["comparison"], rewards, "amin", include_self=False)
    column["highest"].scatter_reduce_(0, labels["comparison"], rewards, "amax", include_self=False)
    column["tokens"].index_add_(0, labels["comparison"], labels["tokens"].double())
    return table


def build(name: str, options: Mapping[str, Any], centering: float | None) -> Objective:
    """The objective a configuration asks for.

    Raises:
        UsageError: the loss does not take these options.
    """
    function = losses.LOSSES[name]
    parameters = {key: value for key, value in inspect.signature(function).parameters.items() if key != "scored"}
    takes = {key: value.default for key, value in parameters.items()}
    kinds = {key: str(value.annotation) for key, value in parameters.items()}
    unknown = sorted(set(options) - set(takes))
    if unknown:
        raise UsageError(f"loss {name!r} has no option {unknown[0]!r}; it has {', '.join(takes) or 'none'}")
    missing = [key for key, default in takes.items() if default is inspect.Parameter.empty and key not in options]
    if missing:
        raise UsageError(f"loss {name!r} needs loss_kwargs with {missing[0]!r}")
    for key, value in options.items():
        if "Sequence" not in kinds[key] and (isinstance(value, bool) or not isinstance(value, int | float | Tensor)):
            raise UsageError(f"loss {name!r}: {key} {value!r}: must be a number")
    return Objective(functools.partial(function, **options), centering)
