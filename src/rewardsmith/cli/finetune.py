"""``rewardsmith train --method lora|qlora|full``: what the command does for fine-tuning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.cli import console, held_out
from rewardsmith.errors import UsageError, out_of_memory

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.training.finetune import Finetuned
    from rewardsmith.training.run_folder import RunFolder
    from rewardsmith.training.settings import RunSettings
    from rewardsmith.types import Comparison

# Flags of ``train`` that only a frozen backbone's head has.
HEAD_ONLY = ("ridge", "layer", "ties", "normalise", "folds", "cache", "budget", "attention", "device_map")


def settings_of(config: Path | None, assigned: list[str], flags: dict[str, Any]) -> RunSettings:
    """Settings of the file, over them ``--set``, over them flags that were given."""
    from rewardsmith.training import settings

    file = settings.read_yaml(config) if config else {}
    given = {name: value for name, value in flags.items() if value is not None}
    return settings.build(settings.merged(file, settings.assignments(assigned), given))


def method_in(config: Path | None, assigned: list[str]) -> str | None:
    """The method that a file or ``--set`` names, if any."""
    from rewardsmith.training import settings

    flat = settings.merged(settings.read_yaml(config) if config else {}, settings.assignments(assigned))
    return flat.get("method")


def run(
    settings: RunSettings,
    read: Callable[[list[str], bool], list[Comparison]],
    *,
    device: str,
    trust_remote_code: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    ensemble: int | None,
    finish: Callable[[Any, list[Comparison], list[Comparison], dict[str, Any]], None],
) -> None:
    """Train, then evaluate and save as ``--method head`` does (``finish``); only then is the run finished."""
    from rewardsmith.model.save import check_target

    output = Path(settings.output)
    check_target(output)
    if not resume:
        from rewardsmith.training.finetune_ensemble import refuse_unfinished

        refuse_unfinished(output)
    comparisons, unseen = read(list(settings.data), False), read(list(settings.eval_data), True)
    for name in ("early_stopping_patience", "load_best_model_at_end", "eval_on_start"):
        if settings.training.get(name) not in (None, False) and not unseen:
            raise UsageError(f"{name} needs held-out data: give --eval-data")

    import warnings

    from datasets import disable_progress_bars

    from rewardsmith.training.finetune import finetune

    disable_progress_bars()  # one bar, of steps
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

    def say(text: str) -> None:
        if not quiet:
            console.note(text)

    if not quiet:
        console.replacing(output)
    say(f"{len(comparisons):,} comparisons; {settings.method} on {settings.base}")
    with console.stages(quiet=quiet) as stage:
        how: dict[str, Any] = {
            **{"device": device, "trust_remote_code": trust_remote_code, "resume": resume, "say": say},
            "report": _teller(stage, say),
            "features": lambda done, total: stage("features", "tokens", done, total),
        }
        with _told_how_to_go_on(settings), _advised(settings.method):
            if ensemble:
                made = _average_of_members(settings, ensemble, comparisons, unseen, how)
            else:
                single = finetune(settings, comparisons, unseen, **how)
                main = single.trainer.is_world_process_zero()
                made = (single.model, report_of(single, settings), single.run) if main else None
    if made is None:
        return
    model, report, folder = made
    with _advised(settings.method):
        finish(model, comparisons, unseen, report)
    folder.finish()
    if settings.training.get("push_to_hub"):
        say(f"uploaded to {_upload(settings)}")
    if as_json:
        console.print_json(report)
    elif ensemble:
        show_members(report)
    else:
        show(report)


def _upload(settings: RunSettings) -> str:
    from rewardsmith.training.pushing import upload

    output, given = Path(settings.output), settings.training
    return upload(
        output,
        given.get("hub_model_id") or output.resolve().name,
        token=given.get("hub_token"),
        private=given.get("hub_private_repo"),
        revision=given.get("hub_revision"),
    )


def _teller(stage: Callable[..., None], say: Callable[[str], None]) -> Callable[[int, int, dict[str, float]], None]:
    """Shows steps with the latest loss, and a line for every evaluation."""
    told: float | None = None

    def tell(done: int, total: int, logs: dict[str, float]) -> None:
        nonlocal told
        evaluated = logs.get("eval_step")
        if evaluated not in (None, told):
            accuracy = f", accuracy {logs['eval_accuracy']:.3f}" if "eval_accuracy" in logs else ""
            say(f"step {done:,}: held-out loss {logs['eval_loss']:.4f}{accuracy}")
        told = evaluated
        stage("training", "steps", done, total, f"loss {logs['loss']:.4f}" if "loss" in logs else "")

    return tell


@contextlib.contextmanager
def _told_how_to_go_on(settings: RunSettings) -> Iterator[None]:
    """Ctrl-C: say which checkpoint is there and how to go on from it."""
    from rewardsmith.training.run_folder import RunFolder

    folder = RunFolder.beside(Path(settings.output))
    try:
        yield
    except KeyboardInterrupt:
        runs = [folder, *(RunFolder(path) for path in sorted(folder.path.glob("member-*")))]
        found = [path for run in runs if (path := run.last_checkpoint())]
        where = Path(settings.output + ".run")
        if settings.training.get("save_only_model"):
            console.note(f"{where}: its checkpoints hold no optimizer (save_only_model), so the run cannot be resumed")
        elif found:
            last = found[-1].relative_to(folder.path)
            console.note(f"{last} is in {where}; go on with the same command and --resume")
        else:
            console.note(f"no checkpoint was written yet (save_steps sets how often); nothing to go on from in {where}")
        raise


@contextlib.contextmanager
def _advised(method: str) -> Iterator[None]:
    """What to do when memory runs out, by what this method takes.

    Raises:
        UsageError: instead of the device's error.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        smaller = {"lora": "--method qlora, ", "full": "--method lora, --set optim=adamw_8bit, "}.get(method, "")
        raise UsageError(
            "out of memory; try, in this order: --set gradient_checkpointing=true, --set tokens_per_forward=2048, "
            f"--batch-size 1 --accumulation 8, {smaller}--max-length 512; rewardsmith plan tells which of them will do"
        ) from error


