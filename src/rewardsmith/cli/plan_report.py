"""What ``rewardsmith plan`` says: the report as JSON, notes on the numbers, and the table for people."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rewardsmith.cli import console

if TYPE_CHECKING:
    from rewardsmith.training.plan import MethodPlan, Plan


def facts(found: Plan, available: int) -> dict[str, Any]:
    shape, settings = found.shape, found.settings
    return {
        "model": {
            "parameters": shape.parameters,
            "layers": shape.layers,
            "hidden": shape.hidden,
            "lora_parameters": shape.lora(settings.rank),
        },
        "comparisons": found.kept,
        "dropped": found.dropped,
        "assumption": found.workload.assumption,
        "settings": asdict(settings),
        "methods": {name: _method(one, available) for name, one in found.methods.items()},
    }


def _method(one: MethodPlan, available: int) -> dict[str, Any]:
    return {
        "bytes": one.memory.as_dict(),
        "fits": one.memory.total <= available,
        "tokens_per_forward": one.peak.tokens,
        "longest_row": one.peak.row,
        "steps": one.steps,
        "tokens": one.tokens,
        "flops": one.flops,
        "seconds": one.seconds,
    }


def notes(found: Plan, max_length: int, place: str, *, auto: bool, here: bool) -> list[str]:
    """What a person should know of the numbers."""
    shape, settings = found.shape, found.settings
    said = []
    if found.workload.assumption:
        said.append(f"assumed, for want of --data: {found.workload.assumption}")
    if found.dropped:
        said.append(_too_long(found))
    if settings.max_length < max_length:
        said.append(f"the model has {shape.positions:,} positions, so --max-length is {settings.max_length:,}")
    if auto and settings.dtype == "float32":
        said.append(f"{place} does not multiply bfloat16 natively, so float32 is planned; --dtype overrides it")
    if not shape.shares:
        said.append("the model is bidirectional: prompts are not shared, every response is a row of its own")
    if not here:
        said.append(f"there is no {place} here: {settings.dtype} is planned, and nothing of it was tried")
    if settings.device == "cpu" and sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        said.append(
            "glibc holds on to freed memory, in a run that was measured 1.9 times what was in use: train with "
            "MALLOC_MMAP_THRESHOLD_=1000000 in the environment to come near these numbers"
        )
    if found.kept < shape.hidden:
        said.append(
            f"{found.kept:,} comparisons are fewer than the {shape.hidden:,} weights of the head alone: try --method "
            "head first, whose ridge is cross-validated"
        )
    lacking = {"qlora": "bitsandbytes", "lora": "peft"}
    wanted = {package for name, package in lacking.items() if name in found.methods}
    wanted |= {"peft"} if "qlora" in found.methods else set()
    wanted |= {"bitsandbytes"} if settings.optimizer == "adamw_8bit" else set()
    said += [f"{name} is not installed here" for name in sorted(wanted) if importlib.util.find_spec(name) is None]
    return said


def _too_long(found: Plan) -> str:
    """How many comparisons are dropped, how long they are, and what would keep them."""
    from rewardsmith.training.workload import depth

    limit, positions = found.settings.max_length, found.shape.positions
    lengths = [length for length in map(depth, found.workload.trees) if length > limit]
    text = (
        f"{len(lengths):,} of {len(found.workload.trees):,} comparisons are longer than {limit:,} tokens (the longest "
        f"has {max(lengths):,}) and would be dropped; "
    )
    within = max((length for length in lengths if length <= positions), default=None)
    beyond = sum(length > positions for length in lengths)
    if within is not None:
        text += f"--max-length {within} keeps {len(lengths) - beyond:,} of them"
    if beyond:
        text += "; " if within is not None else ""
        text += (
            f"{beyond:,} exceed the {positions:,} positions that the model has: shorten them, or take a base with more"
        )
    return text


def show(report: dict[str, Any]) -> None:
    from rewardsmith.training.advice import gib

    rows = []
    for name, one in report["methods"].items():
        size = one["bytes"]
        learning = size["adapters"] + size["gradients"] + size["optimizer"]
        seen = size["activations"] + size["mask"]
        cells = [gib(number) for number in (size["weights"], learning, seen, size["total"])]
        rows.append((name, *cells, "yes" if one["fits"] else "no", console.duration(one["seconds"])))
    settings = report["settings"]
    console.table(
        f"{report['base']}: {report['model']['parameters']:,} parameters, {report['comparisons']:,} comparisons, "
        f"{settings['dtype']} on {report['device']}, {gib(report['available_bytes'])} ({report['available_from']})",
        ("method", "weights", "adapters + AdamW", "activations", "peak", "fits", "time"),
        rows,
    )
    print(
        f"time: operations at {report['utilisation']:.0%} of {report['flops_per_second'] / 1e12:.3g} TFLOP/s "
        f"({report['speed_from']})"
    )
    for line in report["notes"]:
        print(f"note: {line}")
    for line in report["advice"]:
        print(f"advice: {line}")
    said = " ".join(report["advice"])
    for ours, theirs in report["in_train"].items():
        if ours.split()[0] in said:
            print(f"  {ours} is: rewardsmith train {theirs}")
