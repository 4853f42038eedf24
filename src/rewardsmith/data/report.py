"""What a check found: counts per rule, located problems (capped), statistics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rewardsmith.data.problems import ERROR, Problem
from rewardsmith.data.statistics import Statistics

LISTED_PER_RULE = 50


@dataclass
class ProblemReport:
    """What every check counts: rows, and findings per rule.

    Args:
        files: what was checked, as the user named it.
        rows: rows read, bad ones included; blank lines are no rows.
        bad_rows: rows with an error of their own; ``skip_bad`` would leave them out.
        counts: number of findings per rule, complete.
        severities: ``error`` or ``warning`` per rule; the worse one when a rule has both.
        problems: the findings, at most ``LISTED_PER_RULE`` per rule.
        skip_bad: bad rows do not make the check fail.
    """

    files: list[str]
    rows: int = 0
    bad_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    severities: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skip_bad: bool = False
    errors: int = 0
    warnings: int = 0
    errors_across_rows: int = 0

    def add(self, problem: Problem, *, across_rows: bool = False) -> None:
        """Counts a finding and keeps it while its rule has few.

        Args:
            across_rows: it is about several rows (a contradiction, a leak), so leaving out bad rows does not cure it.
        """
        self.counts[problem.rule] += 1
        if problem.severity == ERROR:
            self.errors += 1
            self.errors_across_rows += across_rows
            self.severities[problem.rule] = ERROR
        else:
            self.warnings += 1
            self.severities.setdefault(problem.rule, problem.severity)
        if self.counts[problem.rule] <= LISTED_PER_RULE:
            self.problems.append(problem)

    @property
    def no_errors(self) -> bool:
        """Whether there are none (with ``skip_bad``: none that skipping leaves)."""
        return self.errors_across_rows == 0 if self.skip_bad else self.errors == 0


@dataclass
class CheckReport(ProblemReport):
    """The result of `check`.

    Args:
        formats: rows per format name.
        comparisons: comparisons that can be trained on.
        no_preference: well-formed rows in which no response is better than another.
        distinct_prompts: number of different prompts, after normalisation.
        statistics: ties, length bias, label balance.
        near_duplicates_complete: False when there were more comparisons than the near-duplicate search keeps.
    """

    formats: Counter[str] = field(default_factory=Counter)
    comparisons: int = 0
    no_preference: int = 0
    distinct_prompts: int = 0
    statistics: Statistics = field(default_factory=Statistics)
    near_duplicates_complete: bool = True

    @property
    def length_unit(self) -> str:
        """What "longer" is counted in: the characters of a response; its tokens where nothing but ids is there."""
        return "tokens" if set(self.formats) == {"tokenized"} else "characters"

    @property
    def ok(self) -> bool:
        """Whether the data can be trained on: no errors (with ``skip_bad``: none that skipping leaves)."""
        return self.comparisons > 0 and self.no_errors

    def as_dict(self) -> dict[str, Any]:
        """The form ``--json`` prints."""
        total = self.statistics.total
        return {
            "ok": self.ok,
            "files": self.files,
            "formats": dict(self.formats),
            "rows": self.rows,
            "comparisons": self.comparisons,
            "bad_rows": self.bad_rows,
            "no_preference": self.no_preference,
            "distinct_prompts": self.distinct_prompts,
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": dict(self.counts),
            "problems": [problem.as_dict() for problem in self.problems],
            "statistics": {
                **total.as_dict(),
                "length_unit": self.length_unit,
                "responses_per_comparison": {str(size): n for size, n in sorted(self.statistics.sizes.items())},
                "subsets": {name: counts.as_dict() for name, counts in self.statistics.subsets.items()},
            },
            "near_duplicates_complete": self.near_duplicates_complete,
        }
