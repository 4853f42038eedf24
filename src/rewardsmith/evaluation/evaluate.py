"""A reward model against held-out preferences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.encoding.tree import build
from rewardsmith.errors import DataError
from rewardsmith.evaluation.best_of import TopOne, top1_accuracy
from rewardsmith.evaluation.metrics import PairMetrics, PairOutcomes, pair_metrics
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.prepare import pairs_of, render_all
from rewardsmith.types import Comparison, Text


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Args:
        metrics: on pairs; lists of K responses count as all their pairs.
        top1: best-of-K on the lists of more than two responses; None when there are none.
        comparisons: rows evaluated.
        truncated: responses that lost their oldest turns to fit the model's maximum length.
    """

    metrics: PairMetrics
    top1: TopOne | None
    comparisons: int
    truncated: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the estimate of the accuracy is under ``accuracy``."""
        return {
            **self.metrics.as_dict(),
            "top1": self.top1.as_dict() if self.top1 else None,
            "comparisons": self.comparisons,
            "truncated": self.truncated,
        }


@as_loaded
def evaluate_model(
    model: RewardModel,
    comparisons: Sequence[Comparison],
    *,
    budget: int | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every response, as it would be scored in use, and compare with what people preferred.

    Args:
        model: a trained reward model.
        comparisons: held-out data.
        budget: positions per forward pass.
        seed: of the bootstrap, where one is needed.
        report: called with tokens done and tokens in all.

    Raises:
        DataError: there is no comparison.
    """
    if not comparisons:
        raise DataError("there is no comparison to evaluate on")
    rendered = [render_all(model.template, item, model.contract.max_length) for item in comparisons]
    trees = [build(items) for items in rendered]
    rewards = np.empty(sum(map(len, rendered)))
    done, total = 0, sum(map(len, trees))

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if report:
            report(min(done, total), total)

    for places, features in model.read(trees, budget=budget, progress=advance):
        rewards[places] = model.rewards(features[0]).cpu().numpy()
    return Evaluation(
        metrics=pair_metrics(_outcomes(comparisons, rewards), temperature=_temperature(model), seed=seed),
        top1=_top1(comparisons, rewards),
        comparisons=len(comparisons),
        truncated=sum(item.truncated for items in rendered for item in items),
    )


def _temperature(model: RewardModel) -> float:
    """Of the normalised reward: P = sigmoid(difference * std / temperature)."""
    return model.contract.temperature / model.contract.std


def _outcomes(comparisons: Sequence[Comparison], rewards: np.ndarray) -> PairOutcomes:
    pairs = pairs_of(comparisons)
    lengths = np.array([_characters(response) for item in comparisons for response in item.responses])
    owner = np.repeat(np.arange(len(comparisons)), [len(item.responses) for item in comparisons])
    subsets = np.array([item.subset or "" for item in comparisons])[owner]
    # A soft label below one half says that the second is the better one.
    first = np.where(pairs.probability >= 0.5, pairs.first, pairs.second)
    second = np.where(pairs.probability >= 0.5, pairs.second, pairs.first)
    known = not any(item.token_ids for item in comparisons)
    return PairOutcomes(
        differences=rewards[first] - rewards[second],
        groups=pairs.group,
        human_tie=pairs.probability == 0.5,
        length_differences=lengths[first] - lengths[second] if known else None,
        subset=subsets[first] if any(item.subset for item in comparisons) else None,
    )


def _top1(comparisons: Sequence[Comparison], rewards: np.ndarray) -> TopOne | None:
    lists, ranks, at = [], [], 0
    for item in comparisons:
        if len(item.responses) > 2 and len(set(item.ranks)) > 1:
            lists.append(rewards[at : at + len(item.responses)].tolist())
            ranks.append(item.ranks)
        at += len(item.responses)
    return top1_accuracy(lists, ranks) if lists else None


def _characters(response: Text) -> int:
    return len(response) if isinstance(response, str) else sum(len(message.content) for message in response)
