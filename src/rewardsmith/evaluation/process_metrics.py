"""How well a process head tells right steps from wrong ones, next to what counting would get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rewardsmith.data.text import normalised
from rewardsmith.errors import DataError, UsageError
from rewardsmith.evaluation.metrics import paired_gain, share
from rewardsmith.intervals import cluster_bootstrap
from rewardsmith.model.process_scores import StepScores, ask_steps, score_asked_steps
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.types import Estimate, Stepwise

_DRAWS = 500  # of the bootstrap where a statistic is computed draw by draw


@dataclass(frozen=True)
class Baselines:
    """What needs no model.

    Args:
        always_right: step accuracy of calling every step right.
        position: area under the curve of "the earlier, the more likely right".
        length: the same of "the shorter, the more likely right". Below 1/2, longer steps are the better ones.
        last_step: how often the last step is the first wrong one, among responses with a wrong step.
    """

    always_right: Estimate
    position: Estimate
    length: Estimate
    last_step: Estimate | None


@dataclass(frozen=True)
class ProcessMetrics:
    """Estimates carry 95% intervals, made by drawing prompts anew where a prompt has several items.

    A step counts as right when its label is above one half, as wrong below; exactly one half and steps that nobody
    judged are left out. A model calls it right when its probability is at least one half.

    Args:
        step_accuracy: share of judged steps called what they are.
        over_always_right: step accuracy minus that of calling every step right, paired.
        auc: probability that a right step has the higher log-odds than a wrong one, both drawn from all steps.
        macro_f1: mean of the F1 of the right and of the wrong steps.
        first_error: among responses with a wrong step, how often the first step called wrong is the first wrong one.
        lowest: the same for the step of the lowest probability.
        all_right: among responses without a wrong step, how often no step is called wrong.
        f1: harmonic mean of ``first_error`` and ``all_right``, as in ProcessBench (Zheng et al. 2024).
        response_accuracy: share of responses of which it says rightly whether all steps are right.
        baselines: see :class:`Baselines`.
        steps, wrong_steps: judged steps, and wrong ones among them.
        responses: those whose steps are judged up to the first wrong one; the others count for steps alone.
        cut: steps that were cut off to fit ``max_length``, and are left out.
    """

    step_accuracy: Estimate
    over_always_right: Estimate
    auc: Estimate
    macro_f1: float
    first_error: Estimate | None
    lowest: Estimate | None
    all_right: Estimate | None
    f1: float | None
    response_accuracy: Estimate | None
    baselines: Baselines
    steps: int
    wrong_steps: int
    responses: int
    cut: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: estimates as {"value", "low", "high", "n"}."""
        return _plain(self)


