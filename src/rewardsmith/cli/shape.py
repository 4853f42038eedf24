"""``rewardsmith shape``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import checks, console, options
from rewardsmith.errors import DataError, UsageError
from rewardsmith.scoring.cells import parsed, per_response

if TYPE_CHECKING:
    from rewardsmith.data.readers import Row
    from rewardsmith.shaping import Context, Pipeline

SHAPING_FILE = "shaping.json"  # as rewardsmith.shaping.FILE, which takes numpy with it
_QUANTILES = {"min": 0, "p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "max": 100}
_FROM = {"lengths": "response_tokens", "disagreement": "disagreement"}  # context field: column of `rewardsmith score`
_REMEDY = {
    "lengths": "score the rows again with: rewardsmith score",
    "disagreement": "score the rows with an ensemble",
    "reference": "name the column of the reference responses' rewards: --reference COLUMN (texts must be scored first)",
    "texts": "the rows need a response, responses, or chosen and rejected",
    "preferred": "the rows need chosen and rejected, scored together",
}


def shape(
    scored: Annotated[str, typer.Argument(help="Rows with rewards, as rewardsmith score writes them; - for stdin.")],
    steps: Annotated[str, typer.Option(help='Steps in order, e.g. "normalise, clip(low=-3, high=3)".')],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .json file, or a model's folder, which then carries the shaping.")
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="Column with the reward of a reference response, or a list of several; default: reference."),
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Freeze running normalisers: from then on they learn no more.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fit a shaping of rewards on scored rows and save it, alone or with the model.

    Steps: normalise, zscore, group_zscore, running, clip, center, unit_margin, temperature, platt, isotonic, par, lsc,
    debias_length, length_penalty, repetition_penalty, weighted_sum, minimum, all_above, uncertainty_penalty. Parameters
    and equations: docs/shaping.md. unit_margin, temperature, platt and isotonic learn from rows with chosen and
    rejected; debias_length and length_penalty read response_tokens; uncertainty_penalty reads disagreement.

    Example: rewardsmith shape scored.jsonl --steps "debias_length, normalise, clip(low=-3, high=3)" -o out/rm
    """
    from rewardsmith.data.sources import read_rows
    from rewardsmith.scoring.provenance import no_mean
    from rewardsmith.shaping import parse
    from rewardsmith.shaping.bounds import at_bounds, saturation_warning

    pipeline = parse(steps)
    if reference is not None and "reference" not in pipeline.needs:
        raise UsageError(f"--reference {reference}: no step compares with a reference; leave it out, or add par or lsc")
    target = _target(output, scored)
    with console.reading("reading", [scored], None, quiet=quiet) as tick:
        columns = _Columns.of(read_rows(scored, tick=tick), pipeline, reference)
    context = columns.context(pipeline, scored)
    pipeline.fit(columns.rewards, context, scored_by=_scored_by(columns.by, target, scored))
    if freeze:
        pipeline.freeze()
    fitted = pipeline.to_dict()["steps"]  # before the rewards are shaped below: a running normaliser would count twice
    pipeline.save(target)
    report = {
        "output": str(target),
        "steps": str(pipeline),
        "scope": pipeline.scope,
        "needs": sorted(pipeline.needs),
        "rows": columns.rows,
        "responses": len(columns.rewards),
        "before": _summary(columns.rewards),
        "after": _summary(pipeline(columns.rewards, context)),
        "fitted": [{"name": step["name"], **step["state"]} for step in fitted],
        "fitted_on": pipeline.fitted_on and pipeline.fitted_on.as_dict(),
        "saturated": int(at_bounds(pipeline, columns.numbers(), context).sum()),
        "notes": pipeline.notes(),
    }
    for by in columns.by:
        if warning := no_mean(pipeline, by):
            console.warn(warning)
    if warning := saturation_warning(report["saturated"], len(columns.rewards)):
        console.warn(warning)
    if not quiet:
        for line in report["notes"]:
            console.note(f"note: {line}")
    if as_json:
        console.print_json(report)
        return
    names = list(report["before"])
    cells = [(name, *(_cell(report[side][name]) for side in ("before", "after"))) for name in names]
    console.table(f"{report['responses']:,} rewards of {report['rows']:,} rows", ("", "before", "after"), cells)
    for step in report["fitted"]:
        state = ", ".join(f"{key.rstrip('_')} {_cell(value)}" for key, value in step.items() if key != "name")
        if state:
            print(f"{step['name']}: {state}")
    print(f"a value depends on: {report['scope']}; a call needs: {', '.join(report['needs']) or 'rewards alone'}")
    print(f"saved to {target}")


