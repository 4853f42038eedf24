"""``rewardsmith evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import checks, console, options, train_process
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.model.load import LoadOptions


def evaluate(
    model: Annotated[str, typer.Argument(help="Reward model: folder or Hugging Face id.")],
    files: Annotated[
        list[str] | None, typer.Option("--data", "-d", help="Held-out preference data. Repeatable.")
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option("--steps", help="Held-out step labels instead: judges the steps with the process head."),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Exit with 1 when the accuracy's lower bound is below this, for CI.")
    ] = None,
    neutral: train_process.Neutral = train_process.NeutralRating.good,
    step_separator: train_process.Separator = None,
    row_format: options.Format = None,
    split: options.Split = None,
    skip_bad: options.SkipBad = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
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
    """Measure a reward model on held-out preferences, beside what "the longer one wins" would get.

    Equal rewards count one half and are counted apart; pairs that people called a tie are left out and counted.

    With --steps, --min-accuracy is for the share of steps that are called what they are.

    Example: rewardsmith evaluate out/rm --data test.jsonl

    Example: rewardsmith evaluate out/prm --steps test-steps.jsonl
    """
    if bool(files) == bool(steps):
        raise UsageError("give either --data FILE (preferences) or --steps FILE (step labels)")
    loading = options.load_options(dtype, device, device_map, load_in_4bit, trust_remote_code, attention)
    if steps:
        if row_format is not None:
            raise UsageError("--format is for --data; the shape of stepwise rows is found row by row")
        separator = None if step_separator is None else train_process.line_breaks(step_separator)
        reading = {"neutral": neutral.value, "separator": separator, "split": split}
        report = _on_steps(model, steps, loading, reading, skip_bad=skip_bad, seed=seed, budget=budget, quiet=quiet)
        shown, accuracy = _show_steps, "step_accuracy"
    else:
        report = _on_pairs(model, files or [], loading, row_format, split, skip_bad, seed, budget, quiet)
        shown, accuracy = _show, "accuracy"
    if as_json:
        console.print_json(report)
    else:
        shown(report)
    if min_accuracy is not None and report[accuracy]["low"] < min_accuracy:
        console.note(f"accuracy's lower bound {report[accuracy]['low']:.3f} is below --min-accuracy {min_accuracy:g}")
        raise typer.Exit(1)


def _on_pairs(
    model: str,
    files: list[str],
    loading: LoadOptions,
    row_format: str | None,
    split: str | None,
    skip_bad: bool,
    seed: int,
    budget: int | None,
    quiet: bool,
) -> dict[str, Any]:
    from rewardsmith.data.load import load_comparisons

    comparisons = [
        item for file in files for item in load_comparisons(file, format=row_format, split=split, skip_bad=skip_bad)
    ]
    from rewardsmith.evaluation.evaluate import evaluate_model
    from rewardsmith.model.reward_model import RewardModel

    loaded = RewardModel.load(model, loading)
    with console.progress("evaluating", "tokens", quiet=quiet) as bar:
        report = evaluate_model(loaded, comparisons, budget=budget, seed=seed, report=bar).as_dict()
    return {"model": model, "data": files, **report}


def _on_steps(
    model: str,
    files: list[str],
    loading: LoadOptions,
    reading: dict[str, Any],
    *,
    skip_bad: bool,
    seed: int,
    budget: int | None,
    quiet: bool,
) -> dict[str, Any]:
    for file in files:
        checks.rows_source(file, reading["split"])
    from rewardsmith.data.stepwise import load_stepwise
    from rewardsmith.evaluation.process_metrics import evaluate_steps
    from rewardsmith.model.process_scores import no_process_head, separator_of
    from rewardsmith.model.reward_model import RewardModel

    loaded = RewardModel.load(model, loading)
    if loaded.process is None:
        raise no_process_head(model)
    reading["separator"] = separator_of(loaded, reading["separator"])
    rows = [row for file in files for row in load_stepwise(file, skip_bad=skip_bad, **reading)]
    with console.progress("evaluating", "tokens", quiet=quiet) as bar:
        report = evaluate_steps(loaded, rows, budget=budget, seed=seed, report=bar).as_dict()
    return {"model": model, "steps_data": files, **report}


def _show_steps(report: dict[str, Any]) -> None:
    title = f"{report['model']} on {', '.join(report['steps_data'])}"
    rows = [*train_process.held_out_rows(report), ("steps cut off", report["cut"])]
    console.table(title, ("", "value [95% interval]"), rows)


def _show(report: dict[str, Any]) -> None:
    rows: list[tuple[str, Any]] = [("accuracy", console.interval(report["accuracy"]))]
    if report["longer_wins"]:
        rows += [
            ("longer wins (baseline, in characters)", console.interval(report["longer_wins"])),
            ("difference", console.interval(report["difference"])),
        ]
    rows += [
        ("pairs (equal lengths count half in the baseline)", f"{report['pairs']:,}"),
        ("equal rewards", report["ties"]),
        ("human ties, left out", report["human_ties"]),
        ("log loss (coin: 0.693)", f"{report['log_loss']:.4f}"),
        ("mean margin", f"{report['mean_margin']:.3f}"),
        ("truncated responses", report["truncated"]),
    ]
    if top := report["top1"]:
        rows.append((f"best of K (random {top['random']:.3f})", console.interval(top["accuracy"])))
    rows += [(f"subset {name or '(none)'}", console.interval(value)) for name, value in report["subsets"].items()]
    console.table(
        f"{report['model']} on {', '.join(report['data'])}", ("", f"value [95% interval, {report['interval']}]"), rows
    )
