"""`rewardsmith check`, `convert` and `split`: preference data before any model is involved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rewardsmith.cli import console, synthesize
from rewardsmith.cli.options import Json, Quiet, SkipBad, Split
from rewardsmith.errors import UsageError

if TYPE_CHECKING:  # --help needs the names of the formats only
    from rewardsmith.data.report import CheckReport

app = typer.Typer(help="Check, convert, split and make preference data.", no_args_is_help=True)
app.command()(synthesize.synthesize)

# The names alone, since importing the adapters would take a quarter of the time of `--help`; a test compares the two.
FORMAT_NAMES = (
    *("canonical", "text", "messages", "tokenized", "hh", "ultrafeedback", "helpsteer2", "helpsteer2-preference"),
    *("helpsteer3", "arena", "pandalm", "gsm8k", "rewardbench", "rewardbench2", "rm-bench", "judgebench", "llmbar"),
    *("rmb-pairs", "rmb-bon"),
)
_FORMATS = ", ".join(FORMAT_NAMES)
_SOURCE = "File (.jsonl, .json, .csv, .tsv, each also .gz; .parquet), folder, - for standard input, or Hub id org/name."
Format = Annotated[str | None, typer.Option("--format", help=f"Row format; found by itself if not given. {_FORMATS}.")]
RejectsPath = Annotated[
    str | None,
    typer.Option(
        "--rejects", help="Where bad rows go, with reasons; default: the name of FILE or OUT with .rejects.jsonl added."
    ),
]


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help=_SOURCE)],
    format: Format = None,
    split: Split = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="A test set that must share no prompt with FILE; repeatable.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Warn above so many tokens, estimated as characters / 4.")
    ] = None,
    skip_bad: SkipBad = False,
    rejects: RejectsPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with preference data: bad rows, duplicates, contradictions, leaks, biases.

    Files of judged steps (for train --method process) are told by their rows: bad rows, repeats, shares of the labels.

    Exit code 0: no errors (there may be warnings). 1: errors. 2: not readable at all.
    """
    from rewardsmith.data.step_check import hold_steps

    if skip_bad and rejects is None:
        rejects = _beside(files[0])
    if format is None and hold_steps(files, split):
        if against or max_length is not None:
            option = "--against" if against else "--max-length"
            raise UsageError(f"{files[0]} holds judged steps, and {option} is for preferences; leave it out")
        _check_steps(files, split, skip_bad, rejects, as_json, quiet)
    from rewardsmith.data.checks import check as run_check

    against = against or []
    with console.reading("reading", [*against, *files], split, quiet=quiet or as_json) as tick:
        report = run_check(
            files,
            format=format,
            split=split,
            against=against,
            max_length=max_length,
            skip_bad=skip_bad,
            rejects=rejects,
            progress=tick,
        )
    written = rejects if rejects is not None and report.bad_rows else None
    if as_json:
        console.print_json({**report.as_dict(), "rejects": written})
    else:
        _print_report(report, written, quiet)
    raise typer.Exit(0 if report.ok else 1)


def _check_steps(
    files: list[str], split: str | None, skip_bad: bool, rejects: str | None, as_json: bool, quiet: bool
) -> NoReturn:
    """`check` of judged steps, to its exit code."""
    from rewardsmith.data.step_check import check_steps
    from rewardsmith.data.tables import print_step_report

    with console.reading("reading", files, split, quiet=quiet or as_json) as tick:
        report = check_steps(files, split=split, skip_bad=skip_bad, rejects=rejects, progress=tick)
    written = rejects if rejects is not None and report.bad_rows else None
    if as_json:
        console.print_json({**report.as_dict(), "rejects": written})
    else:
        print_step_report(report, written, quiet)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help=_SOURCE)],
    out: Annotated[
        str, typer.Option("--output", "-o", help="File to write (.jsonl, .jsonl.gz), or - for standard output.")
    ],
    format: Format = None,
    split: Split = None,
    skip_bad: SkipBad = False,
    rejects: RejectsPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write any known format as canonical JSON Lines. Nothing is written unless every row can be."""
    from rewardsmith.data.conversion import convert as run_convert

    if as_json and out == "-":
        raise UsageError("--json and -o - both want standard output; write the data to a file")
    if skip_bad and rejects is None:
        rejects = _beside(file if out == "-" else out)
    with console.reading("reading", [file], split, quiet=quiet or as_json) as tick:
        report = run_convert(file, out, format=format, split=split, skip_bad=skip_bad, rejects=rejects, progress=tick)
    if as_json:
        console.print_json(report.as_dict())
    elif not quiet:
        summary = f"{report.comparisons} comparisons written to {'standard output' if out == '-' else out}"
        typer.echo(summary + _left_out(report.findings, rejects), err=out == "-")


@app.command()
def split(
    file: Annotated[str, typer.Argument(metavar="FILE", help=_SOURCE)],
    out: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder for train.jsonl and test.jsonl.")],
    test_share: Annotated[float, typer.Option("--test-share", help="Share of prompts for the test file.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives another split.")] = 0,
    format: Format = None,
    split: Split = None,
    skip_bad: SkipBad = False,
    rejects: RejectsPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write train.jsonl and test.jsonl so that no prompt is in both. Rows are kept as they are."""
    from rewardsmith.data.splitting import split as run_split

    if skip_bad and rejects is None:
        rejects = str(Path(out) / Path(_beside(file)).name)
    with console.reading("reading", [file], split, quiet=quiet or as_json) as tick:
        report = run_split(
            file,
            out,
            test_share=test_share,
            seed=seed,
            format=format,
            split=split,
            skip_bad=skip_bad,
            rejects=rejects,
            progress=tick,
        )
    if as_json:
        console.print_json(report.as_dict())
        return
    if not quiet:
        typer.echo(f"{report.train_rows} rows to {report.train}")
        share = f"{100 * report.test_share:.1f}% of the rows"
        typer.echo(f"{report.test_rows} rows to {report.test} ({share}){_left_out(report.findings, rejects)}")
    if not report.test_rows or not report.train_rows:
        typer.echo("warning: one side is empty; raise --test-share, or try another --seed", err=True)


def _beside(name: str) -> str:
    """Default rejects file of a source or output."""
    from rewardsmith.data.sources import REJECTS_SUFFIX

    return ("stdin" if name == "-" else name.rstrip("/")) + REJECTS_SUFFIX


def _left_out(findings: dict[str, int], rejects: str | None) -> str:
    if not findings:
        return ""
    counted = ", ".join(f"{count} {rule}" for rule, count in sorted(findings.items()))
    where = f"; rows left out are in {rejects}" if rejects and Path(rejects).exists() else ""
    return f" ({counted}{where})"


def _print_report(report: CheckReport, rejects: str | None, quiet: bool) -> None:
    from rewardsmith.data.tables import print_report

    print_report(report, rejects, quiet)
