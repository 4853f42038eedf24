"""Thinking and answer as one reward for TRL's GRPOTrainer and RLOOTrainer."""

from __future__ import annotations

import copy
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rewardsmith.encoding.template import plain
from rewardsmith.errors import RewardsmithError, UsageError
from rewardsmith.integrations.judge import Judge, Shaping, group_numbers
from rewardsmith.integrations.thinking_verdict import ThinkingVerdict, has_form, summarise
from rewardsmith.integrations.trainer_function import TrainerFunction, name_of, warn_of_processes
from rewardsmith.model.load import LoadOptions
from rewardsmith.model.process_scores import no_process_head
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.thinking_scores import (
    AskedThinking,
    ThinkingScore,
    ask_thinking,
    check_causal,
    score_asked_thinking,
)
from rewardsmith.scoring.memory import Budget
from rewardsmith.scoring.row import ToScore
from rewardsmith.scoring.shaped import resolve_shaping
from rewardsmith.shaping import (
    Center,
    Context,
    GroupZScore,
    LengthPenalty,
    Normalise,
    Pipeline,
    RunningNormalise,
    ZScore,
)
from rewardsmith.shaping.shape import number
from rewardsmith.thinking.tags import Tags

logger = logging.getLogger("rewardsmith")

Anneal = Literal["none", "linear", "cosine"]
Judgement = Literal["reward", "process_min", "process_last", "process_mean"]
_FORMS: dict[str, Callable[[Sequence[float]], float]] = {
    "process_min": min,
    "process_last": lambda right: right[-1],
    "process_mean": statistics.fmean,
}
_CENTRED = (Center, GroupZScore, Normalise, RunningNormalise, ZScore)
_ANNEAL: dict[str, Callable[[float], float]] = {
    "none": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


class ThinkingReward(TrainerFunction):
    """A reward function that pays for the answer, and for the thinking as far as it can be trusted.

        R = answer_weight A + thinking_weight anneal(p) trust T - cost(thinking tokens)

    A is the reward of the answer, T that of the thinking, both shaped. p in [0, 1] is how far training has come.

    - **trust** = exp(min(0, max(0, T) A)): praise counts in full beside a good answer, less the worse the answer is.
      A policy that learns to please the judge of thinking while its answers get worse is paid less and less for it.
      Blame is always believed, so that better thinking never pays less beside a good answer. 0 must mean "as good as
      usual": give a normaliser, or a pipeline fitted on the policy's first responses; without one a warning says so.
    - **anneal** lowers the thinking's weight from 1 to ``anneal_to`` as training goes on.
    - **cost** = min(per_token max(0, tokens - free_tokens), limit), so that longer thinking is not free.
    - A completion without the form - thinking, closed, then an answer, tags prefilled or not - has T = ``unformed``
      and trust 1.

    Trust-GRPO (Fan et al. 2025, arXiv 2505.17018) weighs thinking rewards by their agreement with the outcome over a
    group and anneals them; here the agreement is that of each response, so that it needs no group.

    Args:
        model: one causal reward model, or its folder.
        shaping: of both parts: a pipeline, its text or file; None for what the model was saved with; False for raw
            rewards. With running statistics each part has its own.
        thinking: what T is. ``reward``: the reward read where the thinking ends. ``process_min``, ``process_last``,
            ``process_mean``: 2 p - 1 with the least, last or mean probability p that a step of the thinking is right,
            by the model's process head, in [-1, 1]; it needs no normaliser.
        thinking_shaping: of T, where it is another; None for the same, and for none with a process head.
        thinking_weight, answer_weight: >= 0, not both 0.
        answer: ``alone``: A is the reward of the answer without its thinking, which no thinking can raise. ``overall``:
            of the whole response.
        unformed: T of a completion without the form, and the most that A is without an answer, in shaped units, finite.
        anneal: ``cosine``, ``linear`` or ``none``, over the trainer's ``max_steps``.
        anneal_to: share of the thinking's weight that is left at the end, in [0, 1].
        free_tokens: tokens of thinking, of the reward model's tokenizer, that cost nothing, >= 0.
        per_token: units of reward for each further one, >= 0; 0 for no cost.
        limit: the most that length costs, > 0.
        tags: the think tags to look for; None for all families.
        name: in the trainer's logs; None for the model's folder and ``thinking``.
        prefill, load: see :class:`Judge`.
        budget: positions per forward pass; halved when memory runs out.

    Raises:
        UsageError: a value out of range, or a shaping that needs a reference, other rewards or an ensemble.
        ModelError: no such model, an encoder, or no process head where T is to be its.

    Example:
        >>> reward = ThinkingReward("out/rm", shaping="running")  # doctest: +SKIP
        >>> GRPOTrainer(policy, reward_funcs=[reward, ThinkFormat.of(tokenizer)], ...)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: RewardModel | str | Path,
        shaping: Shaping = None,
        name: str | None = None,
        *,
        thinking: Judgement = "reward",
        thinking_shaping: Shaping = None,
        thinking_weight: float = 0.5,
        answer_weight: float = 1.0,
        answer: Literal["alone", "overall"] = "alone",
        unformed: float = -1.0,
        anneal: Anneal = "cosine",
        anneal_to: float = 0.0,
        free_tokens: float = 512,
        per_token: float = 0.001,
        limit: float = 1.0,
        tags: Tags | None = None,
        prefill: str = "",
        load: LoadOptions | None = None,
        budget: int | None = None,
    ):
        self.thinking_weight = number("thinking reward", "thinking_weight", thinking_weight, low=0)
        self.answer_weight = number("thinking reward", "answer_weight", answer_weight, low=0)
        if not thinking_weight + answer_weight:
            raise UsageError("thinking_weight and answer_weight are both 0; one must be greater")
        self.unformed = number("thinking reward", "unformed", unformed)
        self.anneal_to = number("thinking reward", "anneal_to", anneal_to, low=0)
        if self.anneal_to > 1:
            raise UsageError(f"anneal_to {anneal_to}: a share of the thinking's weight, in [0, 1]")
        self.anneal, self.answer, self.tags = _one_of("anneal", anneal, _ANNEAL), answer, tags
        _one_of("answer", answer, ("alone", "overall"))
        self.thinking = _one_of("thinking", thinking, ("reward", *_FORMS))
        per_token = number("thinking reward", "per_token", per_token, low=0)
        free_tokens = number("thinking reward", "free_tokens", free_tokens, low=0)
        limit = number("thinking reward", "limit", limit, low=0, above=True)
        self._cost = LengthPenalty(per_token, free_tokens, limit) if per_token else None
        judge = Judge(model, shaping=shaping, prefill=prefill, load=load)
        super().__init__(judge, name or f"{name_of(model, judge)}-thinking")
        if len(self.judge.scorer.models) != 1:
            raise UsageError("thinking is read from one model; give a single one")
        (judging,) = self.judge.scorer.models
        check_causal(judging)
        if thinking in _FORMS and judging.process is None:
            raise no_process_head(judging.loaded_from)
        self._budget = Budget(budget)
        self.answer_shaping = _checked(self.judge.shaping)
        if thinking_shaping is None:
            self.thinking_shaping = None if thinking in _FORMS else copy.deepcopy(self.answer_shaping)
        else:
            self.thinking_shaping = copy.deepcopy(_checked(resolve_shaping(thinking_shaping, [judging])))
        self._warn_of_raw_rewards(centred=(judging.contract.mean, judging.contract.std) != (0.0, 1.0))
        warn_of_processes(self.__name__, self.scopes)

    @property
    def shapings(self) -> dict[str, Pipeline]:
        """Of the answer and of the thinking."""
        both = {self.__name__: self.answer_shaping, f"{self.__name__}.thinking": self.thinking_shaping}
        return {name: pipeline for name, pipeline in both.items() if pipeline}

    def __repr__(self) -> str:
        return f"ThinkingReward({self.__name__!r}, {self.answer_weight:g} answer, {self.thinking_weight:g} thinking)"

    def annealed(self, trainer_state: Any = None) -> float:
        """The thinking's weight at a step: ``thinking_weight`` at first, times ``anneal_to`` at the last."""
        step, last = getattr(trainer_state, "global_step", 0) or 0, getattr(trainer_state, "max_steps", 0) or 0
        progress = min(1.0, max(0.0, step / last)) if last > 0 else 0.0
        return self.thinking_weight * (self.anneal_to + (1 - self.anneal_to) * _ANNEAL[self.anneal](progress))

    def verdicts(self, rows: Sequence[Mapping[str, Any]], thinking_weight: float) -> list[ThinkingVerdict]:
        """Judge rows with ``prompt`` and ``response``, in order.

        Args:
            thinking_weight: with the annealing in it.
        """
        asked = [self._ask(row) for row in rows]
        good = {place: one for place, one in enumerate(asked) if isinstance(one, AskedThinking)}
        model = self.judge.scorer.models[0]
        scores = self._budget.run(
            lambda positions: score_asked_thinking(model, list(good.values()), budget=positions), model.budget
        )
        numbers = group_numbers(rows)
        parts = self._parts(scores, [numbers[place] for place in good])
        found = {
            place: self._verdict(score, *both, thinking_weight)
            for place, score, both in zip(good, scores, parts, strict=True)
        }
        return [found.get(place) or ThinkingVerdict(None, problem=str(one)) for place, one in enumerate(asked)]

    # -- the steps

    def _warn_of_raw_rewards(self, *, centred: bool) -> None:
        """Say which part has no zero. ``centred``: the model's own normaliser gives one to whole responses."""
        raw = [] if centred or _is_centred(self.answer_shaping) else ["answer"]
        raw += [] if self.thinking in _FORMS or _is_centred(self.thinking_shaping) else ["thinking"]
        if raw and self.thinking_weight:
            logger.warning(
                "%s: no normaliser for the reward of the %s: raw rewards have no zero of their own, and trust asks on "
                "which side of 0 they lie; give shaping='running', or a fitted one",
                self.__name__,
                " and the ".join(raw),
            )

    def _raw_thinking(self, score: ThinkingScore) -> float | None:
        """T before shaping; None without the form, or where no step is left to judge."""
        if not has_form(score):
            return None
        right = self._process(score)
        return score.thinking if self.thinking == "reward" else None if right is None else 2 * right - 1

    def _process(self, score: ThinkingScore | None) -> float | None:
        return _FORMS[self.thinking](score.process) if score and score.process and self.thinking in _FORMS else None

    def _ask(self, row: Mapping[str, Any]) -> AskedThinking | RewardsmithError:
        item = self.judge.read(row)
        if not isinstance(item, ToScore):
            return item
        try:
            (response,) = item.responses
            model = self.judge.scorer.models[0]
            return ask_thinking(model, item.prompt, response, tags=self.tags, variables=item.variables)
        except RewardsmithError as error:
            return error

    def _parts(self, scores: Sequence[ThinkingScore], groups: Sequence[int]) -> list[tuple[float, float]]:
        """T and A of each, shaped; T only of what has the form, so that the rest moves no running mean."""
        given = {place: one for place, score in enumerate(scores) if (one := self._raw_thinking(score)) is not None}
        formed = list(given)
        shaped = _shape(self.thinking_shaping, list(given.values()), scores, groups, formed)
        thinking = dict(zip(formed, shaped, strict=True))
        every = list(range(len(scores)))
        raw = [score.answer_alone if self.answer == "alone" else score.overall for score in scores]
        answers = list(_shape(self.answer_shaping, raw, scores, groups, every))
        # Thinking without an end has no answer, and what a model makes of an empty one must not pay.
        for place, score in enumerate(scores):
            if not score.answer_tokens:
                answers[place] = min(answers[place], self.unformed)
        return [(thinking.get(place, self.unformed), answers[place]) for place in every]

    def _verdict(self, score: ThinkingScore, thinking: float, answer: float, weight: float) -> ThinkingVerdict:
        formed = has_form(score)
        trusted = math.exp(min(0.0, max(0.0, thinking) * answer)) if formed else 1.0  # no thinking is no praise
        cost = 0.0
        if self._cost:
            cost = -self._cost([0.0], Context(lengths=[score.thinking_tokens]))[0]
        reward = self.answer_weight * answer + weight * trusted * thinking - cost
        finite = math.isfinite(reward)
        problem = None if finite else f"the shaping made {thinking:g} of the thinking's and {answer:g} of the answer's"
        return ThinkingVerdict(reward if finite else None, score, thinking, answer, trusted, cost, formed, problem)

    def _judged(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any], state: Any
    ) -> list[ThinkingVerdict]:
        return self.verdicts(rows, self.annealed(state))

    def _columns(self, verdicts: Sequence[ThinkingVerdict]) -> dict[str, list[Any]]:
        scores = [verdict.score for verdict in verdicts]
        process = {} if self.thinking == "reward" else {self.thinking: [self._process(one) for one in scores]}
        return {
            **process,
            "overall": [one and one.overall for one in scores],
            **{
                name: [getattr(verdict, name) for verdict in verdicts]
                for name in ("thinking", "answer", "trust", "cost")
            },
            **{
                name: [one and getattr(one, name) for one in scores]
                for name in ("contribution", "thinking_tokens", "min_step")
            },
        }

    def _metrics(self, verdicts: Sequence[ThinkingVerdict], state: Any) -> dict[str, float]:
        return {"thinking_weight": self.annealed(state), **summarise(verdicts)}


def _shape(
    pipeline: Pipeline | None,
    raw: Sequence[float],
    scores: Sequence[ThinkingScore],
    groups: Sequence[int],
    places: Sequence[int],
) -> Sequence[float]:
    """Shaped rewards of the scores at ``places``, as many as ``raw``."""
    if pipeline is None or not raw:
        return raw
    context = Context(
        groups=[groups[place] for place in places],
        lengths=[scores[place].scored.response_tokens for place in places],
        texts=[plain(scores[place].response) for place in places],
    )
    return pipeline(list(raw), context)


def _checked(pipeline: Pipeline | None) -> Pipeline | None:
    if pipeline and (missing := pipeline.needs & {"reference", "rewards", "disagreement"}):
        raise UsageError(f"the shaping needs {', '.join(sorted(missing))}, which thinking and answer do not have")
    return pipeline


def _is_centred(pipeline: Pipeline | None) -> bool:
    return pipeline is not None and any(isinstance(step, _CENTRED) for step in pipeline.steps)


def _one_of(name: str, value: str, known: Any) -> Any:
    if value not in known:
        raise UsageError(f"{name} {value!r}: use {', '.join(known)}")
    return value
