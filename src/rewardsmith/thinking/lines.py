"""The pieces of a text that are looked at one by one: its lines, or the sentences of a single line."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE = re.compile(r"\S[^\n]*")
# A full stop ends a sentence before white space only: 3.5 and x.y are no ends. Chinese and Japanese ones always do.
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s)|[。！？]+|$)")


def lines_or_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Characters [start, end) of each line that is not blank; of a text in a single line, of each sentence."""
    lines = [found.span() for found in _LINE.finditer(text)]
    if len(lines) == 1:
        ((start, end),) = lines
        lines = [found.span() for found in _SENTENCE.finditer(text, start, end)]
    for start, end in lines:
        yield start, start + len(text[start:end].rstrip())


def first_unlike(good: str, bad: str) -> int:
    """Index, among the lines (or sentences) of a worse text, of the first that is not as in the good one.

    Args:
        bad: not blank. A text in one line is compared with the good one's first line, sentence by sentence.
    """
    good, bad = good.strip(), bad.strip()
    pieces = [bad[start:end] for start, end in lines_or_sentences(bad)]
    good = good if "\n" in bad else good.split("\n")[0]
    before = [good[start:end] for start, end in lines_or_sentences(good)]
    same = next((at for at, (one, other) in enumerate(zip(pieces, before, strict=False)) if one != other), len(before))
    return min(same, len(pieces) - 1)
