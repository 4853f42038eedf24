"""Peak memory of training or reading a model, from numbers alone: no weights, no torch.

:mod:`rewardsmith.training.activations` counts what depends on the forward pass, and explains the symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rewardsmith.errors import UsageError
from rewardsmith.training.activations import Pass, activations, masks, working
from rewardsmith.training.method import Method, Numbers
from rewardsmith.training.shape import Shape

# NF4 with double quantisation (Dettmers et al. 2023): 4 bits, an 8-bit scale per 64 weights, and a float32 per 256 of
# those scales: 4 + 8/64 + 32/(64 * 256) = 4.127 bits a weight.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8

# Bytes of AdamW's two moments, per byte of the parameter (torch keeps them in its dtype) or per parameter (8-bit: one
# byte each, and a float32 scale per 256 of them).
OPTIMIZERS = {"adamw_torch_fused": "2 per byte", "adamw_8bit": "2.03 per parameter"}

# What is not tensors: Python and the libraries (0.42 GiB resident after importing torch, transformers and peft, torch's
# CPU build), or a CUDA context, which is not measured.
RESERVE = 1 << 29

_FITTING = 50  # bytes per pair and feature while the head is fitted, beside the features; tracemalloc says 48 to 50


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Args:
        weights: parameters of the base: 4 each in float32, 2 in 16 bits, ``NF4_BYTES`` for the quantised linear layers
            of ``qlora``. ``full`` with autocast keeps float32 ones, which are its master weights.
        adapters: r (in + out) per linear layer, and the head, 4 bytes each (2 in 16 bits without autocast).
        gradients: as many bytes as what is trained.
        optimizer: AdamW's two moments: 8 bytes per float32 parameter; 8-bit AdamW 2.03.
        activations: what autograd keeps, see :func:`activations`.
        mask: one dense mask T * L * c for each kind of attention layer; see :func:`masks`.
        overhead: temporaries of one block, see :func:`working`, and ``RESERVE``.
        store: of ``head``: features and their fit, in the computer's own memory.
        total: the peak. All of them together, except that with one forward pass per step gradients grow while
            activations shrink, so the larger of the two counts; and the fit of ``head`` comes after its passes.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    mask: int
    overhead: int
    store: int
    total: int

    def as_dict(self) -> dict[str, int]:
        """By name, in bytes."""
        return asdict(self)


def estimate(
    shape: Shape,
    method: Method,
    *,
    tokens_per_forward: int,
    longest_row: int,
    trees: Sequence[Sequence[int]] | None = None,
    dtype: str = "bfloat16",
    stored: str | None = None,
    autocast: bool | None = None,
    optimizer: str = "adamw_torch_fused",
    checkpointing: bool = False,
    accumulation: int = 1,
    responses: int = 0,
    store_counts: bool = False,
) -> Memory:
    """Peak memory of one optimiser step, or of reading and fitting for ``head``.

    Args:
        shape: from :func:`shape_from_config` or :func:`shape_of`.
        method: what is trained.
        tokens_per_forward: positions of one forward pass, padding included: rows * ``longest_row``.
        longest_row: its row length.
        trees: see :class:`Pass`.
        dtype: of the matrix products.
        stored: dtype of frozen weights; None for ``dtype``. In float32 under autocast they are cast in every product.
        autocast: keep what is trained in float32 beside 16-bit products; None means yes.
        optimizer: a name in ``OPTIMIZERS``.
        checkpointing: recompute each block in the backward pass.
        accumulation: forward passes per optimiser step.
        responses: how many ``head`` keeps features of.
        store_counts: True when the device's memory is the computer's, so that ``store`` is part of the total.

    Raises:
        UsageError: a name or number that cannot be.
    """
    if min(tokens_per_forward, longest_row, accumulation) < 1 or responses < 0:
        raise UsageError("tokens_per_forward, longest_row and accumulation must be at least 1, responses at least 0")
    if optimizer not in OPTIMIZERS:
        raise UsageError(f"optimizer {optimizer!r}: use {', '.join(OPTIMIZERS)}")
    numbers, forward = (
        Numbers.of(method, dtype, autocast=autocast, stored=stored),
        Pass(tokens_per_forward, longest_row, trees),
    )
    weights = _weights(shape, method, numbers)
    mask = masks(shape, method, numbers, forward, checkpointing)
    overhead = RESERVE + working(shape, method, numbers, forward)
    if method.name == "head":
        store = _store(shape, responses)
        busy = max(mask + overhead, RESERVE + (store if store_counts else 0))
        return Memory(weights, 0, 0, 0, 0, mask, overhead, store, weights + busy)
    trained = method.trainable(shape)
    adapters = 0 if method.name == "full" else trained * numbers.trained
    gradients = trained * numbers.trained
    moments = round(trained * 2 * (1 + 4 / 256)) if optimizer == "adamw_8bit" else 2 * gradients
    kept, copies, block = activations(shape, method, numbers, forward, checkpointing)
    if accumulation == 1:
        together = max(kept + copies, block + max(kept, gradients))
    else:
        together = gradients + kept + max(copies, block)
    total = weights + adapters + moments + mask + overhead + together
    return Memory(weights, adapters, gradients, moments, kept + max(copies, block), mask, overhead, 0, total)


def language_model(vocabulary: int, hidden: int, tokens: int, *, compute: int, stored: int) -> int:
    """Bytes that the language-model loss adds to the peak.

    Its matrix, V d in ``stored`` bytes, and in ``compute`` ones where products are in those; and of a chunk of tokens
    the logits and their gradient in ``compute`` bytes, and in float32 the logits, their logarithms and their gradient:
    V (2 c + 12).

    Args:
        vocabulary, hidden: V and d.
        tokens: of a chunk.
    """
    copy = 0 if stored == compute else compute
    return vocabulary * (hidden * (stored + copy) + tokens * (2 * compute + 12))


def _weights(shape: Shape, method: Method, numbers: Numbers) -> int:
    if method.name != "qlora":
        return shape.parameters * numbers.base
    return round(shape.linear * NF4_BYTES) + (shape.parameters - shape.linear) * numbers.base


def _store(shape: Shape, responses: int) -> int:
    """Features [responses, d] float32; their float64 copies and differences while the fit is prepared, per pair; the
    Hessian, its factor and inverse."""
    d = shape.hidden
    return responses * d * 4 + (responses // 2) * d * _FITTING + 24 * d * d
