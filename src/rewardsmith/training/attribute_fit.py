"""Heads of attributes on frozen features: least squares with a ridge, the start of a regression on attributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

RIDGES = np.logspace(-1, 6, 15)


@dataclass(frozen=True, eq=False)
class AttributeFit:
    """Fitted heads.

    Args:
        weight: [A, d] float64, in raw feature units.
        bias: [A]; zeros without an intercept.
        ridge: the one chosen for each attribute, [A].
    """

    weight: np.ndarray
    bias: np.ndarray
    ridge: np.ndarray


def fit_attributes(
    features: np.ndarray, scores: np.ndarray, comparison: np.ndarray, *, intercept: bool = False
) -> AttributeFit:
    """Of each attribute a: argmin over h, b of sum_n v_n (y_na - h . x_n - b)^2 + ridge_a |S h|^2.

    v_n is 1 over the known ratings in n's comparison, so that each comparison counts once, as in ``losses.regression``.
    S holds the features' standard deviations, so the ridge does not depend on their units, and what all responses
    share, which has to carry the mean rating where the head has no bias, is hardly held back. The ridge is the one of
    ``RIDGES`` with the least leave-one-out error, which is known in closed form (Golub, Heath & Wahba 1979).

    Args:
        features: x, [R, d] float.
        scores: y, [R, A]; NaN is unknown. At least one rating of each attribute is known.
        comparison: which comparison a response belongs to, [R] integers >= 0.
        intercept: whether b is fitted; else it is 0.
    """
    from sklearn.linear_model import RidgeCV

    features, known = features.astype(np.float64), ~np.isnan(scores)
    scale = features.std(axis=0)
    scale[scale <= 1e-9 * np.abs(features).max(axis=0)] = 1.0
    weight, bias = np.zeros((scores.shape[1], features.shape[1])), np.zeros(scores.shape[1])
    ridge = np.zeros(scores.shape[1])
    patterns, which = np.unique(known, axis=1, return_inverse=True)  # attributes known together are fitted together
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(which.ravel() == number)
        share = 1.0 / np.bincount(comparison[rows])[comparison[rows]]
        solver = RidgeCV(RIDGES, fit_intercept=intercept, alpha_per_target=True)
        solver.fit(features[rows] / scale, scores[rows][:, columns], sample_weight=share)
        weight[columns], bias[columns], ridge[columns] = solver.coef_ / scale, solver.intercept_, solver.alpha_
    return AttributeFit(weight, bias, ridge)


@torch.no_grad()
def install(head: torch.nn.Linear, fit: AttributeFit) -> None:
    """Put fitted heads into ``head``, which has one output per attribute."""
    head.weight.copy_(torch.from_numpy(fit.weight))
    if head.bias is not None:
        head.bias.copy_(torch.from_numpy(fit.bias))
