"""Ratings of responses by name: read, refused, swapped with their responses, and kept by ``convert``."""

from __future__ import annotations

import csv
import json

import pytest

from rewardsmith.data import check, convert, load_comparisons, parse_comparison
from rewardsmith.errors import DataError
from tests.data.samples import SAMPLES

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LIST = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 0, 2]}
KNOWN = [{"helpfulness": 4, "verbosity": 2}, {"helpfulness": 1.5}, {}]


def one(row: dict):
    (found,) = parse_comparison(row)
    return found


def test_pairs_and_lists_have_them_in_the_order_of_their_responses() -> None:
    assert one({**PAIR, "attributes": KNOWN[:2]}).attributes == ({"helpfulness": 4.0, "verbosity": 2.0}, KNOWN[1])
    assert one({**LIST, "attributes": KNOWN}).attributes == tuple(KNOWN)
    assert one(PAIR).attributes is None and one({**PAIR, "attributes": None}).attributes is None


def test_they_change_places_with_their_responses() -> None:
    swapped = one({**PAIR, "probability": 0.2, "attributes": KNOWN[:2]})
    assert (swapped.responses, swapped.attributes) == (("b", "a"), (KNOWN[1], KNOWN[0]))
    two = one({"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "attributes": KNOWN[:2]})
    assert (two.responses, two.attributes) == (("b", "a"), (KNOWN[1], KNOWN[0]))


def test_null_is_unknown_as_columnar_files_write_it() -> None:
    row = {**PAIR, "attributes": [{"helpfulness": None, "verbosity": 2}, None]}
    assert one(row).attributes == ({"verbosity": 2.0}, {})


@pytest.mark.parametrize("kind", ["messages", "text", "hh", "ultrafeedback", "tokenized"])
def test_shapes_like_the_canonical_one_have_them_too(kind) -> None:
    assert one({**SAMPLES[kind][0], "attributes": KNOWN[:2]}).attributes == tuple(KNOWN[:2])


WRONG = {
    "a list": (4, "attributes: is 4, must be a list"),
    "as many": (KNOWN, "attributes: has 3 entries for 2 responses"),
    "objects": ([4, {}], r"attributes\[0\]: is 4, must be an object"),
    "numbers": ([{}, {"helpfulness": "4"}], r"attributes\[1\].helpfulness: is '4', must be a number"),
    "not true": ([{"helpfulness": True}, {}], r"attributes\[0\].helpfulness: is true"),
    "finite": ([{"helpfulness": float("inf")}, {}], r"attributes\[0\].helpfulness: is inf, must be finite"),
}


@pytest.mark.parametrize(("value", "message"), WRONG.values(), ids=WRONG)
def test_they_must_be(value, message) -> None:
    with pytest.raises(DataError, match=message):
        one({**PAIR, "attributes": value})


def test_helpsteer2_fills_all_five() -> None:
    rows = [dict(row) for row in SAMPLES["helpsteer2"]]
    rows[1] |= {"coherence": 3, "complexity": 2}
    (found,) = load_comparisons(rows)
    assert found.responses == ("A pear.", "A stone.")
    first, second = found.attributes  # type: ignore[misc]
    assert first == {"helpfulness": 4, "correctness": 4, "coherence": 3, "complexity": 2, "verbosity": 1}
    assert second == {"helpfulness": 1, "correctness": 0, "verbosity": 1}
    with pytest.raises(DataError, match="verbosity: is 'much', must be a number"):
        list(load_comparisons([{**rows[0], "verbosity": "much"}, rows[1]]))


def test_convert_and_check_know_them(tmp_path) -> None:
    rows = [{**PAIR, "attributes": KNOWN[:2]}, {**PAIR, "prompt": "q", "attributes": [{}, {"verbosity": 1}]}]
    convert(rows, tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["attributes"] for row in written] == [row["attributes"] for row in rows]
    assert [one.attributes for one in load_comparisons(tmp_path / "out.jsonl")] == [
        tuple(row["attributes"]) for row in rows
    ]
    assert "unknown-field" not in check(tmp_path / "out.jsonl").counts


def test_a_table_of_text_holds_them_as_json(tmp_path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*PAIR, "attributes"])
        writer.writeheader()
        writer.writerows([{**PAIR, "attributes": json.dumps(KNOWN[:2])}, {**PAIR, "prompt": "q", "attributes": ""}])
    found = list(load_comparisons(tmp_path / "rows.csv"))
    assert [one.attributes for one in found] == [tuple(KNOWN[:2]), None]
