"""Losses against plain Python loops, finite differences, TRL's formulas, and the rewards that made the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss

from rewardsmith.errors import DataError, UsageError
from rewardsmith.training import losses
from rewardsmith.training.likelihood import Objective, pair_losses
from rewardsmith.training.losses import LOSSES, Scored
from rewardsmith.training.pairs import Pairs

RANKS = [[0, 1], [1, 0, 2], [0, 0], [2, 0, 1, 1], [0, 0, 1], [3, 1, 0, 2], [0, 1, 1, 1, 0], [1, 0]]
OPTIONS: dict[str, dict[str, Any]] = {
    "bradley-terry": {"label_smoothing": 0.1},
    "margin-scaled": {"label_smoothing": 0.1},
    "hinge": {"gap": 0.7},
    "rao-kupper": {"threshold": 0.6},
    "davidson": {"log_nu": -0.3},
    "plackett-luce": {},
    "regression": {},
}
OF_PAIRS = [name for name in LOSSES if name != "regression"]


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ranked(ranks: list[list[int]] = RANKS, seed: int = 0, dtype: torch.dtype = torch.float64, **fields: Any) -> Scored:
    """All pairs of K-wise comparisons, of weights that differ, with random rewards, margins and scores."""
    pairs = Pairs.from_ranks(ranks, weight=[1 + 0.5 * (n % 3) for n in range(len(ranks))])
    total = sum(map(len, ranks))
    score = numbers(seed + 2, total)
    score[::4] = math.nan
    made = Scored(
        rewards=2 * numbers(seed, total, dtype=dtype),
        first=torch.from_numpy(pairs.first),
        second=torch.from_numpy(pairs.second),
        comparison=torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(list(map(len, ranks)))),
        rank=torch.tensor([rank for row in ranks for rank in row]),
        count=len(ranks),
        weight=torch.from_numpy(pairs.weight),
        margin=numbers(seed + 1, len(pairs)).abs(),
        probability=torch.from_numpy(pairs.probability),
        score=score,
    )
    return replace(made, **fields)


def soft(seed: int = 0) -> Scored:
    """``ranked`` with soft labels, some on the other side, some of exactly 0.5."""
    scored = ranked(seed=seed)
    choices = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    return replace(scored, probability=choices[torch.arange(len(scored.first)) % 5])


def plain(chosen: Tensor, rejected: Tensor, **fields: Any) -> Scored:
    """One pair per comparison, chosen and rejected in turn."""
    rewards, count = torch.stack([chosen, rejected], dim=1).reshape(-1), len(chosen)
    rows = torch.arange(2 * count)
    return Scored(rewards, rows[::2], rows[1::2], rows // 2, rows % 2, count, **fields)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pair_loop(scored: Scored, cost: Callable[[float, float], float], tie: Callable[[float], float] | None = None):
    """sum of weight * (p cost(D, m) + (1 - p) cost(-D, m)), divided by N, one pair at a time."""
    total, rewards = 0.0, scored.rewards.tolist()
    for index, (a, b) in enumerate(zip(scored.first.tolist(), scored.second.tolist(), strict=True)):
        d, p = rewards[a] - rewards[b], float(scored.probability[index]) if scored.probability is not None else 1.0
        m = float(scored.margin[index]) if scored.margin is not None else 0.0
        weight = float(scored.weight[index]) if scored.weight is not None else 1.0
        total += weight * (tie(d) if tie and p == 0.5 else p * cost(d, m) + (1 - p) * cost(-d, m))
    return total / scored.count


def smooth(cost: Callable[[float, float], float], e: float) -> Callable[[float, float], float]:
    return lambda d, m: (1 - e) * cost(d, m) + e * cost(-d, m)


def davidson_probabilities(d: float, log_nu: float) -> tuple[float, float, float]:
    """First, second, tie, with pi = exp(r) as in the paper."""
    pi_first, pi_second = math.exp(d), 1.0
    between = math.exp(log_nu) * math.sqrt(pi_first * pi_second)
    total = pi_first + pi_second + between
    return pi_first / total, pi_second / total, between / total


def rao_kupper_probabilities(d: float, eta: float) -> tuple[float, float, float]:
    """First, second, tie, with pi = exp(r) and theta = exp(eta) as in the paper."""
    pi_first, pi_second, theta = math.exp(d), 1.0, math.exp(eta)
    first, second = pi_first / (pi_first + theta * pi_second), pi_second / (pi_second + theta * pi_first)
    tie = pi_first * pi_second * (theta**2 - 1) / ((pi_first + theta * pi_second) * (pi_second + theta * pi_first))
    return first, second, tie


def naive_ranking(rewards: list[float], ranks: list[int]) -> float:
    """Choices one after another, each from everyone not ranked better: the mean over all orders of the ties."""
    items = range(len(ranks))
    costs = []
    for order in permutations(items):
        if [ranks[i] for i in order] != sorted(ranks):
            continue
        cost = 0.0
        for i in order[:-1]:
            cost += math.log(sum(math.exp(rewards[j]) for j in items if ranks[j] >= ranks[i])) - rewards[i]
        costs.append(cost)
    return sum(costs) / len(costs)


def naive_plackett_luce(scored: Scored) -> float:
    total = 0.0
    for comparison in range(scored.count):
        mine = scored.comparison == comparison
        weight = float(scored.weight[scored.comparison[scored.first] == comparison].sum())
        total += weight * naive_ranking(scored.rewards[mine].tolist(), scored.rank[mine].tolist())
    return total / scored.count


def naive_regression(scored: Scored) -> float:
    error = (scored.rewards.numpy() - scored.score.numpy()) ** 2
    mine = [error[(scored.comparison == n).numpy()] for n in range(scored.count)]
    return sum(float(np.nanmean(one)) for one in mine if not np.isnan(one).all()) / scored.count


NAIVE: dict[str, Callable[[Scored], float]] = {
    "bradley-terry": lambda s: pair_loop(s, smooth(lambda d, m: -math.log(sigma(d - m)), 0.1)),
    "margin-scaled": lambda s: pair_loop(s, smooth(lambda d, m: -m * math.log(sigma(d)), 0.1)),
    "hinge": lambda s: pair_loop(s, lambda d, m: max(0.0, 0.7 + m - d)),
    "rao-kupper": lambda s: pair_loop(
        s,
        lambda d, m: -math.log(rao_kupper_probabilities(d - m, 0.6)[0]),
        lambda d: -math.log(rao_kupper_probabilities(d, 0.6)[2]),
    ),
    "davidson": lambda s: pair_loop(
        s,
        lambda d, m: -math.log(davidson_probabilities(d - m, -0.3)[0]),
        lambda d: -math.log(davidson_probabilities(d, -0.3)[2]),
    ),
    "plackett-luce": naive_plackett_luce,
    "regression": lambda s: naive_regression(s),
}


def case(name: str, seed: int = 0) -> Scored:
    return ranked(seed=seed) if name == "plackett-luce" else soft(seed)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_formula_one_pair_at_a_time(name, seed):
    scored = case(name, seed)
    assert LOSSES[name](scored, **OPTIONS[name]).item() == pytest.approx(NAIVE[name](scored), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_finite_differences(name):
    scored = case(name)
    check = lambda rewards: LOSSES[name](replace(scored, rewards=rewards), **OPTIONS[name])  # noqa: E731
    assert torch.autograd.gradcheck(check, scored.rewards.clone().requires_grad_())
    naive, step = [], 1e-5
    for shift in step * torch.eye(len(scored.rewards), dtype=torch.float64):
        up, down = (NAIVE[name](replace(scored, rewards=scored.rewards + sign * shift)) for sign in (1, -1))
        naive.append((up - down) / (2 * step))
    rewards = scored.rewards.clone().requires_grad_()
    (slope,) = torch.autograd.grad(check(rewards), rewards)
    np.testing.assert_allclose(slope.numpy(), naive, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "field"), [("rao-kupper", "threshold"), ("davidson", "log_nu")])
def test_gradient_of_a_learnt_tie_parameter_is_that_of_finite_differences(name, field):
    scored = soft()
    check = lambda rewards, value: LOSSES[name](replace(scored, rewards=rewards), **{field: value})  # noqa: E731
    value = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(check, (scored.rewards.clone().requires_grad_(), value))
    assert check(scored.rewards, value).item() == LOSSES[name](scored, **{field: 0.4}).item()


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_cost_what_they_cost_in_trl(margin, dtype):
    # trl 1.16, RewardTrainer._compute_loss
    chosen, rejected, m = (numbers(seed, 33, dtype=dtype) for seed in (1, 2, 3))
    scored = plain(chosen, rejected, margin=m.abs() if margin else None)
    shift = m.abs() if margin else 0
    torch.testing.assert_close(losses.bradley_terry(scored), -logsigmoid(chosen - rejected - shift).mean())
    torch.testing.assert_close(losses.centering(scored), torch.mean((chosen + rejected) ** 2))


def test_defaults_are_the_plain_pair():
    chosen, rejected = numbers(1, 9), numbers(2, 9)
    scored, ones = plain(chosen, rejected), torch.ones(9, dtype=torch.float64)
    full = replace(scored, weight=ones, margin=0 * ones, probability=ones)
    for name in ("bradley-terry", "hinge", "rao-kupper", "davidson", "plackett-luce"):
        options = {**OPTIONS[name], **({"label_smoothing": 0.0} if name == "bradley-terry" else {})}
        torch.testing.assert_close(LOSSES[name](scored, **options), LOSSES[name](full, **options), rtol=1e-14, atol=0)
    torch.testing.assert_close(losses.centering(scored), losses.centering(full))
    torch.testing.assert_close(losses.margin_scaled(replace(full, margin=ones)), losses.bradley_terry(scored))


def test_soft_labels_margins_and_weights_cost_what_the_exact_fit_makes_of_them():
    scored = soft()
    difference = (scored.rewards[scored.first] - scored.rewards[scored.second]).numpy()
    p, m, w = (getattr(scored, name).numpy() for name in ("probability", "margin", "weight"))
    for threshold in (False, True):
        objective = Objective.of(difference[:, None], p, m, w, 1.0, threshold)
        expected = objective.at(np.array([1.0, 0.6] if threshold else [1.0])).data_loss / scored.count
        loss = losses.rao_kupper(scored, threshold=0.6) if threshold else losses.bradley_terry(scored)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
    bare = replace(scored, margin=None, weight=None)
    for eta, loss in (
        (np.full(len(p), 0.6), losses.rao_kupper(bare, threshold=0.6)),
        (None, losses.bradley_terry(bare)),
    ):
        assert loss.item() == pytest.approx(pair_losses(difference, p, eta).sum() / scored.count, rel=1e-12)


@pytest.mark.parametrize(("name", "field"), [("rao-kupper", "threshold"), ("davidson", "log_nu")])
@pytest.mark.parametrize("value", [0.01, 0.8, 5.0])
def test_win_loss_and_tie_are_all_that_can_happen(name, field, value):
    for d in torch.linspace(-6, 6, 13, dtype=torch.float64):
        outcomes = [
            plain(d[None], torch.zeros_like(d)[None], probability=torch.tensor([p], dtype=torch.float64))
            for p in (1.0, 0.0, 0.5)
        ]
        assert sum(math.exp(-LOSSES[name](s, **{field: value})) for s in outcomes) == pytest.approx(1, abs=1e-12)


def test_without_ties_the_tie_models_become_bradley_terry():
    scored = replace(
        soft(), probability=torch.tensor([0.0, 0.2, 0.8, 1.0])[torch.arange(len(soft().first)) % 4].double()
    )
    expected = losses.bradley_terry(scored)
    torch.testing.assert_close(losses.rao_kupper(scored, threshold=0.0), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(losses.davidson(scored, log_nu=-100.0), expected, rtol=1e-14, atol=0)
    assert losses.rao_kupper(scored, threshold=0.3) > expected
    zero = torch.tensor(0.0, requires_grad=True)
    losses.rao_kupper(scored, threshold=zero).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite()


def test_a_ranking_of_two_is_bradley_terry_ties_included():
    scored = ranked([[0, 1], [1, 0], [0, 0], [4, 7]], margin=None)
    torch.testing.assert_close(losses.plackett_luce(scored), losses.bradley_terry(scored), rtol=1e-14, atol=0)


def test_plackett_luce_is_a_distribution_over_rankings():
    rewards = numbers(0, 4)
    chances = [math.exp(-losses.plackett_luce(one_ranking(rewards, list(ranks)))) for ranks in permutations(range(4))]
    assert sum(chances) == pytest.approx(1, abs=1e-12)


def one_ranking(rewards: Tensor, ranks: list[int]) -> Scored:
    pairs = Pairs.from_ranks([ranks])
    first, second = torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)
    return Scored(rewards, first, second, torch.zeros(len(ranks), dtype=torch.int64), torch.tensor(ranks), 1)


def test_a_ranking_does_not_depend_on_its_neighbours_or_its_order():
    ranks, rewards = [2, 0, 1, 1], numbers(3, 4)
    alone = losses.plackett_luce(one_ranking(rewards, ranks))
    order = [3, 1, 0, 2]
    turned = losses.plackett_luce(one_ranking(rewards[order], [ranks[i] for i in order]))
    torch.testing.assert_close(turned, alone, rtol=1e-14, atol=0)
    wide = ranked([[0, 1], ranks, [3, 1, 2, 0, 5, 4]], weight=None)
    values = wide.rewards.clone()
    values[2:6] = rewards
    others = [
        losses.plackett_luce(one_ranking(values[part], wide.rank[part].tolist())) for part in (slice(2), slice(6, 12))
    ]
    torch.testing.assert_close(
        3 * losses.plackett_luce(replace(wide, rewards=values)), alone + sum(others), rtol=1e-13, atol=0
    )


def test_bradley_terry_on_all_pairs_counts_every_comparison_once():
    ranks = [[0, 1], [2, 0, 1], [3, 1, 0, 2]]
    pairs = Pairs.from_ranks(ranks)
    scored = ranked(ranks, weight=torch.from_numpy(pairs.weight), margin=None)
    means, at = [], 0
    for row in ranks:
        rewards = scored.rewards[at : at + len(row)]
        costs = [
            -logsigmoid((rewards[i] - rewards[j]) * (1 if row[i] < row[j] else -1))
            for i, j in combinations(range(len(row)), 2)
        ]
        means.append(torch.stack(costs).mean())
        at += len(row)
    torch.testing.assert_close(losses.bradley_terry(scored), torch.stack(means).mean())


# --- recovery of the rewards that made the data -----------------------------------------------------------------------

TRUTH = torch.tensor([1.2, 0.4, 0.0, -0.5, -1.1], dtype=torch.float64)


def everyone(rewards: Tensor, rows: np.ndarray, **fields: Any) -> Scored:
    """Pairs [P, 2] of items that share their rewards, each a comparison of its own."""
    first, second = torch.from_numpy(np.ascontiguousarray(rows.T.astype(np.int64)))
    nothing = torch.zeros(len(rewards), dtype=torch.int64)
    return Scored(rewards, first, second, nothing, nothing, len(rows), **fields)


def minimise(loss: Callable[..., Tensor], *extra: float) -> tuple[Tensor, list[float]]:
    """The rewards, centred as the truth is, and the further parameters where ``loss`` is least."""
    rewards = torch.zeros(len(TRUTH), dtype=torch.float64, requires_grad=True)
    more = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in extra]
    optimizer = torch.optim.LBFGS([rewards, *more], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(rewards, *more)
        value.backward()
        return value

    optimizer.step(step)
    found = rewards.detach()
    return found - found.mean() + TRUTH.mean(), [value.item() for value in more]


def test_bradley_terry_recovers_the_rewards_that_made_the_comparisons():
    rng = np.random.default_rng(0)
    rows = np.array(list(combinations(range(5), 2)) * 3000)
    noisy = (TRUTH.numpy()[rows[:, 0]] - TRUTH.numpy()[rows[:, 1]] + rng.logistic(size=len(rows))) > 0
    rows = np.where(noisy[:, None], rows, rows[:, ::-1])
    found, _ = minimise(lambda rewards: losses.bradley_terry(everyone(rewards, rows)))
    torch.testing.assert_close(found, TRUTH, rtol=0, atol=0.08)


def test_plackett_luce_recovers_the_rewards_that_made_the_rankings():
    rng = np.random.default_rng(0)
    noisy = TRUTH.numpy() + rng.gumbel(size=(4000, 5))  # the order of these is Plackett-Luce (Yellott 1977)
    rank = torch.from_numpy((-noisy).argsort(axis=1).argsort(axis=1)).reshape(-1)
    none = torch.zeros(0, dtype=torch.int64)
    comparison = torch.arange(4000).repeat_interleave(5)
    found, _ = minimise(
        lambda rewards: losses.plackett_luce(Scored(rewards.repeat(4000), none, none, comparison, rank, 4000))
    )
    torch.testing.assert_close(found, TRUTH, rtol=0, atol=0.08)


@pytest.mark.parametrize(
    ("loss", "chances", "start"),
    [
        (lambda s, value: losses.davidson(s, log_nu=value), davidson_probabilities, 0.0),
        (lambda s, value: losses.rao_kupper(s, threshold=value.exp()), None, 0.0),
    ],
    ids=["davidson", "rao-kupper"],
)
def test_tie_models_recover_the_rewards_and_the_tie_parameter(loss, chances, start):
    rng = np.random.default_rng(0)
    rows = np.array(list(combinations(range(5), 2)) * 3000)
    d = TRUTH.numpy()[rows[:, 0]] - TRUTH.numpy()[rows[:, 1]]
    if chances is None:  # Rao-Kupper: a logistic difference that is smaller than the threshold is not seen
        noisy = d + rng.logistic(size=len(d))
        probability = np.where(np.abs(noisy) < 0.7, 0.5, noisy > 0)
        expected = math.log(0.7)
    else:
        table = np.array([chances(x, -0.4) for x in d])
        drawn = (rng.random(len(d))[:, None] > table.cumsum(1)).sum(1)
        probability = np.array([1.0, 0.0, 0.5])[drawn]
        expected = -0.4
    found, (value,) = minimise(
        lambda rewards, v: loss(everyone(rewards, rows, probability=torch.from_numpy(probability)), v), start
    )
    torch.testing.assert_close(found, TRUTH, rtol=0, atol=0.08)
    assert value == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", ["bradley-terry", "hinge", "rao-kupper", "davidson"])
def test_a_margin_costs_as_much_as_a_reward_that_is_smaller_by_it(name):
    d, m = numbers(0, 5), numbers(1, 5).abs()
    options = {} if name == "bradley-terry" else OPTIONS[name]
    torch.testing.assert_close(
        LOSSES[name](plain(d + m, 0 * d, margin=m), **options), LOSSES[name](plain(d, 0 * d), **options)
    )


# --- invariances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_PAIRS)
def test_adding_a_constant_to_all_rewards_changes_no_loss_of_pairs(name):
    scored = case(name)
    moved = replace(scored, rewards=scored.rewards + 3.0)
    torch.testing.assert_close(LOSSES[name](moved, **OPTIONS[name]), LOSSES[name](scored, **OPTIONS[name]))


@pytest.mark.parametrize("loss", [losses.centering, losses.regression])
def test_adding_a_constant_changes_what_anchors_rewards(loss):
    scored = soft()
    assert loss(replace(scored, rewards=scored.rewards + 3.0)) > loss(scored) + 1


@pytest.mark.parametrize("name", OF_PAIRS)
def test_naming_the_other_response_first_changes_nothing(name):
    scored = case(name)
    assert scored.probability is not None
    turned = replace(scored, first=scored.second, second=scored.first, probability=1 - scored.probability)
    torch.testing.assert_close(LOSSES[name](turned, **OPTIONS[name]), LOSSES[name](scored, **OPTIONS[name]))
    torch.testing.assert_close(losses.accuracy(turned), losses.accuracy(scored), equal_nan=True)


@pytest.mark.parametrize("name", [*LOSSES, "centering"])
def test_a_batch_costs_the_mean_of_its_halves(name):
    loss = LOSSES.get(name, losses.centering)
    whole = case(name)
    assert whole.count == 8
    half = whole.comparison < 4
    mine = half[whole.first]
    cut = int(half.sum())

    def part(pairs: Tensor, rows: slice, lead: int) -> Scored:
        kept = {k: v[pairs] for k in ("weight", "margin", "probability") if (v := getattr(whole, k)) is not None}
        return Scored(
            rewards=whole.rewards[rows],
            first=whole.first[pairs] - (rows.start or 0),
            second=whole.second[pairs] - (rows.start or 0),
            comparison=whole.comparison[rows] - lead,
            rank=whole.rank[rows],
            count=4,
            score=None if whole.score is None else whole.score[rows],
            **kept,
        )

    if name == "regression":  # whatever the halves know
        score = torch.full_like(whole.rewards, math.nan)
        score[[0, 3, 5, cut]] = 0.5
        whole = replace(whole, score=score)
    parts = [part(mine, slice(0, cut), 0), part(~mine, slice(cut, None), 4)]
    options = OPTIONS.get(name, {})
    halves = torch.stack([loss(p, **options) for p in parts])
    torch.testing.assert_close(loss(whole, **options), halves.mean(), rtol=1e-13, atol=0)


# --- numerics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("name", [*LOSSES, "centering"])
def test_huge_differences_have_finite_losses_and_gradients(name, size):
    loss = LOSSES.get(name, losses.centering)
    scored = case(name)
    rewards = (size * scored.rewards / scored.rewards.abs().max()).float().requires_grad_()
    value = loss(replace(scored, rewards=rewards), **OPTIONS.get(name, {}))
    value.backward()
    assert value.isfinite()
    assert rewards.grad is not None
    assert rewards.grad.isfinite().all()
    exact = loss(replace(scored, rewards=rewards.detach().double()), **OPTIONS.get(name, {}))
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_pair_far_apart_costs_nothing_or_its_distance(sign):
    scored = plain(torch.tensor([sign * 1e4]), torch.tensor([0.0]))
    for name in ("bradley-terry", "hinge", "rao-kupper", "davidson", "plackett-luce"):
        options = {} if name == "bradley-terry" else OPTIONS[name]
        assert LOSSES[name](scored, **options).item() == pytest.approx(0 if sign > 0 else 1e4, rel=1e-3)


@pytest.mark.parametrize("name", [*LOSSES, "centering"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rewards_are_computed_in_float32(name, dtype):
    loss, scored = LOSSES.get(name, losses.centering), case(name)
    rewards = scored.rewards.to(dtype).requires_grad_()
    value = loss(replace(scored, rewards=rewards), **OPTIONS.get(name, {}))
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value == loss(replace(scored, rewards=rewards.detach().float()), **OPTIONS.get(name, {}))
    value.backward()
    assert rewards.grad is not None
    assert rewards.grad.isfinite().all()


def test_a_batch_without_pairs_costs_nothing_and_has_a_gradient():
    none, one = torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    for rows, responses in ((one, 1), (none, 0)):
        rewards = torch.zeros(responses, requires_grad=True)
        scored = Scored(rewards, none, none, rows, rows, 2, margin=torch.zeros(0), probability=torch.zeros(0))
        for name in OF_PAIRS:
            value = LOSSES[name](scored, **OPTIONS[name])
            value.backward()
            assert value == 0


# --- regression, language model, distance, accuracy -------------------------------------------------------------------


def scores(rewards: Tensor, score: Tensor) -> Scored:
    none, rows = torch.zeros(0, dtype=torch.int64), torch.zeros(len(rewards), dtype=torch.int64)
    return Scored(rewards, none, none, rows, rows, 1, score=score)


def test_regression_is_the_mean_squared_error_when_all_is_known():
    for shape in ((7,), (7, 3)):
        rewards, score = numbers(0, *shape), numbers(1, *shape)
        torch.testing.assert_close(losses.regression(scores(rewards, score)), mse_loss(rewards, score))


def test_regression_means_over_what_is_known_of_each_attribute():
    rewards, score = numbers(0, 6, 3).requires_grad_(), numbers(1, 6, 3)
    score[1:4, 0] = math.nan
    score[:, 1] = math.nan
    weights = [2.0, 1.0, 0.5]
    expected = (
        2.0 * np.mean([(rewards[i, 0] - score[i, 0]).item() ** 2 for i in (0, 4, 5)])
        + 0.5 * np.mean([(rewards[i, 2] - score[i, 2]).item() ** 2 for i in range(6)])
    ) / 3.5
    value = losses.regression(scores(rewards, score), attribute_weights=weights)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    assert rewards.grad is not None
    assert rewards.grad.isfinite().all()
    assert (rewards.grad[score.isnan()] == 0).all()
    check = lambda r: losses.regression(scores(r, score), attribute_weights=torch.tensor(weights))  # noqa: E731
    assert torch.autograd.gradcheck(check, rewards.detach().clone().requires_grad_())


def test_regression_where_no_score_is_known_costs_nothing_and_has_a_gradient():
    rewards = numbers(0, 4).requires_grad_()
    value = losses.regression(scores(rewards, torch.full((4,), math.nan)))
    value.backward()
    assert value == 0
    assert rewards.grad is not None
    assert (rewards.grad == 0).all()


def test_a_comparison_of_many_responses_counts_once_in_regression():
    rewards, score = numbers(0, 5), numbers(1, 5)
    score[4] = math.nan
    none, rows = torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0, 0, 1, 1])
    found = losses.regression(Scored(rewards, none, none, rows, rows, 2, score=score))
    error = (rewards - score) ** 2
    assert found.item() == pytest.approx((error[:3].mean().item() + error[3].item()) / 2, rel=1e-12)


def test_regression_without_scores_is_an_error():
    with pytest.raises(DataError, match="needs scores"):
        losses.regression(plain(torch.zeros(2), torch.zeros(2)))
    for wrong in ([1.0, -1.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(UsageError, match="attribute_weights must be"):
            losses.regression(scores(torch.zeros(4, 2), torch.zeros(4, 2)), attribute_weights=wrong)


def test_language_model_is_the_mean_cross_entropy_of_the_tokens():
    logits, labels = numbers(0, 6, 11).requires_grad_(), torch.tensor([3, 0, -100, 10, 7, 7])
    kept = [i for i in range(6) if i != 2]
    odds = logits.detach().exp()
    expected = -sum(math.log(odds[i, labels[i]] / odds[i].sum()) for i in kept) / 5
    assert losses.language_model(logits, labels, count=5).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: losses.language_model(x, labels, count=5), logits)
    parts = [losses.language_model(logits[part], labels[part], count=5) for part in (slice(1), slice(1, 6))]
    torch.testing.assert_close(parts[0] + parts[1], losses.language_model(logits, labels, count=5))
    assert losses.language_model(logits.bfloat16(), labels, count=5).dtype == torch.float32
    assert losses.language_model(1e4 * logits.float(), labels, count=5).isfinite()
    with pytest.raises(UsageError, match=r"\[T, V\] and labels \[T\], not \[1, 6, 11\] and \[1, 6\]"):
        losses.language_model(logits[None], labels[None], count=5)
    with pytest.raises(UsageError, match="count must be > 0"):
        losses.language_model(logits, labels, count=0)


def test_distance_is_half_the_square_and_leaves_the_anchor_alone():
    weight, anchor = numbers(0, 5).requires_grad_(), numbers(1, 5).requires_grad_()
    value = losses.distance_to(weight, anchor)
    assert value.item() == pytest.approx(0.5 * sum((weight - anchor).tolist()[i] ** 2 for i in range(5)), rel=1e-12)
    assert torch.autograd.gradcheck(lambda w: losses.distance_to(w, anchor.detach()), weight)
    value.backward()
    torch.testing.assert_close(weight.grad, (weight - anchor).detach())
    assert anchor.grad is None
    with pytest.raises(UsageError, match=r"here \[5\], not \[1, 5\]"):
        losses.distance_to(weight, anchor[None])


def test_gradient_of_centering_is_that_of_finite_differences():
    scored = soft()
    check = lambda rewards: losses.centering(replace(scored, rewards=rewards))  # noqa: E731
    assert torch.autograd.gradcheck(check, scored.rewards.clone().requires_grad_())
    rewards, weight = scored.rewards.tolist(), scored.weight.tolist()  # pyright: ignore
    pairs = zip(scored.first.tolist(), scored.second.tolist(), weight, strict=True)
    assert check(scored.rewards).item() == pytest.approx(
        sum(w * (rewards[a] + rewards[b]) ** 2 for a, b, w in pairs) / scored.count, rel=1e-12
    )


def test_accuracy_gives_ties_in_score_a_half_and_ties_in_label_nothing():
    chosen = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, math.nan])
    rejected = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    p = torch.tensor([1.0, 0.9, 0.7, 0.2, 0.0, 0.4, 0.5, 1.0])
    scored = plain(chosen.requires_grad_(), rejected, probability=p)
    got = losses.accuracy(scored)
    torch.testing.assert_close(
        got, torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.5, math.nan, math.nan]), equal_nan=True, rtol=0, atol=0
    )
    assert not got.requires_grad
    got = losses.accuracy(replace(scored, probability=None))
    assert got.tolist()[:7] == [1.0, 0.0, 0.5, 1.0, 0.0, 0.5, 1.0]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_PAIRS)
def test_trap_11_margin_of_another_shape_is_refused(name):
    good = plain(torch.zeros(3), torch.zeros(3))
    for field in ("margin", "probability", "weight", "second"):
        like = torch.ones(3, dtype=torch.int64 if field == "second" else torch.float32)
        for wrong in (like[:, None], like[:1], like[None], like[0]):
            with pytest.raises(ValueError, match=rf"{field} must have shape \[P\], here \[3\], not ") as caught:
                LOSSES[name](replace(good, **{field: wrong}), **OPTIONS[name])
            assert str(list(wrong.shape)) in str(caught.value)
    column = replace(good, rewards=torch.zeros(6, 1), margin=torch.ones(3))  # what a model with one label returns
    with pytest.raises(ValueError, match=r"rewards must have shape \[R\] for this loss, not \[6, 1\]"):
        LOSSES[name](column, **OPTIONS[name])


def test_trap_11_other_shapes_are_refused_by_name():
    good = plain(torch.zeros(3), torch.zeros(3))
    for field in ("rank", "comparison"):
        with pytest.raises(ValueError, match=rf"{field} must have shape \[R\], here \[6\], not \[6, 1\]"):
            replace(good, **{field: torch.zeros(6, 1, dtype=torch.int64)})
    for wrong in (torch.zeros(5), torch.zeros(5, 2), torch.zeros(6, 2, 1), torch.tensor(0.0)):
        with pytest.raises(ValueError, match="score must have shape"):
            replace(good, score=wrong)
    for wrong in (torch.zeros(6, 1), torch.zeros(6, 6)):
        with pytest.raises(ValueError, match=r"score must have shape that of rewards, here \[6\], not"):
            losses.regression(replace(good, score=wrong))
    with pytest.raises(ValueError, match=r"attribute_weights must have shape \[A\], here \[1\], not \[6\]"):
        losses.regression(replace(good, score=torch.zeros(6)), attribute_weights=[1.0] * 6)
    with pytest.raises(ValueError, match=r"and first \[P\], not \[6\] and \[3, 1\]"):
        replace(good, first=good.first[:, None])
    with pytest.raises(ValueError, match="rewards must have shape"):
        replace(good, rewards=torch.tensor(1.0))
    for loss in (losses.centering, losses.accuracy):
        with pytest.raises(ValueError, match="for this loss"):
            loss(replace(good, rewards=torch.zeros(6, 1)))
    with pytest.raises(ValueError, match=r"threshold must be a number or a 0-dimensional tensor, not of shape \[3\]"):
        losses.rao_kupper(good, threshold=torch.ones(3))
    with pytest.raises(ValueError, match=r"log_nu must be a number or a 0-dimensional tensor, not of shape \[1\]"):
        losses.davidson(good, log_nu=torch.ones(1))


def test_indices_of_another_type_are_refused():
    good = plain(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"first must be int64, not torch\.bool"):
        replace(good, first=good.first.bool())  # would select instead of index
    with pytest.raises(ValueError, match="count must be >= 1, not 0"):
        replace(good, count=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bradley-terry", {"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0\.5\), not 0\.5"),
        ("margin-scaled", {"label_smoothing": -0.1}, "label_smoothing must be in"),
        ("hinge", {"gap": -1.0}, "gap must be finite and >= 0, not -1"),
        ("hinge", {"gap": math.nan}, "gap must be"),
        ("rao-kupper", {"threshold": -0.1}, r"threshold must be finite and >= 0, not -0\.1"),
        ("rao-kupper", {"threshold": torch.tensor(math.nan)}, "threshold must be"),
        ("rao-kupper", {"threshold": math.inf}, "threshold must be"),
        ("rao-kupper", {"threshold": 0.0}, "threshold must be > 0 where there are ties"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        LOSSES[name](soft(), **options)


def test_a_missing_margin_is_an_error_where_it_is_the_loss():
    with pytest.raises(UsageError, match="margin-scaled needs a margin"):
        losses.margin_scaled(replace(soft(), margin=None))


def test_plackett_luce_refuses_labels_that_are_no_ranking_and_rows_out_of_order():
    good = ranked()
    assert good.probability is not None
    with pytest.raises(DataError, match=r"the ranks of pair 0 say 1, its probability 0\.8; plackett"):
        losses.plackett_luce(replace(good, probability=torch.where(good.probability == 1, 0.8, good.probability)))
    for wrong in (good.comparison.flip(0), good.comparison + 1):
        with pytest.raises(UsageError, match="must not decrease, and must stay below count = 8"):
            losses.plackett_luce(replace(good, comparison=wrong))
