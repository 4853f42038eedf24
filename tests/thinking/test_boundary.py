"""Boundaries in token ids: one token or several, split and merged tokens, prefilled tags, by ids and by offsets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.thinking import (
    TAG_FAMILIES,
    closing_ids,
    find_thinking,
    split_thinking,
    thinking_tokens,
    tokenizer_tags,
)
from rewardsmith.thinking.boundary import first_characters
from tests import tiny

PLAIN = tiny.chat_tokenizer()


def with_tokens(*tokens: str):
    found = tiny.chat_tokenizer()
    found.add_tokens(list(tokens))
    return found


ONE_TOKEN = with_tokens("<think>", "</think>")
MERGED = with_tokens("</think>\n\n", "ink>\n")  # a token may end behind the tag, or begin in it
TEXTS = [
    "<think>\n15 + 27 = 42\n</think>\n\n42",
    "15 + 27\n</think>\n\n42",
    "<think></think>b",
    "<think>15",
    "just 42",
    "",
    "<think>a</think>\n<think>b</think>c",
    "<think>the `</think>` tag</think>b",
    "◁think▷日本🙂◁/think▷🙂",
    "[THINK]naïve[/THINK]café",
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
]


def check(tokenizer, text: str, prefilled: bool = False) -> None:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    found = find_thinking(tokenizer, ids, prefilled=prefilled)
    assert found == thinking_tokens(text, encoded["offset_mapping"], prefilled=prefilled)
    assert found.parts == split_thinking(text, prefilled=prefilled)
    assert len(found.blocks) == len(found.parts.blocks)
    place = 0
    for block, tokens in zip(found.parts.blocks, found.blocks, strict=True):
        ranges = (tokens.open, tokens.text, tokens.close)
        for (start, end), piece in zip(ranges, (block.open, block.text, block.close), strict=True):
            assert place <= start <= end <= len(ids)
            place = end
            if piece and piece != block.text:
                assert piece in tokenizer.decode(ids[start:end])
                assert piece not in tokenizer.decode(ids[start + 1 : end])  # no token too many in front
                assert piece not in tokenizer.decode(ids[start : end - 1])  # nor behind
        assert block.text.strip() == "" or tokens.text[0] < tokens.text[1]
    assert found.answer_start == (found.blocks[-1].close[1] if found.blocks else 0)


@pytest.mark.parametrize("tokenizer", [PLAIN, ONE_TOKEN, MERGED], ids=["several tokens", "one token", "merged"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_boundary_is_where_the_text_says(tokenizer, text: str) -> None:
    check(tokenizer, text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "\n", "a", "é🙂", "<th", "ink>\n", "`", "◁/think▷"]), max_size=12),
    st.booleans(),
)
def test_any_text(pieces: list[str], prefilled: bool) -> None:
    text = "".join(pieces)
    for tokenizer in (PLAIN, ONE_TOKEN, MERGED):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found = find_thinking(tokenizer, encoded["input_ids"], prefilled=prefilled)
        assert found == thinking_tokens(text, encoded["offset_mapping"], prefilled=prefilled)
        ends = [place for block in found.blocks for one in (block.open, block.text, block.close) for place in one]
        assert ends == sorted(ends)


def test_a_token_without_characters_belongs_to_the_next_one() -> None:
    """As where rewards are read (``encoding.places``), and as decoding finds it."""
    text = "<think>a</think>b"
    offsets = [(0, 7), (7, 8), (8, 16), (0, 0), (16, 17), (0, 0)]
    assert first_characters(offsets, len(text)) == [0, 7, 8, 16, 16, 17]
    found = thinking_tokens(text, offsets)
    assert found.blocks[0].close == (2, 3) and found.answer_start == 3


def test_the_thinking_is_read_at_the_closing_tags_last_token() -> None:
    ids = ONE_TOKEN("<think>15</think>42", add_special_tokens=False)["input_ids"]
    block = find_thinking(ONE_TOKEN, ids).blocks[0]
    assert ids[block.close[1] - 1] == ONE_TOKEN.convert_tokens_to_ids("</think>")
    assert ids[slice(*block.text)] == PLAIN("15", add_special_tokens=False)["input_ids"]


def test_unclosed_thinking_has_no_answer_and_no_thinking_is_all_answer() -> None:
    unclosed = PLAIN("<think>15 + 27", add_special_tokens=False)["input_ids"]
    assert find_thinking(PLAIN, unclosed).answer_start == len(unclosed)
    plain = PLAIN("42", add_special_tokens=False)["input_ids"]
    assert find_thinking(PLAIN, plain).answer_start == 0
    prefilled = find_thinking(PLAIN, plain, prefilled=True)
    assert prefilled.blocks[0].text == (0, len(plain)) and prefilled.answer_start == len(plain)


def test_the_tokenizer_names_its_family() -> None:
    assert tokenizer_tags(PLAIN) is None
    assert tokenizer_tags(ONE_TOKEN) is TAG_FAMILIES["think"]
    assert tokenizer_tags(with_tokens("[THINK]", "[/THINK]")) is TAG_FAMILIES["mistral"]
    assert tokenizer_tags(with_tokens("<|channel>", "<channel|>")) is TAG_FAMILIES["gemma"]
    written = tiny.chat_tokenizer(tiny.CHATML + "{{ '<seed:think>' }}")
    assert tokenizer_tags(written) is TAG_FAMILIES["seed"]
    assert tokenizer_tags(tiny.chat_tokenizer(None)) is None


def test_the_closing_tag_is_one_id_or_several() -> None:
    think = TAG_FAMILIES["think"]
    assert closing_ids(ONE_TOKEN, think) == (ONE_TOKEN.convert_tokens_to_ids("</think>"),)
    several = closing_ids(PLAIN, think)
    assert len(several) > 1 and PLAIN.decode(several) == "</think>"
