"""Rows with their rewards taken apart: what ``rewardsmith score --thinking`` adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from rewardsmith.errors import RewardsmithError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.thinking_scores import (
    AskedThinking,
    ThinkingScore,
    ask_thinking,
    check_causal,
    score_asked_thinking,
)
from rewardsmith.scoring.aggregates import Aggregate
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.thinking.tags import Tags
from rewardsmith.types import ScoredResponse


@dataclass(frozen=True, slots=True)
class ThinkingRow(ScoredResponse):
    """A scored response with what its thinking and its answer are worth. ``reward = answer_alone + contribution``.

    Args:
        thinking_reward: read where the thinking ends; None without thinking.
        answer_given_thinking: what the answer adds to that; None without thinking.
        answer_alone: the reward of the response with its thinking taken out.
        contribution: what the thinking adds to that.
        thinking_tokens: between the tags.
        thinking_share: of the tokens of thinking and answer, in [0, 1].
        repetition: share of the thinking's 4-grams that were there before, in [0, 1).
        closed: whether the closing tag is there; False without thinking.
        prefilled: whether the opening tag stood in the prompt.
        min_step, last_step, mean_step: of the rewards at the ends of all steps, of the thinking and of the answer
            (without thinking, of the answer alone); None for an empty response.
        step_rewards: at the ends of all steps.
        step_scores: of a model with a process head, the probability that each of these steps is right.
        process_min, process_last, process_mean, process_product: of these; None without any.
        first_error: the first step below one half, -1 for none.
    """

    thinking_reward: float | None = None
    answer_given_thinking: float | None = None
    answer_alone: float = 0.0
    contribution: float = 0.0
    thinking_tokens: int = 0
    thinking_share: float = 0.0
    repetition: float = 0.0
    closed: bool = False
    prefilled: bool = False
    min_step: float | None = None
    last_step: float | None = None
    mean_step: float | None = None
    step_rewards: tuple[float, ...] = ()
    step_scores: tuple[float, ...] = ()
    process_min: float | None = None
    process_last: float | None = None
    process_mean: float | None = None
    process_product: float | None = None
    first_error: int = -1

    @classmethod
    def of(cls, score: ThinkingScore) -> ThinkingRow:
        """The same as one flat row."""
        return cls(
            **{field.name: getattr(score.scored, field.name) for field in fields(ScoredResponse)},
            thinking_reward=score.thinking,
            answer_given_thinking=score.answer_given_thinking,
            answer_alone=score.answer_alone,
            contribution=score.contribution,
            thinking_tokens=score.thinking_tokens,
            thinking_share=score.share,
            repetition=score.repetition,
            closed=score.closed,
            prefilled=score.prefilled,
            min_step=score.min_step,
            last_step=score.last_step,
            mean_step=score.mean_step,
            step_rewards=tuple(score.curve.rewards),
            **_process(tuple(step.probability for step in score.steps if step.probability is not None)),
        )


def _process(right: tuple[float, ...]) -> dict[str, Any]:
    """The columns of a process head, from the probability that each step is right; named as score-steps names them."""
    if not right:
        return {}
    return {
        "step_scores": right,
        "process_min": min(right),
        "process_last": right[-1],
        "process_mean": math.fsum(right) / len(right),
        "process_product": math.prod(right),
        "first_error": next((index for index, p in enumerate(right) if p < 0.5), -1),
    }


PROCESS_COLUMNS = ("step_scores", "process_min", "process_last", "process_mean", "process_product", "first_error")
COLUMNS = tuple(
    field.name for field in fields(ThinkingRow)[len(fields(ScoredResponse)) :] if field.name not in PROCESS_COLUMNS
)


class _Voting(RewardModel):
    """A model whose rewards, wherever in a response they are read, are the votes of its ensemble."""

    aggregate: Aggregate

    @classmethod
    def of(cls, model: RewardModel, aggregate: Aggregate) -> _Voting:
        voting = cls(**{field.name: getattr(model, field.name) for field in fields(RewardModel)})
        voting.aggregate = aggregate
        return voting

    def rewards(self, features: torch.Tensor) -> torch.Tensor:
        votes = [self.aggregate(members) for members in self.member_values(features).tolist()]
        return torch.tensor(votes, dtype=torch.float32)  # differences of float32 numbers are exact

    def standard_errors(self, features: torch.Tensor) -> list[float | None]:
        return [None] * len(features)  # that of one head is not that of the vote


class ThinkingScorer(Scorer):
    """A scorer whose results are :class:`ThinkingRow`: the same rewards, taken apart in the same forward passes.

    Its ``columns`` are ``COLUMNS``, of a model with a process head ``PROCESS_COLUMNS`` too.

    Args:
        model: one causal reward model; other models have steps of their own, and a cache knows nothing of the parts.
        tags: the think tags to look for; None for all families.
        aggregate: how the model's ensemble votes, at every place alike; see :class:`Scorer`.
        budget: positions per forward pass; halved when memory runs out.

    Raises:
        ModelError: the model is an encoder.
        UsageError: ``aggregate`` needs members that the model does not have.
    """

    def __init__(
        self, model: RewardModel, *, tags: Tags | None = None, aggregate: str = "auto", budget: int | None = None
    ):
        check_causal(model)
        super().__init__(model, aggregate=aggregate, budget=budget)
        self.tags = tags
        self.columns = COLUMNS if model.process is None else COLUMNS + PROCESS_COLUMNS

    @property
    def _reads(self) -> RewardModel:
        return self.models[0] if self.aggregate is None else _Voting.of(self.models[0], self.aggregate)

    def identity(self) -> str:
        """As for a scorer; with other tags, thinking is something else."""
        return f"{super().identity()} thinking {self.tags and (self.tags.opens, self.tags.closes)}"

    def ask(  # type: ignore[override]
        self, prompt: Any, response: Any, variables: Mapping[str, Any] | None = None
    ) -> AskedThinking | RewardsmithError:
        """Render one response and find its parts; the error when the template refuses it."""
        try:
            return ask_thinking(self.models[0], prompt, response, tags=self.tags, variables=variables)
        except RewardsmithError as error:
            return error

    def score_asked(  # type: ignore[override]
        self, asked: Sequence[AskedThinking | RewardsmithError]
    ) -> list[ThinkingRow | RewardsmithError]:
        """Score what :meth:`ask` gave, in order; errors stay in their places."""
        read = iter(self.take_apart([one for one in asked if isinstance(one, AskedThinking)]))
        return [ThinkingRow.of(next(read)) if isinstance(one, AskedThinking) else one for one in asked]

    def take_apart(self, asked: Sequence[AskedThinking]) -> list[ThinkingScore]:
        """What each response's thinking, answer and steps are worth, in order."""
        return self.budget.run(
            lambda positions: score_asked_thinking(self._reads, asked, budget=positions), self.models[0].budget
        )