def evaluate_steps(
    model: RewardModel,
    rows: Sequence[Stepwise],
    *,
    budget: int | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> ProcessMetrics:
    """Judge the steps of held-out responses, as they would be judged in use, and compare with their labels.

    Args:
        model: with a process head.
        rows: held-out data.
        budget: positions per forward pass.
        seed: of the bootstrap.
        report: called with tokens done and tokens in all.

    Raises:
        DataError: no step is judged.
        ModelError: the model has no process head.
    """
    asked = [ask_steps(model, row.prompt, row.steps, separator=row.separator) for row in rows]
    return process_metrics(rows, score_asked_steps(model, asked, budget=budget, progress=report), seed=seed)


def process_metrics(rows: Sequence[Stepwise], scores: Sequence[StepScores], *, seed: int = 0) -> ProcessMetrics:
    """Metrics of what a model made of ``rows``.

    Raises:
        DataError: no step is judged.
        UsageError: rows and scores differ in number.
    """
    if len(rows) != len(scores):
        raise UsageError(f"{len(scores)} scores for {len(rows)} responses; there must be one for each")
    ids: dict[str, int] = {}
    prompts = [ids.setdefault(normalised(row.prompt), len(ids)) for row in rows]
    table = [
        (logit, float(label > 0.5), prompt, position, len(row.steps[position]))
        for row, score, prompt in zip(rows, scores, prompts, strict=True)
        for position, (logit, label) in enumerate(zip(score.logits, row.labels, strict=True))
        if logit is not None and label is not None and label != 0.5
    ]
    if not table:
        raise DataError("no step is judged right or wrong, so there is nothing to measure")
    logits, right, groups, positions, lengths = (np.array(column) for column in zip(*table, strict=True))
    called = (logits >= 0).astype(float)
    correct, always = (called == right).astype(float), right
    whole = _responses(rows, scores, prompts)
    found = {name: _mean(whole, name, seed) for name in ("first_error", "lowest", "all_right", "response", "last_step")}
    return ProcessMetrics(
        step_accuracy=share(correct, groups, seed),
        over_always_right=paired_gain(correct, always, groups, seed),
        auc=_auc_estimate(logits, right, groups, seed),
        macro_f1=(_f1(called, right) + _f1(1 - called, 1 - right)) / 2,
        first_error=found["first_error"],
        lowest=found["lowest"],
        all_right=found["all_right"],
        f1=_harmonic(found["first_error"], found["all_right"]),
        response_accuracy=found["response"],
        baselines=Baselines(
            share(always, groups, seed),
            _auc_estimate(-positions.astype(float), right, groups, seed),
            _auc_estimate(-lengths.astype(float), right, groups, seed),
            found["last_step"],
        ),
        steps=len(table),
        wrong_steps=int((right == 0).sum()),
        responses=len(whole),
        cut=sum(logit is None for score in scores for logit in score.logits),
    )


def auc(scores: np.ndarray, right: np.ndarray) -> float:
    """P(a right item scores above a wrong one), equal scores one half (Mann-Whitney); 1/2 when a kind is missing."""
    count, others = float(right.sum()), float((1 - right).sum())
    if not count or not others:
        return 0.5
    return float((rankdata(scores)[right > 0.5].sum() - count * (count + 1) / 2) / (count * others))


def _auc_estimate(scores: np.ndarray, right: np.ndarray, groups: np.ndarray, seed: int) -> Estimate:
    """With the interval of resampled prompts; [0, 1] when there is one prompt, or one kind of step."""
    value = auc(scores, right)
    if len(np.unique(groups)) < 2 or len(np.unique(right)) < 2:
        return Estimate(value, 0.0, 1.0, len(scores))
    rows = np.arange(len(scores), dtype=float)

    def of(drawn: np.ndarray) -> float:
        index = drawn.astype(np.int64)
        return auc(scores[index], right[index])

    return cluster_bootstrap(rows, groups, of, draws=_DRAWS, seed=seed)


def _responses(
    rows: Sequence[Stepwise], scores: Sequence[StepScores], prompts: Sequence[int]
) -> list[dict[str, float]]:
    """Per response that is judged up to its first wrong step, and was read whole, the outcomes that apply to it."""
    outcomes = []
    for row, score, prompt in zip(rows, scores, prompts, strict=True):
        truth = row.first_error
        if truth is None or any(logit is None for logit in score.logits):
            continue
        known = [logit for logit in score.logits if logit is not None]
        predicted = score.first_error
        one: dict[str, float] = {"prompt": prompt, "response": float((predicted < 0) == (truth < 0))}
        if truth < 0:
            one["all_right"] = float(predicted < 0)
        else:
            one["first_error"] = float(predicted == truth)
            one["lowest"] = float(int(np.argmin(known)) == truth)
            one["last_step"] = float(len(known) - 1 == truth)
        outcomes.append(one)
    return outcomes


def _mean(outcomes: list[dict[str, float]], name: str, seed: int) -> Estimate | None:
    some = [one for one in outcomes if name in one]
    if not some:
        return None
    return share(np.array([one[name] for one in some]), np.array([one["prompt"] for one in some]), seed)


def _f1(called: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN); 0 when the kind neither occurs nor is called."""
    both = float((called * truth).sum())
    total = float(called.sum() + truth.sum())
    return 2 * both / total if total else 0.0


def _harmonic(first: Estimate | None, second: Estimate | None) -> float | None:
    if first is None or second is None:
        return None
    total = first.value + second.value
    return 2 * first.value * second.value / total if total else 0.0


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, (ProcessMetrics, Baselines)):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return value
