"""Responses judged step by step: TRL's rows, and PRM800K, Math-Shepherd and ProcessBench as they are published.

The shape of a row is told by its keys, row by row. Each function of ``SHAPES`` turns one row into zero or more
:class:`Stepwise`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from rewardsmith.data import fields
from rewardsmith.data.fields import Fields
from rewardsmith.data.parse import Parsed
from rewardsmith.data.problems import Problem, RowError, shown
from rewardsmith.data.readers import Row
from rewardsmith.data.rejects import Rejects
from rewardsmith.data.sources import Rows, Tick, read_rows
from rewardsmith.data.step_shapes import shape_of
from rewardsmith.errors import DataError, UsageError
from rewardsmith.types import Source, Stepwise

Neutral = Literal["good", "bad", "half", "skip"]
"""What a step is that is neither right nor wrong: it is true, and of no use."""

TAG = "ки"
"""Math-Shepherd's mark at the end of each step."""

_log = logging.getLogger("rewardsmith.data")
_NEUTRAL: dict[str, float | None] = {"good": 1.0, "bad": 0.0, "half": 0.5, "skip": None}
_FIRST_STEP = re.compile(r"step 1\s*:", re.IGNORECASE)


def load_stepwise(
    source: Rows,
    *,
    neutral: Neutral = "good",
    separator: str = "\n",
    split: str | None = None,
    labelled: bool = True,
    skip_bad: bool = False,
    rejects: str | Path | None = None,
    progress: Tick | None = None,
) -> Iterator[Stepwise]:
    """The judged responses of ``source``, in order, in constant memory.

    Args:
        source: what `read_rows` reads: a file, a folder, ``-``, a Hub data set, or an iterable of dicts.
        neutral: what PRM800K's rating 0 counts as: ``good`` (1, as in Lightman et al. 2023), ``bad`` (0), ``half``
            (0.5) or ``skip`` (not judged).
        separator: what stands between the steps of rows that do not say so themselves.
        split: split of a Hub data set or name prefix in a folder.
        labelled: whether rows must say which steps are right. False for rows that are only to be scored.
        skip_bad: leave bad rows out, with a count in the log, instead of failing at the first one.
        rejects: with ``skip_bad``, a file that gets every row left out, with the reason.
        progress: called with the number of bytes read since the last call.

    Raises:
        DataError: a row that breaks a rule of its shape; file and line are named. Or no row is left.
        FileError: no such file, or not readable.
        UsageError: an unknown ``neutral``.
    """
    if neutral not in get_args(Neutral):
        raise UsageError(f"neutral is {neutral!r}; it must be one of {', '.join(get_args(Neutral))}")
    name = str(source) if isinstance(source, (str, Path)) else "<rows>"
    found, bad = False, 0
    with ExitStack() as stack:
        out = Rejects(rejects if skip_bad else None, stack)
        for row in read_rows(source, split=split, tick=progress):
            items = parse_step_row(row, neutral=neutral, separator=separator, labelled=labelled)
            if isinstance(items, RowError):
                if not skip_bad:
                    raise _located(items, row.source) from items
                bad += 1
                out.write(Parsed((row,), problems=[Problem.at(row.source, items.field, items.rule, items.message)]))
                continue
            found = found or bool(items)
            yield from items
    if bad:
        _log.warning("%s: %d bad rows were left out", name, bad)
    if not found:
        raise DataError("holds rows, but none of them has a step that was judged", file=name)


def parse_stepwise(
    row: Mapping[str, Any],
    *,
    neutral: Neutral = "good",
    separator: str = "\n",
    labelled: bool = True,
    source: Source | None = None,
) -> list[Stepwise]:
    """The judged responses of one row, arguments as for :func:`load_stepwise`.

    Raises:
        DataError: the row breaks a rule of its shape, or has no known shape.
    """
    place = source or Source("<row>", 1)
    try:
        return _parse_row(Row(place, dict(row)), neutral, separator, labelled)
    except RowError as error:
        raise _located(error, place) from error


def parse_step_row(
    row: Row, *, neutral: Neutral = "good", separator: str = "\n", labelled: bool = True
) -> list[Stepwise] | RowError:
    """The judged responses of a row as it was read, or what is wrong with it; arguments as :func:`load_stepwise`."""
    try:
        return _parse_row(row, neutral, separator, labelled)
    except RowError as error:
        return error


def parse_steps(row: Fields, separator: str) -> Stepwise:
    """The response of a row in steps, labelled or not; of PRM800K, the solution that was chosen.

    Raises:
        RowError: the row breaks a rule of its shape, or has no step.
    """
    items = _parse_row(Row(Source("<row>", 1), dict(row)), "good", separator, labelled=False)
    if not items:
        raise RowError("has no steps", rule="no-steps")
    return items[0]


