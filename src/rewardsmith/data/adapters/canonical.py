"""The canonical record, in both directions: pairs (chosen, rejected) and ranked lists (responses)."""

from __future__ import annotations

from typing import Any

from rewardsmith.data import fields
from rewardsmith.data.adapters.base import Adapter, listwise, options, pair, ranks_of
from rewardsmith.data.adapters.conversations import split_pair
from rewardsmith.data.fields import Fields
from rewardsmith.data.problems import RowError, shown
from rewardsmith.types import Comparison, Message, Text

_SCORE_KEYS = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))


def matches(row: Fields) -> bool:
    """A prompt with ``chosen`` and ``rejected``, or with ``responses``; a null prompt is a fault, not implicit."""
    return "prompt" in row and ({"chosen", "rejected"} <= row.keys() or "responses" in row)


def from_row(row: Fields) -> list[Comparison]:
    """A canonical row, pair or list, as one comparison."""
    if row.get("responses") is not None:
        return _list_from_row(row)
    return [pair_from_row(row)]


def pair_from_row(row: Fields) -> Comparison:
    """``{"prompt", "chosen", "rejected", ...}`` with an explicit prompt.

    ``chosen`` and ``rejected`` may repeat the prompt's turns (as UltraFeedback does): they are then split off.
    """
    prompt = fields.text_or_messages(fields.required(row, "prompt"), "prompt")
    chosen = fields.text_or_messages(fields.required(row, "chosen"), "chosen")
    rejected = fields.text_or_messages(fields.required(row, "rejected"), "rejected")
    prompt, chosen, rejected = without_repeated_prompt(prompt, chosen, rejected)
    rest = options(row)
    _reject_margin_for_the_loser(rest)
    return pair(prompt, chosen, rejected, **pair_ratings(row), **rest)


def _reject_margin_for_the_loser(rest: dict[str, Any]) -> None:
    if rest.get("margin") is not None and rest.get("probability", 1.0) < 0.5:
        message = f"is {rest['probability']:g}, below 0.5 with a margin for chosen; swap the responses or drop one"
        raise RowError(message, field="probability", rule="out-of-range")


def pair_scores(row: Fields) -> tuple[float, float] | None:
    """Scores of chosen and rejected under either of the two usual namings, None when absent."""
    for keys in _SCORE_KEYS:
        chosen, rejected = (fields.number(row, key) for key in keys)
        if chosen is not None and rejected is not None:
            return chosen, rejected
        if chosen is not None or rejected is not None:
            missing = keys[0] if chosen is None else keys[1]
            raise RowError("is missing, both responses need a score or neither", field=missing, rule="missing-field")
    return None


def pair_ratings(row: Fields) -> dict[str, Any]:
    """``scores`` and ``attributes`` of chosen and rejected, as keyword arguments of `Comparison`."""
    return {"scores": pair_scores(row), "attributes": fields.ratings(row, "attributes", 2)}


