"""Peak memory of training or reading a model, from numbers alone: no weights, no torch.

Symbols: T positions of a forward pass, L longest row, d hidden size, q = heads * head_dim, I inner size of the MLP,
r rank, c bytes of a number that is computed with (4, or 2 in 16 bits), s bytes of the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rewardsmith.errors import UsageError
from rewardsmith.training.shape import Shape

MethodName = Literal["head", "lora", "qlora", "full"]

METHODS: tuple[MethodName, ...] = ("head", "lora", "qlora", "full")

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

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
class Memory:
    """Bytes.

    Args:
        weights: parameters of the base: 4 each in float32, 2 in 16 bits, ``NF4_BYTES`` for the quantised linear layers
            of ``qlora``. ``full`` with autocast keeps float32 ones, which are its master weights.
        adapters: r (in + out) per linear layer, and the head, 4 bytes each (2 in 16 bits without autocast).
        gradients: as many bytes as what is trained.
        optimizer: AdamW's two moments: 8 bytes per float32 parameter; 8-bit AdamW 2.03.
        activations: what autograd keeps, see :func:`activations`.
        mask: one dense mask T * L * c for each kind of attention layer; see :func:`_mask`.
        overhead: temporaries of one block, see :func:`_working`, and ``RESERVE``.
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
        """See :func:`estimate` for the arguments.

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


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Args:
        tokens: positions, padding included.
        row: length of the longest row.
        trees: (prefix, branch, branch, ...) lengths of each tree when attention is computed tree by tree in one row
            without a mask (:mod:`rewardsmith.model.tree_attention`); None for a dense mask.
    """

    tokens: int
    row: int
    trees: Sequence[Sequence[int]] | None = None

    @property
    def keys(self) -> int:
        """Keys and values copied so that branches stand beside their prefix."""
        return sum(prefix + branch for prefix, *branches in self.trees or () for branch in branches if prefix)

    @property
    def squares(self) -> int:
        """Entries of the branches' masks."""
        return sum(
            branch * (prefix + branch) for prefix, *branches in self.trees or () for branch in branches if prefix
        )


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
    mask = _mask(shape, method, numbers, forward, checkpointing)
    overhead = RESERVE + _working(shape, method, numbers, forward)
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


def activations(
    shape: Shape, method: Method, numbers: Numbers, forward: Pass, checkpointing: bool
) -> tuple[int, int, int]:
    """What autograd keeps from the forward pass for the backward pass, beside parameters and masks.

    Bytes per token, of all blocks:

    - norms: 4 per number normed (RMSNorm squares a float32 copy), and 4 more when the norm itself is trained;
      LayerNorm keeps its input only, s each.
    - inputs of linear layers, c each: d for attention, d and I for the MLP (the attention output counts below).
      Autocast casts anew for every layer whose input is not in c yet: with a float32 stream each reader of it keeps its
      own copy. peft's own LoRA layers cast to float32 and back, so there all of them do; fused ones do not.
    - attention: c 4 q (queries, keys and values repeated for the heads, output) + 4 heads (log of the softmax's
      denominator). Eager attention: 4 heads L for each of ``Shape.squares``, and a copy in 16 bits. Tree by tree:
      c (3 q + 2 kv) + 4 heads, and c 2 kv for each of ``Pass.keys``.
    - MLP: c I for each of ``Shape.inner``; s I over 4-bit layers, which give back the type they were given.
    - adapters: c r per linear layer.

    Outside the blocks: the final norm, rotary angles, indices. Autocast also keeps a 16-bit copy of every float32
    matrix, which counts here.

    Returns:
        kept: bytes that live from the forward pass until the backward pass comes by: all of the above, or with
            checkpointing only s d per token and block.
        copies: with checkpointing, autocast's copies of trained matrices, which end with the forward pass; else 0.
        block: with checkpointing, what one block keeps while it is recomputed; else 0.
    """
    c, layers, tokens = numbers.compute, shape.layers, forward.tokens
    frozen = method.name != "full"
    norm = (4 if frozen else 8) if shape.rms else numbers.stream
    mlp = layers * shape.inner * shape.intermediate * _between(method, numbers)
    adapters = method.rank * len(shape.linears) * c if frozen else 0
    per_token = shape.normed * norm + _read(shape, method, numbers) * c + mlp + adapters
    blocks = tokens * per_token + layers * _attention(shape, c, forward)
    outside = tokens * (shape.hidden * norm + 2 * shape.head_dim * c + 24)
    trained, untouched = _copies(shape, method, numbers)
    if not checkpointing:
        return blocks + outside + trained + untouched, 0, 0
    return tokens * layers * shape.hidden * numbers.stream + outside, trained, (blocks + untouched) // layers


