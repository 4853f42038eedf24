"""Shapes that score or mark single responses: HelpSteer2 (one response a row) and GSM8K model solutions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rewardsmith.data import fields
from rewardsmith.data.adapters.base import Adapter, has, listwise, options, ranks_of
from rewardsmith.data.fields import Fields
from rewardsmith.data.problems import NoPreferenceError, RowError, shown
from rewardsmith.types import Comparison, Message, Text

# Multi-turn HelpSteer prompts are one string with these lines between the turns; the first turn is the user's.
_TURN_MARK = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
HELPSTEER_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_MARK_ROLES = {"User": "user", "Assistant": "assistant"}


def helpsteer_prompt(row: Fields) -> Text:
    """The prompt of a HelpSteer row: text, or turns when it holds turn marks."""
    prompt = fields.text(row, "prompt")
    parts = _TURN_MARK.split(prompt)
    if len(parts) == 1:
        return prompt
    turns = [Message("user", parts[0].strip())]
    turns += [
        Message(_MARK_ROLES[speaker], content.strip())
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if turns[-1].role == "assistant" and not turns[-1].content:
        turns.pop()  # the mark that asks for the response
    return tuple(turns)


def _helpsteer2_group(rows: Sequence[Fields]) -> list[Comparison]:
    """Consecutive rows with one prompt, ranked by helpfulness; all five ratings are kept as attributes."""
    prompt = helpsteer_prompt(rows[0])
    if len(rows) < 2:
        message = "has one response only, responses to one prompt must follow each other; add the other or remove it"
        raise RowError(message, field="prompt", rule="no-partner")
    responses = [fields.text(row, "response") for row in rows]
    scores = [fields.number_value(fields.required(row, "helpfulness"), "helpfulness") for row in rows]
    rest = {**options(rows[0]), "attributes": tuple(map(_helpsteer_ratings, rows))}
    return listwise(prompt, responses, ranks_of(scores), scores=scores, field="helpfulness", **rest)


def _helpsteer_ratings(row: Fields) -> dict[str, float]:
    """Those of the five attributes (HelpSteer2, Wang et al. 2024) that the row has."""
    found = {name: fields.number(row, name) for name in HELPSTEER_ATTRIBUTES}
    return {name: value for name, value in found.items() if value is not None}


def _solutions(row: Fields) -> dict[str, Mapping]:
    return {key: value for key, value in row.items() if isinstance(value, Mapping) and "is_correct" in value}


def _gsm8k(row: Fields) -> list[Comparison]:
    """Model solutions: right ones rank 0, wrong ones rank 1."""
    question = fields.text(row, "question")
    solutions = _solutions(row)
    if len(solutions) < 2:
        message = f"has {len(solutions)} model solutions, at least 2 are needed to compare"
        raise RowError(message, rule="missing-field")
    responses, ranks = [], []
    for key, solution in solutions.items():
        correct = solution["is_correct"]
        if not isinstance(correct, bool):
            message = f"is {shown(correct)}, must be true or false"
            raise RowError(message, field=f"{key}.is_correct", rule="wrong-type")
        responses.append(fields.text_value(fields.required(solution, "solution"), f"{key}.solution"))
        ranks.append(0 if correct else 1)
    if len(set(ranks)) == 1:
        what = "wrong" if ranks[0] else "right"
        message = f"all {len(ranks)} solutions are {what}, so the row carries no preference"
        raise NoPreferenceError(message, prompt=question)
    return listwise(question, responses, ranks, **options(row))


HELPSTEER2 = Adapter(
    needs=("prompt", "response", "helpfulness"),
    matches=has("prompt", "response", "helpfulness"),
    convert=lambda row: _helpsteer2_group([row]),
    about="HelpSteer2: prompt, response, helpfulness; responses to one prompt in consecutive rows",
    group_by="prompt",
    combine=_helpsteer2_group,
)
GSM8K = Adapter(
    needs=("question", "ground_truth"),
    matches=lambda row: has("question", "ground_truth")(row) and bool(_solutions(row)),
    convert=_gsm8k,
    about='GSM8K model solutions: question, ground_truth, and per model {"is_correct", "solution"}',
)
