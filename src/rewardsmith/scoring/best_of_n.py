"""Best of n for a file: scores in a journal, then the choice (or the rank) of every candidate, written at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardsmith.data.sources import read_rows
from rewardsmith.errors import DataError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import candidates, writers
from rewardsmith.scoring.candidates import Group
from rewardsmith.scoring.journal import Journal
from rewardsmith.scoring.provenance import warn_of_mismatch
from rewardsmith.scoring.score_file import (
    DISAGREEMENT,
    NEW_COLUMNS,
    SATURATED,
    SHAPED,
    ScoreOptions,
    as_scorer,
    chunks,
    count_shaped,
    score_chunk,
    source_identity,
)
from rewardsmith.scoring.scorer import Scorer

Results = Callable[[], Iterator[Mapping[str, Any]]]

_SCORES = (*NEW_COLUMNS, DISAGREEMENT, SHAPED, SATURATED)  # lists of these hold one entry per response


def score_to_journal(
    model: RewardModel | Scorer,
    source: str,
    path: Path,
    options: ScoreOptions,
    *,
    tick: Callable[[int], None] | None = None,
) -> Journal:
    """Score every row into a journal, from where an earlier run on the same file with the same model stopped.

    Args:
        path: of the journal. It stays when something goes wrong; the caller discards it once its scores are used.
        tick: called with the number of bytes read since the last call.

    Raises:
        DataError: a row that cannot be scored, unless ``options.skip_bad``.
        FileError: the source cannot be read, or the journal cannot be written.
    """
    scorer = as_scorer(model, options)
    warn_of_mismatch(options.shaping, scorer.provenance())
    journal = Journal(path, {"model": scorer.identity(), **source_identity(source), **options.as_dict()})
    try:
        for number, chunk in enumerate(chunks(read_rows(source, split=options.split, tick=tick), options.chunk)):
            if number >= journal.chunks:
                journal.append(score_chunk(scorer, chunk, options))
    except BaseException:
        journal.close()
        raise
    return journal


def column_results(source: str, column: str, options: ScoreOptions) -> Iterator[dict[str, Any]]:
    """Rewards that the rows have already, as ``score_chunk`` would give them, with what ``score`` wrote beside them.

    Raises:
        DataError: a row without a number for each response, unless ``options.skip_bad``.
    """
    for row in read_rows(source, split=options.split):
        try:
            item = candidates.read(row, options)
            values = candidates.numbers(row, item, column)
        except DataError as error:
            if not options.skip_bad:
                place = {"file": row.source.file, "line": row.source.line}
                raise DataError(error.message, field=error.field, **place) from error
            yield {column: None}
            continue
        data = row.data or {}
        lists = {name: data[name] for name in _SCORES if isinstance(data.get(name), list)}
        yield {**lists, column: values[0] if item.single else values}


def write_choices(
    source: str,
    output: Path,
    groups: Sequence[Group],
    results: Results,
    options: ScoreOptions,
    *,
    rank: bool = False,
    gold_column: str | None = None,
    by: str = "reward",
) -> dict[str, int]:
    """Write the choice of each prompt, or with ``rank`` every row with its rank.

    Args:
        results: gives the results of all rows, as often as it is called.
        by: which of the results decides.

    Returns:
        Counts: rows (written), prompts, candidates, bad (rows without a reward), truncated (responses).
    """

    def rows() -> Iterator[dict[str, Any]]:
        read = read_rows(source, split=options.split)
        if rank:
            return candidates.ranked(read, results(), groups, gold_column, by)
        return candidates.picked(read, results(), groups, options, gold_column, by)

    # A table must know all columns before its first row.
    columns = {} if writers.format_of(output).startswith(".jsonl") else dict.fromkeys(k for row in rows() for k in row)
    counts = {
        "rows": writers.write(output, rows(), list(columns)),
        "prompts": len(groups),
        "candidates": sum(len(group.rewards) for group in groups),
        "bad": 0,
        "truncated": 0,
    }
    for result in results():
        counts["bad"] += result[by] is None
        cut = result.get("truncated")
        counts["truncated"] += sum(cut) if isinstance(cut, list) else bool(cut)
        count_shaped(result, counts)
    return counts
