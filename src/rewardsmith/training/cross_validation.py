"""The ridge of a head, by cross-validation over prompts.

Every fold is fitted at every ridge, from strong to weak, each fit starting at the previous one. All fits at one ridge
share one preconditioner, the Cholesky factor of the Hessian of all pairs, so that forty-five fits cost a few seconds'
worth of matrix products at most: nothing is factorised per fold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import qr

from rewardsmith.errors import UsageError
from rewardsmith.intervals import wilson
from rewardsmith.training.bradley_terry import Ties, objective_of
from rewardsmith.training.design import Design
from rewardsmith.training.folds import grouped_folds, usable_folds
from rewardsmith.training.likelihood import Objective, pair_losses
from rewardsmith.training.newton import Factor, minimise, minimise_exactly
from rewardsmith.training.pairs import Pairs
from rewardsmith.training.threads import one_blas_thread
from rewardsmith.types import Estimate

_TOLERANCE = 1e-3  # posterior standard deviations: a held-out loss is right to about four digits


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Held-out performance along a path of ridges.

    Args:
        ridges: ascending, [R].
        log_loss: weighted mean held-out loss in nats per pair, without margins, [R]. log 2 = 0.693 is a coin.
        log_loss_se: its standard error, clustered by prompt, [R].
        accuracy: share of preferences predicted, [R] estimates with Wilson intervals. Predicted ties count one half.
        best: index of the lowest log loss.
        folds: folds used. 0: cross-validation was not possible, ``ridges`` is one default, losses are NaN and
            accuracies missing.
        pair_losses: held-out loss of each pair at the best ridge, [P]; empty without folds.
        note: what a person should know of it (fewer folds than asked, an optimum at the grid's edge), or None.
    """

    ridges: np.ndarray
    log_loss: np.ndarray
    log_loss_se: np.ndarray
    accuracy: tuple[Estimate, ...]
    best: int
    folds: int
    pair_losses: np.ndarray
    note: str | None = None

    @property
    def ridge(self) -> float:
        """The ridge to fit with."""
        return float(self.ridges[self.best])

    def as_dict(self) -> dict[str, Any] | None:
        """The best ridge's, for ``--json``; None without folds."""
        if not self.folds:
            return None
        accuracy, log_loss = self.accuracy[self.best].as_dict(), float(self.log_loss[self.best])
        return {"folds": self.folds, "accuracy": accuracy, "log_loss": log_loss, "note": self.note}


def choose_ridge(
    features: np.ndarray,
    pairs: Pairs,
    ridges: np.ndarray | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    ties: Ties = "soft",
) -> CrossValidation:
    """Cross-validate the head of ``bradley_terry.fit`` over ``ridges``.

    Args:
        features: [N, d] floats.
        pairs: their ``group`` decides what may not be split.
        ridges: all > 0; default ``default_ridges``.
        folds: >= 2; fewer are used when there are fewer prompts.
        seed: of the assignment to folds.
        ties: as in ``fit``.

    Raises:
        UsageError, DataError: as ``fit``. One prompt alone is not an error: see ``CrossValidation.folds``.
    """
    with one_blas_thread():
        differences = Design.of(features, pairs).differences
        grid = default_ridges(differences) if ridges is None else np.asarray(ridges, dtype=np.float64)
        return validate(differences, pairs, grid, folds=folds, seed=seed, ties=ties)


def validate(
    differences: np.ndarray, pairs: Pairs, ridges: np.ndarray, *, folds: int, seed: int, ties: Ties
) -> CrossValidation:
    """``choose_ridge`` for whitened differences [P, k], as ``Design`` makes them, over a given grid."""
    if folds < 2:
        raise UsageError(f"folds must be >= 2, not {folds}")
    if ridges.ndim != 1 or not len(ridges) or not (np.isfinite(ridges) & (ridges > 0)).all():
        raise UsageError(f"ridges must be one or more finite numbers > 0, not {ridges!r}")
    ridges, used = np.sort(ridges), usable_folds(pairs, folds)
    with one_blas_thread():
        objective = objective_of(_rotated(differences), pairs, 1.0, ties)
        if not used:
            return _impossible(default_ridges(differences))
        note = None if used == folds else f"{used} folds instead of {folds}: there are no more prompts"
        if objective.threshold and len(np.unique(pairs.group[pairs.probability == 0.5])) < 2:
            objective, note = objective_of(objective.differences, pairs, 1.0, "soft"), "only one prompt has ties"
        predicted, thresholds = _held_out(objective, pairs, ridges, grouped_folds(pairs, used, seed))
    return _summary(ridges, predicted, thresholds, pairs, used, note)


def default_ridges(differences: np.ndarray) -> np.ndarray:
    """Nine ridges, a factor of sqrt(10) apart, around the one that expects differences of reward of size one.

    Under the prior theta ~ N(0, 1/ridge) a difference z has the variance |z|^2 / ridge; the middle of the grid is
    where that is 1 for the average pair.

    Args:
        differences: whitened, [P, k].
    """
    return float(np.mean(np.einsum("pk,pk->p", differences, differences))) * np.logspace(-2, 2, 9)


