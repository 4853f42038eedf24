"""What people see: reports on standard output, progress and notes on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

Tick = Callable[[int], None]


class Bar(Protocol):
    """A progress bar's handle."""

    def __call__(self, done: int, total: int | None = None, remark: str = "") -> None:
        """Set how much is done, of how much when it is known, and what to show beside."""
        ...


def print_json(report: Mapping[str, Any]) -> None:
    """One JSON object on standard output; nothing else goes there."""
    print(json.dumps(report, ensure_ascii=False, default=str))


def note(message: str) -> None:
    """A line on standard error."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """A line on standard error that --quiet does not silence: what may be wrong."""
    note(f"warning: {message}")


def number(value: float, digits: int = 4) -> str:
    """``value`` to so many significant digits; what is but rounding of 0 (5.551e-17) is 0."""
    return "0" if abs(value) < 1e-12 else f"{value:.{digits}g}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output; the first column is left-aligned, the others right-aligned."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*(str(cell) for cell in row))
    # Names and responses are shown as they are: "[/INST]" is no markup, ":)" no emoji.
    Console(markup=False, emoji=False).print(shown)


@contextmanager
def progress(label: str, unit: str, *, quiet: bool = False) -> Iterator[Bar]:
    """A progress bar on standard error with rate and time left; plain lines when that is not a terminal."""
    if quiet:
        yield lambda done, total=None, remark="": None
    elif sys.stderr.isatty():
        with _rich_bar(label, unit) as bar:
            yield bar
    else:
        yield _plain_bar(label, unit)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Progress of work in stages, told by ``(label, unit, done, total, remark)``: one bar after the other."""
    bars: dict[str, Bar] = {}
    with ExitStack() as shown:

        def tell(label: str, unit: str, done: int, total: int, remark: str = "") -> None:
            if label not in bars:
                shown.close()  # a terminal has room for one
                bars.clear()
                bars[label] = shown.enter_context(progress(label, unit, quiet=quiet))
            bars[label](done, total, remark)

        yield tell


@contextmanager
def reading(label: str, sources: Sequence[str], split: str | None, *, quiet: bool = False) -> Iterator[Tick]:
    """A progress bar in bytes of the sources, when a person is there to see it."""
    from rewardsmith.data.sources import source_size

    sizes = [source_size(source, split) for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = 0
    with progress(label, "bytes", quiet=quiet or not sys.stderr.isatty()) as bar:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar(done, total)

        yield advance


@contextmanager
def _rich_bar(label: str, unit: str) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[remark]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=1, rate="", remark="")

        def update(done: int, total: int | None = None, remark: str = "") -> None:
            speed = shown.tasks[0].speed
            rate = f"{speed:,.{0 if speed >= 10 else 2}f} {unit}/s" if speed else ""
            shown.update(task, completed=done, total=total or done, rate=rate, remark=remark)

        yield update


def _plain_bar(label: str, unit: str) -> Bar:
    """A line every tenth of the way, for logs."""
    said, first, started = -1, 0, time.monotonic()

    def update(done: int, total: int | None = None, remark: str = "") -> None:
        nonlocal said, first, started
        if said < 0:  # a run that is resumed begins in the middle
            first, started = done, time.monotonic()
        if total and (tenth := 10 * done // total) > said:
            said = tenth
            gone = time.monotonic() - started
            left = gone * (total - done) / (done - first) if done > first else 0.0
            parts = (f"{label}: {done:,}/{total:,} {unit}", remark, f"{duration(left)} left" if left >= 1 else "")
            note(", ".join(part for part in parts if part))

    return update


def duration(seconds: float) -> str:
    """``2.5 h``, in the largest unit of which there is one."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def replacing(output: Path) -> None:
    """Say on standard error, before work begins, that a model which lies there will be replaced."""
    if (output / "reward_contract.json").is_file():
        note(f"{output} holds a finished model; it will be replaced when this one is done")


def interval(estimate: Mapping[str, Any]) -> str:
    """``0.629 [0.587, 0.669]``."""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