def without_repeated_prompt(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Splits off prompt turns that both responses repeat; a repeated prompt must be the given one."""
    if isinstance(chosen, str) or isinstance(rejected, str):
        return prompt, chosen, rejected
    if chosen[0].role == "assistant" and rejected[0].role == "assistant":
        return prompt, chosen, rejected
    turns, chosen, rejected = split_pair(chosen, rejected)
    if not _same_prompt(prompt, turns):
        message = "holds a conversation that does not begin with the row's prompt; keep the prompt in one place"
        raise RowError(message, field="chosen", rule="prompt-mismatch")
    return turns, chosen, rejected


def _same_prompt(prompt: Text, turns: tuple[Message, ...]) -> bool:
    if isinstance(prompt, str):
        return any(turn.role == "user" and turn.content.strip() == prompt.strip() for turn in turns)
    return turns[: len(prompt)] == prompt


def _list_from_row(row: Fields) -> list[Comparison]:
    prompt = fields.text_or_messages(fields.required(row, "prompt"), "prompt")
    given = fields.items(row, "responses", at_least=2)
    responses = [fields.text_or_messages(item, f"responses[{index}]") for index, item in enumerate(given)]
    scores = _numbers(row, "scores", len(responses))
    ranks = _numbers(row, "ranks", len(responses))
    if scores is None and ranks is None:
        message = "is missing, a list needs ranks (lower is better) or scores (higher is better)"
        raise RowError(message, field="ranks", rule="missing-field")
    for index, rank in enumerate(ranks or ()):
        if rank != int(rank):
            raise RowError(f"is {rank!r}, must be a whole number", field=f"ranks[{index}]", rule="wrong-type")
    rest = {**options(row), "attributes": fields.ratings(row, "attributes", len(responses))}
    for key in ("margin", "probability"):
        if key in rest and len(responses) > 2:
            raise RowError("is given for a list, only pairs have one; remove it", field=key, rule="out-of-range")
    order = [int(rank) for rank in ranks] if ranks is not None else ranks_of(scores or ())
    token_ids = token_lists(row, "token_ids", len(responses)) if row.get("token_ids") is not None else None
    if token_ids and len(responses) > 2:
        rest["token_ids"] = token_ids
    field = "ranks" if ranks is not None else "scores"
    return listwise(prompt, responses, order, scores=scores, field=field, **rest)


def _numbers(row: Fields, key: str, count: int) -> list[float] | None:
    if row.get(key) is None:
        return None
    given = fields.items(row, key)
    if len(given) != count:
        raise RowError(f"has {len(given)} entries for {count} responses", field=key, rule="wrong-length")
    return [fields.number_value(item, f"{key}[{index}]") for index, item in enumerate(given)]


def tokens(value: Any, field: str) -> tuple[int, ...]:
    """A non-empty list of token ids >= 0."""
    if not isinstance(value, (list, tuple)):
        raise RowError(f"is {shown(value)}, must be a list of token ids", field=field, rule="wrong-type")
    if not value:
        raise RowError("is an empty list, it must hold token ids", field=field, rule="empty-field")
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            message = f"is {shown(token)}, a token id is a whole number >= 0"
            raise RowError(message, field=f"{field}[{index}]", rule="wrong-type")
    return tuple(value)


def token_lists(row: Fields, key: str, count: int) -> tuple[tuple[int, ...], ...]:
    """One token list per response at ``key``."""
    given = fields.items(row, key)
    if len(given) != count:
        raise RowError(f"has {len(given)} entries for {count} responses", field=key, rule="wrong-length")
    return tuple(tokens(item, f"{key}[{index}]") for index, item in enumerate(given))


def to_row(comparison: Comparison) -> dict[str, Any]:
    """The canonical row of a comparison; `from_row` (or the tokenized adapter) gives the comparison back."""
    row: dict[str, Any] = {}
    if len(comparison.responses) == 2:
        _pair_to_row(comparison, row)
    else:
        row["prompt"] = _plain(comparison.prompt)
        row["responses"] = [_plain(response) for response in comparison.responses]
        row["ranks"] = list(comparison.ranks)
        if comparison.scores is not None:
            row["scores"] = list(comparison.scores)
        if comparison.token_ids is not None:
            row["token_ids"] = [list(ids) for ids in comparison.token_ids]
    if comparison.attributes is not None:
        row["attributes"] = [dict(known) for known in comparison.attributes]
    for key in ("margin", "weight", "probability", "subset", "id"):
        if getattr(comparison, key) is not None:
            row[key] = getattr(comparison, key)
    if comparison.tools is not None:
        row["tools"] = [dict(tool) for tool in comparison.tools]
    if comparison.chat_template_kwargs is not None:
        row["chat_template_kwargs"] = dict(comparison.chat_template_kwargs)
    return row


def _pair_to_row(comparison: Comparison, row: dict[str, Any]) -> None:
    if comparison.token_ids is not None:
        row["chosen_ids"], row["rejected_ids"] = (list(ids) for ids in comparison.token_ids)
    else:
        # An implicit prompt stays implicit, so that the row means the same to every reader of it.
        if comparison.prompt != "":
            row["prompt"] = _plain(comparison.prompt)
        row["chosen"], row["rejected"] = (_plain(response) for response in comparison.responses)
    if comparison.scores is not None:
        row["score_chosen"], row["score_rejected"] = comparison.scores


def _plain(text: Text) -> Any:
    return text if isinstance(text, str) else [message.as_dict() for message in text]


CANONICAL = Adapter(
    needs=("prompt", "chosen", "rejected"),
    matches=matches,
    convert=from_row,
    about="canonical rows: prompt, chosen, rejected; or prompt, responses, ranks/scores (text or messages)",
)
