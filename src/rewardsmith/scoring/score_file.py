"""Score a file or a stream of rows: constant memory, rows in order, resumable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rewardsmith.data import fields
from rewardsmith.data.readers import Row
from rewardsmith.data.sources import read_rows
from rewardsmith.encoding.template import plain
from rewardsmith.errors import DataError, RewardsmithError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import row as rows_
from rewardsmith.scoring import writers
from rewardsmith.scoring.attribute_columns import value_of
from rewardsmith.scoring.cells import parsed, per_response
from rewardsmith.scoring.journal import Journal
from rewardsmith.scoring.provenance import COLUMN as SCORED_BY
from rewardsmith.scoring.provenance import warn_of_mismatch
from rewardsmith.scoring.references import Reference, references
from rewardsmith.scoring.row import ToScore
from rewardsmith.scoring.score_options import CHUNK, ScoreOptions
from rewardsmith.scoring.scorer import Asked, Scorer
from rewardsmith.scoring.shaped import check_members, check_shaping
from rewardsmith.shaping import Context, Pipeline
from rewardsmith.shaping.bounds import at_bounds
from rewardsmith.types import ScoredResponse, Text

__all__ = ["CHUNK", "ScoreOptions", "as_scorer", "score_chunk", "score_file", "score_stream"]

NEW_COLUMNS = ("reward", "reward_se", "truncated", "response_tokens", SCORED_BY)
DISAGREEMENT = "disagreement"  # where members vote
SHAPED, SATURATED = "shaped", "saturated"  # where there is a shaping
ERROR_COLUMN = "reward_error"


def score_file(
    model: RewardModel | Scorer,
    source: str,
    output: Path,
    options: ScoreOptions,
    *,
    run: dict[str, Any],
    report: Callable[[int], None] | None = None,
    tick: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Score ``source`` into ``output``: the same rows with :func:`new_columns`.

    Finished chunks are kept in ``OUTPUT.partial`` until the output is whole, so a killed run goes on from there.

    Args:
        model: a reward model, or a scorer with a cache, several models ...
        run: what identifies the model (:meth:`RewardModel.identity`); with the input and the options it decides
            whether an old journal is of this run.
        report: called with the number of rows finished since the last call.
        tick: called with the number of bytes read since the last call.

    Returns:
        Counts: rows, resumed (rows found in the journal), bad, truncated; with a shaping also shaped, and saturated
        (shaped rewards at a bound).
    """
    writers.format_of(output)
    scorer = as_scorer(model, options)
    warn_of_mismatch(options.shaping, scorer.provenance())
    journal = Journal(
        output.with_name(output.name + ".partial"), {**run, **source_identity(source), **options.as_dict()}
    )
    counts = {"rows": 0, "resumed": 0, "bad": 0, "truncated": 0}
    if options.shaping:
        counts |= {SHAPED: 0, SATURATED: 0}
    columns: dict[str, None] = {}  # of all rows, in order: a table must know them before its first row
    try:
        for number, chunk in enumerate(chunks(read_rows(source, split=options.split, tick=tick), options.chunk)):
            columns |= dict.fromkeys(name for row in chunk for name in _original(row))
            if number < journal.chunks:
                counts["resumed"] += len(chunk)
            else:
                journal.append(score_chunk(scorer, chunk, options))
            if report:
                report(len(chunk))
        columns |= dict.fromkeys(new_columns(scorer, options))
        joined = _joined(read_rows(source, split=options.split), _counted(journal.read(), counts), source)
        counts["rows"] = writers.write(output, joined, list(columns))
    except BaseException:
        journal.close()  # kept: what is scored is not lost
        raise
    journal.discard()
    return counts


def as_scorer(model: RewardModel | Scorer, options: ScoreOptions) -> Scorer:
    """A scorer of the model, unless it is one; it votes as the shaping supposes (:meth:`Scorer.for_shaping`).

    Raises:
        UsageError: the shaping is not fitted, depends on more than a row, or needs members that the scorer lacks.
    """
    scorer = model if isinstance(model, Scorer) else Scorer(model, budget=options.budget)
    if options.shaping:
        check_shaping(options.shaping)
        check_members(options.shaping, scorer.models)
    return scorer.for_shaping(options.shaping)


