"""One pass of the frozen backbone over the trees, remembered on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rewardsmith.encoding.tree import Tree
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.feature_cache import FeatureCache, sequence_key, sequence_keys

Report = Callable[[int, int], None]  # (tokens done, tokens in all)

# Batches per shard: what a kill can lose, and how many files a cache has.
_SHARD_BATCHES = 4


@torch.inference_mode()
def extract(
    model: RewardModel,
    trees: Sequence[Tree],
    folder: Path,
    layers: Sequence[int],
    *,
    budget: int | None = None,
    report: Report | None = None,
) -> tuple[FeatureCache, list[bytes]]:
    """Features of every response, from the cache where they are there already.

    Args:
        model: its backbone is read, not changed.
        trees: T trees with R responses in all.
        folder: of the cache; its name should be :func:`feature_cache.fingerprint`.
        layers: 1-based layer numbers.
        budget: positions per forward pass.
        report: called with tokens done and tokens in all.

    Returns:
        The cache, and R keys into it, counted through the trees.
    """
    keys = sequence_keys(trees)
    cache = FeatureCache(folder, layers)
    budget = budget or model.budget
    arranged, batches = model.backbone.arrange(trees, budget)
    owned = _owned(arranged, batches)
    todo = [k for k, mine in enumerate(owned) if any(key not in cache for key in mine)]
    if any(key in cache for k in todo for key in owned[k]):
        # Other data shares texts with this: plan anew over what is missing. After a kill this branch is not taken:
        # the plan's own batches go on, and the result is the same to the last bit.
        missing = [tree for tree in arranged if any(key not in cache for key in sequence_keys([tree]))]
        arranged, batches = model.backbone.arrange(missing, budget)
        todo = list(range(len(batches)))
    _run(model, arranged, [batches[k] for k in todo], cache, report)
    return cache, keys


def _owned(trees: Sequence[Tree], batches: Sequence[list[list[int]]]) -> list[set[bytes]]:
    """The sequences that each batch is the first to hold: a text that stands in several trees is kept once."""
    seen: set[bytes] = set()
    owned = []
    for rows in batches:
        mine = set(sequence_keys([trees[index] for row in rows for index in row])) - seen
        seen |= mine
        owned.append(mine)
    return owned


def _run(
    model: RewardModel,
    trees: Sequence[Tree],
    batches: Sequence[list[list[int]]],
    cache: FeatureCache,
    report: Report | None,
) -> None:
    total = sum(_tokens(trees, rows) for rows in batches)
    waiting: dict[bytes, torch.Tensor] = {}  # key -> [N layers, d]
    done = 0
    for number, rows in enumerate(batches, start=1):
        batch = model.backbone.collate(trees, rows, model.template.tokenizer.pad_token_id)
        features = model.backbone.features(batch, cache.layers)
        for place, (tree, k) in enumerate(batch.owner):
            key = sequence_key(trees[tree], k)
            if key not in cache:
                waiting.setdefault(key, features[:, place])
        done += _tokens(trees, rows)
        if waiting and (number % _SHARD_BATCHES == 0 or number == len(batches)):
            cache.add(list(waiting), torch.stack(list(waiting.values()), dim=1))
            waiting.clear()
        if report:
            report(done, total)


def _tokens(trees: Sequence[Tree], rows: Sequence[Sequence[int]]) -> int:
    return sum(len(trees[index]) for row in rows for index in row)
