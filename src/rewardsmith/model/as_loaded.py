"""A model is read in the dtypes that it was loaded in, whatever its caller is in the middle of."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Reads = TypeVar("Reads", bound=Callable[..., Any])


def as_loaded(reads: Reads) -> Reads:
    """Decorator of what reads a model, its first argument (a reward model or a network): no gradients, no autocast.

    Under a trainer's ``torch.autocast`` the float32 head would give rewards of 8 bits, and a score cache would keep
    them for those of the model.
    """

    @wraps(reads)
    def read(model: Any, *args: Any, **options: Any) -> Any:
        device = getattr(model, "backbone", model).device
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return reads(model, *args, **options)

    return read  # type: ignore[return-value]
