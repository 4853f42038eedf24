"""The picture of one response: it stands alone, says the numbers, marks the worst step, and escapes what it shows."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.evaluation.thinking_curve import curve_svg, ticks
from rewardsmith.evaluation.thinking_page import colour, fragment, number, page
from rewardsmith.model.steps import curve, split_steps
from rewardsmith.model.thinking_scores import ThinkingScore
from rewardsmith.thinking import split_thinking
from rewardsmith.types import ScoredResponse

TEXT = "<think>\n15 + 20 = 35\n35 + 7 = 43\n</think>\n\nThe answer is 43."
REWARDS = [0.5, -1.25, -1.0]


def made(text: str, rewards: list[float], start: float = 0.0) -> ThinkingScore:
    parts = split_thinking(text)
    steps = split_steps(parts)
    assert len(steps) == len(rewards)
    return ThinkingScore(
        response=text,
        scored=ScoredResponse(-0.75, None, False, 30),
        thinking=-1.5 if parts.blocks else None,
        answer_alone=-0.25,
        curve=curve(start if steps else None, steps, rewards, text),
        thinking_tokens=12,
        answer_tokens=4,
        repetition=0.25,
        has_thinking=bool(parts.blocks),
        opened=parts.opened,
        closed=parts.closed,
    )


class Page(HTMLParser):
    """The elements of a page, in order, with the text in each."""

    VOID = ("meta", "br", "circle", "line", "polyline", "path")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs), ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.found:
            tag, attrs, text = self.found[-1]
            self.found[-1] = (tag, attrs, text + data)

    @property
    def text(self) -> str:
        return "".join(text for _, _, text in self.found)


def test_the_page_stands_alone() -> None:
    text = page(made(TEXT, REWARDS), "What is 15 + 27?")
    assert text.startswith("<!doctype html>") and text.endswith("</html>\n")
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", text)
    assert "color-scheme: light dark" in text
    tags = {tag for tag, _, _ in Page(text).found}
    assert {"svg", "table", "polyline"} <= tags
    ElementTree.fromstring(re.search(r"<svg.*</svg>", text, re.S)[0])  # well-formed


def test_steps_are_shaded_by_their_change_and_named_on_hover() -> None:
    steps = [
        (attrs["title"], attrs["style"], text)
        for tag, attrs, text in Page(fragment(made(TEXT, REWARDS))).found
        if tag == "span" and "title" in attrs
    ]
    assert [text.rstrip() for _, _, text in steps] == ["15 + 20 = 35", "35 + 7 = 43", "The answer is 43."]
    assert [title for title, _, _ in steps] == [
        "step 1: +0.500 since the start, reward 0.500",
        "step 2: −1.750, reward −1.250",
        "step 3: +0.250, reward −1.000",
    ]
    assert "background:transparent;" in steps[0][1]
    for (_, style, _), change in zip(steps[1:], (-1.75, 0.25), strict=True):
        assert f"background:{colour(change, 1.75)};" in style
    assert "largest fall −1.750" in Page(fragment(made(TEXT, REWARDS))).text
    assert ["border-bottom:2px" in style for _, style, _ in steps] == [False, True, False]


def test_the_legend_and_the_table_have_the_numbers() -> None:
    shown = Page(fragment(made(TEXT, REWARDS)))
    texts = [text for tag, _, text in shown.found if tag == "td"]
    cells = dict(zip(texts[::3], texts[1::3], strict=True))
    assert cells["overall"] == "−0.750" and cells["answer alone"] == "−0.250"
    assert cells["contribution of the thinking"] == "−0.500" and cells["answer given thinking"] == "0.750"
    assert cells["thinking"] == "−1.500" and cells["lowest step"] == "−1.250" and cells["last step"] == "−1.000"
    assert "−1.7500.000+1.750" in shown.text
    assert "12 tokens of thinking (75%), 4 of answer" in shown.text and "25% of the thinking" in shown.text


def test_thinking_and_answer_are_marked() -> None:
    chips = [text for tag, attrs, text in Page(fragment(made(TEXT, REWARDS))).found if text in ("thinking", "answer")]
    assert chips == ["thinking", "answer", "answer", "thinking"]  # in the text, in the curve, in the table
    plain = fragment(made("15 + 20 = 35\nSo 42.", [1.0, 2.0]))
    assert "answer alone</text>" not in plain and ">answer</span>" not in plain
    assert "no thinking" in plain


@given(st.text(st.characters(), max_size=60), st.text(max_size=20))
def test_whatever_the_text_it_is_escaped_and_all_of_it_shown(text: str, prompt: str) -> None:
    parts = split_thinking(text)
    shown = Page(page(made(text, [0.1] * len(split_steps(parts))), prompt))
    known = "html head meta title style body h1 h2 div span svg text line circle polyline path table tr td p"
    assert not {tag for tag, _, _ in shown.found} - {*known.split(" ")}
    box = page(made(text, [0.1] * len(split_steps(parts)))).encode("utf-8")  # no lone surrogates
    assert b"\x00" not in box


def test_markup_is_shown_as_text() -> None:
    bad = "<script>alert(1)</script>\n</div><b onclick='x'>\" & ' done"
    text = page(made(bad, [0.5, -0.5]), bad, title=bad)
    assert "<script" not in text and "<b " not in text
    assert bad.splitlines()[0] in Page(text).text and bad.splitlines()[1] in Page(text).text


def test_odd_responses_are_drawn() -> None:
    assert "(empty)" in fragment(made("", []))
    assert "<svg" not in fragment(made("<think></think>", []))
    one = fragment(made("42", [0.0]))  # no change at all
    assert "largest fall" not in one and "<svg" in one
    assert "never closed" in fragment(made("<think>\non and on", [-2.0]))
    assert made("42", [1.0])._repr_html_() == fragment(made("42", [1.0]))


def test_the_first_step_does_not_swamp_the_scale() -> None:
    """It rises by 8 because there is a response at all; all that followed looked alike beside it."""
    shown = fragment(made(TEXT, [8.0, 7.5, 7.75]))
    shades = re.findall(r'title="step \d[^"]*" style="background:([^;]+)', shown)
    assert shades == ["transparent", colour(-0.5, 0.5), colour(0.25, 0.5)]
    assert "−0.5000.000+0.500" in Page(shown).text and "(not of the first)" in shown


@pytest.mark.parametrize(("rewards", "marked"), [
    ([1.0, 1.5, 1.45, 2.0, 2.4], None),  # a tiny fall among larger rises
    ([1.0, 3.0, 1.5, 3.5, 5.0], 2),  # the only fall, about as large as the rises
    ([1.0, 1.1, 0.6, 0.7, 0.6], 2),  # five times the others
    ([1.0, 1.0, 0.9995, 0.9995, 0.9995], None),  # beside nothing, but no more than rounding
    ([-9.0, -8.5, -8.4, -8.3, -8.2], None),  # the first step's own fall is not asked
    ([1.0, 0.2], None),  # nothing to compare with
])  # fmt: skip
def test_a_fall_is_marked_only_where_it_is_not_small_beside_the_other_changes(rewards, marked) -> None:
    score = made("\n".join(f"step {n}" for n in range(len(rewards))), rewards)
    assert score.curve.fall == marked == score.as_dict()["fall_step"]
    shown = fragment(score)
    assert ("largest fall" in shown) == (marked is not None)
    if marked is not None:
        assert f"step {marked}</span> <span" in shown


def test_the_table_says_what_its_numbers_are() -> None:
    shown = Page(fragment(made(TEXT, REWARDS))).text
    assert "compare them with each other, for one prompt" in shown
    assert "of thinking or answer" in shown and "before the token that ends the turn" in shown


def test_colours_grow_with_the_change_and_differ_in_more_than_hue() -> None:
    alphas = [float(colour(change, 2.0).rstrip(")").split(",")[-1]) for change in (0.1, 0.5, 1.0, 2.0)]
    assert alphas == sorted(set(alphas)) and alphas[-1] == 0.6
    assert colour(1, 2)[:15] != colour(-1, 2)[:15]
    assert colour(0, 2) == colour(0, 0) == "transparent"
    assert number(-0.5) == "−0.500" and number(0.5, signed=True) == "+0.500" and number(None) == "–"


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_hold_the_range_in_round_steps(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 7
    slack = 1e-9 * max(1.0, abs(low), width)
    assert found[0] <= low + slack and found[-1] >= low + width - slack
    step = found[1] - found[0]
    assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in pairwise(found))


def test_points_of_the_curve_stand_where_their_rewards_are() -> None:
    svg = ElementTree.fromstring(
        re.search(r"<svg.*</svg>", curve_svg(made(TEXT, REWARDS), lambda step: colour(step.change, 1.75)), re.S)[0]
    )
    points = [(float(one.get("cx")), float(one.get("cy"))) for one in svg.iter("circle")]
    heights = [y for _, y in points]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    rewards = [0.0, *REWARDS]
    for i in range(4):
        for j in range(4):
            assert (heights[i] > heights[j]) == (rewards[i] < rewards[j])
    levels = {float(t.text.replace("−", "-")): float(t.get("y")) - 4 for t in svg.iter("text") if t.get("x") == "44.0"}
    assert levels[0.0] == pytest.approx(heights[0], abs=0.1)


def test_a_process_head_shades_by_the_probability_that_a_step_is_right() -> None:
    score = made(TEXT, REWARDS)
    steps = [replace(step, probability=p) for step, p in zip(score.steps, (0.9, 0.2, 0.5), strict=True)]
    shown = page(replace(score, curve=replace(score.curve, steps=tuple(steps))))
    assert "probability that the step is right" in shown and "change of the reward in the step" not in shown
    assert "right with p = 0.900" in shown and "least likely right, p = 0.200" in shown
    assert "largest fall" not in shown
    shades = re.findall(r'title="step \d[^"]*" style="background:([^;]+)', shown)
    assert shades == [colour(0.8, 1), colour(-0.6, 1), "transparent"]
    likely = [replace(step, probability=0.8) for step in steps]
    assert "least likely right" not in page(replace(score, curve=replace(score.curve, steps=tuple(likely))))