def _read(shape: Shape, method: Method, numbers: Numbers) -> int:
    """Numbers per token that linear layers keep as their inputs, beside attention's output."""
    inputs = sum(fan_in for fan_in, _ in shape.linears)
    if numbers.autocast and method.name == "lora" and not method.fused:
        return inputs
    if numbers.stream == numbers.compute:
        return shape.layers * (2 * shape.hidden + shape.intermediate)
    return inputs - shape.layers * shape.heads * shape.head_dim


def _between(method: Method, numbers: Numbers) -> int:
    """Bytes of a number between the linear layers of an MLP."""
    return numbers.stream if method.name == "qlora" else numbers.compute


def _attention(shape: Shape, c: int, forward: Pass) -> int:
    """Bytes that one layer's attention keeps."""
    q, kv, tokens = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, forward.tokens
    if forward.trees is not None:
        return tokens * (c * (3 * q + 2 * kv) + 4 * shape.heads) + c * 2 * kv * forward.keys
    eager = shape.heads * forward.row * (4 * shape.squares + (0 if c == 4 else c)) if shape.squares else 0
    return tokens * (4 * q * c + 4 * shape.heads + eager)


def _copies(shape: Shape, method: Method, numbers: Numbers) -> tuple[int, int]:
    """Autocast's 16-bit copies of float32 matrices: those that are trained, which it caches, and frozen ones."""
    if not numbers.autocast:
        return 0, 0
    if method.name == "full":
        return numbers.compute * shape.linear, 0
    frozen = shape.linear if method.name == "lora" and numbers.base == 4 else 0
    return numbers.compute * shape.lora(method.rank), numbers.compute * frozen


def _weights(shape: Shape, method: Method, numbers: Numbers) -> int:
    if method.name != "qlora":
        return shape.parameters * numbers.base
    return round(shape.linear * NF4_BYTES) + (shape.parameters - shape.linear) * numbers.base


def _mask(shape: Shape, method: Method, numbers: Numbers, forward: Pass, checkpointing: bool) -> int:
    """Masks are made once: in the dtype of the weights, or tree by tree and for encoders in a byte. Where attention
    computes in another dtype every layer casts them again and keeps the result, one of them when blocks are recomputed.
    """
    layers = 1 if checkpointing or method.name == "head" else shape.layers
    if forward.trees is not None:
        return forward.squares * (shape.masks + numbers.compute * layers)
    once = numbers.base if shape.shares else 1
    recast = numbers.compute * layers if once != numbers.compute else 0
    return forward.tokens * forward.row * (shape.masks * once + recast)


def _working(shape: Shape, method: Method, numbers: Numbers, forward: Pass) -> int:
    """Temporaries of the widest moment, in one block.

    Reading: activation, up and their product, 3 c I (or in attention 4 c q and what queries and keys were made of), the
    stream thrice, a norm's float32 copy, rotary angles and indices. Training: two gradients of size I beyond what they
    replace, or, when peft casts to float32 first, I (c + 4); and two float32 vectors of size d. NF4: the largest matrix
    once in c.
    """
    c, inner, d, tokens = numbers.compute, shape.intermediate, shape.hidden, forward.tokens
    if method.name == "head":
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        return tokens * (c * max(3 * inner, 4 * q + 2 * kv) + (3 * c + 4) * d + 2 * shape.head_dim * c + 24)
    cast = c + 4 if numbers.autocast and method.name == "lora" and not method.fused else 0
    matrix = max(a * b for a, b in shape.linears) * c if method.name == "qlora" else 0
    return tokens * (max(2 * _between(method, numbers), cast) * inner + 8 * d) + matrix


def _store(shape: Shape, responses: int) -> int:
    """Features [responses, d] float32; their float64 copies and differences while the fit is prepared, per pair; the
    Hessian, its factor and inverse."""
    d = shape.hidden
    return responses * d * 4 + (responses // 2) * d * _FITTING + 24 * d * d
