"""What is trained, and in how many bytes a number is kept: the choices that decide a run's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewardsmith.errors import UsageError
from rewardsmith.training.settings import TUNED
from rewardsmith.training.shape import Shape

MethodName = Literal["head", "lora", "qlora", "full"]

METHODS: tuple[MethodName, ...] = ("head", *TUNED)

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Method:
    """What is trained.

    Args:
        name: ``head`` (on frozen features), ``lora``, ``qlora`` (adapters on NF4 weights) or ``full``.
        rank: of the adapters.
        fused: False for peft's own LoRA layers under autocast, which keep more than :mod:`fused_lora`'s.
    """

    name: MethodName
    rank: int = 16
    fused: bool = True

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(f"method {self.name!r}: use {', '.join(METHODS)}")
        if self.rank < 1:
            raise UsageError(f"rank {self.rank}: must be at least 1")

    def trainable(self, shape: Shape) -> int:
        """Parameters that gradients are computed for. Those of ``head`` are fitted without any."""
        if self.name == "head":
            return 0
        return shape.parameters if self.name == "full" else shape.lora(self.rank) + shape.head


@dataclass(frozen=True)
class Numbers:
    """Bytes of a number, by where it lives.

    Args:
        compute: in matrix products and what they give.
        stream: between blocks.
        base: weights of the base that are not quantised.
        trained: whatever gets gradients.
        autocast: True when products are in fewer bits than what is trained.
    """

    compute: int
    stream: int
    base: int
    trained: int
    autocast: bool

    @classmethod
    def of(cls, method: Method, dtype: str, *, autocast: bool | None = None, stored: str | None = None) -> Numbers:
        """See :func:`memory.estimate` for the arguments.

        Autocast is on by default in 16 bits, so that what is trained is float32: a bfloat16 weight of size 1 cannot
        take a step smaller than 0.004.
        """
        for name in (dtype, stored or dtype):
            if name not in DTYPE_BYTES:
                raise UsageError(f"dtype {name!r}: use {', '.join(DTYPE_BYTES)}")
        c = DTYPE_BYTES[dtype]
        if c == 4 or autocast is False or method.name == "head":
            return cls(c, c, c, c, False)
        base = 4 if method.name == "full" else DTYPE_BYTES[stored or dtype]
        return cls(c, base, base, 4, True)
