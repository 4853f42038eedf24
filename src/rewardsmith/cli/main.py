"""``rewardsmith``: one command per file."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from rewardsmith import __version__
from rewardsmith.cli import (
    best_of_n,
    compare,
    data,
    demo,
    evaluate,
    explain,
    info,
    merge,
    plan,
    score,
    score_steps,
    shape,
    train,
)
from rewardsmith.errors import RewardsmithError, out_of_memory

app = typer.Typer(
    name="rewardsmith",
    help="Reward models for RLHF: check the data, train, measure, score, and get the reward you trained.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would double its time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.add_typer(data.app, name="data")
app.command()(plan.plan)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(score.score)
app.command("score-steps")(score_steps.score_steps)
app.command()(compare.compare)
app.command()(explain.explain)
app.command()(shape.shape)
app.command("best-of-n")(best_of_n.best_of_n)
app.command()(info.info)
app.command(cls=merge.Command)(merge.merge)


def _version(asked: bool) -> None:
    if asked:
        print(f"rewardsmith {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Runs before every command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


def run() -> None:
    """The console script: a user's mistake is one line on standard error, never a traceback."""
    try:
        app()
    except RewardsmithError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:  # typer has met Ctrl-C and a closed pipe before us and given them codes
        if end.code == 130:
            print("interrupted; finished work is kept", file=sys.stderr)
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(0)  # the reader has gone, e.g. `| head`; that is not an error
        raise
    except OSError as error:  # a full disk, no permission: nothing that a traceback would help with
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not out_of_memory(error):
            raise
        print("error: out of memory; use a smaller --batch-tokens or --max-length, or --load-in-4bit", file=sys.stderr)
        sys.exit(2)
