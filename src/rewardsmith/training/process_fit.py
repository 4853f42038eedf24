"""A linear process head on frozen features of step ends, fitted to the exact optimum.

Step i with features x_i and label y_i, the probability that it is right, in [0, 1]:

    soft, binary:   sum_i [ -y_i log sigma(s_i) - (1 - y_i) log sigma(-s_i) ] + ridge/2 (|S w|^2 + b^2 / B^2)
    pairwise:       sum_(i, j) u_ij [ -log sigma(s_i - s_j) ] + ridge/2 |S w|^2,      s_i = w . x_i + b

- S holds the features' standard deviations, and b is counted from their mean, as in ``bradley_terry``. B is ten times
  the root mean square of |S^-1 (x - mean)|: the prior holds the bias a hundred times less than a typical log-odds.
- The logistic loss of a step is the Bradley-Terry loss of the step against a response whose features and reward are 0,
  so likelihood, Newton's method and cross-validation are those of the reward head (``likelihood``, ``newton``,
  ``cross_validation``).
- Pairs are of steps of one prompt, the one with the higher label first. A prompt's pairs share the weight 1. They say
  nothing of b, which is then set so that the mean probability is the mean label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from rewardsmith.errors import DataError, UsageError
from rewardsmith.training import bradley_terry
from rewardsmith.training.bradley_terry import objective_of
from rewardsmith.training.cross_validation import CrossValidation, choose_ridge, default_ridges, validate
from rewardsmith.training.newton import minimise_exactly
from rewardsmith.training.pairs import Pairs
from rewardsmith.training.threads import one_blas_thread

Loss = Literal["soft", "binary", "pairwise"]

PAIRS = 64
"""Pairs of one prompt at most; of more, so many are drawn."""

_BIAS_WIDTH = 10.0
_TOLERANCE = 1e-8  # posterior standard deviations, as for the reward head


@dataclass(frozen=True, eq=False)
class ProcessFit:
    """A fitted process head: log-odds = features @ weight + bias.

    Args:
        weight: [d] float64, in raw feature units.
        bias: in log-odds.
        ridge: the ridge it was fitted with.
        loss: mean of the data loss, in nats per step, or per pair.
        gradient_norm: Euclidean norm of the gradient at the optimum, features scaled to unit deviation.
        iterations: Newton steps.
        examples: steps or pairs learnt from.
    """

    weight: np.ndarray
    bias: float
    ridge: float
    loss: float
    gradient_norm: float
    iterations: int
    examples: int


def fit_steps(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    loss: Loss = "soft",
    ridge: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[ProcessFit, CrossValidation | None]:
    """Fit a process head, its ridge chosen by cross-validation over prompts unless it is given.

    Args:
        features: [N, d] floats, one row per step end.
        labels: [N] in [0, 1].
        groups: [N] prompt of each step; no prompt is in two folds.
        loss: ``soft`` takes labels as they are, ``binary`` takes those above one half for 1 and those below for 0 and
            leaves out what is exactly one half, ``pairwise`` compares the steps of each prompt.
        ridge: > 0; None to choose it.
        folds, seed: of the cross-validation; ``seed`` also draws pairs.

    Raises:
        UsageError: an unknown loss, or arguments that cannot work.
        DataError: all steps are right, or all wrong; or no prompt has both; or a feature is not finite.
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if loss not in get_args(Loss):
        raise UsageError(f"the loss is {loss!r}; it must be one of {', '.join(get_args(Loss))}")
    _check(features, labels, groups)
    if loss == "pairwise":
        return _fit_pairs(features, labels, groups, ridge, folds, seed)
    if loss == "binary":
        decided = labels != 0.5
        features, labels, groups = features[decided], (labels[decided] > 0.5).astype(float), groups[decided]
    return _fit_points(features, labels, groups, ridge, folds, seed)


