"""The over-optimisation curve as a file: a picture (.png, .svg) or numbers (.json, .csv)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rewardsmith.data.atomic import atomic_writer
from rewardsmith.errors import MissingExtraError, UsageError
from rewardsmith.evaluation.over_optimisation import FEW_PROMPTS, Curve

_ESTIMATES = ("proxy", "gold", "proxy_gain", "gold_gain")
_COLOURS = {"proxy": "#3b6fb6", "gold": "#c8553d"}  # told apart in every common colour blindness, and in grey


def check(path: Path) -> None:
    """That a curve can be written as ``path`` asks.

    Raises:
        UsageError: an unknown suffix.
        MissingExtraError: a picture, and matplotlib is not installed.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"{path}: cannot write this kind of curve; its name must end in one of {', '.join(_WRITERS)}")
    if _WRITERS[path.suffix.lower()] is _picture:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("plot", f"drawing {path}") from error


def write(curve: Curve, path: Path) -> None:
    """Write the curve, in the format of the name's suffix, at once or not at all.

    A picture shows the gains over an average candidate against the KL, each in units of its own reward's standard
    deviation among the candidates of a prompt: a proxy as good as gold would lie on the gold line.

    Raises:
        UsageError, MissingExtraError: as ``check``.
        FileError: it cannot be written.
    """
    check(path)
    with atomic_writer(path) as file:
        _WRITERS[path.suffix.lower()](curve, file, path.suffix.lower()[1:])


def _json(curve: Curve, file: BinaryIO, _kind: str) -> None:
    file.write((json.dumps(curve.as_dict(), indent=2) + "\n").encode())


def _csv(curve: Curve, file: BinaryIO, _kind: str) -> None:
    text = io.StringIO(newline="")
    bounds = [f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")]
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["n", "kl", *bounds])
    for point in curve.points:
        found = [getattr(point, name) for name in _ESTIMATES]
        rows.writerow([point.n, point.kl, *(value for e in found for value in (e.value, e.low, e.high))])
    file.write(text.getvalue().encode())


def _picture(curve: Curve, file: BinaryIO, kind: str) -> None:
    # Not pyplot: no window, no global state, no choice of backend.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes: Any = figure.subplots()
    kl = [point.kl for point in curve.points]
    for name, spread in (("proxy", curve.proxy_spread), ("gold", curve.gold_spread)):
        gains = [getattr(point, f"{name}_gain") for point in curve.points]
        unit = spread or 1.0
        axes.plot(kl, [gain.value / unit for gain in gains], "o-", ms=3, color=_COLOURS[name], label=name)
        low, high = [gain.low / unit for gain in gains], [gain.high / unit for gain in gains]
        axes.fill_between(kl, low, high, color=_COLOURS[name], alpha=0.2, lw=0)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xlabel("KL of best-of-n from the policy: log n - (n - 1) / n  [nats]")
    axes.set_ylabel("gain over an average candidate\n[standard deviations of that reward]")
    few = " (too few: they are too narrow)" if curve.prompts < FEW_PROMPTS else ""
    axes.set_title(f"{curve.prompts} prompts; 95% intervals over prompts{few}", fontsize="medium", pad=10)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # Powers of two and the last: more would run into each other.
    for point in curve.points:
        if point.n & (point.n - 1) == 0 or point is curve.points[-1]:
            axes.annotate(
                f"n={point.n}", (point.kl, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7
            )
    with rc_context({"svg.hashsalt": "rewardsmith"}):  # the same curve gives the same bytes
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)


_WRITERS: dict[str, Callable[[Curve, BinaryIO, str], None]] = {
    ".png": _picture,
    ".svg": _picture,
    ".json": _json,
    ".csv": _csv,
}
