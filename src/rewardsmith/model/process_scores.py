"""How likely each step of a response is right, from one forward pass in which equal prompts are shared."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rewardsmith.encoding.places import place
from rewardsmith.encoding.template import Rendered, coerce
from rewardsmith.encoding.tree import Tree
from rewardsmith.errors import ModelError, UsageError
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.read_places import read_places, tree_of
from rewardsmith.model.response_scores import check_finite, check_lengths
from rewardsmith.model.steps import split_steps
from rewardsmith.model.thinking_scores import check_causal

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

SEPARATOR = "\n"

NO_REWARD_HEAD = (
    "this model has a process head and no reward head: it judges steps (rewardsmith score-steps, model.score_steps); "
    "for rewards, start from a reward model: rewardsmith train --method process --base REWARD_MODEL"
)


def no_process_head(name: str | None = None) -> ModelError:
    """What to say of a model without a process head.

    Args:
        name: its folder or id; None for a model that was never loaded from one.
    """
    place, base = (f"{name}: ", shlex.quote(name)) if name else ("", "MODEL")
    return ModelError(
        f"{place}there is no process head, which judges steps; train one on this model: "
        f"rewardsmith train --method process --base {base} --data STEPS.jsonl -o OUT"
    )


@dataclass(frozen=True, slots=True)
class StepScores:
    """What a process head makes of a response.

    With p_i the probability that step i is right, a response is judged by

        product = p_1 p_2 ... p_n        min = min_i p_i        last = p_n        mean = (1/n) sum_i p_i

    The product (that every step is right, if steps went wrong independently) and the minimum are those of Lightman et
    al. 2023; the minimum is what kept RL stable in PURE (Cheng et al. 2025).

    Args:
        steps: their texts, n >= 0.
        logits: log p_i / (1 - p_i); None for a step that was cut off to fit ``max_length``.
        truncated: whether oldest turns or tokens were dropped to fit.
        tokens: length of the sequence that was read.
    """

    steps: tuple[str, ...]
    logits: tuple[float | None, ...]
    truncated: bool
    tokens: int

    @property
    def probabilities(self) -> tuple[float | None, ...]:
        """p_1 ... p_n."""
        return tuple(None if one is None else sigmoid(one) for one in self.logits)

    @property
    def first_error(self) -> int:
        """Index of the first step with p < 1/2, -1 when there is none: ProcessBench's question."""
        return next((k for k, one in enumerate(self.logits) if one is not None and one < 0), -1)

    @property
    def min(self) -> float | None:
        """The least p; None without steps, as for the others. Steps that were cut off are left out of all of them."""
        return min(self._known, default=None)

    @property
    def last(self) -> float | None:
        """p of the last step."""
        return self._known[-1] if self._known else None

    @property
    def mean(self) -> float | None:
        """The mean p."""
        return sum(self._known) / len(self._known) if self._known else None

    @property
    def product(self) -> float | None:
        """The product of all p."""
        return math.prod(self._known) if self._known else None

    @property
    def _known(self) -> list[float]:
        return [one for one in self.probabilities if one is not None]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        forms = {name: getattr(self, name) for name in ("min", "last", "mean", "product", "first_error")}
        lists = {name: list(getattr(self, name)) for name in ("steps", "logits", "probabilities")}
        return {**forms, **lists, "truncated": self.truncated, "tokens": self.tokens}


@dataclass(frozen=True, slots=True)
class AskedSteps:
    """A response ready to be read.

    Args:
        key: responses of equal keys share a prefix.
        rendered: its tokens.
        steps: texts of its steps.
        places: of each step the token that holds its last character; None when that is not in the sequence.
    """

    key: Hashable
    rendered: Rendered
    steps: tuple[str, ...]
    places: tuple[int | None, ...]

    @property
    def wanted(self) -> tuple[int, ...]:
        """The places that can be read, in order."""
        return tuple(one for one in self.places if one is not None)


