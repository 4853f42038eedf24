"""Positions per forward pass, fewer from then on when a device's memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger("rewardsmith")

Found = TypeVar("Found")
_LEAST = 64  # positions; with less the weights themselves are what does not fit


class Budget:
    """How many positions a forward pass may hold.

    Args:
        positions: None for what the model has as default.
    """

    def __init__(self, positions: int | None = None):
        self.positions = positions

    def run(self, work: Callable[[int], Found], default: int, failed: Callable[[], None] = lambda: None) -> Found:
        """``work(positions)``, again with half of them, for good, while memory runs out.

        Args:
            work: forward passes.
            default: positions where none were given.
            failed: called when the work was broken off, whatever the reason.

        Raises:
            torch.OutOfMemoryError: not even a small pass fits.
        """
        while True:
            positions = self.positions or default
            try:
                return work(positions)
            except BaseException as error:
                failed()
                if not isinstance(error, torch.OutOfMemoryError) or positions // 2 < _LEAST:
                    raise
                self.positions = positions // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.warning("out of memory with %d tokens a forward pass; going on with %d", positions, self.positions)
