"""Bytes of one forward pass, and of what it leaves for the backward pass.

Symbols: T positions of a forward pass, L longest row, d hidden size, q = heads * head_dim, I inner size of the MLP,
r rank, c bytes of a number that is computed with (4, or 2 in 16 bits), s bytes of the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewardsmith.training.method import Method, Numbers
from rewardsmith.training.shape import Shape


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


def masks(shape: Shape, method: Method, numbers: Numbers, forward: Pass, checkpointing: bool) -> int:
    """Masks are made once: in the dtype of the weights, or tree by tree and for encoders in a byte. Where attention
    computes in another dtype every layer casts them again and keeps the result, one of them when blocks are recomputed.
    """
    layers = 1 if checkpointing or method.name == "head" else shape.layers
    if forward.trees is not None:
        return forward.squares * (shape.masks + numbers.compute * layers)
    once = numbers.base if shape.shares else 1
    recast = numbers.compute * layers if once != numbers.compute else 0
    return forward.tokens * forward.row * (shape.masks * once + recast)


def working(shape: Shape, method: Method, numbers: Numbers, forward: Pass) -> int:
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
