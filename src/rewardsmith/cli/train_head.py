"""``rewardsmith train --method head``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.cli import console, held_out
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.model.load import LoadOptions
    from rewardsmith.training.head import HeadResult
    from rewardsmith.types import Comparison

Read = Callable[..., "list[Comparison]"]
"""Takes files, the output and ``held_out=``."""


def run(
    files: list[str] | None,
    output: Path | None,
    eval_files: list[str],
    *,
    read: Read,
    base: str,
    pooling: Any,
    loading: Callable[[], LoadOptions],
    config: dict[str, Any],
    as_json: bool,
    quiet: bool,
) -> None:
    """Check, read, fit, measure, save, and say what came out.

    Args:
        config: fields of ``HeadConfig``; ``layer`` as typed.
    """
    if not files or output is None:
        raise UsageError(f"{'--data' if not files else '--output'} is missing: rewardsmith train --data FILE -o FOLDER")
    ridge, layer = config["ridge"], _layer(config["layer"])
    if ridge is not None and not ridge > 0:
        raise UsageError(f"--ridge {ridge:g}: must be greater than 0")
    from rewardsmith.model.save import check_target

    check_target(output)
    if not quiet:
        console.replacing(output)
        console.note(f"reading {', '.join(files)}")
    comparisons, unseen = read(files, output), read(eval_files, output, held_out=True)

    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.training.head import HeadConfig, train_head

    model = RewardModel.from_base(base, loading(), pooling=pooling)
    if not quiet:
        console.note(f"{len(comparisons):,} comparisons; features on {model.backbone.device}, {model.backbone.dtype}")
    fit = HeadConfig(**{**config, "layer": layer})
    with console.progress("features", "tokens", quiet=quiet) as bar:
        result = train_head(model, comparisons, fit, data={"files": list(map(str, files))}, report=bar)
    report = _report(result)
    held_out.evaluate_and_save(result.model, comparisons, unseen, report, output=output, budget=fit.budget, quiet=quiet)
    _warn(report)
    if as_json:
        console.print_json(report)
    else:
        _show(report, result)


def _layer(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if not text.isdecimal():
        raise UsageError(f"--layer {text}: must be a layer number, or auto")
    return int(text)


def _report(result: HeadResult) -> dict[str, Any]:
    prepared, validation = result.prepared, result.validation
    return {
        "comparisons": len(prepared.comparisons),
        "dropped": prepared.dropped,
        "tokens": result.tokens,
        "tokens_unshared": prepared.tokens_unshared,
        "layers": result.model.backbone.layers,
        "pooling": result.model.contract.pooling,
        "ridge": result.fit.ridge,
        "train_loss": result.fit.loss,
        "seconds": result.seconds,
        "ensemble": None if result.model.members is None else len(result.model.members),
        "cross_validation": validation and validation.as_dict(),
    }


def _warn(report: dict[str, Any]) -> None:
    """What a person should know before trusting the model."""
    found = report.get("cross_validation")
    if found and found["accuracy"]["low"] <= 0.5:
        low, n = found["accuracy"]["low"], found["accuracy"]["n"]
        console.note(
            f"warning: cross-validated accuracy is not clearly above chance (lower bound {low:.3f}, {n} pairs): "
            "these rewards say nothing yet; more or cleaner data, or another base, is needed"
        )


def _show(report: dict[str, Any], result: HeadResult) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    seconds = report["seconds"]
    rows = [
        ("comparisons", f"{report['comparisons']:,}"),
        ("dropped", dropped),
        ("tokens, prompts once", f"{report['tokens']:,} (unshared {report['tokens_unshared']:,})"),
        ("layers", report["layers"]),
        ("pooling", report["pooling"]),
        ("ridge", f"{report['ridge']:.4g} ({result.model.contract.training['ridge chosen by']})"),
        (
            "seconds",
            f"features {seconds['features']:.1f}, layer choice {seconds['layers']:.1f}, fit {seconds['fit']:.2f}",
        ),
    ]
    if report["ensemble"]:
        rows.append(("ensemble", f"{report['ensemble']} heads, {seconds['ensemble']:.1f} seconds"))
    if found := report["cross_validation"]:
        rows.append(("cross-validated accuracy", console.interval(found["accuracy"])))
    console.table(f"Trained {report['model']}", ("", ""), [*rows, *held_out.rows(report)])
    held_out.suggest(report)
