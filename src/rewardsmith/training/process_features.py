"""Judged responses into places to read, and what the frozen backbone makes of them, remembered on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rewardsmith.data.text import flat, normalised
from rewardsmith.encoding.tree import Tree
from rewardsmith.errors import DataError, TemplateError, UsageError
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.process_scores import AskedSteps, ask_steps, step_features, trees_of
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.feature_cache import FeatureCache, sequence_key
from rewardsmith.training.prepare import TOO_LONG
from rewardsmith.types import Stepwise

Report = Callable[[int, int], None]  # (tokens done, tokens in all)

UNJUDGED = "without a judged step"

_SHARD_BATCHES = 4  # batches per shard: what a kill can lose


@dataclass(frozen=True)
class PreparedSteps:
    """Judged steps ready for a model.

    Args:
        asked: one per response kept; its places are those of the judged steps alone.
        labels: of all judged steps, counted through the responses, [N].
        groups: prompt of each, [N].
        dropped: how many responses were left out, by reason.
        tokens: tokens to compute, what responses share once.
        separator: what stands between the steps of most responses.
    """

    asked: list[AskedSteps]
    labels: np.ndarray
    groups: np.ndarray
    dropped: dict[str, int]
    tokens: int
    separator: str

    def sha256(self) -> str:
        """A hash of what is learnt from: tokens, places and labels, in order."""
        digest = hashlib.sha256()
        for one in self.asked:
            digest.update(np.asarray((*one.rendered.ids, -1, *one.wanted), dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()


def prepare_steps(model: RewardModel, rows: Iterable[Stepwise], max_length: int) -> PreparedSteps:
    """Render every response once and find the ends of its judged steps.

    A response longer than ``max_length`` is dropped and counted: cutting it would train on other text than is scored.

    Raises:
        DataError: the template refuses a row; the message gives its file and line.
    """
    asked: list[AskedSteps] = []
    labels: list[float] = []
    groups: list[int] = []
    prompts: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    separators: Counter[str] = Counter()
    for row in rows:
        one = _ask(model, row, max_length)
        judged = [
            (place, label)
            for place, label in zip(one.places, row.labels, strict=True)
            if place is not None and label is not None
        ]
        if one.rendered.truncated:
            dropped[TOO_LONG] += 1
        elif not judged:
            dropped[UNJUDGED] += 1
        else:
            # Rows that share what stands before their first judged step, as alternatives for one step do, are one tree.
            before = next(index for index, label in enumerate(row.labels) if label is not None)
            places = tuple(place for place, _ in judged)
            asked.append(replace(one, key=(one.key, row.steps[:before]), places=places))
            labels += [label for _, label in judged]
            groups += [prompts.setdefault(normalised(row.prompt), len(prompts))] * len(judged)
            separators[row.separator] += 1
    tokens = sum(map(len, trees_of(asked)[1]))
    separator = separators.most_common(1)[0][0] if separators else "\n"
    return PreparedSteps(asked, np.array(labels), np.array(groups, dtype=np.int64), dict(dropped), tokens, separator)


def _ask(model: RewardModel, row: Stepwise, max_length: int) -> AskedSteps:
    try:
        return ask_steps(model, row.prompt, row.steps, separator=row.separator, max_length=max_length)
    except (TemplateError, UsageError) as error:
        source = row.source
        message = f"{error} (prompt {flat(row.prompt)!r:.40})"
        raise DataError(message, file=source and source.file, line=source and source.line) from error


@as_loaded
def extract_steps(
    model: RewardModel,
    asked: Sequence[AskedSteps],
    folder: Path,
    *,
    budget: int | None = None,
    report: Report | None = None,
) -> np.ndarray:
    """Features of every place, [N, d] float32, counted through the responses; from the cache where they are there.

    A place's features are those of the sequence cut behind it, and are kept under its key, so that a text that begins
    like another finds what was computed for that.

    Args:
        asked: their ``places`` are read, one or more each, none of them None.
        folder: of the cache; its name should stand for the model.
        budget: positions per forward pass.
        report: called with tokens done and tokens in all.
    """
    layer = model.backbone.layers
    cache, keys = FeatureCache(folder, [layer]), [_keys(one) for one in asked]
    missing = [index for index, mine in enumerate(keys) if any(key not in cache for key in mine)]
    waiting: dict[bytes, torch.Tensor] = {}
    cursors = [iter(keys[index]) for index in missing]
    todo = [asked[index] for index in missing]
    for count, (numbers, features) in enumerate(step_features(model, todo, budget=budget, progress=report), start=1):
        for number, row in zip(numbers, features, strict=True):
            key = next(cursors[number])
            if key not in cache:
                waiting.setdefault(key, row)
        if waiting and count % _SHARD_BATCHES == 0:
            _store(cache, waiting)
    if waiting:
        _store(cache, waiting)
    return cache.get([key for mine in keys for key in mine], layer)


def _store(cache: FeatureCache, waiting: dict[bytes, torch.Tensor]) -> None:
    cache.add(list(waiting), torch.stack(list(waiting.values()))[None])
    waiting.clear()


def _keys(one: AskedSteps) -> list[bytes]:
    ids, start = one.rendered.ids, one.rendered.response_start
    return [sequence_key(Tree((), (ids[: place + 1],), (start,)), 0) for place in one.wanted]
