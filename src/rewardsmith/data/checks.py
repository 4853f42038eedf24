"""Everything that can be said about a preference data set without a model, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rewardsmith.data.adapters import OPTIONAL_FIELDS, named
from rewardsmith.data.parse import Parsed, parse_rows
from rewardsmith.data.problems import WARNING, Problem
from rewardsmith.data.rejects import Rejects
from rewardsmith.data.report import CheckReport
from rewardsmith.data.sources import Rows, Tick, read_rows
from rewardsmith.data.statistics import SubsetCounts
from rewardsmith.data.text import flat, normalised, prompt_text
from rewardsmith.types import Comparison, Estimate

if TYPE_CHECKING:  # numpy takes a tenth of a second to import, which --help would pay
    from rewardsmith.data.ledger import Ledger

NEAR_DUPLICATE_LIMIT = 500_000
CHARACTERS_PER_TOKEN = 4
# A share this far from a half, of so many comparisons, with an interval that leaves the half out, is worth a warning.
_BIAS, _BIAS_N = 0.1, 30
_FREE_FORMATS = ("canonical", "messages", "text", "hh", "tokenized", "ultrafeedback")


def check(
    sources: Rows | Sequence[str | Path],
    *,
    format: str | None = None,
    split: str | None = None,
    against: Sequence[str | Path] = (),
    max_length: int | None = None,
    skip_bad: bool = False,
    rejects: str | Path | None = None,
    near_duplicate_limit: int = NEAR_DUPLICATE_LIMIT,
    progress: Tick | None = None,
) -> CheckReport:
    """Checks one or several sources as one data set.

    Rows are streamed; what is remembered of each comparison is 32 bytes of hashes, and 168 bytes more for the first
    ``near_duplicate_limit`` comparisons (84 MB at most by default).

    Args:
        sources: what `read_rows` reads, or a list of such names.
        format: a name in `FORMATS`; None detects it per source.
        split: split of a Hub dataset or name prefix in a folder.
        against: other sources (a test set) that must not share prompts with this data.
        max_length: warn about comparisons longer than this many tokens, estimated as characters / 4.
        skip_bad: rows with errors do not make the check fail.
        rejects: a file that gets the rows with errors and the reasons.
        near_duplicate_limit: how many comparisons the near-duplicate search keeps.
        progress: called with the number of bytes read since the last call.

    Raises:
        FileError: a source cannot be read.
        DataError: a source is damaged as a whole or has no known shape.
        UsageError: unknown format.
    """
    from rewardsmith.data.ledger import Ledger

    known_prompts, unread = Ledger(), []
    for source in against:
        unread += _collect_prompts(known_prompts, source, split, progress)
    run = _Check(max_length, skip_bad, near_duplicate_limit)
    for problem in unread:
        run.report.add(problem)
    return run.run(_as_list(sources), format, split, rejects, known_prompts, progress)


def _collect_prompts(ledger: Ledger, source: str | Path, split: str | None, progress: Tick | None) -> list[Problem]:
    """Adds every prompt of ``source``, and says how many rows could not be read for it."""
    bad = 0
    for parsed in parse_rows(read_rows(source, split=split, tick=progress), None):
        bad += len(parsed.rows) if parsed.bad else 0
        place = parsed.rows[0].source
        for comparison in parsed.comparisons:
            ledger.add_prompt(prompt_text(comparison), place)
        if parsed.prompt is not None:  # a row without a preference has a prompt all the same
            ledger.add_prompt(normalised(parsed.prompt), place)
    message = f"has {bad} bad rows, whose prompts were not compared; run check on it"
    return [Problem(str(source), None, None, "unread-prompts", message, WARNING)] if bad else []


def _as_list(sources: Rows | Sequence[str | Path]) -> list[Rows]:
    if isinstance(sources, (str, Path)):
        return [sources]
    listed = list(sources)
    if listed and all(isinstance(item, (str, Path)) for item in listed):
        return [str(item) for item in listed]
    return [cast(Rows, listed)]  # the rows themselves


class _Check:
    """One pass over the data: a report being filled and the hashes it needs at the end."""

    def __init__(self, max_length: int | None, skip_bad: bool, near_duplicate_limit: int):
        from rewardsmith.data.ledger import Ledger
        from rewardsmith.data.near_duplicates import NearDuplicates

        self.max_length = max_length
        self.report = CheckReport([], skip_bad=skip_bad)
        self.ledger, self.near = Ledger(), NearDuplicates(near_duplicate_limit)
        self.seen_keys: set[str] = set()

    def run(
        self,
        sources: list[Rows],
        format: str | None,
        split: str | None,
        rejects: str | Path | None,
        known_prompts: Ledger,
        progress: Tick | None,
    ) -> CheckReport:
        with ExitStack() as stack:
            out = Rejects(rejects, stack)
            for source in sources:
                self.report.files.append(str(source) if isinstance(source, (str, Path)) else "<rows>")
                for parsed in parse_rows(read_rows(source, split=split, tick=progress), format):
                    self.take(parsed)
                    if parsed.bad:
                        out.write(parsed)
        self.across_rows(known_prompts)
        self.biases()
        return self.report

    def take(self, parsed: Parsed) -> None:
        """Counts one row and remembers its comparisons."""
        report = self.report
        report.rows += len(parsed.rows)
        if parsed.format:
            report.formats[parsed.format] += len(parsed.rows)
            self.near_miss_keys(parsed)
        for problem in parsed.problems:
            report.add(problem)
        if parsed.bad:
            report.bad_rows += len(parsed.rows)
        elif not parsed.comparisons:
            report.no_preference += len(parsed.rows)
        for comparison in parsed.comparisons:
            self.remember(comparison, _side(parsed))

    def remember(self, comparison: Comparison, side: str | None) -> None:
        from rewardsmith.data.ledger import normalised_responses

        prompt, responses = prompt_text(comparison), normalised_responses(comparison)
        self.near.add(len(self.ledger), prompt, "\n".join(responses))
        self.ledger.add(comparison, prompt, responses)
        self.report.comparisons += 1
        self.report.statistics.add(comparison, side)
        tokens = estimated_tokens(comparison) if self.max_length is not None else 0
        if self.max_length is not None and tokens > self.max_length:
            how = "has" if comparison.token_ids is not None else "has about"
            message = f"{how} {tokens} tokens, more than {self.max_length}: training drops it, scoring cuts old turns"
            self.report.add(Problem.at(comparison.source, None, "too-long", message, WARNING))

    def near_miss_keys(self, parsed: Parsed) -> None:
        """Warns once about a key that looks like a misspelt optional field: it would be ignored in silence."""
        if parsed.format not in _FREE_FORMATS:
            return
        for key in (parsed.rows[0].data or {}).keys() - self.seen_keys:
            self.seen_keys.add(key)
            close = get_close_matches(str(key), OPTIONAL_FIELDS, n=1, cutoff=0.8)
            if close and key not in OPTIONAL_FIELDS:
                message = f'is not a known field and is ignored; did you mean "{close[0]}"?'
                self.report.add(Problem.at(parsed.rows[0].source, str(key), "unknown-field", message, WARNING))

    def across_rows(self, known_prompts: Ledger) -> None:
        """Duplicates, contradictions, leaks and near duplicates, from the hashes."""
        told: set[tuple] = set()
        ledger = self.ledger
        repeated: set[int] = set()
        for earlier, later in ledger.duplicates():
            repeated.add(later)
            message = "repeats the row at {}; keep one of them"
            self.relate(told, later, ledger.where(earlier), None, "duplicate-row", message, WARNING)
        for earlier, later in ledger.contradictions():
            message = "labels the same two responses to the same prompt the other way round than {}; keep one label"
            self.relate(told, later, ledger.where(earlier), "chosen", "contradictory-label", message)
        for index, other in ledger.shared_prompts(known_prompts):
            message = "is also the prompt of {}, so a test on that file measures memory; remove it from one of them"
            self.relate(told, index, known_prompts.where(other), "prompt", "prompt-leakage", message)
        for earlier, later in self.near.pairs():
            if earlier in repeated or later in repeated:
                continue
            message = "is nearly the same as {} (about 85% or more of the text); check that both are wanted"
            self.relate(told, later, ledger.where(earlier), None, "near-duplicate", message, WARNING)
        self.report.near_duplicates_complete = not self.near.full
        self.report.distinct_prompts = ledger.distinct_prompts()

    def relate(
        self,
        told: set[tuple],
        index: int,
        other: tuple[str, int],
        field: str | None,
        rule: str,
        message: str,
        severity: str = "error",
    ) -> None:
        """Reports that a row stands in some relation to another; once per pair of rows, the first relation only."""
        file, line = self.ledger.where(index)
        key = (file, line, other)
        # A leak is about another file, so the same two places cannot have been reported for another reason.
        if (file, line) == other or key in told:
            return
        told.add(key)
        problem = Problem(file, line, field, rule, message.format(f"{other[0]}:{other[1]}"), severity)
        self.report.add(problem, across_rows=severity == "error")

    def biases(self) -> None:
        """Warnings about the data set as a whole."""
        name = ", ".join(self.report.files)
        total: SubsetCounts = self.report.statistics.total
        if _biased(total.length_bias):
            which = "longer" if total.length_bias.value > 0.5 else "shorter"  # pyright: ignore[reportOptionalMemberAccess]
            message = (
                f"the {which} response, in {self.report.length_unit}, is the better one in "
                f"{_share(total.length_bias)}: length alone predicts it"
            )
            self.report.add(Problem(name, None, None, "length-bias", message, WARNING))
        if _biased(total.position_bias):
            message = f"the response shown first is the better one in {_share(total.position_bias)}"
            self.report.add(Problem(name, None, None, "position-bias", message, WARNING))


def _side(parsed: Parsed) -> str | None:
    adapter = named(parsed.format) if parsed.format else None
    return adapter.side(parsed.rows[0].data or {}) if adapter and adapter.side else None


def _biased(estimate: Estimate | None) -> bool:
    if estimate is None or estimate.n < _BIAS_N or estimate.low <= 0.5 <= estimate.high:
        return False
    return abs(estimate.value - 0.5) >= _BIAS


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "none"
    value, low, high = (f"{100 * part:.1f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}% of {estimate.n} comparisons (95% interval {low} to {high})"


def estimated_tokens(comparison: Comparison) -> int:
    """Tokens of the longest prompt + response: counted for token ids, else characters / 4 (about right for English
    prose with today's tokenizers; code and other languages need more)."""
    if comparison.token_ids is not None:
        return max(len(ids) for ids in comparison.token_ids)
    longest = max(len(flat(response)) for response in comparison.responses)
    return -(-(len(flat(comparison.prompt)) + longest) // CHARACTERS_PER_TOKEN)
