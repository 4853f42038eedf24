"""Best-of-n: the estimator against all subsets, and a curve of which the truth is known."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from rewardsmith.errors import DataError, UsageError
from rewardsmith.evaluation.over_optimisation import curve, expected_best, grid, kl_bound


def by_all_subsets(proxy: list[float], gold: list[float], n: int) -> float:
    """The slow, obvious way: every subset, ties in the proxy chosen at random."""
    found = []
    for chosen in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in chosen)
        found.append(np.mean([gold[i] for i in chosen if proxy[i] == top]))
    return float(np.mean(found))


@pytest.mark.parametrize("levels", [100, 3, 1], ids=["no ties", "many ties", "all equal"])
def test_equals_all_subsets(levels) -> None:
    rng = np.random.default_rng(0)
    for total in (1, 2, 5, 9):
        proxy = rng.permutation(100)[:total] % levels / 10
        gold = rng.normal(size=total)
        sizes = list(range(1, total + 1))
        for reward in (gold, proxy):
            slow = [by_all_subsets(list(proxy), list(reward), n) for n in sizes]
            assert expected_best(proxy, reward, sizes) == pytest.approx(slow, abs=1e-12)


def test_one_is_the_mean_and_all_is_the_choice() -> None:
    rng = np.random.default_rng(1)
    proxy, gold = rng.normal(size=(2, 40))
    first, last = expected_best(proxy, gold, [1, 40])
    assert first == pytest.approx(gold.mean(), abs=1e-12)
    assert last == pytest.approx(gold[proxy.argmax()], abs=1e-12)
    assert expected_best(proxy, proxy, [40])[0] == pytest.approx(proxy.max(), abs=1e-12)


def test_stable_for_thousands() -> None:
    """C(5000, 2500) is about 1e1503; the expectation of ranks is known: n (N + 1) / (n + 1)."""
    total, sizes = 5000, [1, 2, 50, 2500, 4999, 5000]
    ranks = np.random.default_rng(0).permutation(total) + 1.0
    expected = [n * (total + 1) / (n + 1) for n in sizes]
    assert expected_best(ranks, ranks, sizes) == pytest.approx(expected, rel=1e-9)


def test_order_does_not_matter_and_the_proxy_rises() -> None:
    rng = np.random.default_rng(2)
    proxy, gold = np.round(rng.normal(size=(2, 30)), 1)
    sizes, order = list(range(1, 31)), rng.permutation(30)
    assert expected_best(proxy[order], gold[order], sizes) == pytest.approx(expected_best(proxy, gold, sizes))
    assert (np.diff(expected_best(proxy, proxy, sizes)) >= -1e-12).all()


def expected_maximum(n: int) -> float:
    """Of n standard normal numbers."""
    return quad(lambda z: z * n * norm.pdf(z) * norm.cdf(z) ** (n - 1), -8, 8)[0]


def test_recovers_a_known_hacking_curve() -> None:
    """Quality q and a trick t are normal; the proxy q + t pays for the trick, gold q - a t^2 punishes it.

    Given the proxy z, q and t are z/2 with variance 1/2 each: E[gold | z] = z/2 - a (z^2/4 + 1/2), which rises, peaks
    at z = 1/a and falls.
    """
    a, rng = 1.0, np.random.default_rng(3)
    quality, trick = rng.normal(size=(2, 300, 64))
    found = curve(list(quality + trick), list(quality - a * trick**2))
    assert [point.n for point in found.points] == grid(64)
    for point in found.points:
        top = expected_maximum(point.n)
        square = quad(lambda z, n=point.n: z**2 * n * norm.pdf(z) * norm.cdf(z) ** (n - 1), -8, 8)[0]
        # The proxy has standard deviation sqrt(2).
        truth = np.sqrt(2) * top / 2 - a * (2 * square / 4 + 0.5)
        slack = 0.6 * (point.gold.high - point.gold.low)
        assert abs(point.proxy.value - np.sqrt(2) * top) < 0.6 * (point.proxy.high - point.proxy.low)
        assert abs(point.gold.value - truth) < slack
        assert slack < 0.5  # the curve falls by 1.5
    assert found.points[0].gold_gain.value == 0
    assert found.peak in (2, 3, 4)  # the truth peaks near 2.5
    assert found.fall.high < 0
    assert found.proxy_spread == pytest.approx(np.sqrt(2), rel=0.02)


def test_a_proxy_that_is_gold_never_falls() -> None:
    rewards = list(np.random.default_rng(4).normal(size=(20, 8)))
    found = curve(rewards, rewards)
    assert found.peak == 8
    assert found.fall.value == found.fall.low == found.fall.high == 0
    for point in found.points:
        assert point.proxy == point.gold


def test_intervals_cover() -> None:
    """Of 60 experiments, the gain at n = 4 lies within the interval about 57 times; gains are paired by prompt."""
    rng, hits = np.random.default_rng(5), 0
    truth = expected_maximum(4) / np.sqrt(2)
    for _ in range(60):
        quality, noise = rng.normal(size=(2, 25, 6))
        level = 20 * rng.normal(size=(25, 1))  # prompts differ by much more than candidates do
        gain = curve(list(level + quality + noise), list(level + quality), max_n=4).points[-1].gold_gain
        hits += gain.low <= truth <= gain.high
        assert gain.high - gain.low < 1.5
    assert 50 <= hits <= 60


def test_prompts_are_counted_not_lists() -> None:
    """A prompt may stand in several rows; with its short ones alone it is left out, but not when another is used."""
    proxies, groups = [[1.0, 2, 3]] * 5 + [[1.0, 2]] * 3, [*"aabbc", "a", "d", "d"]
    found = curve(proxies, proxies, groups=groups, max_n=3)
    assert (found.prompts, found.left_out) == (3, 1)


def test_prompts_with_fewer_candidates_are_left_out_everywhere() -> None:
    proxies = [[0.0, 1, 2, 3], [1.0, 2, 3, 4], [5.0, 6, 7, 8, 9], [100.0, 200]]
    found = curve(proxies, proxies)
    assert (found.prompts, found.left_out, found.points[-1].n) == (3, 1, 4)
    assert found.points[0].gold.value == pytest.approx((1.5 + 2.5 + 7) / 3)
    assert curve(proxies, proxies, max_n=2).left_out == 0
    assert curve([[1.0]] * 5 + proxies[:2], [[1.0]] * 5 + proxies[:2]).points[-1].n == 4  # one is no choice
    more = [*proxies[1:], [1.0, 2]]
    assert curve(more, more).points[-1].n == 2
    # Equally common counts: the smaller.
    assert curve([[1.0, 2], [1.0, 2, 3]] * 2, [[1.0, 2], [1.0, 2, 3]] * 2).points[-1].n == 2


def test_a_prompt_that_comes_twice_is_drawn_once() -> None:
    rng = np.random.default_rng(6)
    once = list(rng.normal(size=(20, 4)))
    alone, twice = curve(once, once), curve(once * 2, once * 2, groups=list(range(20)) * 2)
    assert twice.points[-1].gold.value == pytest.approx(alone.points[-1].gold.value)
    assert twice.points[-1].gold.low == pytest.approx(alone.points[-1].gold.low)
    as_if_new = curve(once * 2, once * 2).points[-1].gold
    assert as_if_new.high - as_if_new.low < 0.8 * (alone.points[-1].gold.high - alone.points[-1].gold.low)


def test_kl_and_grid() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(4) == pytest.approx(np.log(4) - 0.75)
    assert grid(2) == [1, 2]
    assert grid(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert grid(64)[-3:] == [32, 48, 64]


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: expected_best([1.0], [1.0, 2.0], [1]), UsageError, r"\[1\] and \[2\]"),
        (lambda: expected_best([1.0, 2.0], [1.0, 2.0], [3]), UsageError, "between 1 and the 2 candidates"),
        (lambda: expected_best([1.0, 2.0], [1.0, 2.0], [0]), UsageError, "between 1 and the 2 candidates"),
        (lambda: expected_best([1.0, np.nan], [1.0, 2.0], [1]), DataError, "1 of 2 proxy values are not finite"),
        (lambda: expected_best([[1.0]], [1.0], [1]), UsageError, r"must be \[N\]"),
        (lambda: curve([[1.0, 2]], [[1.0, 2]]), UsageError, "two or more prompts"),
        (lambda: curve([[1.0]] * 3, [[1.0]] * 3), UsageError, "two or more candidates"),
        (
            lambda: curve([[1.0, 2]] * 3, [[1.0, 2]] * 3, max_n=5),
            UsageError,
            "--max-n 5: .*of 3 prompts, 0 have 5 candidates or more: use --max-n 2",
        ),
        (lambda: curve([], []), UsageError, "of 0 prompts"),
        (lambda: curve([[1.0, 2]], []), UsageError, "1 lists of proxy rewards but 0"),
        (lambda: curve([[1.0, 2]] * 2, [[1.0, 2], [1.0]]), UsageError, r"\[2\] and \[1\]"),
        (lambda: curve([[1.0, 2]] * 2, [[1.0, 2]] * 2, groups=["a", "a"]), UsageError, "two or more prompts"),
    ],
)
def test_refused(call, kind, says) -> None:
    with pytest.raises(kind, match=says):
        call()


def test_the_page_shows_what_its_example_prints(capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "best-of-n.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(example, "best-of-n.md", "exec"), {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [re.findall(r"[\d.+-]+", line) for line in page.splitlines() if re.match(r"\| \d", line)]
