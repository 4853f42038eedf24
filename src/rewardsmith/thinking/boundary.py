"""Where thinking begins and ends in token ids, whether the closing tag is one token or several, or part of one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.thinking.parse import Thinking, split_thinking
from rewardsmith.thinking.tags import FAMILIES, Tags

Range = tuple[int, int]
"""Half-open range of token indices."""


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """One stretch of thinking in tokens. A token that holds a piece of a tag belongs to the tag.

    Args:
        open: the opening tag's tokens; empty when the prompt held it.
        text: the tokens between the tags.
        close: the closing tag's tokens; empty while unclosed. A score of the thinking is read at ``close[1] - 1``.
    """

    open: Range
    text: Range
    close: Range


@dataclass(frozen=True, slots=True)
class TokenThinking:
    """A response in its parts, as text and as tokens.

    Args:
        parts: the text's parts.
        blocks: one for each of ``parts.blocks``.
        answer_start: index of the answer's first token; 0 without thinking, the number of tokens while unclosed.
    """

    parts: Thinking
    blocks: tuple[TokenBlock, ...]
    answer_start: int


def find_thinking(
    tokenizer: Any, ids: Sequence[int], *, prefilled: bool = False, tags: Tags | None = None
) -> TokenThinking:
    """Splits a response given as token ids.

    The ids are decoded and parsed as text, since a tag may be quoted, and since its tokens depend on its neighbours
    (``>`` and a line break are often one token). Each boundary is then found by bisection over prefixes of the ids.

    Args:
        tokenizer: a Hugging Face tokenizer.
        ids: of the response alone, [T], as generated or tokenised; special tokens included.
        prefilled, tags: as for ``split_thinking``. ``tokenizer_tags`` names the tags of a tokenizer.
    """

    def decoded(count: int) -> str:
        return _decode(tokenizer, ids[:count])

    text = decoded(len(ids))
    parts = split_thinking(text, prefilled=prefilled, tags=tags)

    def behind(place: int) -> int:
        return bisect_left(range(len(ids)), True, key=lambda count: decoded(count).startswith(text[:place]))

    return _in_tokens(parts, behind, len(ids))


def thinking_tokens(
    text: str, offsets: Sequence[Range], *, prefilled: bool = False, tags: Tags | None = None
) -> TokenThinking:
    """Splits a response that was tokenised with offsets: no decoding at all.

    Args:
        text: the response.
        offsets: characters ``[start, end)`` of each token, [T], as ``return_offsets_mapping`` gives them.
        prefilled, tags: as for ``split_thinking``.
    """
    parts = split_thinking(text, prefilled=prefilled, tags=tags)
    starts = first_characters(offsets, len(text))
    return _in_tokens(parts, lambda place: bisect_left(starts, place), len(starts))


def first_characters(offsets: Sequence[Range], end: int) -> list[int]:
    """The first character of each token, never falling, from ``return_offsets_mapping``.

    Some tokenizers give (0, 0) to added tokens: one without characters stands before the next one that has some.

    Args:
        end: length of the text.
    """
    starts, highest = [], 0
    for start, stop in offsets:
        bare = start == stop and start < highest
        highest = max(highest, start)
        starts.append(end if bare else highest)
    for index in range(len(starts) - 2, -1, -1):
        starts[index] = min(starts[index], starts[index + 1])
    return starts


def tokenizer_tags(tokenizer: Any) -> Tags | None:
    """The family whose tags a tokenizer or its chat template knows; None when it knows none.

    A closing tag that is one token tells most; families with both tags as tokens come first, then those that the chat
    template writes.
    """
    vocabulary = tokenizer.get_vocab()
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    special = [tags for tags in FAMILIES.values() if tags.place != "start"]
    for tags in special:
        if tags.close in vocabulary and any(tag in vocabulary for tag in tags.opens):
            return tags
    # Harmony's tags are several special tokens each.
    return next((tags for tags in special if tags.open in template or tags.close in template), None)


def closing_ids(tokenizer: Any, tags: Tags) -> tuple[int, ...]:
    """Token ids of the closing tag: one special token (151668 in Qwen3-Thinking), or what the text becomes alone."""
    known = tokenizer.get_vocab().get(tags.close)
    return (known,) if known is not None else tuple(tokenizer(tags.close, add_special_tokens=False)["input_ids"])


def _in_tokens(parts: Thinking, behind: Callable[[int], int], total: int) -> TokenThinking:
    """Args: behind: the number of tokens that hold a piece of the first ``place`` characters."""

    def tokens(start: int, end: int) -> Range:
        # A token may hold characters on both sides of a boundary, and a character may take several tokens.
        return min(behind(start), behind(start + 1) - 1), behind(end)

    blocks: list[TokenBlock] = []
    for block, (start, end) in zip(parts.blocks, parts.spans, strict=True):
        opened = tokens(start - len(block.open), start) if block.open else (behind(start), behind(start))
        closed = tokens(end, end + len(block.close)) if block.close else (total, total)
        blocks.append(TokenBlock(opened, (min(opened[1], closed[0]), closed[0]), closed))
    return TokenThinking(parts, tuple(blocks), blocks[-1].close[1] if blocks else 0)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
