"""What is trained on and how: lengths of comparisons, settings of a run, and the forward passes they make.

Lengths are those of trees, ``(prefix, branch, branch, ...)`` in tokens, so a shared prompt counts once, as it does in
training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.encoding import pack
from rewardsmith.encoding.tree import build
from rewardsmith.training.activations import Pass
from rewardsmith.training.shape import Shape
from rewardsmith.types import Comparison

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """The lengths of what is trained on.

    Args:
        trees: (prefix, branch, branch, ...) of each comparison, every branch at least 1.
        assumption: what was assumed where there was no data; None for measured lengths.
    """

    trees: tuple[Sizes, ...]
    assumption: str | None = None

    @classmethod
    def assumed(cls, pairs: int, prompt: int, response: int) -> Workload:
        """``pairs`` comparisons of two responses, all of one length."""
        text = f"{pairs:,} pairs of {prompt:,} prompt tokens and two responses of {response:,} tokens each"
        return cls(((prompt, response, response),) * pairs, text)

    @classmethod
    def of(cls, template: Any, comparisons: Iterable[Comparison]) -> Workload:
        """Render comparisons as training would; those whose responses render to the same tokens are left out.

        Raises:
            DataError: the template refuses a row.
        """
        from rewardsmith.training.prepare import render_all

        trees = []
        for comparison in comparisons:
            rendered = render_all(template, comparison)
            if len({item.ids for item in rendered}) > 1:
                tree = build(rendered)
                trees.append((len(tree.prefix), *map(len, tree.branches)))
        return cls(tuple(trees))

    def within(self, max_length: int) -> list[Sizes]:
        """The comparisons none of whose sequences is longer; training drops the others."""
        return [tree for tree in self.trees if depth(tree) <= max_length]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        batch_size: comparisons per forward pass.
        accumulation: such batches per optimiser step.
        epochs, max_steps: how long; ``max_steps`` wins.
        rank: of LoRA.
        dtype: of matrix products.
        stored: dtype of frozen weights beside trained ones. The trainer loads them in float32, as TRL does, and
            ``rewardsmith train`` in bfloat16 on CUDA; ``model_init_kwargs: {dtype: bfloat16}`` changes that.
        optimizer: a name in ``memory.OPTIMIZERS``.
        checkpointing: recompute blocks in the backward pass.
        autocast: False when what is trained lives in 16 bits as well; None for master weights in float32 beside them.
        batch_tokens: most tokens in a forward pass; larger batches are split. None: no limit in training, and the
            device's default when the head reads.
        max_length: in tokens.
        device: ``cpu``, ``cuda`` or ``mps``.
    """

    batch_size: int = 8
    accumulation: int = 1
    epochs: float = 3
    max_steps: int | None = None
    rank: int = 16
    dtype: str = "float32"
    stored: str = "float32"
    autocast: bool | None = None
    optimizer: str = "adamw_torch_fused"
    checkpointing: bool = False
    batch_tokens: int | None = None
    max_length: int = 2048
    device: str = "cpu"


def depth(tree: Sizes) -> int:
    """Tokens of the longest single sequence."""
    return tree[0] + max(tree[1:])


# -- forward passes


def passes(shape: Shape, batch: Sequence[Sizes], settings: Settings) -> list[Pass]:
    """The forward passes of one training batch: whole comparisons, in order, as many as ``batch_tokens`` lets in."""
    groups: list[list[Sizes]] = []
    limit = settings.batch_tokens or math.inf
    for tree in batch:
        if not groups or _one_pass(shape, [*groups[-1], tree], settings).tokens > limit:
            groups.append([])
        groups[-1].append(tree)
    return [_one_pass(shape, group, settings) for group in groups]


def passes_of_reading(shape: Shape, trees: Sequence[Sizes], settings: Settings) -> Iterator[list[Pass]]:
    """The forward passes of ``head``, the widest rows first; trees beyond the budget are read response by response."""
    from rewardsmith.model.budget import BUDGET

    budget = settings.batch_tokens or BUDGET.get(settings.device, BUDGET["cpu"])
    pieces = [piece for tree in trees for piece in ([tree] if shape.shares and sum(tree) <= budget else _alone(tree))]
    for rows in pack.plan([sum(piece) for piece in pieces], budget, one_per_row=not shape.shares):
        inside = [pieces[index] for row in rows for index in row]
        if _by_tree(shape, settings):
            yield [_one_pass(shape, inside, settings)]
        else:
            width = max(sum(sum(pieces[index]) for index in row) for row in rows)
            yield [Pass(len(rows) * width, width)]


def _one_pass(shape: Shape, trees: Sequence[Sizes], settings: Settings) -> Pass:
    """On a CPU attention goes tree by tree in one row; elsewhere in as few rows of the longest tree as they fit into;
    without sharing one response a row."""
    if _by_tree(shape, settings):
        tokens = sum(map(sum, trees))
        return Pass(tokens, tokens, tuple(trees))
    if not shape.shares:
        alone = [sum(piece) for tree in trees for piece in _alone(tree)]
        return Pass(len(alone) * max(alone), max(alone))
    lengths = [sum(tree) for tree in trees]
    rows = sum(len(group) for group in pack.plan(lengths, sum(lengths)))
    return Pass(rows * max(lengths), max(lengths))


def _by_tree(shape: Shape, settings: Settings) -> bool:
    return settings.device == "cpu" and shape.shares and not shape.squares


def _alone(tree: Sizes) -> list[Sizes]:
    return [(0, tree[0] + branch) for branch in tree[1:]]
