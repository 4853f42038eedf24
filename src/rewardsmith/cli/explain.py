"""``rewardsmith explain``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import checks, console, options
from rewardsmith.errors import FileError, UsageError

if TYPE_CHECKING:
    from rewardsmith.types import Text


def explain(
    model: options.Model,
    source: Annotated[
        str | None, typer.Argument(help="File with the response: jsonl, json, csv, parquet (.gz); see --row.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML page to write; it stands alone, nothing is loaded.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt, instead of a file.")] = None,
    response: Annotated[str | None, typer.Option("--response", "-r", help="The response, instead of a file.")] = None,
    row: Annotated[
        int, typer.Option("--row", metavar="N", min=1, help="Explain the file's Nth row, counted from 1.")
    ] = 1,
    which: Annotated[
        int,
        typer.Option(
            "--which",
            metavar="K",
            min=1,
            help="Explain that row's Kth response, counted from 1; of a pair, 1 is chosen and 2 rejected.",
        ),
    ] = 1,
    prompt_field: options.PromptField = None,
    response_field: options.ResponseField = None,
    think_tags: options.ThinkTags = None,
    split: options.Split = None,
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
    """Show what of one response earned its reward: its thinking, its answer, and every step.

    Prints the reward's parts and steps; with -o it draws them: each step shaded by what it changes of the reward.

    Example: rewardsmith explain out/rm -p "What is 15 + 27?" -r "<think>15 + 27 = 42</think>42" -o page.html
    """
    _check(source, prompt, response, output)
    from rewardsmith.thinking.tags import custom_tags

    tags = custom_tags(*think_tags) if think_tags else None
    asked, answer, variables = (
        (prompt or "", response or "", {})
        if source is None
        else _row(source, split, row, which, prompt_field, response_field)
    )
    checks.running(dtype, device, attention)
    checks.model_folders([model])
    from rewardsmith.encoding.template import plain
    from rewardsmith.evaluation.thinking_page import marked, page
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.model.thinking_scores import score_thinking

    loading = options.load_options(dtype, device, device_map, load_in_4bit, trust_remote_code, attention)
    (score,) = score_thinking(
        RewardModel.load(model, loading), [asked], [answer], tags=tags, variables=variables, budget=budget
    )
    if output is not None:
        try:
            output.write_text(page(score, plain(asked).strip()), encoding="utf-8")
        except OSError as error:
            raise FileError(f"{output}: cannot be written: {error.strerror or error}") from error
    if as_json:
        console.print_json({**score.as_dict(), "marked_step": marked(score)[0]})
        return
    if not quiet:
        _show(score)
    if output is not None and not quiet:
        console.note(f"page saved to {output}")


def _check(source: str | None, prompt: str | None, response: str | None, output: Path | None) -> None:
    """What can be refused before a model is loaded."""
    if source is not None and (prompt is not None or response is not None):
        raise UsageError("a file and --prompt or --response both say what to explain; leave one out")
    if source is None and (prompt is None or response is None):
        raise UsageError("nothing to explain: give --prompt and --response, or a file (and --row)")
    if output is not None:
        checks.output_file(output, source)


def _row(
    source: str, split: str | None, row: int, which: int, prompt_field: str | None, response_field: str | None
) -> tuple[Text, Text, Mapping[str, Any]]:
    """Prompt and response of a file's row, and what the chat template gets beside them."""
    from rewardsmith.data.sources import read_rows
    from rewardsmith.errors import DataError
    from rewardsmith.scoring import row as rows

    found = next(islice(read_rows(source, split=split), row - 1, None), None)
    if found is None:
        raise UsageError(f"--row {row}: {source} has fewer rows")
    place = {"file": found.source.file, "line": found.source.line}
    if found.data is None:
        raise DataError(found.error or "unreadable row", **place)
    try:
        item = rows.read(found.data, prompt_field, response_field)
    except DataError as error:
        raise DataError(error.message, field=error.field, **place) from error
    if which > len(item.responses):
        raise UsageError(f"--which {which}: row {row} of {source} has {len(item.responses)} responses")
    return item.prompt, item.responses[which - 1], item.variables


def _show(score: Any) -> None:
    from rewardsmith.evaluation.thinking_page import SCALE, marked, parts

    values = [(f"{name}: {meaning}", _number(value)) for name, value, meaning in parts(score)]
    console.table("reward", ("part", "reward"), values)
    console.note(SCALE)
    facts = f"{score.thinking_tokens} of {score.thinking_tokens + score.answer_tokens} tokens are thinking"
    if score.has_thinking:
        facts += f", {score.repetition:.0%} repeated" + ("" if score.closed else ", never closed")
    console.note(facts if score.has_thinking else "no thinking")
    judged = any(step.probability is not None for step in score.steps)
    place, mark = marked(score)
    rows = [
        (
            " ".join(step.text.split())[:90] + (f" <- {mark}" if index == place else ""),
            *(step.part, f"{step.reward:.3f}", f"{step.change:+.3f}"),
            *([_number(step.probability)] if judged else []),
        )
        for index, step in enumerate(score.steps)
    ]
    console.table("steps", ("step", "part", "reward", "change", *(["right"] if judged else [])), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