def new_columns(scorer: Scorer, options: ScoreOptions) -> list[str]:
    """The columns that scoring adds, in order."""
    more = [DISAGREEMENT] * scorer.votes + [SHAPED, SATURATED] * (options.shaping is not None)
    return [*NEW_COLUMNS, *scorer.columns, *more, *[ERROR_COLUMN] * options.skip_bad]


def score_stream(model: RewardModel | Scorer, rows: Iterable[Row], options: ScoreOptions) -> Iterator[dict[str, Any]]:
    """Rows in, the same rows with their rewards out, chunk by chunk."""
    scorer = as_scorer(model, options)
    warn_of_mismatch(options.shaping, scorer.provenance())
    for chunk in chunks(rows, options.chunk):
        for row, result in zip(chunk, score_chunk(scorer, chunk, options), strict=True):
            yield {**_original(row), **result}


@dataclass(frozen=True)
class _Wanted:
    """What a row asks for: its responses, and what its shaping reads beside their rewards."""

    item: ToScore
    references: list[Reference] | None = None
    others: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def texts(self) -> list[Text]:
        """Everything to be scored behind the prompt: the responses, then references that are no rewards yet."""
        return [*self.item.responses, *(one for one in self.references or () if not isinstance(one, int | float))]


def score_chunk(scorer: RewardModel | Scorer, chunk: list[Row], options: ScoreOptions) -> list[dict[str, Any]]:
    """The new columns of each row."""
    scorer = as_scorer(scorer, options)
    wanted: list[_Wanted | str] = []
    asked: list[Asked] = []
    for row in chunk:
        try:
            one = _ask(row, scorer, options)
            rendered = [scorer.ask(one.item.prompt, text, one.item.variables) for text in one.texts]
            asked += [_unless_error(each) for each in rendered]
        except RewardsmithError as error:
            located = _located(error, row)
            if not options.skip_bad:
                raise located from error
            wanted.append(str(located))
            continue
        wanted.append(one)
    scored, names, by = iter(scorer.score_asked(asked)), new_columns(scorer, options), scorer.provenance()
    found = []
    for one in wanted:
        if isinstance(one, str):
            found.append({**dict.fromkeys(names), ERROR_COLUMN: one})
            continue
        results = [result for result in islice(scored, len(one.texts)) if isinstance(result, ScoredResponse)]
        columns = {**_columns(one, results, names, options), SCORED_BY: by}
        found.append({name: columns.get(name) for name in names})
    return found


def _unless_error(asked: Asked | RewardsmithError) -> Asked:
    if isinstance(asked, RewardsmithError):
        raise asked
    return asked


def _ask(row: Row, scorer: Scorer, options: ScoreOptions) -> _Wanted:
    if row.data is None:
        raise DataError(row.error or "unreadable row")
    if taken := [name for name in new_columns(scorer, options) if name in row.data]:
        raise DataError("is there already and would be overwritten; rename the column", field=taken[0])
    item = rows_.read(row.data, options.prompt_field, options.response_field)
    if not options.shaping:
        return _Wanted(item)
    # What the shaping needs is there: said before anything is scored.
    data, name = _cells(row), options.reference_field or "reference"
    comparing = next((step.name for step in options.shaping.steps if "reference" in step.needs), None)
    compared = references(data, name, comparing) if comparing else None
    others = {name: _numbers(data, name, len(item.responses)) for name in options.shaping.others}
    if item.single and options.shaping.scope == "group":
        raise DataError(
            "the shaping compares the responses to one prompt, so they must be in one row, as responses: [...]",
            field="response",
        )
    return _Wanted(item, compared, others)


def _located(error: RewardsmithError, row: Row) -> DataError:
    field = error.field if isinstance(error, DataError) else None
    message = error.message if isinstance(error, DataError) else str(error)
    return DataError(message, file=row.source.file, line=row.source.line, field=field)


