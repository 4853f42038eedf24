"""``rewardsmith train --method process``."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import console
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.model.load import LoadOptions
    from rewardsmith.training.process import ProcessResult
    from rewardsmith.types import Stepwise

# Flags of the other methods that have no meaning for steps.
UNUSED = ("ties", "normalise", "ensemble", "row_format")
# Flags of this method alone.
ONLY = ("step_loss", "neutral", "step_separator")

# Measured on held-out data, in the contract and the model card.
_HELD_OUT = ("step_accuracy", "auc", "first_error", "all_right")


class StepLoss(StrEnum):
    """What the labels of steps are taken for."""

    soft = "soft"
    binary = "binary"
    pairwise = "pairwise"


class NeutralRating(StrEnum):
    """What PRM800K's rating 0 counts as."""

    good = "good"
    bad = "bad"
    half = "half"
    skip = "skip"


Loss = Annotated[
    StepLoss,
    typer.Option(
        "--step-loss",
        help="Process: labels as probabilities (soft), cut at one half (binary), or steps of a prompt compared.",
    ),
]
Neutral = Annotated[
    NeutralRating, typer.Option("--neutral", help="Steps: what PRM800K's rating 0 is; skip: not judged.")
]
Separator = Annotated[
    str | None,
    typer.Option(
        "--step-separator",
        help=r"Steps: text between two steps; default: a line break (\n), or what the head was trained with.",
    ),
]