def _located(error: RowError, source: Source) -> DataError:
    return DataError(f"{error.message} ({error.rule})", file=source.file, line=source.line, field=error.field)


def _parse_row(row: Row, neutral: str, separator: str, labelled: bool) -> list[Stepwise]:
    if row.data is None:
        raise RowError(row.error or "cannot be read", rule=row.rule)
    shape = shape_of(row.data)
    if shape is None:
        keys = ", ".join(map(str, row.data)) or "none"
        raise RowError(
            f"no known shape of a stepwise row; its keys are {keys}; known are prompt + completions + labels (TRL), "
            "question + label (PRM800K), input + label (Math-Shepherd), problem + steps + label (ProcessBench)",
            rule="unknown-format",
        )
    items = SHAPES[shape](row.data, _NEUTRAL[neutral])
    if labelled and shape == "trl" and row.data.get("labels") is None:
        raise RowError("is missing, every row to learn from or to measure on needs it", field="labels", rule="no-label")
    own = row.data.get("separator", row.data.get("step_separator"))
    if own is not None and not isinstance(own, str):
        raise RowError(f"is {shown(own)}, must be text", field="separator", rule="wrong-type")
    between = separator if own is None else own
    found = [replace(item, separator=between, source=row.source) for item in items]
    return [item for item in found if not labelled or any(label is not None for label in item.labels)]


# -- one function per shape: (row, meaning of a neutral rating) -> items


def _trl(row: Fields, neutral: float | None) -> list[Stepwise]:
    """``{"prompt", "completions": [...], "labels": [true | false | number | null, ...]}``."""
    prompt = fields.text_or_messages(fields.required(row, "prompt"), "prompt")
    steps = _texts(fields.items(row, "completions"), "completions")
    given = row.get("labels")
    labels = [None] * len(steps) if given is None else fields.items(row, "labels")
    if len(labels) != len(steps):
        raise RowError(
            f"has {len(labels)} entries for {len(steps)} completions; it needs one for each step", field="labels",
            rule="wrong-length",
        )  # fmt: skip
    values = tuple(_label(value, f"labels[{index}]") for index, value in enumerate(labels))
    return [Stepwise(prompt, steps, values, id=fields.name(row, "id"))]