def _held_out(
    objective: Objective, pairs: Pairs, ridges: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predicted differences and tie thresholds (None if soft) of each pair by the fit that did not see it, [R, P]."""
    parts = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(fold.max() + 1)]
    training = [_part(objective, pairs, train) for train, _ in parts]
    points = [part.zero() for part in training]
    predicted, thresholds = np.empty((len(ridges), len(fold))), np.zeros((len(ridges), len(fold)))
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
        for at, ridge, factor in _factors(objective, ridges, 1 - 1 / len(parts)):
            fits = [
                pool.submit(_fold_fit, replace(p, ridge=ridge), x, factor)
                for p, x in zip(training, points, strict=True)
            ]
            points = [f.result() for f in fits]
            for (_, held), point in zip(parts, points, strict=True):
                predicted[at, held] = objective.differences[held] @ point[: objective.size]
                thresholds[at, held] = point[-1] if objective.threshold else 0.0
    return predicted, thresholds if objective.threshold else None


def _fold_fit(objective: Objective, start: np.ndarray, factor: Factor) -> np.ndarray:
    """The optimum of one fold; with Hessians of its own in the rare case that the shared factor does not lead there."""
    found = minimise(objective, start, factor, _TOLERANCE)
    if not found.converged:
        found, _ = minimise_exactly(objective, found.evaluation.point, _TOLERANCE)
    return found.evaluation.point


def _part(objective: Objective, pairs: Pairs, rows: np.ndarray) -> Objective:
    few = pairs.take(rows)
    return Objective.of(
        objective.differences[rows], few.probability, few.margin, few.weight, objective.ridge, objective.threshold
    )


def _factors(objective: Objective, ridges: np.ndarray, share: float) -> Iterator[tuple[int, float, Factor]]:
    """(index, ridge, factor of share * data Hessian + ridge), the strong ridges first."""
    hessian = share * objective.at(objective.zero()).hessian()
    diagonal = np.diag_indices(objective.size)
    hessian[diagonal] -= share * objective.ridge
    for at in np.argsort(-ridges):
        matrix = hessian.copy()
        matrix[diagonal] += ridges[at]
        yield int(at), float(ridges[at]), Factor.of(matrix)


def _rotated(differences: np.ndarray) -> np.ndarray:
    """The same problem in at most P dimensions: the optimum lies in the span of the differences, whose basis is Q.

    With Z^T = Q R and theta = Q phi, Z theta = R^T phi and |theta| = |phi|.
    """
    if len(differences) >= differences.shape[1]:
        return differences
    triangle = np.asarray(qr(differences.T, mode="r", check_finite=False)[0])
    return np.ascontiguousarray(triangle[: len(differences)].T)


def _summary(
    ridges: np.ndarray, predicted: np.ndarray, thresholds: np.ndarray | None, pairs: Pairs, folds: int, note: str | None
) -> CrossValidation:
    losses = pair_losses(predicted, pairs.probability, thresholds)  # [R, P]
    mean = losses @ pairs.weight / pairs.weight.sum()
    best = int(np.argmin(mean))
    if best in (0, len(ridges) - 1) and len(ridges) > 2:
        edge = f"the best ridge {ridges[best]:.3g} is at the edge of the grid"
        note = f"{note}; {edge}" if note else edge
    return CrossValidation(
        ridges=ridges,
        log_loss=mean,
        log_loss_se=np.array([clustered_se(loss, pairs) for loss in losses]),
        accuracy=tuple(_accuracy(row, pairs) for row in predicted),
        best=best,
        folds=folds,
        pair_losses=losses[best],
        note=note,
    )


def clustered_se(values: np.ndarray, pairs: Pairs) -> float:
    """Standard error of the weighted mean of ``values`` [P], robust to dependence in prompts (Liang & Zeger 1986)."""
    _, group = np.unique(pairs.group, return_inverse=True)
    total = pairs.weight.sum()
    deviation = pairs.weight * (values - values @ pairs.weight / total)
    sums = np.bincount(group, weights=deviation)
    return float(np.sqrt(sums @ sums * len(sums) / max(len(sums) - 1, 1)) / total)


def _accuracy(predicted: np.ndarray, pairs: Pairs) -> Estimate:
    """Weighted share of preferences predicted; a predicted tie counts one half.

    Pairs of one prompt are not independent, so the Wilson interval is taken at the effective number of pairs: the one
    whose binomial variance is the clustered variance (Kish 1965).
    """
    decided = pairs.take(pairs.probability != 0.5)
    signs = np.sign(predicted[pairs.probability != 0.5]) * np.sign(decided.probability - 0.5)
    right = (signs + 1) / 2
    share = float(np.clip(right @ decided.weight / decided.weight.sum(), 0.0, 1.0))
    prompts, size = len(np.unique(decided.group)), len(decided)
    effective = float(size)
    if prompts < size:
        error = clustered_se(right, decided)
        effective = min(max(share * (1 - share) / error**2, 1.0), size) if error > 0 else prompts
    found = wilson(share * effective, effective)
    return Estimate(found.value, found.low, found.high, size)


def _impossible(grid: np.ndarray) -> CrossValidation:
    nan = np.array([np.nan])
    note = "no cross-validation: fewer than two prompts have a preference; the ridge is a default"
    return CrossValidation(grid[[len(grid) // 2]], nan, nan, (), 0, 0, np.empty(0), note)
