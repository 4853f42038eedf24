"""The fit of a process head: its optimum is scikit-learn's and scipy's, and no prompt is in two folds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from rewardsmith.errors import DataError, UsageError
from rewardsmith.training import process_fit
from rewardsmith.training.cross_validation import choose_ridge
from rewardsmith.training.folds import grouped_folds
from rewardsmith.training.process_fit import PAIRS, bias_for, fit_steps, step_pairs


def problem(n: int = 300, d: int = 6, seed: int = 0, *, soft: bool = False):
    """Features with means, scales and labels that depend on them; 40 prompts."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * np.logspace(-1, 1, d) + rng.normal(size=d) * 5
    logits = (features - features.mean(0)) / features.std(0) @ rng.normal(size=d) + 1.0
    probability = 1 / (1 + np.exp(-logits))
    labels = probability if soft else (rng.random(n) < probability).astype(float)
    return features, labels, rng.integers(0, 40, n)


def objective(point: np.ndarray, features: np.ndarray, labels: np.ndarray, ridge: float) -> float:
    """The documented objective, written down once more: w over whitened features, then b from their mean."""
    scaled = (features - features.mean(0)) / features.std(0)
    width = 10 * np.sqrt((scaled**2).sum(1).mean())
    scores = scaled @ point[:-1] + point[-1]
    data = labels @ np.logaddexp(0, -scores) + (1 - labels) @ np.logaddexp(0, scores)
    return data + ridge / 2 * (point[:-1] @ point[:-1] + point[-1] ** 2 / width**2)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("ridge", [0.1, 30.0])
def test_the_optimum_is_scipys(soft, ridge) -> None:
    features, labels, groups = problem(soft=soft)
    fit, _ = fit_steps(features, labels, groups, ridge=ridge)
    assert fit.gradient_norm < 1e-5
    other = minimize(objective, np.zeros(7), (features, labels, ridge), method="BFGS", options={"gtol": 1e-7})
    weight = other.x[:-1] / features.std(0)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit.bias, other.x[-1] - weight @ features.mean(0), rtol=1e-4, atol=1e-4)
    found = np.append(fit.weight * features.std(0), fit.bias + fit.weight @ features.mean(0))
    for step in np.eye(7) * 1e-3:  # no neighbour is better
        assert objective(found, features, labels, ridge) <= objective(found + step, features, labels, ridge)
        assert objective(found, features, labels, ridge) <= objective(found - step, features, labels, ridge)


def test_the_optimum_is_scikit_learns() -> None:
    features, labels, groups = problem(2000)
    fit, _ = fit_steps(features, labels, groups, ridge=2.0)
    scaled = (features - features.mean(0)) / features.std(0)
    other = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(scaled, labels)  # its bias has no prior at all
    np.testing.assert_allclose(fit.weight * features.std(0), other.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(fit.bias + fit.weight @ features.mean(0), other.intercept_[0], rtol=1e-3)
    np.testing.assert_allclose(fit.loss, -np.log(other.predict_proba(scaled)[range(2000), labels.astype(int)]).mean())


def test_binary_cuts_soft_labels_and_leaves_out_halves() -> None:
    features, labels, groups = problem(soft=True)
    labels[:20] = 0.5
    found, _ = fit_steps(features, labels, groups, loss="binary", ridge=3.0)
    hard, _ = fit_steps(features[20:], (labels[20:] > 0.5).astype(float), groups[20:], ridge=3.0)
    assert found.examples == 280
    np.testing.assert_allclose(found.weight, hard.weight, rtol=1e-9)
    soft, _ = fit_steps(features, labels, groups, loss="soft", ridge=3.0)
    assert np.abs(soft.weight - found.weight).max() > 1e-3


def test_features_that_do_not_vary_get_no_weight() -> None:
    features, labels, groups = problem()
    with_constant = np.column_stack([features, np.full(len(features), 7.0)])
    fit, _ = fit_steps(with_constant, labels, groups, ridge=3.0)
    assert fit.weight[-1] == 0
    np.testing.assert_allclose(fit.weight[:-1], fit_steps(features, labels, groups, ridge=3.0)[0].weight)


def test_pairs_are_within_prompts_and_the_better_step_is_first() -> None:
    labels, groups = np.array([1, 0, 0.5, 1, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 2, 3])
    pairs = step_pairs(labels, groups)
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (0, 2), (2, 1)]
    assert pairs.weight.sum() == pytest.approx(1.0)
    many = step_pairs(np.arange(40) % 2, np.zeros(40, dtype=int))
    assert len(many) == PAIRS
    assert len(set(zip(many.first.tolist(), many.second.tolist(), strict=True))) == PAIRS
    with pytest.raises(DataError, match="no prompt has a right step and a wrong one"):
        step_pairs(np.array([1.0, 0.0]), np.array([0, 1]))


