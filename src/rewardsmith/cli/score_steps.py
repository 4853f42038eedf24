"""``rewardsmith score-steps``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import checks, console, options, train_process
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.data.readers import Row
    from rewardsmith.model.process_scores import AskedSteps, StepScores
    from rewardsmith.model.reward_model import RewardModel

_CHUNK = 256  # rows at a time: enough for equal prompts to meet, few enough for the memory
COLUMNS = ("step_scores", "process_min", "process_last", "process_mean", "process_product", "first_error", "truncated")
TEXTS = "step_texts"


def score_steps(
    model: Annotated[str, typer.Argument(help="Model with a process head: folder or Hugging Face id.")],
    source: Annotated[str, typer.Argument(help="Rows in steps (as for train --method process), or prompt + response.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.jsonl or .jsonl.gz).")],
    step_separator: train_process.Separator = None,
    prompt_field: Annotated[str, typer.Option(help="Where the prompt of a row with a response is.")] = "prompt",
    response_field: Annotated[str, typer.Option(help="Where the response is.")] = "response",
    split: options.Split = None,
    skip_bad: options.SkipBad = False,
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
    """Judge every step of responses: the probability that it is right, from one forward pass a response.

    Writes the rows with step_scores (a list), process_min, process_last, process_mean, process_product (of these),
    first_error (the first step below one half, -1 for none) and truncated. Rows in steps, labels or not, are judged at
    the ends of these; a response is split into its lines (or at --step-separator, or as the head was trained), which
    are added as step_texts.

    Example: rewardsmith score-steps out/prm responses.jsonl -o judged.jsonl
    """
    if not output.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(f"{output}: rows are written as JSON Lines; name a file that ends in .jsonl or .jsonl.gz")
    checks.rows_source(source, split)
    checks.output_file(output, source)
    from rewardsmith.data.atomic import atomic_writer
    from rewardsmith.data.sources import read_rows
    from rewardsmith.model.process_scores import no_process_head, score_asked_steps
    from rewardsmith.model.reward_model import RewardModel

    loading = options.load_options(dtype, device, device_map, load_in_4bit, trust_remote_code, attention)
    loaded = RewardModel.load(model, loading)
    if loaded.process is None:
        raise no_process_head(model)
    separator = None if step_separator is None else train_process.line_breaks(step_separator)
    asking = _Asking(loaded, separator, prompt_field, response_field)
    counts = {"rows": 0, "steps": 0, "skipped": 0, "truncated": 0}
    with (
        console.reading("scoring", [source], split, quiet=quiet) as tick,
        atomic_writer(output) as stream,
    ):
        rows = read_rows(source, split=split, tick=tick)
        while chunk := list(islice(rows, _CHUNK)):
            asked = [(row, asking(row, skip_bad=skip_bad)) for row in chunk]
            known = [one for _, one in asked if one is not None]
            scores = iter(score_asked_steps(loaded, [one for one, _ in known], budget=budget))
            for row, one in asked:
                score = None if one is None else next(scores)
                _count(counts, score)
                line = _line(row, score, with_texts=one is not None and one[1])
                stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    report = {"output": str(output), **counts}
    if as_json:
        console.print_json(report)
    elif not quiet:
        details = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count and name != "rows")
        console.note(f"{counts['rows']:,} rows -> {output} ({details})")


class _Asking:
    """From a row to what is to be read of it."""

    def __init__(self, model: RewardModel, separator: str | None, prompt_field: str, response_field: str):
        self.model, self.separator = model, separator
        self.prompt_field, self.response_field = prompt_field, response_field

    def __call__(self, row: Row, *, skip_bad: bool) -> tuple[AskedSteps, bool] | None:
        """What to read, and whether the response had to be split; None for a bad row that is passed over."""
        from rewardsmith.data.problems import RowError
        from rewardsmith.errors import DataError, TemplateError

        try:
            if row.data is None:
                raise RowError(row.error or "cannot be read", rule=row.rule)
            if taken := [name for name in (*COLUMNS, TEXTS) if name in row.data]:
                raise RowError("is there already and would be overwritten; rename it", field=taken[0], rule="taken")
            return self._ask(row.data)
        except (DataError, TemplateError, UsageError) as error:
            if skip_bad:
                return None
            place = {"file": row.source.file, "line": row.source.line}
            message, field = (error.message, error.field) if isinstance(error, DataError) else (str(error), None)
            raise DataError(message, **place, field=field) from error

    def _ask(self, data: Mapping[str, Any]) -> tuple[AskedSteps, bool]:
        from rewardsmith.data import fields
        from rewardsmith.data.stepwise import parse_steps, shape_of
        from rewardsmith.model.process_scores import ask_steps, separator_of

        if shape_of(data) is not None:
            item = parse_steps(data, separator_of(self.model, self.separator))
            return ask_steps(self.model, item.prompt, item.steps, separator=item.separator), False
        prompt = fields.text_or_messages(fields.required(data, self.prompt_field), self.prompt_field)
        response = fields.text_or_messages(fields.required(data, self.response_field), self.response_field)
        return ask_steps(self.model, prompt, response, separator=self.separator), True


def _line(row: Row, score: StepScores | None, *, with_texts: bool) -> dict[str, Any]:
    data = dict(row.data) if row.data is not None else {"raw": row.raw}
    if score is None:
        return {**data, **dict.fromkeys(COLUMNS)}
    values = (score.probabilities, score.min, score.last, score.mean, score.product, score.first_error, score.truncated)
    texts = {TEXTS: list(score.steps)} if with_texts else {}
    return {**data, **texts, **dict(zip(COLUMNS, values, strict=True))}


def _count(counts: dict[str, int], score: StepScores | None) -> None:
    counts["rows"] += 1
    counts["skipped"] += score is None
    if score is not None:
        counts["steps"] += len(score.steps)
        counts["truncated"] += score.truncated
