"""The rewards of responses: features in which equal prompts are computed once, and what the heads make of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from rewardsmith.encoding.template import Rendered, coerce
from rewardsmith.encoding.tree import build
from rewardsmith.errors import ModelError, UsageError
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.prefixes import PrefixCache
from rewardsmith.types import ScoredResponse

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel


def check_lengths(prompts: Sequence[Any], responses: Sequence[Any]) -> None:
    """Refuse prompts and responses that do not belong together one by one.

    Raises:
        UsageError: one of them is a single text, or their lengths differ.
    """
    if isinstance(prompts, str) or isinstance(responses, str) or len(prompts) != len(responses):
        raise UsageError(
            f"prompts and responses must be lists of equal length, not {len(prompts)} and {len(responses)}"
        )


def check_finite(model: RewardModel, values: Iterable[float]) -> None:
    """Refuse outputs of heads that are not finite numbers.

    Raises:
        ModelError: naming the dtype in which the model is run.
    """
    if not all(map(math.isfinite, values)):
        kind = dtype_name(model.backbone.dtype)
        raise ModelError(f"a reward is not a finite number in {kind}; use --dtype float32 or bfloat16")


def render(model: RewardModel, prompts: Sequence[Any], responses: Sequence[Any]) -> tuple[list[Any], list[Rendered]]:
    """Prompts, as keys by which to share them, and the tokens of every response."""
    check_lengths(prompts, responses)
    pairs = [(coerce(prompt), coerce(response)) for prompt, response in zip(prompts, responses, strict=True)]
    return [p for p, _ in pairs], [model.render(p, r) for p, r in pairs]


@as_loaded
def score_rendered(
    model: RewardModel,
    keys: Sequence[Any],
    rendered: Sequence[Rendered],
    *,
    budget: int | None = None,
    prefixes: PrefixCache | None = None,
) -> list[ScoredResponse]:
    """See :meth:`RewardModel.score_rendered`."""
    found: list[ScoredResponse | None] = [None] * len(rendered)
    for indices, features in _features(model, keys, rendered, budget, prefixes):
        scores = scored(model, features, [rendered[index] for index in indices])
        for index, score in zip(indices, scores, strict=True):
            found[index] = score
    return [score for score in found if score is not None]


def scored(model: RewardModel, features: torch.Tensor, items: Sequence[Rendered]) -> list[ScoredResponse]:
    """[R, d] features -> what the heads make of R items.

    Raises:
        ModelError: a reward is not a finite number.
    """
    rewards = model.rewards(features).tolist()
    errors = model.standard_errors(features)
    members = model.member_values(features).tolist() if model.ensemble else [None] * len(rewards)
    named = model.attributes.by_name(features) if model.attributes else [None] * len(rewards)
    check_finite(model, rewards)
    return [
        ScoredResponse(reward, error, item.truncated, len(item.ids), item.own, each and tuple(each), by_name)
        for item, reward, error, each, by_name in zip(items, rewards, errors, members, named, strict=True)
    ]


@as_loaded
def member_rewards(
    model: RewardModel, prompts: Sequence[Any], responses: Sequence[Any], *, budget: int | None = None
) -> list[list[float]]:
    """See :meth:`RewardModel.member_rewards`."""
    if model.ensemble is None:
        raise UsageError("this model carries no ensemble: train it with --method head --ensemble K")
    keys, rendered = render(model, prompts, responses)
    found: list[list[float]] = [[] for _ in rendered]
    for indices, features in _features(model, keys, rendered, budget):
        rewards = model.member_values(features).tolist()
        check_finite(model, (value for row in rewards for value in row))
        for index, row in zip(indices, rewards, strict=True):
            found[index] = row
    return found


def _features(
    model: RewardModel,
    keys: Sequence[Any],
    rendered: Sequence[Rendered],
    budget: int | None,
    prefixes: PrefixCache | None = None,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Indices into ``rendered``, R at a time, and their features [R, d]; equal ``keys`` share a prefix."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    order = [index for group in groups.values() for index in group]
    trees = [build([rendered[index] for index in group]) for group in groups.values()]
    pasts = None
    if prefixes is not None and model.backbone.by_tree:
        trees, pasts = prefixes.prepare(list(groups), trees)
    for places, features in model.read(trees, budget=budget, pasts=pasts):
        yield [order[place] for place in places], features[0]
    if prefixes is not None:
        prefixes.trim()
