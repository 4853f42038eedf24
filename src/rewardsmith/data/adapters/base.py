"""What an adapter is, and the few ways to build a `Comparison` from parsed fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.data import fields
from rewardsmith.data.fields import Fields
from rewardsmith.data.problems import NoPreferenceError, RowError, shown
from rewardsmith.types import Comparison, Text


@dataclass(frozen=True, slots=True)
class Adapter:
    """One known row shape.

    Args:
        needs: the keys that every row of the shape has; used for detection and for near-miss hints.
        matches: whether a row has the shape. Looks at keys, and at types only to tell shapes with equal keys apart.
        convert: the row's comparisons (usually one). Raises RowError for a row that breaks the shape's rules.
        about: one line for people.
        side: for shapes that show two responses as first and second: ``"first"``, ``"second"`` or ``"tie"``.
        group_by: key whose consecutive equal values make one comparison; ``combine`` then replaces ``convert``.
        combine: the comparisons of such a group of rows.
    """

    needs: tuple[str, ...]
    matches: Callable[[Fields], bool]
    convert: Callable[[Fields], list[Comparison]]
    about: str
    side: Callable[[Fields], str] | None = None
    group_by: str | None = None
    combine: Callable[[Sequence[Fields]], list[Comparison]] | None = None


def has(*keys: str) -> Callable[[Fields], bool]:
    """A matcher: the row has all of ``keys``."""
    wanted = frozenset(keys)
    return lambda row: wanted <= row.keys()


def options(row: Fields) -> dict[str, Any]:
    """The optional canonical fields of a row, as keyword arguments of `Comparison`."""
    found: dict[str, Any] = {}
    for key, read in _OPTIONS.items():
        if row.get(key) is not None:
            value = read(row, key)
            if value is not None:
                found[key] = value
    return found


def _weight(row: Fields, key: str) -> float | None:
    value = fields.number(row, key, low=0.0)
    if value == 0.0:
        message = "is 0, must be above 0; remove the row, or the field for a weight of 1"
        raise RowError(message, field=key, rule="out-of-range")
    return value


def _tools(row: Fields, key: str) -> tuple[Any, ...] | None:
    tools = fields.json_value(row, key, list)
    for index, tool in enumerate(tools or ()):
        if not isinstance(tool, dict):
            raise RowError(f"is {shown(tool)}, must be an object", field=f"{key}[{index}]", rule="wrong-type")
    return tuple(tools) if tools else None


_OPTIONS: dict[str, Callable[[Fields, str], Any]] = {
    "margin": lambda row, key: fields.number(row, key, low=0.0),
    "weight": _weight,
    "probability": lambda row, key: fields.number(row, key, low=0.0, high=1.0),
    "subset": fields.name,
    "id": fields.name,
    "tools": _tools,
    "chat_template_kwargs": lambda row, key: fields.json_value(row, key, dict),
}
OPTIONAL_FIELDS = tuple(_OPTIONS)


def pair(prompt: Text, first: Text, second: Text, probability: float | None = None, **rest: Any) -> Comparison:
    """A pair with the better response first.

    Args:
        probability: that ``first`` is better, in [0, 1]; None means 1. 0.5 makes a tie; below 0.5 the responses
            (with their scores, attributes and token ids) change places, as the first of a pair is the chosen one.
    """
    if probability is not None and probability < 0.5:
        for key in ("scores", "attributes", "token_ids"):
            if rest.get(key) is not None:
                rest[key] = rest[key][::-1]
        first, second = second, first
        probability = 1.0 - probability if probability else None
    ranks = (0, 0) if probability == 0.5 else (0, 1)
    if rest.get("margin") and ranks == (0, 0):
        raise RowError("is given for a tie, a tie has no margin; remove it", field="margin", rule="out-of-range")
    return Comparison(prompt, (first, second), ranks, probability=probability, **rest)


def judged(prompt: Text, first: Text, second: Text, side: str, **rest: Any) -> list[Comparison]:
    """The pair that a verdict ``"first"``, ``"second"`` or ``"tie"`` makes of two responses."""
    if side == "tie":
        return [pair(prompt, first, second, 0.5, **rest)]
    return [pair(prompt, first, second, **rest) if side == "first" else pair(prompt, second, first, **rest)]


def listwise(
    prompt: Text,
    responses: Sequence[Text],
    ranks: Sequence[int],
    *,
    scores: Sequence[float] | None = None,
    field: str = "ranks",
    **rest: Any,
) -> list[Comparison]:
    """K >= 2 ranked responses. Two become a pair, better first; ranks are renumbered 0, 1, 2 ... without gaps.

    Raises:
        NoPreferenceError: more than two responses, all equally good.
    """
    order = {rank: index for index, rank in enumerate(sorted(set(ranks)))}
    dense = tuple(order[rank] for rank in ranks)
    known = tuple(scores) if scores is not None else None
    if len(responses) == 2:
        probability = _pair_probability(dense, rest.pop("probability", None))
        return [pair(prompt, responses[0], responses[1], probability, scores=known, **rest)]
    if len(order) == 1:
        message = f"ranks all {len(responses)} responses equal, so the row carries no preference"
        raise NoPreferenceError(message, prompt=prompt, field=field)
    return [Comparison(prompt, tuple(responses), dense, scores=known, **rest)]


def _pair_probability(ranks: tuple[int, ...], probability: float | None) -> float | None:
    """The probability that the first of two ranked responses is better: the given one, or what the ranks say."""
    if probability is None:
        return {(0, 1): None, (0, 0): 0.5, (1, 0): 0.0}[(ranks[0], ranks[1])]
    if (probability - 0.5) * (ranks[1] - ranks[0]) < 0 or (probability == 0.5) != (ranks == (0, 0)):
        message = f"is {probability:g}, but the ranks say otherwise; make them agree or leave one of them out"
        raise RowError(message, field="probability", rule="out-of-range")
    return probability


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Ranks, 0 the best, from scores where higher is better."""
    order = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True))}
    return [order[score] for score in scores]