def score_steps(
    model: RewardModel,
    prompts: Sequence[Any],
    responses: Sequence[Any],
    *,
    separator: str | None = None,
    variables: Mapping[str, Any] | None = None,
    budget: int | None = None,
) -> list[StepScores]:
    """Judge the steps of responses, in order.

    Args:
        prompts: text or messages.
        responses: equally many; each a list of step texts, or a whole response (text or messages), which is split at
            the separator; at line breaks as for thinking scores.
        separator: what stands between steps; None for what the head was trained with.
        variables: for the chat template, ``{"tools": ..., "kwargs": ...}``.
        budget: positions per forward pass.

    Raises:
        ModelError: the model has no process head.
        UsageError: unequal lengths, a list without steps, or a blank step.
        TemplateError: a text that the template refuses, or changes so that its tokens cannot be found.
    """
    if model.process is None:
        raise no_process_head(model.loaded_from)
    check_lengths(prompts, responses)
    asked = [
        ask_steps(model, prompt, response, separator=separator, variables=variables)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return score_asked_steps(model, asked, budget=budget)


def ask_steps(
    model: RewardModel,
    prompt: Any,
    response: Any,
    *,
    separator: str | None = None,
    max_length: int | None = None,
    variables: Mapping[str, Any] | None = None,
) -> AskedSteps:
    """Render one response and find where its steps end; arguments and errors as for :func:`score_steps`.

    Args:
        max_length: longer sequences are cut from the front; None for the contract's.
    """
    check_causal(model)
    prompt, more = coerce(prompt), dict(variables or {})
    steps = _listed(response)
    text = coerce(response) if steps is None else separator_of(model, separator).join(steps)
    rendered = model.template.render(prompt, text, max_length=max_length or model.contract.max_length, **more)
    placed = place(model.template, prompt, text, rendered, **more)
    if steps is None:
        whole = placed.parts.join()
        found = [(whole[start:end], end) for start, end, _ in split_steps(placed.parts, separator_of(model, separator))]
    else:
        found = list(zip(steps, _ends(steps, separator_of(model, separator)), strict=True))
    places = tuple(placed.token(end) for _, end in found)
    return AskedSteps((prompt, repr(sorted(more.items()))), rendered, tuple(step for step, _ in found), places)


def separator_of(model: RewardModel, given: str | None) -> str:
    """What stands between steps: as given, or as the head was trained."""
    return model.contract.process.get("separator", SEPARATOR) if given is None else given


def _listed(response: Any) -> tuple[str, ...] | None:
    """A list of steps; None for a whole response."""
    if isinstance(response, (list, tuple)) and all(isinstance(step, str) for step in response):
        if not response or not all(step.strip() for step in response):
            raise UsageError("a list of steps must have one step or more, none of them blank")
        return tuple(response)
    return None


def _ends(steps: Sequence[str], separator: str) -> Iterator[int]:
    """Of each step the character behind its last one that is not blank, in the joined text."""
    at = 0
    for step in steps:
        yield at + len(step.rstrip())
        at += len(step) + len(separator)


@as_loaded
def score_asked_steps(
    model: RewardModel, asked: Sequence[AskedSteps], *, budget: int | None = None, progress: Any = None
) -> list[StepScores]:
    """Read what :func:`ask_steps` gave, in order."""
    if model.process is None:
        raise no_process_head(model.loaded_from)
    found: list[list[float]] = [[] for _ in asked]
    for numbers, features in step_features(model, asked, budget=budget, progress=progress):
        logits = model.process.logits(features).tolist()
        check_finite(model, logits)
        for number, logit in zip(numbers, logits, strict=True):
            found[number].append(logit)
    scores = []
    for one, logits in zip(asked, found, strict=True):
        read = iter(logits)
        values = tuple(None if where is None else next(read) for where in one.places)
        scores.append(StepScores(one.steps, values, one.rendered.truncated, len(one.rendered.ids)))
    return scores


def step_features(
    model: RewardModel,
    asked: Sequence[AskedSteps],
    *,
    budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """What the process head reads: numbers of the responses, one per reading, and features [readings, d].

    The readings of a response come in the order of its steps.
    """
    order, trees = trees_of(asked)
    places, pad = [asked[index].wanted for index in order], model.template.tokenizer.pad_token_id
    for numbers, features in read_places(model.backbone, trees, places, pad, budget or model.budget, progress):
        yield [order[number] for number in numbers], features


def trees_of(asked: Sequence[AskedSteps]) -> tuple[list[int], list[Tree]]:
    """Numbers of the responses that have something to read, in the order of the trees' responses; and the trees."""
    groups: dict[Hashable, list[int]] = {}
    for index, one in enumerate(asked):
        if one.wanted:
            groups.setdefault(one.key, []).append(index)
    trees = [
        tree_of([asked[index].rendered for index in members], [asked[index].wanted for index in members])
        for members in groups.values()
    ]
    return [index for members in groups.values() for index in members], trees


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1.0 + power)
