"""What choosing among more candidates buys, under the reward that chooses (the proxy) and under one that does not.

A policy that is optimised against a reward finds its errors. Best-of-n shows it without training: the more candidates
the proxy may choose from, the further the choice is from an average response, and where the gold reward stops to
rise, or falls, the proxy is no guide any more (Gao, Schulman & Hilton 2023, arXiv 2210.10760).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from rewardsmith.errors import DataError, UsageError
from rewardsmith.intervals import cluster_bootstrap, paired_difference
from rewardsmith.types import Estimate

FEW_PROMPTS = 20
"""With fewer, percentile intervals over prompts are too narrow: they hold the truth less often than they say."""


@dataclass(frozen=True)
class Point:
    """The best of n.

    Args:
        n: candidates chosen from.
        kl: how far best-of-n is from the policy, in nats: see ``kl_bound``.
        proxy, gold: expected reward of the choice, under each; 95% intervals over prompts.
        proxy_gain, gold_gain: the same less that of an average candidate (n = 1), paired by prompt.
    """

    n: int
    kl: float
    proxy: Estimate
    gold: Estimate
    proxy_gain: Estimate
    gold_gain: Estimate


@dataclass(frozen=True)
class Curve:
    """The over-optimisation curve.

    Args:
        points: by n, rising, from 1.
        prompts: how many it rests on; one that stands in several lists counts once.
        left_out: prompts of which no list has as many candidates as the last n.
        proxy_spread, gold_spread: standard deviation of each reward among the candidates of a prompt (pooled): the
            units in which both gains can be compared.
        peak: n of the highest gold reward.
        fall: gold at the last n less gold at the peak, paired by prompt; 0 where the peak is the last n. The peak
            is chosen on the same data, so this is a little too low.
    """

    points: tuple[Point, ...]
    prompts: int
    left_out: int
    proxy_spread: float
    gold_spread: float
    peak: int
    fall: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON: estimates as {"value", "low", "high", "n"}."""
        return asdict(self)


def kl_bound(n: int | np.ndarray) -> Any:
    """log n - (n - 1) / n, in nats: the Kullback-Leibler divergence of best-of-n from the policy it draws from.

    Exact when no two responses have the same reward and each is improbable; otherwise an upper bound (Beirami et al.
    2024, arXiv 2401.01879).
    """
    return np.log(n) - (n - 1) / n


def expected_best(proxy: Sequence[float], reward: Sequence[float], sizes: Sequence[int]) -> np.ndarray:
    """Expected ``reward`` of the response that ``proxy`` puts first among n of the N drawn, for each n in ``sizes``.

    The unbiased estimator: over all subsets of n of the N candidates, not one random subset. The i-th lowest by proxy
    is the best of a subset in C(i-1, n-1) of the C(N, n) (Nakano et al. 2021, arXiv 2112.09332, appendix; Gao et al.
    2023). Candidates of one proxy reward are chosen at random among themselves.

    Args:
        proxy, reward: [N], finite; the same candidates.
        sizes: values of n, each in 1 .. N.

    Returns:
        [S] one expectation for each size. n = 1 is the mean, n = N the reward of the proxy's choice.

    Raises:
        UsageError: shapes differ, or a size is not in 1 .. N.
        DataError: a reward is not finite.
    """
    by, of = _finite("proxy", proxy), _finite("reward", reward)
    if by.shape != of.shape:
        raise UsageError(f"proxy and reward must be of the same [N], not {list(by.shape)} and {list(of.shape)}")
    if not len(sizes) or min(sizes) < 1 or max(sizes) > len(by):
        raise UsageError(f"sizes must be between 1 and the {len(by)} candidates, not {list(sizes)}")
    _, level, count = np.unique(by, return_inverse=True, return_counts=True)
    among_equals = (np.bincount(level, weights=of) / count)[level]
    return _chances(len(by), sizes) @ among_equals[np.argsort(by, kind="stable")]


def _chances(total: int, sizes: Sequence[int]) -> np.ndarray:
    """[S, N] the probability that the i-th lowest of N is the best of n drawn without replacement."""
    n, below = np.asarray(sizes, dtype=np.float64)[:, None], np.arange(total, dtype=np.float64)
    possible = below >= n - 1
    # In logs: C(1000, 500) is beyond float64.
    logs = _log_choose(np.where(possible, below, n - 1), n - 1) - _log_choose(total, n)
    chances = np.where(possible, np.exp(logs), 0.0)
    return chances / chances.sum(axis=1, keepdims=True)  # they sum to 1 but for rounding


def _log_choose(total: Any, chosen: Any) -> Any:
    return gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1)


