"""What a training run will need, before anything is downloaded or trained: memory and time."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rewardsmith.errors import DataError
from rewardsmith.training.activations import Pass
from rewardsmith.training.memory import Memory, estimate
from rewardsmith.training.method import Method, MethodName
from rewardsmith.training.shape import Shape
from rewardsmith.training.workload import Settings, Sizes, Workload, depth, passes, passes_of_reading

# Share of the matrix-product peak that a whole step is taken to reach: norms and the optimiser are no matrix products.
UTILISATION = 0.5

_SAMPLED = 500  # batches whose operations are counted; the rest are taken to be like them

_FIRST = 4096


@dataclass(frozen=True)
class MethodPlan:
    """What one method needs.

    Args:
        memory: at the peak.
        peak: the forward pass with that peak: the longest comparisons of the data in one batch.
        steps: optimiser steps; 0 for ``head``.
        tokens: positions computed forward in all, recomputation aside. Every method reads the data once to fit the
            head: fine-tuning starts from that head (``head_init: probe``).
        flops: floating-point operations in all.
        seconds: ``flops`` at ``UTILISATION`` of the speed; None when the speed is not known.
    """

    memory: Memory
    peak: Pass
    steps: int
    tokens: int
    flops: float
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """Needs of each method, and what they were computed from, so that :func:`advise` can try other settings.

    Args:
        kept: comparisons within the maximum length.
        dropped: those beyond it.
        speed: floating-point operations per second in matrix products.
    """

    shape: Shape
    workload: Workload
    settings: Settings
    methods: dict[MethodName, MethodPlan]
    kept: int
    dropped: int
    speed: float | None


def plan(
    shape: Shape,
    workload: Workload,
    settings: Settings,
    methods: Sequence[MethodName],
    speed: float | None = None,
) -> Plan:
    """Compute what each method needs.

    Raises:
        DataError: no comparison is within the maximum length.
        UsageError: settings that cannot be.
    """
    trees = workload.within(settings.max_length)
    if not trees:
        shortest, limit = min(map(depth, workload.trees), default=0), settings.max_length
        remedy = "which is all the positions the model has" if limit == shape.positions else "use a larger --max-length"
        raise DataError(
            f"no comparison is within the maximum length of {limit:,} tokens (the shortest has {shortest:,}); {remedy}"
        )
    reading = [one for group in passes_of_reading(shape, trees, settings) for one in group]
    found: dict[MethodName, MethodPlan] = {
        name: _method_plan(shape, trees, settings, name, reading, speed) for name in methods
    }
    return Plan(shape, workload, settings, found, len(trees), len(workload.trees) - len(trees), speed)


def _method_plan(
    shape: Shape,
    trees: Sequence[Sizes],
    settings: Settings,
    name: MethodName,
    reading: Sequence[Pass],
    speed: float | None,
) -> MethodPlan:
    memory, peak = need(shape, trees, settings, name)
    method = Method(name, settings.rank)
    flops = sum(operations(shape, Method("head"), one) for one in reading)
    tokens, steps = sum(one.tokens for one in reading), 0
    if name != "head":
        order = random.Random(0).sample(range(len(trees)), len(trees))
        starts = range(0, len(order), settings.batch_size)
        sampled = random.Random(1).sample(starts, min(len(starts), _SAMPLED))
        batches = [[trees[index] for index in order[start : start + settings.batch_size]] for start in sampled]
        every = [one for batch in batches for one in passes(shape, batch, settings)]
        per_epoch = math.ceil(len(starts) / settings.accumulation)
        steps = settings.max_steps or math.ceil(per_epoch * settings.epochs)
        whole = len(starts) * settings.epochs if settings.max_steps is None else steps * settings.accumulation
        repeats = whole / len(batches)
        flops += repeats * sum(operations(shape, method, one, checkpointing=settings.checkpointing) for one in every)
        tokens += round(repeats * sum(one.tokens for one in every))
    return MethodPlan(memory, peak, steps, tokens, flops, flops / (speed * UTILISATION) if speed else None)


def need(shape: Shape, trees: Sequence[Sizes], settings: Settings, name: MethodName) -> tuple[Memory, Pass]:
    """Memory at the peak, and the forward pass that has it: the batch of the longest comparisons."""
    method = Method(name, settings.rank)
    if name == "head":
        # The first batch holds the longest, and hardly more than so many of them.
        worst = next(passes_of_reading(shape, heapq.nlargest(_FIRST, trees, key=sum), settings))
        responses = sum(len(tree) - 1 for tree in trees)
    else:
        worst = passes(shape, heapq.nlargest(settings.batch_size, trees, key=sum), settings)
        responses = 0
    found = [
        (
            estimate(
                shape,
                method,
                tokens_per_forward=one.tokens,
                longest_row=one.row,
                trees=one.trees,
                dtype=settings.dtype,
                stored=settings.stored,
                autocast=settings.autocast,
                optimizer=settings.optimizer,
                checkpointing=settings.checkpointing,
                accumulation=settings.accumulation * len(worst),
                responses=responses,
                store_counts=settings.device != "cuda",
            ),
            one,
        )
        for one in worst
    ]
    return max(found, key=lambda pair: pair[0].total)


def operations(shape: Shape, method: Method, forward: Pass, *, checkpointing: bool = False) -> float:
    """Floating-point operations of one forward pass and, but for ``head``, its backward pass.

    Forward: 2 per weight of the blocks' linear layers and token, and 4 q per pair of positions and layer for attention:
    tokens * row pairs under a dense mask, which computes what it hides; tree by tree half the square of each prefix,
    and branch * (prefix + branch). Backward: twice that for trained weights and for attention, once for frozen weights,
    and adapters are trained weights. Checkpointing adds a forward pass.
    """
    matrices = 2.0 * shape.linear * forward.tokens
    if forward.trees is None:
        positions = float(forward.tokens * forward.row)
    else:
        branches = sum(branch * (tree[0] + branch) for tree in forward.trees for branch in tree[1:])
        positions = branches + sum(tree[0] ** 2 for tree in forward.trees) / 2
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * positions
    if method.name == "head":
        return matrices + attention
    adapters = 0.0 if method.name == "full" else 2.0 * shape.lora(method.rank) * forward.tokens
    once = matrices + attention + adapters
    backward = (2 if method.name == "full" else 1) * matrices + 2 * (attention + adapters)
    return once * (2 if checkpointing else 1) + backward
