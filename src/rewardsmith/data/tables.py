"""A check report for people: tables, located problems and a verdict."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rewardsmith.data.problems import ERROR
from rewardsmith.data.report import CheckReport, ProblemReport
from rewardsmith.data.statistics import SubsetCounts
from rewardsmith.data.step_check import REMEDY, StepReport
from rewardsmith.data.step_shapes import TITLES
from rewardsmith.types import Estimate

SHOWN_PER_RULE = 10
SUBSETS_SHOWN = 30

_MEANING = {
    "bad-json": "line that is not JSON",
    "bad-encoding": "text that is not UTF-8",
    "not-object": "row that is not an object",
    "duplicate-key": "key given twice",
    "ragged-csv": "row with another number of cells than the header",
    "missing-field": "field that the format needs",
    "empty-field": "text without content",
    "wrong-type": "value of another type than the field's",
    "out-of-range": "number outside its range",
    "identical-responses": "responses that are the same text",
    "duplicate-row": "comparison that occurs again",
    "near-duplicate": "comparison that nearly occurs again",
    "contradictory-label": "same pair labelled both ways",
    "prompt-leakage": "prompt that --against also has",
    "role-order": "turns in an order that templates refuse",
    "unknown-role": "role other than system, user, assistant, tool",
    "too-long": "longer than --max-length (estimated)",
    "length-bias": "length alone predicts the label",
    "position-bias": "position alone predicts the label",
    "no-preference": "no response better than another; left out",
    "score-order": "scores that disagree with the order",
    "unknown-field": "field that looks misspelt",
    "unknown-format": "row of no known shape",
    "mixed-formats": "row of another shape than the first",
    "wrong-length": "list of another length than the responses",
    "bad-label": "verdict other than the format's",
    "bad-transcript": "text that is no transcript",
    "no-common-prompt": "responses to different prompts",
    "prompt-mismatch": "conversation that does not hold the prompt",
    "no-partner": "response without one to compare with",
    "first-turn": "prompt that starts with the assistant",
    "empty-turn": "earlier turn without text",
    "empty-reply": "assistant turn without text, judged as silence",
    "no-steps": "response without steps",
    "no-label": "steps without labels",
    "one-label": "all steps with the same label",
    "bad-steps": "text that does not part into labelled steps",
    "unread-prompts": "rows of --against that could not be compared",
}


def print_report(report: CheckReport, rejects: str | None, quiet: bool) -> None:
    """Prints ``report`` to standard output.

    Args:
        rejects: the file that got the bad rows, None when there is none.
        quiet: errors and the verdict only.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not quiet:
        _print_overview(console, report)
    _print_verdict(console, report, "" if report.comparisons else ", no comparison to train on", rejects, quiet)


def print_step_report(report: StepReport, rejects: str | None, quiet: bool) -> None:
    """Prints what `check_steps` found to standard output; arguments as for :func:`print_report`."""
    console = Console(highlight=False, soft_wrap=True)
    if not quiet:
        _print_steps(console, report)
    _print_verdict(console, report, "" if report.steps else ", no judged step to train on", rejects, quiet)


