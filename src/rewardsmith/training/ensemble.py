"""An ensemble: the same fit on bootstraps of the prompts (Efron 1979). Where members disagree the data say little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rewardsmith.errors import DataError
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.training import bradley_terry
from rewardsmith.training.bradley_terry import HeadFit, Ties
from rewardsmith.training.pairs import Pairs

# Draws of a member before its data are called too few.
_DRAWS = 100


def bootstrap(group: np.ndarray, seed: int, member: int, draw: int = 0) -> np.ndarray:
    """How often each row is drawn, [P] integers >= 0, when as many groups as there are are drawn with replacement.

    Whole prompts are drawn, because comparisons of one prompt are no independent evidence.

    Args:
        group: prompt id of each row, [P].
        seed, member, draw: the result depends on them and the groups alone, so member 2 is the same in an ensemble
            of two and of ten.

    Raises:
        DataError: there are fewer than two groups.
    """
    names, place = np.unique(group, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"{len(names)} prompt(s) are too few for an ensemble, whose members see different prompts")
    drawn = np.random.default_rng([seed, member, draw]).integers(len(names), size=len(names))
    return np.bincount(drawn, minlength=len(names))[place]


def bootstrap_pairs(pairs: Pairs, seed: int, member: int) -> Pairs:
    """The pairs of a bootstrap of the prompts; a pair drawn twice counts twice.

    Raises:
        DataError: hardly any draw holds two pairs and a preference.
    """
    for draw in range(_DRAWS):
        counts = bootstrap(pairs.group, seed, member, draw)
        found = pairs.take(counts > 0)
        if len(found) >= 2 and (found.probability != 0.5).any():
            return replace(found, weight=found.weight * counts[counts > 0])
    raise DataError("too few preferences for an ensemble: random draws of the prompts hold none")


def fit_members(features: np.ndarray, pairs: Pairs, fit: HeadFit, count: int, *, seed: int, ties: Ties) -> Ensemble:
    """Heads on bootstraps of the data that ``fit`` saw whole, with its ridge.

    Args:
        features: [N, d] as for the fit.
        pairs: all of them.
        fit: the optimum on all pairs.
        count: K, number of members.
        seed: of the bootstraps.
        ties: as in the fit.

    Raises:
        DataError: too few prompts.
    """
    weights = []
    for member in range(count):
        drawn = bootstrap_pairs(pairs, seed, member)
        weights.append(bradley_terry.fit(features, drawn, fit.ridge, ties=ties, start=fit.weight).weight)
    members = np.stack(weights)
    offset = (fit.weight - members) @ fit.center
    return Ensemble(torch.tensor(members, dtype=torch.float32), torch.tensor(offset, dtype=torch.float32))
