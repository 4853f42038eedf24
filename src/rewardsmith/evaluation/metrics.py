"""How often a reward model prefers what people preferred, next to what always preferring the longer one would get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rewardsmith.errors import DataError, UsageError
from rewardsmith.intervals import cluster_bootstrap, paired_difference, wilson
from rewardsmith.types import Estimate

Interval = Literal["wilson", "cluster bootstrap"]


@dataclass(frozen=True, eq=False)
class PairOutcomes:
    """What a model made of P pairs. Lists are taken and become arrays.

    Args:
        differences: reward of the preferred response minus reward of the other, [P], finite.
        groups: prompt of each pair, [P].
        human_tie: pairs in which people saw no difference, [P] bool; default none.
        length_differences: characters of the preferred response minus those of the other, [P]; None when unknown.
        subset: name of the part of the data, [P] str; None when there are no parts.

    Raises:
        UsageError: a shape is not [P]. [P, 1] is not taken for [P]: it would broadcast to [P, P].
        DataError: rewards that are not finite (how many, and the first).
    """

    differences: np.ndarray
    groups: np.ndarray
    human_tie: np.ndarray | None = None
    length_differences: np.ndarray | None = None
    subset: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = np.size(self.differences)
        if self.human_tie is None:
            object.__setattr__(self, "human_tie", np.zeros(size, dtype=bool))
        for name in ("differences", "groups", "human_tie", "length_differences", "subset"):
            value = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value, dtype=bool if name == "human_tie" else None)
            if array.shape != (size,):
                raise UsageError(f"{name} must have shape [{size}], one per pair, not {list(array.shape)}")
            object.__setattr__(self, name, array)
        object.__setattr__(self, "differences", self.differences.astype(np.float64))
        broken = ~np.isfinite(self.differences)
        if broken.any():
            raise DataError(
                f"{int(broken.sum())} of {size} pairs have a reward that is not finite (the first is pair "
                f"{int(np.argmax(broken))}); an accuracy that leaves them out would flatter the model"
            )


@dataclass(frozen=True)
class PairMetrics:
    """Accuracy on pairs and what it must be seen against. Estimates carry 95% intervals; ``n`` counts pairs.

    Args:
        accuracy: share of pairs in which the preferred response has the higher reward. Equal rewards count one half.
        interval: how its interval was made: "wilson" when each prompt has one pair, "cluster bootstrap" otherwise.
        pairs: pairs counted in the accuracy.
        ties: pairs of exactly equal rewards among them: a model that cannot tell, or a precision that is too low.
        human_ties: pairs left out because people saw no difference.
        longer_wins: accuracy of preferring the longer response, equal lengths one half; None without lengths. The
            package counts characters, whatever the tokenizer.
        difference: accuracy minus longer_wins, paired; None without lengths.
        log_loss: mean of -log sigma(difference / temperature), in nats. A coin has log 2 = 0.693.
        mean_margin: mean difference of rewards.
        temperature: the one used in ``log_loss``.
        subsets: accuracy by subset, in alphabetical order; empty when there are none.
    """

    accuracy: Estimate
    interval: Interval
    pairs: int
    ties: int
    human_ties: int
    longer_wins: Estimate | None
    difference: Estimate | None
    log_loss: float
    mean_margin: float
    temperature: float
    subsets: Mapping[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: estimates as {"value", "low", "high", "n"}."""
        return {
            "accuracy": self.accuracy.as_dict(),
            "interval": self.interval,
            "pairs": self.pairs,
            "ties": self.ties,
            "human_ties": self.human_ties,
            "longer_wins": self.longer_wins.as_dict() if self.longer_wins else None,
            "difference": self.difference.as_dict() if self.difference else None,
            "log_loss": self.log_loss,
            "mean_margin": self.mean_margin,
            "temperature": self.temperature,
            "subsets": {name: estimate.as_dict() for name, estimate in self.subsets.items()},
        }


def pair_metrics(outcomes: PairOutcomes, *, temperature: float = 1.0, seed: int = 0) -> PairMetrics:
    """Metrics of the pairs on which people decided.

    Args:
        outcomes: see ``PairOutcomes``.
        temperature: > 0; divides the differences in the log loss.
        seed: of the bootstrap.

    Raises:
        UsageError: no pair is left once human ties are taken out, or the temperature is not > 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise UsageError(f"temperature must be finite and > 0, not {temperature!r}")
    decided = ~outcomes.human_tie if outcomes.human_tie is not None else np.ones(len(outcomes.groups), dtype=bool)
    if not decided.any():
        raise UsageError(f"no pair to measure: {len(decided)} pairs, all of them human ties")
    differences, groups = outcomes.differences[decided], outcomes.groups[decided]
    correct, longer, gain = _outcome(differences), None, None
    if outcomes.length_differences is not None:
        baseline = _outcome(outcomes.length_differences[decided])
        longer, gain = share(baseline, groups, seed), paired_gain(correct, baseline, groups, seed)
    subset = None if outcomes.subset is None else outcomes.subset[decided].astype(str)
    return PairMetrics(
        accuracy=share(correct, groups, seed),
        interval="wilson" if _all_different(groups) else "cluster bootstrap",
        pairs=len(correct),
        ties=int((differences == 0).sum()),
        human_ties=int((~decided).sum()),
        longer_wins=longer,
        difference=gain,
        log_loss=float(np.logaddexp(0, -differences / temperature).mean()),
        mean_margin=float(differences.mean()),
        temperature=float(temperature),
        subsets={}
        if subset is None
        else {str(name): share(correct[subset == name], groups[subset == name], seed) for name in np.unique(subset)},
    )


def _outcome(differences: np.ndarray) -> np.ndarray:
    """1 where the preferred response is ahead, 0 where it is behind, one half where neither is."""
    return (np.sign(differences) + 1) / 2


def _all_different(groups: np.ndarray) -> bool:
    return len(np.unique(groups)) == len(groups)


def _no_spread(values: np.ndarray, groups: np.ndarray) -> bool:
    """Whether resampling prompts can show no uncertainty at all, which is not the same as there being none."""
    member = np.unique(groups, return_inverse=True)[1]
    means = np.bincount(member, weights=values) / np.bincount(member)
    return len(means) < 2 or bool((means == means[0]).all())


def share(values: np.ndarray, groups: np.ndarray, seed: int) -> Estimate:
    """Mean of outcomes in {0, 1/2, 1}; where the bootstrap has no spread, Wilson with each prompt counted once."""
    if _all_different(groups):
        return wilson(float(values.sum()), len(values))
    if _no_spread(values, groups):
        prompts = len(np.unique(groups))
        cautious = wilson(float(values.mean()) * prompts, prompts)
        return Estimate(cautious.value, cautious.low, cautious.high, len(values))
    return cluster_bootstrap(values, groups, seed=seed)


def paired_gain(correct: np.ndarray, baseline: np.ndarray, groups: np.ndarray, seed: int) -> Estimate:
    """Paired difference of accuracies; where the bootstrap has no spread, as far as Wilson lets k of k prompts go."""
    difference = correct - baseline
    if not _no_spread(difference, groups):
        return paired_difference(correct, baseline, groups, seed=seed)
    prompts, value = len(np.unique(groups)), float(difference.mean())
    reach = 2.0 if prompts < 2 else wilson(0, prompts).high
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), len(difference))