def step_pairs(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> Pairs:
    """Every two steps of one prompt with different labels, at most ``PAIRS`` of a prompt, the better one first.

    Raises:
        DataError: there are none.
    """
    rng = np.random.default_rng(seed)
    first, second, weight, group = [], [], [], []
    order = np.argsort(groups, kind="stable")
    prompts, starts = np.unique(groups[order], return_index=True)
    for prompt, rows in zip(prompts, np.split(order, starts[1:]), strict=True):
        better, worse = np.nonzero(labels[rows][:, None] > labels[rows][None, :])
        if len(better) > PAIRS:
            drawn = np.sort(rng.choice(len(better), PAIRS, replace=False))
            better, worse = better[drawn], worse[drawn]
        first.append(rows[better])
        second.append(rows[worse])
        weight.append(np.full(len(better), 1.0 / max(1, len(better))))
        group.append(np.full(len(better), prompt))
    if not sum(map(len, first)):
        raise DataError("no prompt has a right step and a wrong one, so there are no pairs; use --step-loss soft")
    joined = [np.concatenate(column) for column in (first, second, weight, group)]
    return Pairs.of(joined[0], joined[1], weight=joined[2], group=joined[3])


def _check(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
    if features.ndim != 2 or labels.shape != (len(features),) or np.shape(groups) != labels.shape:
        raise UsageError(
            f"features, labels and groups must be [N, d], [N] and [N], not {list(features.shape)}, "
            f"{list(labels.shape)} and {list(np.shape(groups))}"
        )
    if not ((labels >= 0) & (labels <= 1)).all():
        raise DataError("a label is not between 0 and 1", field="labels")
    if not (labels > 0.5).any() or not (labels < 0.5).any():
        kind = "right" if (labels > 0.5).any() else "wrong"
        raise DataError(f"no step is {'wrong' if kind == 'right' else 'right'}: there is nothing to tell apart")
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise DataError(
            f"{int(broken.sum())} steps have features that are not finite; the backbone overflowed: "
            "use --dtype bfloat16 or float32",
            field="features",
        )


def _fit_points(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, ridge: float | None, folds: int, seed: int
) -> tuple[ProcessFit, CrossValidation | None]:
    center, deviation = features.mean(axis=0), features.std(axis=0)
    varying = np.ptp(features, axis=0) > 4 * np.finfo(np.float32).eps * np.abs(features).max(axis=0)
    scaled = (features[:, varying] - center[varying]) / deviation[varying]
    width = _BIAS_WIDTH * float(np.sqrt(np.mean(np.einsum("nk,nk->n", scaled, scaled)))) or 1.0
    columns = np.column_stack([scaled, np.full(len(scaled), width)])
    # Step against nothing: the second response of each pair has no row, its features and its reward are 0.
    nothing = np.full(len(labels), len(labels))
    pairs = Pairs.of(np.arange(len(labels)), nothing, probability=labels, group=groups)
    validation = None
    with one_blas_thread():
        if ridge is None:
            grid = default_ridges(scaled)
            validation = validate(columns, pairs, grid, folds=folds, seed=seed, ties="soft")
            if not validation.folds:  # one prompt: the default of the grid that leaves the bias out
                validation = replace(validation, ridges=grid[[len(grid) // 2]])
            ridge = validation.ridge
        objective = objective_of(columns, pairs, ridge, "soft")
        minimum, _ = minimise_exactly(objective, objective.zero(), _TOLERANCE)
    if not minimum.converged:
        raise UsageError(f"the fit did not converge with ridge {ridge:g}; use a larger one, or look at the features")
    found = minimum.evaluation
    weight = np.zeros(features.shape[1])
    weight[varying] = found.theta[:-1] / deviation[varying]
    bias = float(found.theta[-1] * width - weight @ center)
    norm, mean = float(np.linalg.norm(found.gradient)), found.data_loss / len(labels)
    return ProcessFit(weight, bias, float(ridge), mean, norm, minimum.steps, len(labels)), validation


def _fit_pairs(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, ridge: float | None, folds: int, seed: int
) -> tuple[ProcessFit, CrossValidation | None]:
    pairs, validation = step_pairs(labels, groups, seed), None
    if ridge is None:
        validation = choose_ridge(features, pairs, folds=folds, seed=seed)
        ridge = validation.ridge
    fit = bradley_terry.fit(features, pairs, ridge)
    bias = bias_for(features @ fit.weight, float(labels.mean()))
    return (
        ProcessFit(fit.weight, bias, fit.ridge, fit.loss, fit.gradient_norm, fit.iterations, len(pairs)),
        validation,
    )


def bias_for(scores: np.ndarray, share: float) -> float:
    """The b for which the mean of sigma(scores + b) is ``share``, in (0, 1): the optimum of the logistic loss in b."""
    reach = 40.0 + abs(np.log(share) - np.log1p(-share))
    low, high = -scores.max() - reach, -scores.min() + reach
    return float(brentq(lambda b: float(expit(scores + b).mean()) - share, low, high))  # type: ignore[arg-type]