def _target(output: Path, source: str) -> Path:
    """The file to write, refused before anything is read when it cannot be one."""
    from rewardsmith.data.atomic import same_file
    from rewardsmith.shaping import Pipeline
    from rewardsmith.shaping.pipeline import file_of

    target = file_of(output)
    if same_file(target, source):
        raise UsageError(f"--output {output}: would overwrite the rows; choose another file")
    checks.output_file(target)
    if target.exists():
        try:
            Pipeline.load(target)
        except DataError as error:
            raise UsageError(f"--output {target}: is there and is no shaping; choose another file") from error
    return target


def _scored_by(found: set[str], target: Path, source: str) -> str | None:
    """Which model and vote gave the rewards, None where the rows do not say.

    Raises:
        UsageError: several did; or another model than the one whose folder the shaping is to be saved in.
    """
    from rewardsmith.model import contract as contracts
    from rewardsmith.scoring.provenance import mark_of_contract

    if len(found) > 1:
        raise UsageError(
            f"{source}: its rewards were given by several models or votes ({', '.join(sorted(found))}), which have no "
            "common mean and unit; fit on those of one"
        )
    by = next(iter(found), None)
    contract = contracts.read(target.parent) if target.name == SHAPING_FILE else None
    if by and contract and contract.head_sha256:
        mark = mark_of_contract(contract)
        if mark not in by.partition(" ")[0].split("+"):
            raise UsageError(
                f"--output {target.parent}: this model ({mark}) did not give these rewards ({by}): score the rows with "
                "it, or save the shaping in a .json file"
            )
    return by


