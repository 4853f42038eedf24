"""Rows in, raw and shaped rewards out: the one path that every trainer's function takes.

A row is read as ``rewardsmith score`` reads it and scored by the same :class:`Scorer`, so the same text has the same
reward. Only text and messages come in, never token ids: policy and reward model may have different tokenizers
(trap 15).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewardsmith.encoding.template import plain
from rewardsmith.errors import DataError, RewardsmithError
from rewardsmith.model.load import LoadOptions
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import row as rows_
from rewardsmith.scoring.provenance import warn_of_mismatch
from rewardsmith.scoring.references import reference, several
from rewardsmith.scoring.row import ToScore
from rewardsmith.scoring.scorer import Result, Scorer
from rewardsmith.scoring.shaped import resolve_shaping
from rewardsmith.shaping import Context
from rewardsmith.shaping.bounds import at_bounds
from rewardsmith.types import Message, ScoredResponse, Text

Models = RewardModel | str | Path | Sequence[RewardModel | str | Path]
Shaping = Any  # pipeline, shape, text form, path, None or False: see `resolve_shaping`
Asked = ToScore | RewardsmithError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was made of one row.

    Args:
        scored: the score, None for a row that cannot be scored.
        reward: the shaped reward, finite; None when there is none.
        saturated: the reward lies at a bound of a clip or a sigmoid (:func:`at_bounds`).
        group: number of the row's prompt; rows with equal prompts have equal numbers.
        problem: why there is no reward.
    """

    scored: ScoredResponse | None
    reward: float | None
    saturated: bool
    group: int
    problem: str | None = None


