"""Known row shapes, in the order in which they are tried. The only registry: a dict from name to `Adapter`."""

from __future__ import annotations

from difflib import get_close_matches

from rewardsmith.data.adapters import benchmarks, judged, preference, scored
from rewardsmith.data.adapters.base import OPTIONAL_FIELDS, Adapter
from rewardsmith.data.adapters.canonical import CANONICAL, from_row, to_row
from rewardsmith.data.fields import Fields
from rewardsmith.data.problems import one_line
from rewardsmith.data.step_shapes import TITLES, shape_of
from rewardsmith.errors import UsageError

# Shapes with telling keys come first; chosen/rejected alone says least and comes last.
FORMATS: dict[str, Adapter] = {
    "gsm8k": scored.GSM8K,
    "pandalm": judged.PANDALM,
    "helpsteer3": judged.HELPSTEER3,
    "helpsteer2-preference": judged.HELPSTEER2_PREFERENCE,
    "helpsteer2": scored.HELPSTEER2,
    "arena": judged.ARENA,
    "judgebench": judged.JUDGEBENCH,
    "llmbar": judged.LLMBAR,
    "rmb-bon": benchmarks.RMB_BON,
    "rmb-pairs": benchmarks.RMB_PAIRS,
    "tokenized": preference.TOKENIZED,
    "rewardbench": benchmarks.REWARDBENCH,
    "rewardbench2": benchmarks.REWARDBENCH2,
    "rm-bench": benchmarks.RM_BENCH,
    "ultrafeedback": preference.ULTRAFEEDBACK,
    "hh": preference.HH,
    "messages": preference.MESSAGES,
    "canonical": CANONICAL,
    "text": preference.TEXT,
}


def named(name: str) -> Adapter:
    """The adapter called ``name``.

    Raises:
        UsageError: no such format.
    """
    if name in FORMATS:
        return FORMATS[name]
    close = get_close_matches(name, FORMATS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"format {name!r} is not known; {hint}known: {', '.join(FORMATS)}")


def detect(row: Fields) -> str | None:
    """The name of the first format whose shape ``row`` has, None when there is none."""
    return next((name for name, adapter in FORMATS.items() if adapter.matches(row)), None)


def unknown_shape(row: Fields) -> str:
    """Why no format fits: the row's keys, the nearest shape or spelling, and the shapes known; or that it is steps."""
    if shape := shape_of(row):
        return (
            f"holds judged steps ({TITLES[shape]}), not preferences: they are for rewardsmith train --method process; "
            "check them with: rewardsmith data check FILE"
        )
    keys = ", ".join(one_line(str(key))[:40] for key in list(row)[:12]) + (", ..." if len(row) > 12 else "") or "none"
    known = ", ".join(FORMATS)
    remedy = "rename the columns to prompt, chosen, rejected; other known formats"
    return f"the keys ({keys}) fit no known format; {_nearest(row)}{remedy}: {known}"


def _nearest(row: Fields) -> str:
    expected = sorted({key for adapter in FORMATS.values() for key in adapter.needs} | {"responses"})
    for key in row:
        close = get_close_matches(str(key), expected, n=1, cutoff=0.75)
        if close and key not in expected and close[0] not in row:
            return f'did you mean "{close[0]}"? found "{one_line(str(key))}"; '
    present = frozenset(key for key, value in row.items() if value is not None)
    scores = {name: (len(present.intersection(a.needs)) / len(a.needs)) for name, a in FORMATS.items()}
    best = max(scores, key=lambda name: (scores[name], name == "canonical"))
    if scores[best] >= 0.5:
        missing = [key for key in FORMATS[best].needs if key not in present]
        if missing:
            return f"nearest is {best}, which also needs {', '.join(missing)}; "
        return f"nearest is {best}, but the values have other types; "
    return ""


__all__ = ["FORMATS", "OPTIONAL_FIELDS", "Adapter", "detect", "from_row", "named", "to_row", "unknown_shape"]