def test_pairwise_is_the_bradley_terry_optimum_with_a_calibrated_bias() -> None:
    features, labels, groups = problem()
    fit, _ = fit_steps(features, labels, groups, loss="pairwise", ridge=3.0)
    pairs = step_pairs(labels, groups)
    scaled = features / features[np.unique([pairs.first, pairs.second])].std(0)
    differences = scaled[pairs.first] - scaled[pairs.second]

    def value(theta: np.ndarray) -> float:
        return pairs.weight @ np.logaddexp(0, -differences @ theta) + 1.5 * theta @ theta

    other = minimize(value, np.zeros(6), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(
        fit.weight * features[np.unique([pairs.first, pairs.second])].std(0), other.x, rtol=1e-4, atol=1e-5
    )
    mean = (1 / (1 + np.exp(-(features @ fit.weight + fit.bias)))).mean()
    assert mean == pytest.approx(labels.mean(), abs=1e-9)
    assert bias_for(np.array([1000.0, -1000.0]), 0.75) == pytest.approx(1000.0)


def test_folds_are_by_prompt(monkeypatch) -> None:
    features, labels, groups = problem()
    seen = []

    def spy(pairs, folds, seed):
        fold = grouped_folds(pairs, folds, seed)
        seen.append((pairs.group, fold))
        return fold

    monkeypatch.setattr("rewardsmith.training.cross_validation.grouped_folds", spy)
    fit, validation = fit_steps(features, labels, groups, folds=4)
    assert validation is not None
    assert validation.folds == 4
    assert fit.ridge == validation.ridge
    ((group, fold),) = seen
    np.testing.assert_array_equal(group, groups)
    assert set(fold) == {0, 1, 2, 3}
    for prompt in np.unique(groups):
        assert len(set(fold[groups == prompt])) == 1


def test_the_held_out_loss_is_that_of_fits_without_the_fold() -> None:
    features, labels, groups = problem()
    _, validation = fit_steps(features, labels, groups, folds=3, seed=1)
    assert validation is not None
    pairs = process_fit.Pairs.of(np.arange(300), np.full(300, 300), probability=labels, group=groups)
    fold, losses = grouped_folds(pairs, 3, 1), np.zeros(300)
    # The whitening is that of all steps, as in the fit at the end.
    scaled = (features - features.mean(0)) / features.std(0)
    width = 10 * np.sqrt((scaled**2).sum(1).mean())
    columns = np.column_stack([scaled, np.full(300, width)])
    for part in range(3):
        train, held = fold != part, fold == part
        model = LogisticRegression(C=1 / validation.ridge, fit_intercept=False, tol=1e-10, max_iter=5000)
        scores = columns[held] @ model.fit(columns[train], labels[train]).coef_[0]
        losses[held] = np.logaddexp(0, np.where(labels[held] == 1, -scores, scores))
    assert validation.log_loss[validation.best] == pytest.approx(losses.mean(), rel=2e-3)


def test_one_prompt_gets_a_default_ridge() -> None:
    features, labels, _ = problem()
    one = np.zeros(300, dtype=int)
    fit, validation = fit_steps(features, labels, one)
    assert validation is not None
    assert validation.folds == 0
    assert fit.ridge == pytest.approx(6.0)  # features whitened: their mean square is their number
    assert choose_ridge(features, step_pairs(labels, one)).folds == 0


def test_what_cannot_be_learnt_is_said() -> None:
    features, labels, groups = problem()
    for value, says in ((1.0, "no step is wrong"), (0.0, "no step is right")):
        with pytest.raises(DataError, match=says):
            fit_steps(features, np.full(300, value), groups)
    with pytest.raises(UsageError, match="the loss is 'hinge'"):
        fit_steps(features, labels, groups, loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"must be \[N, d\]"):
        fit_steps(features, labels[:-1], groups)
    with pytest.raises(DataError, match="labels: a label is not between 0 and 1"):
        fit_steps(features, labels * 2, groups)
    features[3, 1] = np.inf
    with pytest.raises(DataError, match="1 steps have features that are not finite"):
        fit_steps(features, labels, groups)