@dataclass
class _Columns:
    """What the rows say of each response; a list stays empty when no row has its column."""

    pipeline: Pipeline
    rows: int = 0
    rewards: list[float | None] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    preferred: list[bool | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    found: dict[str, list[Any]] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    by: set[str] = field(default_factory=set)  # which models and votes gave the rewards

    @classmethod
    def of(cls, rows: Iterable[Row], pipeline: Pipeline, reference: str | None) -> _Columns:
        """Read all rows; those without any reward are counted only."""
        columns = cls(pipeline)
        for row in rows:
            try:
                columns._add(row, reference)
            except DataError as error:
                raise DataError(error.message, file=row.source.file, line=row.source.line, field=error.field) from error
        return columns

    def numbers(self) -> list[float]:
        """The rewards, NaN where there is none."""
        return [math.nan if reward is None else reward for reward in self.rewards]

    def context(self, pipeline: Pipeline, source: str) -> Context:
        """What the rows say, as the shapes read it.

        Raises:
            UsageError: a step needs a column that no row has.
        """
        from rewardsmith.shaping import Context

        for name in sorted(pipeline.needs - {"rewards", "groups"} - self.present):
            column = f"no column {_FROM[name]}" if name in _FROM else f"no {name}"
            step = next(step.name for step in pipeline.steps if name in step.needs)
            raise UsageError(f"{source}: {column}, which {step} needs; {_REMEDY[name]}")
        for name in pipeline.others:
            if f"rewards.{name}" not in self.present:
                raise UsageError(f"{source}: no column {name}, which the steps name as another reward")
        if "preferred" not in self.present and (step := _fitted_on_pairs(pipeline)):
            raise UsageError(f"{source}: no preference pairs, which {step} is fitted on; {_REMEDY['preferred']}")
        given = {name: self.found[name] for name in ("lengths", "disagreement", "reference") if name in self.present}
        return Context(
            groups=self.groups,
            texts=self.texts if "texts" in self.present else None,
            rewards={name: self.found[f"rewards.{name}"] for name in pipeline.others},
            preferred=self.preferred if "preferred" in self.present else None,
            **given,
        )

    def _add(self, row: Row, reference: str | None) -> None:
        if row.data is None:
            raise DataError(row.error or "unreadable row")
        if "reward" not in row.data:
            keys = ", ".join(sorted(map(str, row.data))) or "nothing"
            raise DataError(f"missing; the row has {keys}; score the rows first: rewardsmith score", field="reward")
        self.rows += 1
        reward = parsed(row.data["reward"])
        if reward is None:
            return
        if isinstance(row.data.get("scored_by"), str):
            self.by.add(row.data["scored_by"])
        several = isinstance(reward, list)
        rewards = [_number(value, "reward") for value in (reward if several else [reward])]
        count = len(rewards)
        self.rewards += rewards
        self._say(row, several, count)
        for name, column in _FROM.items():
            self._take(name, _numbers(row.data, column, count), column in row.data)
        for name in self.pipeline.others:
            self._take(f"rewards.{name}", _numbers(row.data, name, count), name in row.data)
        if "reference" in self.pipeline.needs:
            if reference is not None and reference not in row.data:
                raise DataError("missing; --reference names a column that every row must have", field=reference)
            column = reference or "reference"
            value = parsed(row.data.get(column))
            one = [_number(item, column) for item in value] if isinstance(value, list) else _number(value, column)
            self._take("reference", [one] * count, column in row.data)  # of the prompt: the same for its responses

    def _say(self, row: Row, several: bool, count: int) -> None:
        """Group, preference and text of a row's responses."""
        from rewardsmith.encoding.template import plain
        from rewardsmith.scoring import row as rows_
        from rewardsmith.scoring.candidates import prompt_key

        data = row.data or {}
        pair = several and count == 2 and "responses" not in data and {"chosen", "rejected"} <= set(data)
        self.preferred += [True, False] if pair else [None] * count
        self.present |= {"preferred"} if pair else set()
        if several and "texts" not in self.pipeline.needs:
            self.groups += [self.rows] * count  # the row is the group, whatever its prompt
            return
        try:
            item = rows_.read(data)
        except DataError:
            if {"groups", "texts"} & self.pipeline.needs:
                raise
            self.groups += [self.rows] * count
            return
        self.groups += [self.rows if several else prompt_key(item)] * count
        if "texts" in self.pipeline.needs:
            self.texts += [plain(response) for response in item.responses]
            self.present.add("texts")

    def _take(self, name: str, values: list[Any], there: bool) -> None:
        self.found.setdefault(name, []).extend(values)
        if there:
            self.present.add(name)


def _fitted_on_pairs(pipeline: Pipeline) -> str | None:
    from rewardsmith.shaping import Isotonic, Platt, Temperature, UnitMargin

    kinds = (UnitMargin, Temperature, Platt, Isotonic)
    return next((step.name for step in pipeline.steps if isinstance(step, kinds)), None)


def _numbers(data: dict[str, Any], column: str, count: int) -> list[float | None]:
    """A column's number for each response of the row; None where the row has none."""
    return [_number(item, column) for item in per_response(data, column, count)]


def _number(value: Any, column: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"must be a number, a list of numbers or null, not {value!r:.60}", field=column)
    return float(value)


def _summary(rewards: list[float | None]) -> dict[str, float | int | None]:
    """Quantiles, mean and standard deviation of the finite ones, and how many are not."""
    import numpy as np

    found = np.array([value for value in rewards if value is not None and math.isfinite(value)])
    known = len(found) > 0
    quantiles = {name: float(np.percentile(found, at)) if known else None for name, at in _QUANTILES.items()}
    moments = {"mean": float(found.mean()) if known else None, "std": float(found.std()) if known else None}
    return {**quantiles, **moments, "not scored": len(rewards) - len(found)}


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"({len(value)} knots)"
    return console.number(value) if isinstance(value, float) else str(value)