def curve(
    proxies: Sequence[Sequence[float]],
    golds: Sequence[Sequence[float]],
    *,
    groups: Sequence[Hashable] | None = None,
    max_n: int | None = None,
    seed: int = 0,
) -> Curve:
    """The expected proxy and gold reward of the proxy's best of n, for n from 1 up.

    Args:
        proxies, golds: one list per prompt, of equal lengths, finite.
        groups: which lists are of one prompt, when a prompt comes more than once; None when each is of its own.
        max_n: the last n; None: see ``last_n``. Prompts with fewer candidates are left out everywhere, as a curve
            whose prompts change along it says nothing; prompts with more count with all their candidates.
        seed: of the bootstrap over prompts.

    Raises:
        UsageError: shapes differ; fewer than two prompts; no prompt with two candidates or with ``max_n``.
        DataError: a reward is not finite.
    """
    if len(proxies) != len(golds):
        raise UsageError(f"there are {len(proxies)} lists of proxy rewards but {len(golds)} of gold ones")
    number: dict[Hashable, int] = {}
    owner = [number.setdefault(group, len(number)) for group in (groups or range(len(proxies)))]
    last = last_n([len(one) for one in proxies], owner, max_n)
    kept = [place for place, one in enumerate(proxies) if len(one) >= last]
    member = np.array([owner[place] for place in kept])
    sizes = grid(last)
    proxy = np.array([expected_best(proxies[place], proxies[place], sizes) for place in kept])  # [P, S]
    gold = np.array([expected_best(proxies[place], golds[place], sizes) for place in kept])
    points = tuple(_point(n, place, proxy, gold, member, seed) for place, n in enumerate(sizes))
    peak = int(np.argmax(gold.mean(axis=0)))
    return Curve(
        points=points,
        prompts=len(set(member)),
        left_out=len(set(owner) - set(member)),
        proxy_spread=_spread([proxies[place] for place in kept]),
        gold_spread=_spread([golds[place] for place in kept]),
        peak=sizes[peak],
        fall=paired_difference(gold[:, -1], gold[:, peak], member, seed=seed),
    )


def last_n(counts: Sequence[int], groups: Sequence[Hashable], max_n: int | None = None) -> int:
    """The last n that a curve over these prompts can have; known before anything is scored.

    Args:
        counts: candidates of each list.
        groups: the prompt of each list.
        max_n: what was asked for. None: the commonest count that two or more prompts reach, the smaller of equals.

    Raises:
        UsageError: no two prompts have ``max_n`` candidates, or any number from two up.
    """

    def reach(n: int) -> int:
        return len({group for count, group in zip(counts, groups, strict=True) if count >= n})

    possible = sorted(n for n in set(counts) if n >= 2 and reach(n) >= 2)
    if max_n is not None and possible and 2 <= max_n <= possible[-1]:
        return max_n
    if max_n is None and possible:
        often = Counter(counts)
        return max(possible, key=lambda n: (often[n], -n))
    rule = "a curve needs two or more prompts, each with two or more candidates"
    if not possible:
        raise UsageError(f"{rule}; of {len(set(groups))} prompts, {reach(2)} have 2 candidates or more")
    raise UsageError(
        f"--max-n {max_n}: {rule} and with as many as its last n; of {len(set(groups))} prompts, {reach(max_n or 0)} "
        f"have {max_n} candidates or more: use --max-n {possible[-1]} or less"
    )


def grid(last: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... and ``last``: even steps of log n, which is nearly the KL."""
    steps = {base << shift for base in (1, 3) for shift in range(last.bit_length())}
    return sorted({n for n in steps if n < last} | {last})


def _point(n: int, place: int, proxy: np.ndarray, gold: np.ndarray, member: np.ndarray, seed: int) -> Point:
    # One seed: every number of the curve is of the same resampled prompts.
    return Point(
        n=n,
        kl=float(kl_bound(n)),
        proxy=cluster_bootstrap(proxy[:, place], member, seed=seed),
        gold=cluster_bootstrap(gold[:, place], member, seed=seed),
        proxy_gain=paired_difference(proxy[:, place], proxy[:, 0], member, seed=seed),
        gold_gain=paired_difference(gold[:, place], gold[:, 0], member, seed=seed),
    )


def _spread(rewards: Sequence[Sequence[float]]) -> float:
    """Pooled standard deviation within prompts: sqrt(sum of squares about each prompt's mean / degrees of freedom)."""
    squares = sum(float(np.var(one)) * len(one) for one in rewards)
    return float(np.sqrt(squares / sum(len(one) - 1 for one in rewards)))


def _finite(name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError(f"{name} must be [N], one number per candidate, not {list(array.shape)}")
    if broken := int((~np.isfinite(array)).sum()):
        raise DataError(f"{broken} of {len(array)} {name} values are not finite; leave these candidates out")
    return array