def _label(value: Any, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    try:
        return fields.number_value(value, field, low=0.0, high=1.0)
    except RowError as error:
        message = f"{error.message}: true, false, or the probability that the step is right"
        raise RowError(message, field=field, rule="bad-label") from error


def _texts(values: Any, field: str) -> tuple[str, ...]:
    return tuple(fields.text_value(value, f"{field}[{index}]").strip() for index, value in enumerate(values))


def _prm800k(row: Fields, neutral: float | None) -> list[Stepwise]:
    """Lightman et al. 2023: the solution that was chosen step by step, and every other candidate for a step.

    A candidate is an item of its own, the steps before it without labels, since the first item has them. A step that a
    person wrote is right. Where nothing was chosen, which ends the solution, the first candidate is its last step.
    """
    problem = fields.text(fields.nested(row, "question"), "problem")
    label = fields.nested(row, "label")
    if label.get("finish_reason") == "bad_problem":
        return []
    path: list[tuple[str, float | None]] = []
    others: list[Stepwise] = []
    entries = fields.items(label, "steps", at_least=0)
    for number, entry in enumerate(entries):
        field = f"label.steps[{number}]"
        if not isinstance(entry, Mapping):
            raise RowError(f"is {shown(entry)}, must be an object", field=field, rule="wrong-type")
        rated = [_rated(one, f"{field}.completions[{k}]", neutral) for k, one in enumerate(_given(entry, field))]
        index = _chosen(entry, rated, field, last=number == len(entries) - 1)
        step = _written(entry, field) if index is None else rated[index]
        before = tuple(text for text, _ in path)
        others += [
            Stepwise(problem, (*before, text), (*(None,) * len(before), value))
            for k, (text, value) in enumerate(rated)
            if k != index and text != step[0] and value is not None
        ]
        path.append(step)
    if not path:
        return []
    steps, labels = zip(*path, strict=True)
    return [Stepwise(problem, steps, labels), *others]


def _given(entry: Fields, field: str) -> Any:
    given = entry.get("completions")
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        raise RowError(f"is {shown(given)}, must be a list", field=f"{field}.completions", rule="wrong-type")
    return given


def _rated(one: Any, field: str, neutral: float | None) -> tuple[str, float | None]:
    if not isinstance(one, Mapping):
        raise RowError(f"is {shown(one)}, must be an object", field=field, rule="wrong-type")
    text, rating = fields.text_value(one.get("text"), f"{field}.text").strip(), one.get("rating")
    if rating not in (-1, 0, 1, None) or isinstance(rating, bool):
        raise RowError(f"is {shown(rating)}, must be -1, 0 or 1", field=f"{field}.rating", rule="bad-label")
    if rating is None or one.get("flagged"):  # flagged: the labeller did not know
        return text, None
    return text, {-1: 0.0, 0: neutral, 1: 1.0}[int(rating)]


def _chosen(entry: Fields, rated: list, field: str, *, last: bool) -> int | None:
    """Which candidate goes on; None for the step that a person wrote."""
    index = entry.get("chosen_completion")
    if index is None and entry.get("human_completion") is None and last and rated:
        return 0
    if index is None and entry.get("human_completion") is not None:
        return None
    if not isinstance(index, (int, float)) or isinstance(index, bool) or index not in range(len(rated)):
        rule = f"must be the number of one of the {len(rated)} completions, or null beside a human_completion"
        raise RowError(f"is {shown(index)}, {rule}", field=f"{field}.chosen_completion", rule="bad-label")
    return int(index)


def _written(entry: Fields, field: str) -> tuple[str, float]:
    human = entry.get("human_completion")
    text = human.get("text") if isinstance(human, Mapping) else human
    return fields.text_value(text, f"{field}.human_completion").strip(), 1.0


def _math_shepherd(row: Fields, neutral: float | None) -> list[Stepwise]:
    """Wang et al. 2024: one text, each step of it ending in a mark, for which the label has + or -.

    The mark is ``ки`` in ``input``; ``label`` is the same text with signs for marks. The problem ends where "Step 1:"
    begins, or at its last question mark. A few published rows have a mark within the problem; it is passed over.
    """
    text, judged = fields.text(row, "input"), fields.text(row, "label")
    pieces = text.split(TAG)
    if len(pieces) < 2:
        raise RowError(f"has no {TAG}, which ends each step in this format", field="input", rule="bad-steps")
    labels, at = [], 0
    for number, piece in enumerate(pieces[:-1]):
        at += len(piece)
        if judged[at - len(piece) : at] != piece or judged[at : at + 1] not in ("+", "-"):
            raise RowError(
                f"does not have the text of input up to its mark {number + 1}, and + or - there", field="label",
                rule="bad-label",
            )  # fmt: skip
        labels.append(1.0 if judged[at] == "+" else 0.0)
        at += 1
    if pieces[-1].strip():
        raise RowError(f"goes on behind its last {TAG}: {shown(pieces[-1].strip())}", field="input", rule="bad-steps")
    problem, steps = _problem_and_steps(pieces[:-1])
    return [Stepwise(problem, _texts(steps, "input, step"), tuple(labels[len(labels) - len(steps) :]))]


def _problem_and_steps(pieces: list[str]) -> tuple[str, list[str]]:
    """Marks within the problem are dropped, so that there may be fewer steps than pieces."""
    for number, piece in enumerate(pieces):
        if found := _FIRST_STEP.search(piece):
            problem = "".join(pieces[:number]) + piece[: found.start()]
            return _problem(problem), [piece[found.start() :], *pieces[number + 1 :]]
    problem, mark, first = pieces[0].rpartition("?")
    if not mark or not first.strip():
        raise RowError(
            'has neither "Step 1:" nor a question mark before the first step', field="input", rule="bad-steps"
        )
    return _problem(problem + mark), [first, *pieces[1:]]


def _problem(text: str) -> str:
    return fields.text_value(text.strip(), "input, problem")


def _processbench(row: Fields, neutral: float | None) -> list[Stepwise]:
    """Zheng et al. 2024: ``label`` is the index of the first wrong step, -1 for none; what follows it is not judged."""
    steps = _texts(fields.items(row, "steps"), "steps")
    first = fields.integer(row, "label", low=-1, high=len(steps) - 1)
    right = len(steps) if first < 0 else first
    labels = (*(1.0,) * right, *(0.0,) * (first >= 0), *(None,) * (len(steps) - right - 1))
    return [Stepwise(fields.text(row, "problem"), steps, labels, id=fields.name(row, "id"))]


SHAPES: dict[str, Callable[[Fields, float | None], list[Stepwise]]] = {
    "trl": _trl,
    "prm800k": _prm800k,
    "math-shepherd": _math_shepherd,
    "processbench": _processbench,
}
"""Shape to the function that reads its rows."""