class Judge:
    """Scores rows with one or several reward models and shapes the rewards.

    Args:
        models: a reward model or its folder, or several that vote.
        shaping: a :class:`Pipeline` or a shape; its text form (``"normalise, clip(low=-3, high=3)"``); the path of a
            saved one; None for what the model was saved with; False for raw rewards. It is copied: ``judge.shaping``
            is what runs, learns and can be frozen.
        prefill: text that the policy's template writes before each response (``"<think>\\n"``) and that its trainer
            therefore leaves out of it; put back, unless the response begins with it.
        load: how to load models given as folders. ``auto`` is this process's own GPU (``LOCAL_RANK``).
        options: ``aggregate``, ``budget``, ``cache``, ``prefix_cache`` of :class:`Scorer`.

    Raises:
        ModelError, ContractError: no such model, or one that changed since it was trained.
        UsageError: a shaping that is not known, or models of which several bring their own.
    """

    def __init__(
        self,
        models: Models,
        *,
        shaping: Shaping = None,
        prefill: str = "",
        load: LoadOptions | None = None,
        **options: Any,
    ):
        self._sources = [models] if isinstance(models, RewardModel | str | Path) else list(models)
        self._load, self._options, self.prefill = load or LoadOptions(), options, prefill
        self.scorer = self._made()
        # A copy: running statistics are this judge's alone, and none of the model's that others save or use.
        self.shaping = deepcopy(resolve_shaping(shaping, self.scorer.models))
        self.scorer = self.scorer.for_shaping(self.shaping)
        warn_of_mismatch(self.shaping, self.scorer.provenance())

    def _made(self) -> Scorer:
        load = self._load
        if load.device == "auto" and (rank := os.environ.get("LOCAL_RANK")) and _cuda_devices() > int(rank):
            load = replace(load, device=f"cuda:{rank}")
        models = [one if isinstance(one, RewardModel) else RewardModel.load(one, load) for one in self._sources]
        return Scorer(models, **self._options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "scorer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A folder is loaded again; an open cache file cannot travel.
        self.scorer = self._made().for_shaping(self.shaping)

    def __call__(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        references: Sequence[Any] | None = None,
        others: Mapping[str, Sequence[float]] | None = None,
    ) -> list[Verdict]:
        """Judge rows, in order.

        Args:
            rows: each with ``prompt`` and ``response`` and perhaps ``tools`` and ``chat_template_kwargs``.
            references: per row a reference reward, or a reference response to the same prompt, which is scored; or
                a list of either.
            others: further rewards by name, one per row, for shapes that combine several.

        Raises:
            DataError: a reference that is neither, or that cannot be scored.
        """
        asked = [self.read(row) for row in rows]
        results, reference = self._score(asked, references)
        groups = group_numbers(rows)
        good = [
            (place, item, result)
            for place, (item, result) in enumerate(zip(asked, results, strict=True))
            if isinstance(item, ToScore) and isinstance(result, ScoredResponse)
        ]
        shaped = self._shaped(good, groups, reference, others)
        verdicts = []
        for place, result in enumerate(results):
            if isinstance(result, RewardsmithError):
                verdicts.append(Verdict(None, None, False, groups[place], str(result)))
                continue
            value, saturated = shaped[place]
            finite = math.isfinite(value)
            problem = None if finite else f"the shaping made {value} of the reward {result.reward:g}"
            verdicts.append(Verdict(result, value if finite else None, saturated, groups[place], problem))
        return verdicts

    # -- the steps

    def read(self, row: Mapping[str, Any]) -> Asked:
        """What a row asks to be scored, the prefill put back; the error when it cannot be."""
        if row.get("response") is None:
            return DataError("it is None: there is nothing to score; give text, which may be empty, or messages")
        try:
            item = rows_.read(row, "prompt", "response")
        except RewardsmithError as error:
            return error
        return replace(item, responses=(_prefilled(item.responses[0], self.prefill),))

    def _score(
        self, asked: list[Asked], references: Sequence[Any] | None
    ) -> tuple[list[Result], list[list[float]] | None]:
        """Results of the rows and, where asked for, the rewards of each one's references; all in one pass."""
        if references is None:
            return self._try(asked), None
        wanted: dict[tuple[Any, ...], ToScore] = {}  # a group has one reference: it is scored once
        keys: list[list[Any]] = []  # per row and reference its reward, or the key under which it is scored
        for place, (item, given) in enumerate(zip(asked, references, strict=True)):
            keys.append([])
            if not isinstance(item, ToScore):
                continue
            unknown = given is None or (isinstance(given, list) and not given)  # then the row has no reward
            for one in () if unknown else several(given):
                response = reference(one, f"reference {place}")
                if isinstance(response, float):
                    keys[-1].append(response)
                    continue
                key = (item.prompt, response, _canonical(item.variables))
                wanted.setdefault(key, replace(item, responses=(response,)))
                keys[-1].append(key)
        results = self._try([*asked, *wanted.values()])
        own, references_ = results[: len(asked)], dict(zip(wanted, results[len(asked) :], strict=True))
        rewards: dict[Any, float] = {}
        for row, result in zip(keys, own, strict=True):
            if isinstance(result, RewardsmithError):
                row.clear()  # its prompt may be what is refused: then no reference to it can be scored
            for key in (key for key in row if isinstance(key, tuple)):
                other = references_[key]
                if isinstance(other, RewardsmithError):
                    raise DataError(f"the reference {key[1]!r:.60} cannot be scored: {other}; correct the data")
                rewards[key] = other.reward
        return own, [[rewards[key] if isinstance(key, tuple) else key for key in row] for row in keys]

    def _try(self, asked: Sequence[Asked]) -> list[Result]:
        good = [item for item in asked if isinstance(item, ToScore)]
        prompts, responses = [item.prompt for item in good], [item.responses[0] for item in good]
        results = iter(self.scorer.try_score(prompts, responses, [item.variables for item in good]) if good else [])
        return [next(results) if isinstance(item, ToScore) else item for item in asked]

    def _shaped(
        self,
        good: list[tuple[int, ToScore, ScoredResponse]],
        groups: list[int],
        reference: list[list[float]] | None,
        others: Mapping[str, Sequence[float]] | None,
    ) -> dict[int, tuple[float, bool]]:
        """Per scored row (place, what was asked, score) its shaped reward and whether it is at a bound."""
        places, scored = [place for place, _, _ in good], [result for _, _, result in good]
        rewards = [one.reward for one in scored]
        if self.shaping is None or not good:
            return {place: (reward, False) for place, reward in zip(places, rewards, strict=True)}
        spread = [one.disagreement for one in scored if one.disagreement is not None]
        context = Context(
            groups=[groups[place] for place in places],
            lengths=[one.response_tokens for one in scored],
            texts=[plain(item.responses[0]) for _, item, _ in good],
            reference=None if reference is None else [reference[place] for place in places],
            disagreement=spread if len(spread) == len(scored) else None,
            rewards={name: [values[place] for place in places] for name, values in (others or {}).items()},
        )
        values = self.shaping(rewards, context)
        saturated = at_bounds(self.shaping, rewards, context).tolist()
        return dict(zip(places, zip(values, saturated, strict=True), strict=True))


def group_numbers(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Rows with the same prompt (and tools, and template variables) get the same number, counted from 0."""
    numbers: dict[str, int] = {}
    found = []
    for row in rows:
        key = _canonical([row.get("prompt"), row.get("tools"), row.get("chat_template_kwargs")])
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _prefilled(response: Text, prefill: str) -> Text:
    first = response if isinstance(response, str) else response[0].content
    if not prefill or first.lstrip().startswith(prefill.strip()):
        return response
    if isinstance(response, str):
        return prefill + response
    return (Message(response[0].role, prefill + first, response[0].extra), *response[1:])


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
