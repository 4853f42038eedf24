"""Everything that can be said about judged steps without a model, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rewardsmith.data.adapters import detect
from rewardsmith.data.parse import Parsed
from rewardsmith.data.problems import WARNING, Problem, RowError
from rewardsmith.data.readers import Row
from rewardsmith.data.rejects import Rejects
from rewardsmith.data.report import ProblemReport
from rewardsmith.data.sources import Tick, read_rows
from rewardsmith.data.step_shapes import shape_of
from rewardsmith.data.stepwise import parse_step_row
from rewardsmith.data.text import digest, identity, normalised
from rewardsmith.errors import UsageError
from rewardsmith.types import Stepwise

_TOLD_BY = 100  # rows in which one of a known shape is looked for
REMEDY = "rewardsmith train --method process"


@dataclass
class StepReport(ProblemReport):
    """The result of `check_steps`. A step counts where it is judged; PRM800K's candidates repeat the steps before them.

    Args:
        shapes: rows per shape, ``stepwise.SHAPES``.
        responses: responses with one judged step or more, of one row or several.
        right, wrong: steps labelled 1 and 0; PRM800K's neutral ones count as right.
        between: steps labelled with another probability.
        unjudged: steps without a label, in responses that have others.
        distinct_prompts: number of different prompts, after normalisation.
    """

    shapes: Counter[str] = field(default_factory=Counter)
    responses: int = 0
    right: int = 0
    wrong: int = 0
    between: int = 0
    unjudged: int = 0
    distinct_prompts: int = 0

    @property
    def steps(self) -> int:
        """Judged ones."""
        return self.right + self.wrong + self.between

    @property
    def ok(self) -> bool:
        """Whether they can be trained on: steps there are, and no errors (with ``skip_bad``: none that it leaves)."""
        return self.steps > 0 and self.no_errors

    def as_dict(self) -> dict[str, Any]:
        """The form ``--json`` prints."""
        labels = {name: getattr(self, name) for name in ("right", "wrong", "between", "unjudged")}
        names = ("rows", "responses", "steps", "bad_rows", "distinct_prompts", "errors", "warnings")
        return {
            "ok": self.ok,
            "holds": "judged steps",
            "for": REMEDY,
            "files": self.files,
            "formats": dict(self.shapes),
            **{name: getattr(self, name) for name in names},
            "labels": labels,
            "counts": dict(self.counts),
            "problems": [problem.as_dict() for problem in self.problems],
        }


def hold_steps(files: Sequence[str], split: str | None = None) -> bool:
    """Whether the files hold judged steps, told by their first rows. Standard input, which is read once, is not asked.

    Raises:
        UsageError: some do, others hold preferences.
        FileError, DataError: a file cannot be read.
    """
    found = {file: _holds_steps(file, split) for file in files if file != "-"}
    if not any(found.values()):
        return False
    other = next((file for file in files if not found.get(file)), None)
    if other is None:
        return True
    steps = next(file for file, holds in found.items() if holds)
    raise UsageError(f"{steps} holds judged steps and {other} does not; check the two kinds of data apart")


def _holds_steps(file: str, split: str | None) -> bool:
    for row in islice(read_rows(file, split=split), _TOLD_BY):
        if row.data is not None and detect(row.data):
            return False
        if row.data is not None and shape_of(row.data):
            return True
    return False


def check_steps(
    files: Sequence[str],
    *,
    split: str | None = None,
    skip_bad: bool = False,
    rejects: str | None = None,
    progress: Tick | None = None,
) -> StepReport:
    """Checks one or several files of judged steps as one data set; it remembers about 100 bytes of each response.

    Args:
        files: what `read_rows` reads, rows in the shapes of ``stepwise.SHAPES``.
        split: split of a Hub data set or name prefix in a folder.
        skip_bad: rows with errors do not make the check fail.
        rejects: a file that gets the rows with errors and the reasons.
        progress: called with the number of bytes read since the last call.

    Raises:
        FileError, DataError: a file cannot be read, or is damaged as a whole.
    """
    run = _StepCheck(StepReport(list(files), skip_bad=skip_bad))
    with ExitStack() as stack:
        out = Rejects(rejects, stack)
        for file in files:
            for row in read_rows(file, split=split, tick=progress):
                if (problem := run.take(row)) is not None:
                    out.write(Parsed((row,), problems=[problem]))
    return run.ended()


class _StepCheck:
    """One pass over the data: a report being filled, and the hashes it needs."""

    def __init__(self, report: StepReport):
        self.report = report
        self.prompts: set[int] = set()
        self.responses: set[int] = set()

    def take(self, row: Row) -> Problem | None:
        """Counts one row; what is wrong with it, if anything."""
        self.report.rows += 1
        items = parse_step_row(row)
        if isinstance(items, RowError):
            problem = Problem.at(row.source, items.field, items.rule, items.message)
            self.report.bad_rows += 1
            self.report.add(problem)
            return problem
        self.report.shapes[shape_of(row.data or {}) or ""] += 1
        if not items:
            message = "has no step that was judged; training leaves it out"
            self.report.add(Problem.at(row.source, None, "no-label", message, WARNING))
        for item in items:
            self.count(item)
        return None

    def count(self, item: Stepwise) -> None:
        self.report.responses += 1
        self.prompts.add(digest(normalised(item.prompt)))
        key = digest("\x00".join((identity(item.prompt), *item.steps, repr(item.labels))))
        if key in self.responses:
            message = "repeats a response with its labels; keep one of them"
            self.report.add(Problem.at(item.source, None, "duplicate-row", message, WARNING))
        self.responses.add(key)
        for label in item.labels:
            name = "unjudged" if label is None else {1.0: "right", 0.0: "wrong"}.get(label, "between")
            setattr(self.report, name, getattr(self.report, name) + 1)

    def ended(self) -> StepReport:
        """The report, with what can be said at the end."""
        report = self.report
        report.distinct_prompts = len(self.prompts)
        if report.steps and report.steps in (report.right, report.wrong):
            which = "right" if report.right else "wrong"
            message = f"all {report.steps} judged steps are {which}: there is nothing to tell apart"
            report.add(Problem(", ".join(report.files), None, None, "one-label", message, WARNING))
        return report