def _columns(wanted: _Wanted, results: list[ScoredResponse], names: list[str], options: ScoreOptions) -> dict[str, Any]:
    """The columns among ``names`` that results fill. The results of references follow those of the responses."""
    count = len(wanted.item.responses)
    own, references_ = results[:count], results[count:]
    fields_ = [name for name in names if name not in (SHAPED, SATURATED, SCORED_BY, ERROR_COLUMN)]
    columns: dict[str, Any] = {name: [value_of(result, name) for result in own] for name in fields_}
    if options.shaping:
        context = _context(wanted, own, references_, options.shaping)
        shaped = options.shaping(columns["reward"], context)
        columns[SHAPED] = [value if math.isfinite(value) else None for value in shaped]
        columns[SATURATED] = at_bounds(options.shaping, columns["reward"], context).tolist()
    if wanted.item.single:
        return {name: values[0] for name, values in columns.items()}
    return columns


def _context(
    wanted: _Wanted, results: list[ScoredResponse], references_: list[ScoredResponse], shaping: Pipeline
) -> Context:
    """What the shaping may look at: the row's responses are one group."""
    count, read = len(results), iter(references_)
    rewards = [one if isinstance(one, int | float) else next(read).reward for one in wanted.references or ()]
    return Context(
        groups=[0] * count,
        lengths=[result.response_tokens for result in results],
        texts=[plain(response) for response in wanted.item.responses],
        reference=None if wanted.references is None else [rewards] * count,
        disagreement=[result.disagreement for result in results] if "disagreement" in shaping.needs else None,
        rewards=wanted.others,
    )


def _cells(row: Row) -> Mapping[str, Any]:
    """The row's columns; of a table of text (CSV) as the JSON values that they were."""
    data = row.data or {}
    is_text = row.source.file.removesuffix(".gz").endswith((".csv", ".tsv"))
    return {name: parsed(value) for name, value in data.items()} if is_text else data


def _numbers(data: Mapping[str, Any], name: str, count: int) -> list[float]:
    """A column with one number for the row, or one for each response."""
    fields.required(data, name)
    return [fields.number_value(one, name) for one in per_response(data, name, count)]


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _joined(rows: Iterable[Row], results: Iterator[dict[str, Any]], source: str) -> Iterator[dict[str, Any]]:
    changed = DataError("changed while it was being scored; delete OUTPUT.partial and score it again", file=source)
    for row in rows:
        result = next(results, None)
        if result is None:
            raise changed
        yield {**_original(row), **result}
    if next(results, None) is not None:
        raise changed


def _counted(results: Iterator[dict[str, Any]], counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    for result in results:
        counts["bad"] += result.get(ERROR_COLUMN) is not None
        truncated = result["truncated"]
        counts["truncated"] += sum(truncated) if isinstance(truncated, list) else bool(truncated)
        count_shaped(result, counts)
        yield result


def count_shaped(result: Mapping[str, Any], counts: dict[str, int]) -> None:
    """Add how many shaped rewards a row has, and how many of them lie at a bound."""
    if result.get(SHAPED) is not None and SATURATED in result:
        single = not isinstance(result[SHAPED], list)
        values = [result[SHAPED]] if single else result[SHAPED]
        at_bound = [result[SATURATED]] if single else result[SATURATED]
        counts[SHAPED] = counts.get(SHAPED, 0) + sum(value is not None for value in values)
        counts[SATURATED] = counts.get(SATURATED, 0) + sum(at_bound)


def source_identity(source: str) -> dict[str, Any]:
    """What tells one input from another: its name, and the size and time of change of its files."""
    path = Path(source)
    if not path.exists():
        return {"source": source}
    inside = sorted(file for file in path.iterdir() if file.suffix != ".partial") if path.is_dir() else [path]
    files = [[file.name, (status := os.stat(file)).st_size, status.st_mtime_ns] for file in inside]
    return {"source": str(path.resolve()), "files": files}


def _original(row: Row) -> dict[str, Any]:
    """The row's columns; of an unreadable row, its text, so that nothing is lost."""
    return row.data if row.data is not None else {"raw": row.raw}
