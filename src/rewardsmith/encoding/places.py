"""Where in a rendered response a score may be read: from characters of the response to tokens of the sequence."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.encoding.template import Rendered, Template, as_messages, plain
from rewardsmith.errors import TemplateError
from rewardsmith.thinking.boundary import first_characters
from rewardsmith.thinking.parse import Thinking, split_thinking
from rewardsmith.thinking.tags import FAMILIES, Tags
from rewardsmith.types import Text


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters [start, end) of the response, found in the rendered text from ``at`` on, unchanged."""

    start: int
    end: int
    at: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A response as the template writes it, its parts, and the tokens that hold them.

    Args:
        parts: the response in thinking and answer. Characters are counted in ``parts.join()``.
        pieces: its text in the rendered text, in order. A tag that the template writes in another form is left out.
        starts: per token of the sequence its first character in that text, [T], never falling; -1 for the prompt's.
        response_start: index of the response's first token. What ``max_length`` cut off lies before it.
        cut: first characters of the response's tokens that ``max_length`` cut off.
    """

    parts: Thinking
    pieces: tuple[Piece, ...]
    starts: tuple[int, ...]
    response_start: int
    cut: tuple[int, ...] = ()

    def token(self, end: int) -> int | None:
        """The token that holds the response's character before ``end``: there the text up to ``end`` has been read.

        A boundary within a token takes that token; of a character in several tokens the last one counts. None for text
        that is not in the sequence: cut off, or left out of ``pieces``.
        """
        for piece in self.pieces:
            if piece.start < end <= piece.end:
                found = bisect_left(self.starts, piece.at + end - piece.start) - 1
                return found if found >= self.response_start else None
        return None

    def count(self, start: int, end: int) -> int:
        """How many tokens begin in the response's characters [start, end), whether they were cut off or not."""
        total = 0
        for piece in self.pieces:
            low, high = (piece.at + min(max(edge, piece.start), piece.end) - piece.start for edge in (start, end))
            total += sum(bisect_left(some, high) - bisect_left(some, low) for some in (self.starts, self.cut))
        return total

    def closing(self) -> int | None:
        """The token at which the thinking has been read: the end of the (last) closing tag.

        The last token before the answer where the template writes that tag in another form; the end of the text while
        the thinking is unclosed. None without thinking, or when it was cut off.
        """
        if not self.parts.blocks:
            return None
        (_, text_end), block = self.parts.spans[-1], self.parts.blocks[-1]
        if block.close:
            tag_end = text_end + len(block.close.rstrip())
            if (found := self.token(tag_end)) is not None:
                return found
            if first := block.after.strip()[:1]:
                token = self.token(text_end + len(block.close) + block.after.index(first) + 1)
                return token - 1 if token is not None and token > self.response_start else None
        return self.token(text_end - len(block.text) + len(block.text.rstrip()))


def judged(response: Text) -> str:
    """The text that is split into thinking and answer: of several turns, the last one's."""
    return response if isinstance(response, str) else response[-1].content


def place(
    template: Template,
    prompt: Text,
    response: Text,
    rendered: Rendered,
    *,
    tags: Tags | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Placed:
    """Finds a response's thinking and answer in what :meth:`Template.render` made of it.

    Args:
        rendered: what ``template.render`` gave for the other arguments.
        tags: the think tags to look for; None for all families.

    Raises:
        TemplateError: the template changes the text, so that characters cannot be told from tokens; or the tokenizer
            does not say which characters a token holds.
    """
    ids, starts, text, begin = _tokens(template, prompt, response, tools, {**template.kwargs, **(kwargs or {})})
    # Only the front is ever cut, so the sequences agree from the back.
    shift = len(ids) - len(rendered.ids)
    cut = rendered.response_start + shift
    if cut < 0 or tuple(ids[cut:]) != rendered.ids[rendered.response_start :]:
        raise TemplateError("the response's tokens depend on the turns that were dropped to fit; shorten the prompt")
    content = judged(response)
    parts = split_thinking(content, prefilled=_prefilled(text, begin, content, tags), tags=tags)
    several = not isinstance(response, str) and len(response) > 1
    pieces = tuple(_found(text, begin, parts, several=several))
    kept = (-1,) * rendered.response_start + tuple(starts[cut:])
    lost = tuple(start for start in starts[:cut] if start >= begin) if rendered.truncated else ()
    return Placed(parts, pieces, kept, rendered.response_start, lost)


def _tokens(
    template: Template, prompt: Text, response: Text, tools: Any, variables: Mapping[str, Any]
) -> tuple[list[int], list[int], str, int]:
    """Token ids, the first character of each, the text they were made of, and where in it the response begins."""
    tokenizer, special = template.tokenizer, False
    if template.mode == "chat":
        turns = [message.as_dict() for message in as_messages(prompt, "user")]
        answer = [message.as_dict() for message in as_messages(response, "assistant")]
        text, before = template.written(turns, answer, tools, variables)
        begin = next((k for k, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(before))
    else:
        text, begin = plain(prompt) + plain(response), len(plain(prompt))
        special = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    if not tokenizer.is_fast:
        raise TemplateError(f"{type(tokenizer).__name__} does not tell which characters a token holds; use a fast one")
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, starts = list(encoded["input_ids"]), first_characters(encoded["offset_mapping"], len(text))
    if template.mode == "text" and tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids, starts = [*ids, tokenizer.eos_token_id], [*starts, len(text)]
    return ids, starts, text, begin


def _prefilled(text: str, begin: int, content: str, tags: Tags | None) -> bool:
    """Whether the prompt ends in an opening tag and the response follows it as it is."""
    families = (tags,) if tags is not None else tuple(one for one in FAMILIES.values() if one.place != "start")
    before = text[:begin].rstrip()
    opened = any(before.endswith(tag.rstrip()) for family in families for tag in family.opens)
    return opened and text[begin:].lstrip().startswith(content.strip())


def _found(text: str, begin: int, parts: Thinking, *, several: bool) -> Iterator[Piece]:
    """The response's pieces in the rendered text: whole where the template leaves it as it is, else part by part."""
    content = parts.join()
    bare = content.strip()
    lead = len(content) - len(content.lstrip())
    if text.startswith(content, begin):
        yield Piece(0, len(content), begin)
        return
    at = begin if text.startswith(bare, begin) else text.rfind(bare, begin) if several else -1
    if at >= 0:
        yield Piece(lead, lead + len(bare), at)
        return
    wanted = list(_bare_pieces(parts))
    for number, (start, piece, is_tag) in enumerate(wanted):
        here = begin + len(text[begin:]) - len(text[begin:].lstrip())
        if text.startswith(piece, here):
            at = here
        elif is_tag:
            continue  # the template has its own, or the prompt ended in it
        else:
            at = text.find(piece, begin) if number < len(wanted) - 1 else text.rfind(piece, begin)
        if at < 0:
            raise TemplateError(
                f"the chat template changes the response: {piece!r:.60} is not in what it writes, so the tokens of the "
                "thinking cannot be found; use a template that leaves the text as it is"
            )
        yield Piece(start, start + len(piece), at)
        begin = at + len(piece)


def _bare_pieces(parts: Thinking) -> Iterator[tuple[int, str, bool]]:
    """Place, text without blanks around it, and whether it is a tag, for all that is not blank."""
    at = 0
    several = [(parts.head, False)]
    for block in parts.blocks:
        several += [(block.open, True), (block.text, False), (block.close, True), (block.after, False)]
    for piece, is_tag in several:
        if piece.strip():
            yield at + len(piece) - len(piece.lstrip()), piece.strip(), is_tag
        at += len(piece)
