"""Splits a response into its thinking and its answer, and puts it together again byte for byte."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from rewardsmith.thinking.code import Code, find_code
from rewardsmith.thinking.tags import FAMILIES, THINK, Tags

OPEN, CLOSE = THINK.open, THINK.close

# Code is looked for anew behind so many tags; later ones share the last look, so that the work stays linear.
_LOOKS = 32


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of thinking and what follows it.

    Args:
        text: what stands between the tags.
        open: the opening tag; ``""`` when the prompt held it.
        close: the closing tag; ``""`` while unclosed.
        after: the text up to the next block or the end.
    """

    text: str
    open: str = ""
    close: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A response in its parts. Nothing is stripped: ``join`` gives the text back.

    Args:
        head: the text in front of the first block; the whole text when there is no thinking.
        blocks: the thinking, in order; mostly one block.
        tags: the family whose tags were found, None when there is no thinking or no tag.
    """

    head: str
    blocks: tuple[Block, ...] = ()
    tags: Tags | None = None

    @property
    def thinking(self) -> str | None:
        """What stands between the tags: ``""`` when empty, None without thinking. Blocks are joined by a line break."""
        return "\n".join(block.text for block in self.blocks) if self.blocks else None

    @property
    def answer(self) -> str:
        """The text outside of the tags, from the first block on; the whole text when there is no thinking."""
        return "".join(block.after for block in self.blocks) if self.blocks else self.head

    @property
    def before(self) -> str:
        """The text in front of the thinking, mostly ``""`` or a newline."""
        return self.head if self.blocks else ""

    @property
    def opened(self) -> bool:
        """Whether the (first) opening tag is there; False for thinking whose opening tag the prompt held."""
        return bool(self.blocks) and bool(self.blocks[0].open)

    @property
    def closed(self) -> bool:
        """Whether the (last) closing tag is there."""
        return bool(self.blocks) and bool(self.blocks[-1].close)

    @property
    def visible(self) -> str:
        """The response without its thinking: what a person is shown."""
        return self.before + self.answer

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Character range of each block's text, without the tags; half-open, in the text that was split."""
        found, place = [], len(self.head)
        for block in self.blocks:
            start = place + len(block.open)
            end = start + len(block.text)
            found.append((start, end))
            place = end + len(block.close) + len(block.after)
        return tuple(found)

    def join(self) -> str:
        """The text that was split."""
        return self.head + "".join(block.open + block.text + block.close + block.after for block in self.blocks)

    def retag(self, open: str, close: str) -> Thinking:
        """The same with other tags, wherever there is a tag."""
        return replace(
            self,
            blocks=tuple(replace(b, open=open if b.open else "", close=close if b.close else "") for b in self.blocks),
        )


@dataclass(frozen=True, slots=True)
class _Mark:
    """A tag in the text: characters [start, end)."""

    start: int
    end: int
    tags: Tags
    opens: bool


class _Scan:
    """One text, the tags in it, and what of it is code."""

    def __init__(self, text: str, families: tuple[Tags, ...]):
        self.text = text
        self.lead = len(text) - len(text.lstrip())
        # Tags that are ordinary words count at the start only; looking for them everywhere would be slow.
        worth = tuple(tags for tags in families if tags.bare or text.startswith(tags.opens, self.lead))
        self.keep(list(_marks(text, worth)) if worth else [])
        self.never_closed: dict[str, int] = {}
        self._looks: dict[int, Code] = {}
        self._quotes = "`" in text or "~~~" in text

    def keep(self, marks: list[_Mark]) -> None:
        """Sets the tags to look at."""
        self.marks, self._starts = marks, [mark.start for mark in marks]

    def after(self, place: int) -> Iterator[_Mark]:
        """The tags from a place on."""
        return (self.marks[at] for at in range(bisect_left(self._starts, place), len(self.marks)))

    def in_code(self, mark: _Mark, since: int) -> bool:
        """Whether a tag is quoted, reading the text from ``since`` on."""
        if not self._quotes:
            return False
        since = self._look(since)
        return self._looks[since].covers(mark.start - since)

    def open_fence(self, since: int) -> bool:
        """Whether a code fence is left open."""
        return self._quotes and self._looks[self._look(since)].open_fence

    def _look(self, since: int) -> int:
        """Makes sure that the code from ``since`` on is known, or from the last place that was looked at."""
        if since not in self._looks:
            if len(self._looks) >= _LOOKS:
                return next(reversed(self._looks))
            self._looks[since] = find_code(self.text[since:])
        return since

    def begins_line(self, place: int) -> bool:
        """Whether only blanks stand between a place and the start of its line."""
        before = self.text[max(0, place - 64) : place].rstrip(" \t")
        return before.endswith("\n") or place <= self.lead

    def alone(self, mark: _Mark) -> bool:
        """Whether a tag is all there is on its line."""
        after = self.text[mark.end : mark.end + 64].lstrip(" \t\r")
        return self.begins_line(mark.start) and after[:1] in ("", "\n")


