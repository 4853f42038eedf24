"""``rewardsmith best-of-n``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import checks, console, options
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.evaluation.over_optimisation import Curve
    from rewardsmith.scoring.candidates import Group
    from rewardsmith.scoring.journal import Journal


def best_of_n(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]", help="Reward model that chooses: folder or Hugging Face id; none with --reward."
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Candidates: jsonl, json, csv, parquet (.gz), or a folder of them."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .jsonl, .jsonl.gz, .csv, .tsv or .parquet.")
    ] = None,
    rank: Annotated[
        bool, typer.Option("--rank", help="Keep every row and add reward_rank (0 is the best), instead of picking.")
    ] = False,
    reward: Annotated[
        str | None,
        typer.Option(help="Column with a reward per response that is there already, instead of a model, e.g. shaped."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(help="Column with a trusted number per response (or ranks): adds the over-optimisation curve."),
    ] = None,
    gold_model: Annotated[
        str | None, typer.Option(help="Reward model that judges the choices, instead of --gold COLUMN.")
    ] = None,
    curve: Annotated[
        Path | None, typer.Option(help="File for the curve: .png, .svg (extra: plot), .json or .csv.")
    ] = None,
    max_n: Annotated[
        int | None,
        typer.Option(
            min=2, help="Last n of the curve; default: the commonest number of candidates that two prompts have."
        ),
    ] = None,
    prompt_field: options.PromptField = None,
    response_field: options.ResponseField = None,
    also: options.With = None,
    aggregate: options.Aggregate = "auto",
    shaping: options.Shaping = None,
    reference_field: options.ReferenceField = None,
    cache: options.Cache = None,
    split: options.Split = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, instead of stopping.")] = False,
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
    """Choose the best of each prompt's candidates, and see how far that can be pushed before the reward misleads.

    A row holds responses (a list), or one response: then rows of equal prompts are candidates of one another. A killed
    run goes on where it was when started again. With --shaping the shaped reward decides.

    Example: rewardsmith best-of-n out/rm candidates.jsonl -o best.jsonl --gold-model out/other --curve curve.png
    """
    if reward is not None and source is None:
        model, source = "", model  # a file alone
    if reward is not None and model:
        raise UsageError(f"--reward {reward}: the rows have their rewards; leave out the model {model}, or --reward")
    if source is None:
        raise UsageError("give a model and a file of candidates; or --reward COLUMN and the file alone")
    if reward is not None and (also or shaping or cache or aggregate != "auto"):
        raise UsageError(f"--reward {reward}: nothing is scored; leave out --with, --aggregate, --shaping and --cache")
    if output is None:
        raise UsageError("nowhere to write the choices: add --output FILE")
    _check(source, output, gold, gold_model, curve, max_n)
    checks.running(dtype, device, attention)
    from rewardsmith.cli import scorers

    models = [] if reward is not None else [model, *(also or ())]
    judges = [gold_model] if gold_model else []
    pipeline = scorers.check(aggregate, shaping, reference_field, cache)
    last = _survey(source, (prompt_field, response_field, skip_bad, split), reward, gold, gold_model, max_n, rank)
    checks.model_folders([*models, *judges])
    scorers.check_folders(models, aggregate, shaping, pipeline)

    from rewardsmith.scoring.best_of_n import column_results, score_to_journal, write_choices
    from rewardsmith.scoring.candidates import gather
    from rewardsmith.scoring.score_file import ScoreOptions

    plain = ScoreOptions(prompt_field, response_field, skip_bad, budget=budget, split=split)
    loading = options.load_options(dtype, device, device_map, load_in_4bit, trust_remote_code, attention)
    with ExitStack() as open_files:

        def scores(names: list[str], suffix: str, shaped: str | None, **how: Any) -> Journal:
            # Loaded here, so that the first model's memory is free before the second one is loaded.
            with scorers.make(names, loading, budget=budget, cache=cache, **how) as scorer:
                own = scorers.own_shaping(scorer, names[0]) if shaped == "model" else pipeline
                asked = replace(plain, shaping=own if shaped else None, reference_field=reference_field)
                with console.reading(f"scoring with {names[0]}", [source], split, quiet=quiet) as tick:
                    journal = score_to_journal(scorer, source, Path(f"{output}{suffix}"), asked, tick=tick)
            open_files.callback(journal.close)
            return journal

        by = reward or ("shaped" if shaping else "reward")
        journal = scores(models, ".partial", shaping, aggregate=aggregate) if models else None
        judged = scores(judges, ".gold.partial", None, aggregate="auto") if judges else None
        results = journal.read if journal else lambda: column_results(source, by, plain)
        groups = gather(_rows(source, split)(), results(), plain, judged.read() if judged else gold, by)
        counts = write_choices(source, output, groups, results, plain, rank=rank, gold_column=gold, by=by)
        found = _curve(groups, last, seed) if last else None
        if found and curve:
            from rewardsmith.evaluation import curve_file

            curve_file.write(found, curve)
    # Only now: an error in between costs no scores.
    for done in (journal, judged):
        if done:
            done.discard()
    report = {"output": str(output), **counts, "curve": found.as_dict() if found else None}
    if as_json:
        console.print_json(report)
    else:
        _show(report, found, f"{model or reward} judged by {gold or gold_model}", curve, quiet=quiet)
    _warn(counts, found, asked=last)


def _check(
    source: str, output: Path, gold: str | None, gold_model: str | None, curve: Path | None, max_n: int | None
) -> None:
    """What can be refused without reading the rows."""
    if gold and gold_model:
        raise UsageError("--gold and --gold-model both say what the gold reward is; leave one out")
    if (curve or max_n) and not (gold or gold_model):
        option = "--curve" if curve else "--max-n"
        raise UsageError(f"{option} needs a gold reward to compare with: add --gold COLUMN or --gold-model MODEL")
    if source == "-":
        raise UsageError("candidates are read more than once, which standard input is not; give a file")
    from rewardsmith.scoring import writers

    writers.format_of(output)
    checks.output_file(output, source)
    if curve:
        from rewardsmith.evaluation import curve_file

        curve_file.check(curve)
        checks.output_file(curve, source)
    checks.rows_source(source)


def _survey(
    source: str,
    reading: tuple[str | None, str | None, bool, str | None],
    reward: str | None,
    gold: str | None,
    gold_model: str | None,
    max_n: int | None,
    rank: bool,
) -> int | None:
    """The last n of the curve, from the rows alone: what cannot be is said before anything is scored.

    Returns:
        None when no curve is wanted.
    """
    from rewardsmith.evaluation.over_optimisation import last_n
    from rewardsmith.scoring.score_options import ScoreOptions
    from rewardsmith.scoring.survey import survey

    prompt_field, response_field, skip_bad, split = reading
    asked = ScoreOptions(prompt_field, response_field, skip_bad, split=split)
    columns = [name for name in (reward, gold) if name]
    sizes = survey(source, asked, columns=columns, rank=rank, gold_column=gold, gold_model=bool(gold_model))
    if not gold and not gold_model:
        return None
    try:
        return last_n([count for _, count in sizes], [prompt for prompt, _ in sizes], max_n)
    except UsageError as error:
        if "--max-n" in str(error):
            raise
        raise UsageError(
            f"{error}; for the choice alone leave out --gold, --gold-model, --curve and --max-n"
        ) from error


def _rows(source: str, split: str | None) -> Callable[[], Any]:
    from rewardsmith.data.sources import read_rows

    return lambda: read_rows(source, split=split)


def _curve(groups: Sequence[Group], last: int, seed: int) -> Curve | None:
    """The curve up to the n that was promised; None when too few candidates have a reward after all."""
    from rewardsmith.evaluation.over_optimisation import curve

    both = [group.known() for group in groups]
    prompts = [group.prompt for group in groups]
    try:
        return curve([proxy for proxy, _ in both], [gold for _, gold in both], groups=prompts, max_n=last, seed=seed)
    except UsageError:
        return None  # rows were skipped as bad; the choices are written, and _warn says it


def _show(report: dict[str, Any], found: Curve | None, title: str, file: Path | None, *, quiet: bool) -> None:
    if not quiet:
        details = ", ".join(f"{report[name]:,} {name}" for name in ("bad", "truncated") if report[name])
        said = f"{report['candidates']:,} candidates of {report['prompts']:,} prompts"
        note = f"{said}: {report['rows']:,} rows saved to {report['output']}"
        console.note(note + (f" ({details})" if details else ""))
    if found is None:
        return
    if file and not quiet:
        console.note(f"curve saved to {file}")
    rows = [
        (p.n, f"{p.kl:.3f}", console.interval(p.proxy.as_dict()), console.interval(p.gold.as_dict()))
        for p in found.points
    ]
    left = f", {found.left_out} with fewer candidates left out" if found.left_out else ""
    columns = ("n", "KL (nats)", "proxy [95% interval]", "gold [95% interval]")
    console.table(f"{title}, on {found.prompts} prompts{left}", columns, rows)
    last, fall = found.points[-1].n, console.interval(found.fall.as_dict())
    after = ", the largest there is" if found.peak == last else f"; from there to n = {last} it changes by {fall}"
    console.note(f"gold is highest at n = {found.peak}{after}")


def _warn(counts: dict[str, int], found: Curve | None, asked: int | None) -> None:
    from rewardsmith.evaluation.over_optimisation import FEW_PROMPTS
    from rewardsmith.shaping.bounds import saturation_warning

    if warning := saturation_warning(counts.get("saturated", 0), counts.get("shaped", 0)):
        console.warn(warning)
    if asked and found is None:
        console.warn(f"no curve: fewer than two prompts have {asked} candidates with a reward; give a smaller --max-n")
    if found and found.prompts < FEW_PROMPTS:
        console.warn(
            f"the curve rests on {found.prompts} prompts: with fewer than {FEW_PROMPTS} its 95% intervals are too "
            "narrow, and say little of other prompts; draw candidates for more"
        )