def run(
    files: list[str] | None,
    output: Path | None,
    *,
    base: str | None,
    eval_files: list[str],
    pooling: Any,
    layer: str | None,
    loading: Callable[[], LoadOptions],
    config: dict[str, Any],
    neutral: NeutralRating,
    separator: str | None,
    split: str | None,
    skip_bad: bool,
    rejects: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read, fit, measure, save, report. ``config`` are the fields of ``ProcessConfig`` but for the layer."""
    if not files or output is None:
        missing = "--data" if not files else "--output"
        raise UsageError(f"{missing} is missing: rewardsmith train --method process --data STEPS.jsonl -o FOLDER")
    if layer is not None and not layer.isdecimal():
        raise UsageError(f"--layer {layer}: with --method process, must be a layer number")
    if config["ridge"] is not None and not config["ridge"] > 0:
        raise UsageError(f"--ridge {config['ridge']:g}: must be greater than 0")
    from rewardsmith.model.save import check_target

    check_target(output)
    if not quiet:
        console.replacing(output)
        console.note(f"reading {', '.join(files)}")
    reading: dict[str, Any] = {"neutral": neutral.value, "separator": line_breaks(separator), "split": split}
    bad = (rejects or output.with_name(output.name + ".rejects.jsonl")) if skip_bad else None
    rows = read_steps(files, rejects=bad, **reading)
    eval_bad = output.with_name(output.name + ".eval-rejects.jsonl") if skip_bad else None
    held_out = read_steps(eval_files, rejects=eval_bad, **reading)

    from rewardsmith.training.process import ProcessConfig, open_base, train_process

    model = open_base(base or "smollm2", loading(), pooling=pooling)
    settings = ProcessConfig(layer=None if layer is None else int(layer), **config)
    if not quiet:
        console.note(f"{len(rows):,} responses; features on {model.backbone.device}, {model.backbone.dtype}")
    with console.progress("features", "tokens", quiet=quiet) as bar:
        facts = {"files": list(map(str, files)), "neutral": neutral.value}
        result = train_process(model, rows, settings, data=facts, report=bar)
    report = _report(result)
    if held_out:
        _measure(result, rows, held_out, report, budget=config["budget"], quiet=quiet)
    result.model.save(output)
    report["model"] = str(output)
    _warn(report)
    if as_json:
        console.print_json(report)
    else:
        _show(report)


def read_steps(files: list[str], *, rejects: Path | None = None, **options: Any) -> list[Stepwise]:
    """The judged responses of all files; with ``rejects``, bad rows go there (.1, .2 ... for further files)."""
    from rewardsmith.data.stepwise import load_stepwise

    found: list[Stepwise] = []
    for number, file in enumerate(files):
        path = rejects.with_name(f"{rejects.name}.{number}") if rejects and number else rejects
        found += load_stepwise(file, skip_bad=rejects is not None, rejects=path, **options)
    return found


def line_breaks(separator: str | None) -> str:
    r"""A separator as typed, with ``\n`` and ``\t`` for line breaks and tabs; a line break when there is none."""
    return "\n" if separator is None else separator.replace("\\n", "\n").replace("\\t", "\t")


def _measure(
    result: ProcessResult,
    rows: list[Stepwise],
    held_out: list[Stepwise],
    report: dict[str, Any],
    *,
    budget: int | None,
    quiet: bool,
) -> None:
    from rewardsmith.data.text import normalised
    from rewardsmith.evaluation.process_metrics import evaluate_steps

    with console.progress("evaluating", "tokens", quiet=quiet) as bar:
        measured = evaluate_steps(result.model, held_out, budget=budget, report=bar).as_dict()
    report["evaluation"] = measured
    seen = {normalised(row.prompt) for row in rows}
    report["leaked_prompts"] = sum(normalised(row.prompt) in seen for row in held_out)
    found = {f"held-out {name.replace('_', ' ')}": measured[name] for name in _HELD_OUT if measured[name]}
    result.model.contract = result.model.contract.with_process(found)


def _report(result: ProcessResult) -> dict[str, Any]:
    prepared, validation, model = result.prepared, result.validation, result.model
    return {
        "responses": len(prepared.asked),
        "steps": len(prepared.labels),
        "right_steps": int((prepared.labels > 0.5).sum()),
        "dropped": prepared.dropped,
        "tokens": prepared.tokens,
        "layers": model.backbone.layers,
        "pooling": model.contract.pooling,
        "reward_head": model.contract.reward_head,
        "loss": model.contract.process["loss"],
        "examples": result.fit.examples,
        "ridge": result.fit.ridge,
        "ridge_chosen_by": model.contract.process["ridge chosen by"],
        "train_loss": result.fit.loss,
        "seconds": result.seconds,
        "cross_validation": validation and validation.as_dict(),
    }


def _warn(report: dict[str, Any]) -> None:
    """What a person should know before trusting the model."""
    if leaked := report.get("leaked_prompts"):
        console.note(f"warning: {leaked} held-out responses have a prompt that is also in the training data")
    measured = report.get("evaluation")
    if measured and measured["over_always_right"]["low"] <= 0:
        console.note(
            "warning: held-out step accuracy is not clearly above that of calling every step right "
            f"(difference {console.interval(measured['over_always_right'])})"
        )


def _show(report: dict[str, Any]) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    seconds, found = report["seconds"], report["cross_validation"]
    rows: list[tuple[str, Any]] = [
        ("responses", f"{report['responses']:,}"),
        ("judged steps", f"{report['steps']:,} ({report['right_steps']:,} right)"),
        ("dropped", dropped),
        ("tokens", f"{report['tokens']:,}"),
        ("reward head", "kept" if report["reward_head"] else "none: this model judges steps alone"),
        ("loss", report["loss"]),
        ("ridge", f"{report['ridge']:.4g} ({report['ridge_chosen_by']})"),
        ("seconds", f"features {seconds['features']:.1f}, fit {seconds['fit']:.2f}"),
    ]
    if found:
        kind = "pairs" if report["loss"] == "pairwise" else "steps"
        rows.append((f"cross-validated accuracy, {kind}", console.interval(found["accuracy"])))
    if measured := report.get("evaluation"):
        rows += held_out_rows(measured)
    console.table(f"Trained {report['model']}", ("", ""), rows)
    if not measured:
        print(f"next: rewardsmith evaluate {report['model']} --steps HELD_OUT_FILE")


def held_out_rows(measured: dict[str, Any]) -> list[tuple[str, Any]]:
    """The table of an evaluation on steps."""

    def shown(value: Any) -> str:
        return "none to measure on" if value is None else console.interval(value)

    base = measured["baselines"]
    f1 = "none to measure on" if measured["f1"] is None else f"{measured['f1']:.3f}"
    return [
        ("step accuracy", shown(measured["step_accuracy"])),
        ("  every step right (baseline)", shown(base["always_right"])),
        ("  difference", shown(measured["over_always_right"])),
        ("area under the curve", shown(measured["auc"])),
        ("  earlier is right (baseline)", shown(base["position"])),
        ("  shorter is right (baseline)", shown(base["length"])),
        ("macro F1 of steps", f"{measured['macro_f1']:.3f}"),
        ("first error found, first below 1/2", shown(measured["first_error"])),
        ("first error found, lowest", shown(measured["lowest"])),
        ("  the last step (baseline)", shown(base["last_step"])),
        ("right responses passed", shown(measured["all_right"])),
        ("F1 of first error and passed (ProcessBench)", f1),
        ("response accuracy", shown(measured["response_accuracy"])),
        ("judged steps", f"{measured['steps']:,} ({measured['wrong_steps']:,} wrong)"),
    ]
