"""``rewardsmith score``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rewardsmith.cli import checks, console, options, scorers
from rewardsmith.errors import UsageError

_STREAM_CHUNK = 64  # rows from a pipe that wait for each other


def score(
    model: options.Model,
    source: Annotated[
        str, typer.Argument(help="Rows to score: jsonl, json, csv, parquet (.gz), a folder, or - for stdin.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write: .jsonl, .jsonl.gz, .csv, .tsv or .parquet; default: stdout."
        ),
    ] = None,
    prompt_field: options.PromptField = None,
    response_field: options.ResponseField = None,
    also: options.With = None,
    aggregate: options.Aggregate = "auto",
    shaping: options.Shaping = None,
    reference_field: options.ReferenceField = None,
    cache: options.Cache = None,
    thinking: Annotated[
        bool,
        typer.Option(
            "--thinking",
            help="Add what thinking and answer are worth, the rewards of the steps, and with a process head how likely "
            "each is right. Of one model (its ensemble may "
            "vote: --aggregate); not with --with (each model has steps of its own) or --cache (it keeps one reward a "
            "response).",
        ),
    ] = False,
    think_tags: options.ThinkTags = None,
    attributes: Annotated[
        bool,
        typer.Option(
            "--attributes", help="Add attribute_NAME for every attribute. Of one model; not with --thinking or --cache."
        ),
    ] = False,
    split: options.Split = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Bad rows get reward null and a reward_error, instead of stopping.")
    ] = False,
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
    """Score responses: the same rows out, in order, plus reward, reward_se, truncated, response_tokens and scored_by.

    A row has a prompt and a response (or responses, or chosen and rejected: then reward is a list), or messages ending
    with an assistant turn. A killed run with -o goes on where it was when started again. An ensemble (--with, or a
    model trained with --ensemble) adds disagreement, --shaping adds shaped and saturated, --attributes adds
    attribute_NAME of a model trained on ratings, --thinking adds
    thinking_reward, answer_given_thinking, answer_alone, contribution, thinking_tokens, thinking_share, repetition,
    closed, prefilled, step_rewards (at the ends of all steps, of thinking and answer) and of these min_step, last_step
    and mean_step; of a model with a process head also step_scores, process_min, process_last, process_mean,
    process_product and first_error, as score-steps gives them.

    Example: rewardsmith score out/rm responses.jsonl -o scored.jsonl
    """
    if as_json and output is None:
        raise UsageError("--json prints a report, so the rows need a file of their own: add --output FILE")
    if thinking and (also or cache):
        option = "--with" if also else "--cache"
        raise UsageError(f"--thinking takes the rewards of one model apart, step by step; leave out {option}")
    if attributes and (also or cache or thinking or aggregate != "auto"):
        option = "--with" if also else "--cache" if cache else "--thinking" if thinking else "--aggregate"
        raise UsageError(f"--attributes shows the heads whose sum is the reward of one model; leave out {option}")
    if think_tags and not thinking:
        raise UsageError("--think-tags says how thinking is marked; add --thinking")
    from rewardsmith.scoring import writers
    from rewardsmith.thinking.tags import custom_tags

    tags = custom_tags(*think_tags) if think_tags else None
    checks.running(dtype, device, attention)
    if output is not None:
        writers.format_of(output)
        if source == "-":
            raise UsageError(
                "rows from standard input go to standard output; leave --output out, or give a file to read"
            )
        checks.output_file(output, source)
    checks.rows_source(source, split)
    models = [model, *(also or ())]
    pipeline = scorers.check(aggregate, shaping, reference_field, cache)
    checks.model_folders(models)
    scorers.check_folders(models, aggregate, shaping, pipeline)

    from rewardsmith.data.sources import read_rows
    from rewardsmith.scoring.score_file import CHUNK, ScoreOptions, count_shaped, score_file, score_stream

    loading = options.load_options(dtype, device, device_map, load_in_4bit, trust_remote_code, attention)
    columns = {"thinking": thinking, "tags": tags, "attributes": attributes}
    made = scorers.make(models, loading, **columns, aggregate=aggregate, budget=budget, cache=cache)
    if shaping == "model":
        pipeline = scorers.own_shaping(made, model)
    chunk = _STREAM_CHUNK if source == "-" else CHUNK
    asked = ScoreOptions(prompt_field, response_field, skip_bad, chunk, budget, split, pipeline, reference_field)
    counts: dict[str, int] = {}
    with made as scorer:
        if output is None:
            for row in score_stream(scorer, read_rows(source, split=split), asked):
                sys.stdout.write(writers.line(row) + "\n")
                sys.stdout.flush()
                count_shaped(row, counts)
        else:
            with console.reading("scoring", [source], split, quiet=quiet) as tick:
                counts = score_file(scorer, source, output, asked, run={"model": scorer.identity()}, tick=tick)
    _report(counts, output, as_json=as_json, quiet=quiet)


def _report(counts: dict[str, int], output: Path | None, *, as_json: bool, quiet: bool) -> None:
    from rewardsmith.shaping.bounds import saturation_warning

    if output is not None and as_json:
        console.print_json({"output": str(output), **counts})
    elif output is not None and not quiet:
        shown = {name: counts[name] for name in ("resumed", "bad", "truncated") if counts[name]}
        details = ", ".join(f"{count:,} {name}" for name, count in shown.items())
        console.note(f"{counts['rows']:,} rows saved to {output}" + (f" ({details})" if details else ""))
    if warning := saturation_warning(counts.get("saturated", 0), counts.get("shaped", 0)):
        console.warn(warning)
