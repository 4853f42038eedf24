"""Chosen/rejected shapes other than the canonical one: implicit prompts, transcripts, token ids, UltraFeedback."""

from __future__ import annotations

from rewardsmith.data import fields
from rewardsmith.data.adapters.base import Adapter, has, options, pair
from rewardsmith.data.adapters.canonical import pair_from_row, pair_ratings, tokens
from rewardsmith.data.adapters.conversations import looks_like_transcript, split_pair, transcript
from rewardsmith.data.fields import Fields
from rewardsmith.data.problems import RowError
from rewardsmith.types import Comparison

_CHOSEN_IDS = ("chosen_ids", "chosen_input_ids", "input_ids_chosen")
_REJECTED_IDS = ("rejected_ids", "rejected_input_ids", "input_ids_rejected")


def _pair_of(row: Fields, kind: type) -> bool:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    return row.get("prompt") is None and isinstance(chosen, kind) and isinstance(rejected, kind)


def _no_prompt(row: Fields) -> None:
    """A prompt that the detected shape would ignore is an error: dropping it would change every reward."""
    if row.get("prompt") is not None:
        message = "is given, but the format of this source has none; name the format, or add it to every row"
        raise RowError(message, field="prompt", rule="mixed-formats")


def _hh(row: Fields) -> list[Comparison]:
    _no_prompt(row)
    turns = [transcript(fields.text(row, key), key) for key in ("chosen", "rejected")]
    prompt, chosen, rejected = split_pair(turns[0], turns[1])
    return [pair(prompt, chosen, rejected, **pair_ratings(row), **options(row))]


def _messages(row: Fields) -> list[Comparison]:
    _no_prompt(row)
    turns = [fields.messages(fields.required(row, key), key) for key in ("chosen", "rejected")]
    prompt, chosen, rejected = split_pair(turns[0], turns[1])
    return [pair(prompt, chosen, rejected, **pair_ratings(row), **options(row))]


def _text(row: Fields) -> list[Comparison]:
    _no_prompt(row)
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    return [pair("", chosen, rejected, **pair_ratings(row), **options(row))]


def _tokenized(row: Fields) -> list[Comparison]:
    """Token ids include the prompt, unless ``prompt_ids`` is given and they do not begin with it already."""
    prompt = tokens(row["prompt_ids"], "prompt_ids") if row.get("prompt_ids") is not None else ()
    ids = []
    for keys in (_CHOSEN_IDS, _REJECTED_IDS):
        key = next((key for key in keys if row.get(key) is not None), keys[0])
        own = tokens(fields.required(row, key), key)
        ids.append(own if own[: len(prompt)] == prompt else prompt + own)
    return [pair("", "", "", token_ids=tuple(ids), **pair_ratings(row), **options(row))]


def _is_tokenized(row: Fields) -> bool:
    return any(key in row for key in _CHOSEN_IDS) and any(key in row for key in _REJECTED_IDS)


def _ultrafeedback(row: Fields) -> list[Comparison]:
    """Full conversations that repeat the prompt, with one score each. The margin is left to the user: scores of one
    rater are rarely in units of the reward."""
    for key in ("score_chosen", "score_rejected"):
        fields.required(row, key)
    renamed = {**row, "id": row.get("id", row.get("prompt_id"))}
    return [pair_from_row(renamed)]


HH = Adapter(
    needs=("chosen", "rejected"),
    matches=lambda row: _pair_of(row, str) and looks_like_transcript(row["chosen"]),
    convert=_hh,
    about='Anthropic HH transcripts: chosen, rejected = "\\n\\nHuman: ...\\n\\nAssistant: ..."',
)
MESSAGES = Adapter(
    needs=("chosen", "rejected"),
    matches=lambda row: _pair_of(row, list),
    convert=_messages,
    about="TRL implicit prompt, Skywork, RLHFlow: chosen, rejected = whole conversations, no prompt",
)
TEXT = Adapter(
    needs=("chosen", "rejected"),
    matches=lambda row: _pair_of(row, str),
    convert=_text,
    about="TRL implicit prompt as plain text: chosen, rejected = whole texts; no prompt is guessed",
)
TOKENIZED = Adapter(
    needs=("chosen_ids", "rejected_ids"),
    matches=_is_tokenized,
    convert=_tokenized,
    about="TRL pre-tokenised: chosen_ids, rejected_ids (prompt included, or in prompt_ids)",
)
ULTRAFEEDBACK = Adapter(
    needs=("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    matches=lambda row: (
        has("prompt", "chosen", "rejected", "score_chosen", "score_rejected")(row) and isinstance(row["chosen"], list)
    ),
    convert=_ultrafeedback,
    about="UltraFeedback binarized: prompt, chosen, rejected = conversations, score_chosen, score_rejected",
)
