"""What is logged between two logs: counted over real comparisons, whatever process or batch they were in."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from rewardsmith.training.objective import MEASURES


class RunningMetrics:
    """Sums over comparisons since the last :meth:`result`.

    Rates and means weight every comparison alike, so an uneven last batch counts for what it holds (trap 13).
    ``min_reward`` and ``max_reward`` are means over batches of the batch's extreme, as TRL logs them.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._comparisons = 0
        self._batches: list[tuple[float, float]] = []

    def add(self, table: Tensor) -> None:
        """Add one batch of all processes, [N, len(MEASURES)] as ``objective.measure`` gives it."""
        table = table.double().cpu()
        for place, name in enumerate(MEASURES):
            self._sums[name] += float(table[:, place].sum())
        self._comparisons += len(table)
        lowest, highest = table[:, MEASURES.index("lowest")], table[:, MEASURES.index("highest")]
        self._batches.append((float(lowest.min()), float(highest.max())))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {"sums": dict(self._sums), "comparisons": self._comparisons, "batches": self._batches}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunningMetrics:
        """What :meth:`state` was of."""
        made = cls()
        made._sums.update(state["sums"])
        made._comparisons = state["comparisons"]
        made._batches = [tuple(batch) for batch in state["batches"]]
        return made

    def result(self) -> dict[str, float]:
        """The metrics, and a fresh start. Empty when nothing was added."""
        if not self._comparisons:
            return {}
        sums, count = self._sums, self._comparisons
        lowest, highest = torch.tensor(self._batches, dtype=torch.float64).mean(0).tolist()
        found = {
            "loss": sums["loss"] / count,
            "accuracy": sums["right"] / sums["pairs"] if sums["pairs"] else float("nan"),
            "margin": sums["margin"] / count,
            "min_reward": lowest,
            "mean_reward": sums["reward"] / sums["responses"],
            "max_reward": highest,
            "tokens": sums["tokens"],
        }
        self.__init__()
        return found
