"""Rows with the reward of every attribute: what ``rewardsmith score --attributes`` adds."""

from __future__ import annotations

from typing import Any

from rewardsmith.errors import ModelError
from rewardsmith.model.attributes import NO_ATTRIBUTES
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.types import ScoredResponse

PREFIX = "attribute_"  # the data may have ratings under the bare names


class AttributeScorer(Scorer):
    """A scorer whose rows also have ``attribute_NAME`` for every attribute, from the same forward pass.

    Args:
        model: one model with attribute heads; a cache knows nothing of them.
        budget: positions per forward pass; halved when memory runs out.

    Raises:
        ModelError: the model has none.
    """

    def __init__(self, model: RewardModel, *, budget: int | None = None):
        if model.attributes is None:
            raise ModelError(f"{model.loaded_from or 'the model'} {NO_ATTRIBUTES}")
        super().__init__(model, budget=budget)
        self.columns = tuple(PREFIX + name for name in model.attributes.names)

    def identity(self) -> str:
        """As for a scorer; its rows have other columns."""
        return f"{super().identity()} attributes"


def value_of(result: ScoredResponse, column: str) -> Any:
    """What stands in a column of a result: a field of it, or one of its attributes."""
    if column.startswith(PREFIX) and result.attributes is not None:
        return result.attributes[column.removeprefix(PREFIX)]
    return getattr(result, column)
