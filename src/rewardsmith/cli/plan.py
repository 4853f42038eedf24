"""``rewardsmith plan``."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any

import typer

from rewardsmith.cli import console, options
from rewardsmith.cli import plan_inputs as inputs
from rewardsmith.cli import plan_report as saying
from rewardsmith.errors import UsageError

_GIB = 2**30

_ASSUMED = {"--pairs": 10_000, "--prompt-tokens": 300, "--response-tokens": 200}

# Options here whose counterpart in `rewardsmith train --method lora|qlora|full` has another form.
_IN_TRAIN = {
    "--gradient-checkpointing": "--set gradient_checkpointing=true",
    "--batch-tokens N": "--set tokens_per_forward=N",
    "--optim adamw_8bit": "--set optim=adamw_8bit",
    "--frozen-dtype bfloat16": "--set 'model_init_kwargs={dtype: bfloat16}'",
}


class PlannedMethod(StrEnum):
    """What could be trained."""

    head = "head"
    lora = "lora"
    qlora = "qlora"
    full = "full"
    all = "all"


class Optimizer(StrEnum):
    """Which AdamW."""

    adamw_torch_fused = "adamw_torch_fused"
    adamw_8bit = "adamw_8bit"


def plan(
    base: Annotated[
        str,
        typer.Option("--base", "-b", help="Base model: folder, Hugging Face id, or smollm2. Only its config is read."),
    ] = "smollm2",
    method: Annotated[PlannedMethod, typer.Option(help="What to train.")] = PlannedMethod.all,
    files: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help="Preference data; its lengths are measured. Repeatable. Default: assumed."),
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Without --data: how many pairs; default 10000.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=0, help="Without --data: of a prompt; default 300.")] = None,
    response_tokens: Annotated[
        int | None, typer.Option(min=1, help="Without --data: of each response; default 200.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens; longer comparisons are dropped. Default 1024; for head 2048.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Comparisons per forward pass.")] = 8,
    accumulation: Annotated[int, typer.Option(min=1, help="Forward passes per optimiser step.")] = 1,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; overrides --epochs.")] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 16,
    optim: Annotated[Optimizer, typer.Option(help="Optimiser.")] = Optimizer.adamw_torch_fused,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Recompute activations in the backward pass; default: on CUDA.",
        ),
    ] = None,
    budget: options.Budget = None,
    memory: Annotated[float | None, typer.Option(help="GiB there are; default: what is free on the device.")] = None,
    tflops: Annotated[
        float | None, typer.Option(help="10^12 operations a second in matrix products; default: measured here.")
    ] = None,
    row_format: options.Format = None,
    split: options.Split = None,
    skip_bad: options.SkipBad = False,
    dtype: options.Dtype = "auto",
    frozen_dtype: Annotated[
        str | None,
        typer.Option(
            "--frozen-dtype",
            help="Of weights that lora and qlora leave alone and NF4 does not quantise; default: float32, on CUDA "
            "bfloat16 where products are in bfloat16.",
        ),
    ] = None,
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemote = False,
    as_json: options.Json = False,
) -> None:
    """Say what training will need: peak memory and time, before any download, and what to change when it does not fit.

    Exit code 0: the method fits (with --method all: one of them). 1: it does not. 2: a mistake.

    Example: rewardsmith plan --base Qwen/Qwen3-8B --method qlora --pairs 60000 --device cuda --memory 24 --tflops 150
    """
    for name, value in (("--memory", memory), ("--tflops", tflops), ("--epochs", epochs)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{name} {value:g}: must be a finite number greater than 0")
    assumed = {"--pairs": pairs, "--prompt-tokens": prompt_tokens, "--response-tokens": response_tokens}
    clash = [name for name, value in assumed.items() if value is not None]
    if files and clash:
        raise UsageError(f"{', '.join(clash)}: only for plans without --data, which has lengths of its own")

    from rewardsmith.model.hardware import dtype_name, pick_dtype
    from rewardsmith.training import plan as planning
    from rewardsmith.training.advice import advise
    from rewardsmith.training.method import DTYPE_BYTES, METHODS
    from rewardsmith.training.shape import shape_from_config
    from rewardsmith.training.workload import Settings, Workload

    if frozen_dtype is not None and frozen_dtype not in DTYPE_BYTES:
        raise UsageError(f"--frozen-dtype {frozen_dtype}: use {', '.join(DTYPE_BYTES)}")
    place, here = inputs.device_of(device, described=memory is not None and tflops is not None)
    number = pick_dtype("bfloat16" if dtype == "auto" and not here else dtype, place)
    half = place.type == "cuda" and dtype_name(number) == "bfloat16"
    source, more = inputs.source_of(base, rendering=bool(files))
    shape = shape_from_config(
        inputs.base_config(base, source, more, trust_remote_code), trust_remote_code=trust_remote_code
    )
    if files:
        comparisons = inputs.read(files, row_format, split, skip_bad)
        workload = Workload.of(inputs.template_of(source, shape, trust_remote_code), comparisons)
    else:
        given = (value if value is not None else _ASSUMED[name] for name, value in assumed.items())
        workload = Workload.assumed(*given)
    limit = max_length or (2048 if method is PlannedMethod.head else 1024)
    settings = Settings(
        batch_size=batch_size,
        accumulation=accumulation,
        epochs=epochs,
        max_steps=max_steps,
        rank=lora_rank,
        dtype=dtype_name(number),
        stored=frozen_dtype or ("bfloat16" if half else "float32"),
        optimizer=optim.value,
        checkpointing=place.type == "cuda" if checkpointing is None else checkpointing,
        batch_tokens=budget,
        max_length=min(limit, shape.positions),
        device=place.type,
    )
    methods: Any = METHODS if method is PlannedMethod.all else (method.value,)
    available = round(memory * _GIB) if memory else inputs.available_on(place)
    speed = tflops * 1e12 if tflops else inputs.speed_of(place, number)
    found = planning.plan(shape, workload, settings, methods, speed)
    advice = advise(found, available)
    report = {
        "base": base,
        "device": str(place),
        "available_bytes": available,
        "available_from": "--memory" if memory else "free now",
        "flops_per_second": speed,
        "speed_from": "--tflops" if tflops else f"a {settings.dtype} matrix product on this device",
        "utilisation": planning.UTILISATION,
        **saying.facts(found, available),
        "notes": saying.notes(found, limit, str(place), auto=dtype == "auto", here=here),
        "advice": advice,
        "in_train": _IN_TRAIN if advice else {},
    }
    if as_json:
        console.print_json(report)
    else:
        saying.show(report)
    if not any(one["fits"] for one in report["methods"].values()):
        raise typer.Exit(1)