def split_thinking(text: str, *, prefilled: bool = False, tags: Tags | None = None) -> Thinking:
    """Splits a response at its think tags. Linear in the text's length.

    - The tags of ``FAMILIES`` are known; the first that counts decides the family, and only its tags are looked at.
    - Tags in code (a fenced block that is closed, or inline code) are quoted, not meant. Should a fence be left open,
      the pairs before it are in doubt, and a closing tag in them counts when there is no other.
    - A closing tag without an opening one is a response whose opening tag was in the prompt.
    - The first closing tag ends a block. Opening tags count where ``Tags.place`` says; in prose they do not.
    - With neither tag the text is all answer, unless ``prefilled`` says that the prompt ended in the opening tag: then
      the thinking never ended.

    Args:
        text: the response as generated. Any string, lone surrogates included.
        prefilled: True when the prompt ends with the opening tag.
        tags: look for these alone: a member of ``FAMILIES``, or ``custom_tags``.

    Example:
        >>> split_thinking("<think>2 + 2 = 4</think>4").answer
        '4'
        >>> split_thinking("2 + 2 = 4</think>4").thinking
        '2 + 2 = 4'
        >>> split_thinking("[THINK]2 + 2 = 4[/THINK]4").tags.name
        'mistral'
    """
    scan = _Scan(text, (tags,) if tags is not None else tuple(FAMILIES.values()))
    first = _first(scan, quoted=True)
    if first is None and scan.marks and scan.open_fence(0):
        first = _first(scan, quoted=False)
    if first is None:
        return Thinking("", (Block(text),)) if prefilled else Thinking(text)
    scan.keep([mark for mark in scan.marks if mark.tags is first.tags])
    return Thinking(text[: first.start] if first.opens else "", tuple(_blocks(scan, first)), first.tags)


def count_tags(text: str, tags: Tags) -> tuple[int, int]:
    """How many opening and closing tags of a family stand in a text, quoted ones too.

    Where a longer spelling begins with a shorter one, the longer one is meant.

    Example:
        >>> count_tags("<|channel>thought\\n2 + 2<channel|>4", FAMILIES["gemma"])
        (1, 1)
    """
    opens = [mark.opens for mark in _marks(text, (tags,))]
    return sum(opens), len(opens) - sum(opens)


def _first(scan: _Scan, *, quoted: bool) -> _Mark | None:
    """The tag that begins the first block: an opening one, or a closing one whose opening tag is in the prompt."""
    opened: set[str] = set()
    for mark in scan.marks:
        if quoted and scan.in_code(mark, 0):
            continue
        if not mark.opens:
            if mark.tags.name not in opened and scan.text[mark.start : mark.end] in mark.tags.bare:
                return mark
        elif _begins(scan, mark):
            return mark
        else:
            opened.add(mark.tags.name)
    return None


def _begins(scan: _Scan, mark: _Mark) -> bool:
    """Whether an opening tag begins the first block."""
    if mark.tags.place == "anywhere" or (mark.start == scan.lead and mark.tags.bare):
        return True
    if mark.tags.place == "start" and mark.start != scan.lead:
        return False
    return (mark.tags.place == "line" and scan.alone(mark)) or _closing(scan, mark.end, mark.tags) is not None


def _blocks(scan: _Scan, first: _Mark) -> Iterator[Block]:
    text = scan.text
    opening: _Mark | None = first
    while opening is not None:
        if opening.opens:
            tag, start = text[opening.start : opening.end], opening.end
            closing = _closing(scan, start, opening.tags)
        else:
            tag, start, closing = "", 0, opening
        if closing is None:
            yield Block(text[start:], tag)
            return
        opening = _reopening(scan, closing)
        end = opening.start if opening else len(text)
        yield Block(text[start : closing.start], tag, text[closing.start : closing.end], text[closing.end : end])


def _closing(scan: _Scan, since: int, tags: Tags) -> _Mark | None:
    """The closing tag of a block whose text begins at ``since``."""
    if since >= scan.never_closed.get(tags.name, len(scan.text) + 1):
        return None
    quoted = None
    for mark in scan.after(since):
        if mark.opens or mark.tags is not tags:
            continue
        if not scan.in_code(mark, since):
            return mark
        quoted = quoted or mark
    if quoted is not None and scan.open_fence(since):
        return quoted
    scan.never_closed[tags.name] = since
    return None


def _reopening(scan: _Scan, closing: _Mark) -> _Mark | None:
    """The opening tag of the next block after a closing tag."""
    if closing.tags.place == "start":
        return None
    for mark in scan.after(closing.end):
        if not mark.opens or scan.in_code(mark, closing.end):
            continue
        if mark.tags.place == "anywhere":
            return mark
        if scan.begins_line(mark.start) and (scan.alone(mark) or _closing(scan, mark.end, mark.tags) is not None):
            return mark
    return None


def _marks(text: str, families: tuple[Tags, ...]) -> Iterator[_Mark]:
    pattern, meaning = _pattern(families)
    for found in pattern.finditer(text):
        tags, opens = meaning[found[0]]
        yield _Mark(found.start(), found.end(), tags, opens)


@lru_cache(maxsize=64)
def _pattern(families: tuple[Tags, ...]) -> tuple[re.Pattern[str], dict[str, tuple[Tags, bool]]]:
    """One expression for all tags, the longer ones first, and what each means."""
    meaning = {tag: (tags, True) for tags in families for tag in tags.opens}
    meaning |= {tag: (tags, False) for tags in families for tag in tags.closes}
    longest = sorted(meaning, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest))), meaning