def _average_of_members(
    settings: RunSettings,
    count: int,
    comparisons: list[Comparison],
    unseen: list[Comparison],
    how: dict[str, Any],
) -> tuple[RewardModel, dict[str, Any], RunFolder] | None:
    """Train the members: the average of their weights, the report, and the folder of the runs.

    None in all processes but the first.
    """
    from rewardsmith.model.average import average, scratch_beside
    from rewardsmith.training.finetune_ensemble import finetune_members

    members = finetune_members(settings, count, comparisons, unseen, describe=report_of, **how)
    if not members.main:
        return None
    how["say"]("averaging the members' weights")
    scratch = scratch_beside(Path(settings.output))
    model = average(members.folders, scratch=scratch, trust_remote_code=how["trust_remote_code"])
    return model, {"method": settings.method, "ensemble": count, "members": members.reports}, members.run


def report_of(made: Finetuned, settings: RunSettings) -> dict[str, Any]:
    """What is printed with ``--json``."""
    summary = made.trainer.summary()
    losses = [entry["loss"] for entry in made.log if "loss" in entry]
    return {
        "method": settings.method,
        "comparisons": summary.rows.kept,
        "dropped": summary.rows.dropped,
        "tokens": summary.tokens,
        "tokens_unshared": summary.unshared,
        "trainable_parameters": summary.trainable,
        "parameters": summary.parameters,
        "steps": made.trainer.state.global_step,
        "stopped": made.stopped,
        "train_loss": made.train_loss,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "adapter": str(made.adapter) if made.adapter else None,
        "log": made.log,
    }


def show(report: dict[str, Any]) -> None:
    """The table for people."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    share = report["trainable_parameters"] / report["parameters"]
    rows: list[tuple[str, Any]] = [
        ("method", report["method"]),
        ("comparisons", f"{report['comparisons']:,}"),
        ("dropped", dropped),
        ("tokens an epoch", f"{report['tokens']:,} (unshared {report['tokens_unshared']:,})"),
        ("trainable parameters", f"{report['trainable_parameters']:,} ({share:.2%})"),
        ("steps", report["steps"]),
        *([("stopped", report["stopped"])] if report["stopped"] else []),
        *_losses(report),
        ("adapter", report["adapter"] or "none: all weights were trained"),
    ]
    console.table(f"Trained {report['model']}", ("", ""), [*rows, *held_out.rows(report)])
    held_out.suggest(report)


def show_members(report: dict[str, Any]) -> None:
    """The table for people, of an ensemble."""
    rows = [(one["model"], one["seed"], one["steps"], ", ".join(_numbers(one))) for one in report["members"]]
    console.table("Members", ("model", "seed", "steps", "loss: first and last logged, mean"), rows)
    for one in report["members"]:
        if one.get("stopped"):
            print(f"{one['model']}: stopped at {one['stopped']}")
    print(f"Trained {report['model']}: the average of their weights")
    for name, value in held_out.rows(report):
        print(name.strip(), value)
    held_out.suggest(report)


def _losses(report: dict[str, Any]) -> list[tuple[str, str]]:
    first, last, mean = _numbers(report)
    rows = [("loss, first and last logged", f"{first}, {last}")] if report["first_loss"] is not None else []
    return [*rows, ("loss, mean of all steps", mean)]


def _numbers(report: dict[str, Any]) -> list[str]:
    """First and last logged loss and the mean; a resumed run does not know the mean, a short one may log none."""
    values = (report.get(name) for name in ("first_loss", "last_loss", "train_loss"))
    return ["not known" if value is None else f"{value:.4f}" for value in values]