def _print_verdict(
    console: Console, report: CheckReport | StepReport, nothing: str, rejects: str | None, quiet: bool
) -> None:
    """Located problems, and whether the data will do; ``nothing`` says that there is nothing to train on."""
    _print_problems(console, report, quiet)
    if rejects:
        console.print(f"{report.bad_rows} bad rows written to {rejects}", markup=False)
    verdict = f"{_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"
    if report.ok:
        left_out = f" ({report.bad_rows} bad rows left out)" if report.skip_bad and report.bad_rows else ""
        console.print(f"ok{left_out}: {verdict}", style="green")
    else:
        console.print(f"failed: {verdict}{nothing}", style="red")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _print_overview(console: Console, report: CheckReport) -> None:
    formats = ", ".join(report.formats) or "unknown"
    total = report.statistics.total
    table = Table(title=escape(", ".join(report.files)), title_justify="left", show_header=False)
    table.add_row("format", formats)
    table.add_row("rows", str(report.rows))
    table.add_row("comparisons", str(report.comparisons))
    table.add_row("different prompts", str(report.distinct_prompts))
    if report.no_preference:
        table.add_row("rows without a preference", str(report.no_preference))
    table.add_row("ties", f"{total.ties} ({100 * total.ties / max(1, total.comparisons):.1f}%)")
    table.add_row(f"longer is better ({report.length_unit})", _percent(total.length_bias))
    if total.position_bias:
        table.add_row("first response is better", _percent(total.position_bias))
    console.print(table)
    if report.statistics.subsets:
        _print_subsets(console, report.statistics.subsets)
    if report.counts:
        _print_counts(console, report)
    if not report.near_duplicates_complete:
        console.print("near duplicates were searched in the first comparisons only", style="yellow")


def _print_steps(console: Console, report: StepReport) -> None:
    shapes = ", ".join(f"{TITLES[shape]} ({_count(rows, 'row')})" for shape, rows in report.shapes.items()) or "unknown"
    table = Table(title=escape(", ".join(report.files)), title_justify="left", show_header=False)
    table.add_row("holds", "judged steps")
    table.add_row("format", shapes)
    table.add_row("rows", str(report.rows))
    table.add_row("judged responses", str(report.responses))
    table.add_row("different prompts", str(report.distinct_prompts))
    table.add_row("judged steps", str(report.steps))
    for name, count in (("right", report.right), ("wrong", report.wrong), ("between (a probability)", report.between)):
        table.add_row(f"  {name}", f"{count} ({100 * count / max(1, report.steps):.1f}%)")
    table.add_row("steps without a label", str(report.unjudged))
    console.print(table)
    console.print(f"for: {REMEDY}, or to measure with: rewardsmith evaluate --steps", markup=False)
    if report.counts:
        _print_counts(console, report)


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{100 * part:.1f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}% (95% interval {low} to {high}, n {estimate.n})"


def _print_subsets(console: Console, subsets: dict[str, SubsetCounts]) -> None:
    sided = any(counts.sided for counts in subsets.values())
    table = Table("subset", "comparisons", "ties", "longer is better", *(["first is better"] if sided else []))
    largest = sorted(subsets.items(), key=lambda item: -item[1].comparisons)
    for name, counts in largest[:SUBSETS_SHOWN]:
        cells = [escape(name), str(counts.comparisons), str(counts.ties), _percent(counts.length_bias)]
        table.add_row(*cells, *([_percent(counts.position_bias)] if sided else []))
    console.print(table)
    if len(subsets) > SUBSETS_SHOWN:
        console.print(f"... and {len(subsets) - SUBSETS_SHOWN} more subsets (--json has all)")


def _print_counts(console: Console, report: ProblemReport) -> None:
    table = Table("finding", "", "count", "meaning")
    for rule, count in sorted(report.counts.items(), key=lambda item: (report.severities[item[0]], -item[1])):
        severity = report.severities[rule]
        colour = "red" if severity == ERROR else "yellow"
        table.add_row(rule, f"[{colour}]{severity}[/{colour}]", str(count), _MEANING.get(rule, ""))
    console.print(table)


def _print_problems(console: Console, report: ProblemReport, quiet: bool) -> None:
    shown: dict[str, int] = {}
    for problem in sorted(report.problems, key=lambda problem: (problem.severity, problem.rule)):
        if quiet and problem.severity != ERROR:
            continue
        shown[problem.rule] = shown.get(problem.rule, 0) + 1
        if shown[problem.rule] <= SHOWN_PER_RULE:
            console.print(f"{problem.severity}: {problem}", markup=False)
        elif shown[problem.rule] == SHOWN_PER_RULE + 1:
            more = report.counts[problem.rule] - SHOWN_PER_RULE
            console.print(f"... and {more} more {problem.rule} (--json lists up to 50 of each)", style="dim")
