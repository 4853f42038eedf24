"""``rewardsmith train``."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewardsmith.cli import finetune as finetuning
from rewardsmith.cli import options, train_head, train_process
from rewardsmith.cli.held_out import evaluate_and_save
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.types import Comparison


# Flags that a frozen backbone's head has no use for.
_TUNING_ONLY = (
    *("config", "assigned", "resume", "learning_rate", "epochs", "max_steps", "batch_size", "accumulation"),
    *("lora_rank", "head_init", "bf16", "fp16"),
)


class Method(StrEnum):
    """How the model learns."""

    head = "head"
    lora = "lora"
    qlora = "qlora"
    full = "full"
    process = "process"


class HeadInit(StrEnum):
    """Where the head starts in fine-tuning."""

    probe = "probe"
    random = "random"


class PoolingName(StrEnum):
    """What the head reads."""

    last = "last"
    mean = "mean"


class TieModel(StrEnum):
    """How ties count."""

    soft = "soft"
    rao_kupper = "rao-kupper"


def train(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help="Preference data: a file, a directory or a Hub id. Repeatable."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the trained model.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="Base model: folder, Hugging Face id, or smollm2 (the default).")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            help="head: exact fit on a frozen backbone (default). lora, qlora, full: fine-tuning. process: step labels."
        ),
    ] = None,
    eval_files: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Held-out data; its accuracy goes into the model card.")
    ] = None,
    ridge: Annotated[
        float | None, typer.Option(help="Strength of the prior on the head, > 0; default: cross-validation.")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Read this layer and cut the saved backbone there: 1..depth, or auto; default last."),
    ] = None,
    pooling: Annotated[
        PoolingName | None,
        typer.Option(help="last token (portable, the default) or mean over the response (rewardsmith only)."),
    ] = None,
    ties: Annotated[TieModel, typer.Option(help="How pairs of probability 0.5 count.")] = TieModel.soft,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens; longer comparisons are dropped and counted. Default 2048; fine-tuning 1024."),
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scores with mean 0 and standard deviation 1 on the training data.")
    ] = False,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the folds, default 0; of fine-tuning, default 42.")
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=2, help="Train K members on bootstraps of the prompts: heads, or whole fine-tuning runs."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Fine-tuning: YAML file of settings; flags override it.")
    ] = None,
    assigned: Annotated[
        list[str] | None,
        typer.Option("--set", help="Fine-tuning: any RewardConfig field or lora.*, as key=value. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Fine-tuning: go on from the last checkpoint.")] = False,
    learning_rate: Annotated[float | None, typer.Option(help="Fine-tuning: default 5e-5, full 1e-5.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Fine-tuning: passes over the data, default 3.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Fine-tuning: update steps, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Fine-tuning: comparisons a step, default 8.")] = None,
    accumulation: Annotated[int | None, typer.Option(min=1, help="Fine-tuning: batches an update, default 1.")] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapters, default 16.")] = None,
    head_init: Annotated[
        HeadInit | None, typer.Option(help="Fine-tuning: fit the head first (probe, the default), or random.")
    ] = None,
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--no-bf16", help="Fine-tuning: default where the device has it.")
    ] = None,
    fp16: Annotated[bool | None, typer.Option("--fp16/--no-fp16", help="Fine-tuning in float16 (CUDA).")] = None,
    step_loss: train_process.Loss = train_process.StepLoss.soft,
    neutral: train_process.Neutral = train_process.NeutralRating.good,
    step_separator: train_process.Separator = None,
    row_format: options.Format = None,
    split: options.Split = None,
    skip_bad: options.SkipBad = False,
    rejects: Annotated[
        Path | None, typer.Option(help="Where --skip-bad writes bad rows; default OUTPUT.rejects.jsonl.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features; default: the user's cache.")] = None,
    budget: options.Budget = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    load_in_4bit: options.FourBit = False,
    trust_remote_code: options.TrustRemote = False,
    attention: options.Attention = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a reward model on preference pairs.

    --method head: features of the frozen backbone are computed once and kept, so a second run with other settings takes
    seconds, and a run that was killed goes on where it was.
    --method process: --data holds responses whose steps are judged (TRL, PRM800K, Math-Shepherd, ProcessBench). A
    reward model as --base keeps its rewards and learns to judge steps as well.
    --method lora, qlora, full: fine-tuning. OUTPUT.run holds checkpoints and the adapter; --resume goes on exactly.


    --ensemble K: with a head, K more heads come with the model, at the cost of K fits. With fine-tuning, K whole runs
    one after the other: OUTPUT.members holds their models, OUTPUT the average of their weights.

    Example: rewardsmith train --data train.jsonl --eval-data test.jsonl -o out/rm

    Example: rewardsmith train --data train.jsonl -o out/rm --method lora --ensemble 4
    """
    read = partial(_read_all, row_format=row_format, split=split, skip_bad=skip_bad, rejects=rejects)
    # Called after the checks: it imports torch, which takes seconds.
    loading = partial(options.load_options, dtype, device, device_map, load_in_4bit, trust_remote_code, attention)
    chosen = method.value if method else finetuning.method_in(config, assigned or []) or "head"
    if chosen == "process":
        _refuse(context, (*_TUNING_ONLY, *train_process.UNUSED), "is not for --method process")
        train_process.run(
            files,
            output,
            base=base,
            eval_files=eval_files or [],
            pooling=pooling.value if pooling else None,
            layer=layer,
            loading=loading,
            config={
                **{"loss": step_loss.value, "ridge": ridge, "folds": folds, "seed": seed or 0},
                **{"max_length": max_length or 2048, "budget": budget, "cache": cache},
            },
            neutral=neutral,
            separator=step_separator,
            split=split,
            skip_bad=skip_bad,
            rejects=rejects,
            as_json=as_json,
            quiet=quiet,
        )
        return
    _refuse(context, train_process.ONLY, "is for --method process")
    if chosen != "head":
        _refuse(context, finetuning.HEAD_ONLY, "is for --method head")
        flags = {
            **{"method": chosen, "base": base, "data": files, "eval_data": eval_files, "output": output},
            **{"learning_rate": learning_rate, "num_train_epochs": epochs, "max_steps": max_steps},
            **{"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation},
            **{"lora.r": lora_rank, "head_init": head_init and head_init.value, "bf16": bf16, "fp16": fp16},
            **{"max_length": max_length, "seed": seed, "pooling": pooling and pooling.value},
        }
        if load_in_4bit:
            raise UsageError("--load-in-4bit: fine-tuning in 4 bits is --method qlora")
        if _given(context, "dtype"):
            raise UsageError("--dtype: fine-tuning takes --bf16 or --fp16, or model_init_kwargs in a config")
        settings = finetuning.settings_of(config, assigned or [], flags)
        finetuning.run(
            settings,
            lambda names, held_out: read(names, Path(settings.output), held_out=held_out),
            device=device,
            trust_remote_code=trust_remote_code,
            resume=resume,
            as_json=as_json,
            quiet=quiet,
            ensemble=ensemble,
            finish=partial(evaluate_and_save, output=Path(settings.output), budget=budget, quiet=quiet),
        )
        return
    if config is not None:
        raise UsageError(
            f"--config {config}: names no fine-tuning method; add 'method: lora' (or qlora, full) to it, "
            "or give --method"
        )
    _refuse(context, _TUNING_ONLY, "is for fine-tuning: --method lora, qlora or full")
    train_head.run(
        files,
        output,
        eval_files or [],
        read=read,
        base=base or "smollm2",
        pooling=pooling.value if pooling else None,
        loading=loading,
        config={
            **{"ridge": ridge, "layer": layer, "ties": ties.value, "folds": folds, "seed": seed or 0},
            **{"max_length": max_length or 2048, "normalise": normalise, "budget": budget, "cache": cache},
            "ensemble": ensemble,
        },
        as_json=as_json,
        quiet=quiet,
    )


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if _given(context, name):
            flag = {"assigned": "--set", "budget": "--batch-tokens", "row_format": "--format"}.get(
                name, "--" + name.replace("_", "-")
            )
            raise UsageError(f"{flag} {why}")


def _read_all(
    files: list[str],
    output: Path,
    *,
    held_out: bool = False,
    row_format: str | None,
    split: str | None,
    skip_bad: bool,
    rejects: Path | None,
) -> list[Comparison]:
    name = output.name + (".eval-rejects.jsonl" if held_out else ".rejects.jsonl")
    chosen = output.with_name(name) if held_out or rejects is None else rejects
    return _read(files, row_format, split, chosen if skip_bad else None)


def _read(files: list[str], row_format: str | None, split: str | None, rejects: Path | None) -> list[Comparison]:
    from rewardsmith.data.load import load_comparisons

    found: list[Comparison] = []
    for number, file in enumerate(files):
        # One rejects file per input: rejects.jsonl, rejects.jsonl.1, ...
        path = rejects.with_name(f"{rejects.name}.{number}") if rejects and number else rejects
        found += load_comparisons(file, format=row_format, split=split, skip_bad=rejects is not None, rejects=path)
    return found
