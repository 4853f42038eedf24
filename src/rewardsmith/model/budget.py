"""How many positions one forward pass of a model may have."""

from __future__ import annotations

from rewardsmith.model.backbone import Backbone
from rewardsmith.model.hardware import fitting_positions, free_memory

# Positions per forward pass. On a CPU more than this only costs memory; a GPU wants more to be busy.
BUDGET = {"cpu": 2048, "cuda": 16384, "mps": 4096}
LEAST_BUDGET = 256


def positions(backbone: Backbone) -> int:
    """What keeps its device busy, or less where the free memory holds less."""
    most, free = BUDGET.get(backbone.device.type, BUDGET["cpu"]), free_memory(backbone.device)
    if free is None:
        return most
    config, mask = backbone.network.config.get_text_config(), backbone.shares and not backbone.by_tree
    return max(LEAST_BUDGET, min(most, fitting_positions(free, config, backbone.dtype.itemsize, dense_mask=mask)))
