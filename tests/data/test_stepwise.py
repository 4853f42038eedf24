"""Responses judged step by step: each published shape, and what each malformed row is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewardsmith.data.stepwise import load_stepwise, parse_stepwise, shape_of
from rewardsmith.errors import DataError, UsageError
from rewardsmith.types import Message

TRL = {"prompt": "15 + 27?", "completions": ["15 + 20 = 35.", "35 + 7 = 43.", "43."], "labels": [True, False, None]}
SHEPHERD = {
    "input": "How many?\n\nStep 1: 5 + 8 = 13. ки\nStep 2: 13 - 3 = 11. The answer is: 11 ки",
    "label": "How many?\n\nStep 1: 5 + 8 = 13. +\nStep 2: 13 - 3 = 11. The answer is: 11 -",
    "task": "GSM8K",
}
BENCH = {"id": "gsm8k-0", "problem": "15 + 27?", "steps": ["a", "b", "c"], "final_answer_correct": False, "label": 1}


def candidate(text: str, rating: int | None, flagged: bool | None = None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": flagged}


def prm800k(steps: list[dict[str, Any]], finish: str = "solution") -> dict[str, Any]:
    return {"labeler": "x", "question": {"problem": "15 + 27?"}, "label": {"steps": steps, "finish_reason": finish}}


def entry(*completions: dict[str, Any], chosen: int | None = 0, human: Any = None) -> dict[str, Any]:
    return {"completions": list(completions), "human_completion": human, "chosen_completion": chosen}


def test_trl_rows() -> None:
    (item,) = parse_stepwise(TRL)
    assert item.prompt == "15 + 27?"
    assert item.labels == (1.0, 0.0, None)
    assert item.response == "15 + 20 = 35.\n35 + 7 = 43.\n43."
    assert item.first_error == 1
    (soft,) = parse_stepwise({**TRL, "labels": [1, 0.25, 0.5]}, separator="\n\n")
    assert soft.labels == (1.0, 0.25, 0.5)
    assert soft.separator == "\n\n"
    (chat,) = parse_stepwise({**TRL, "prompt": [{"role": "user", "content": "Hi"}], "separator": " "})
    assert chat.prompt == (Message("user", "Hi"),)
    assert chat.separator == " "
    (bare,) = parse_stepwise({"prompt": "p", "completions": ["a"]}, labelled=False)
    assert bare.labels == (None,)
    assert parse_stepwise({**TRL, "labels": [None, None, None]}) == []


@pytest.mark.parametrize(("neutral", "label"), [("good", 1.0), ("bad", 0.0), ("half", 0.5), ("skip", None)])
def test_prm800k_follows_the_chosen_path(neutral, label) -> None:
    row = prm800k(
        [
            entry(candidate("a ", 0), candidate("A", -1), candidate("?", 1, True), chosen=0),
            entry(candidate("b", -1), chosen=None, human={"text": "B", "rating": None}),
            entry(candidate("c", 1), candidate("d", 1), candidate("c", 1), chosen=1),
        ]
    )
    path, *others = parse_stepwise(row, neutral=neutral)
    assert path.steps == ("a", "B", "d")
    assert path.labels == (label, 1.0, 1.0)
    assert [(one.steps, one.labels) for one in others] == [
        (("A",), (0.0,)),
        (("a", "b"), (None, 0.0)),
        (("a", "B", "c"), (None, None, 1.0)),
        (("a", "B", "c"), (None, None, 1.0)),
    ]


def test_prm800k_ends_where_nothing_was_chosen() -> None:
    row = prm800k([entry(candidate("a", 1)), entry(candidate("b", -1), candidate("c", 0), chosen=None)], "found_error")
    path, other = parse_stepwise(row)
    assert (path.steps, path.labels, path.first_error) == (("a", "b"), (1.0, 0.0), 1)
    assert (other.steps, other.labels, other.first_error) == (("a", "c"), (None, 1.0), None)
    assert parse_stepwise(prm800k([entry(candidate("a", 1))], "bad_problem")) == []
    assert parse_stepwise(prm800k([])) == []


def test_math_shepherd_rows() -> None:
    (item,) = parse_stepwise(SHEPHERD)
    assert item.prompt == "How many?"
    assert item.steps == ("Step 1: 5 + 8 = 13.", "Step 2: 13 - 3 = 11. The answer is: 11")
    assert item.labels == (1.0, 0.0)
    unnumbered = {"input": "Why? How? Five. ки Six. ки", "label": "Why? How? Five. - Six. +"}
    (item,) = parse_stepwise(unnumbered)
    assert (item.prompt, item.steps, item.labels) == ("Why? How?", ("Five.", "Six."), (0.0, 1.0))
    early = {"input": "A ки problem. Step 1: one. ки", "label": "A + problem. Step 1: one. -"}
    (item,) = parse_stepwise(early)
    assert (item.prompt, item.steps, item.labels) == ("A  problem.", ("Step 1: one.",), (0.0,))


def test_processbench_rows() -> None:
    (item,) = parse_stepwise(BENCH)
    assert (item.labels, item.first_error, item.id) == ((1.0, 0.0, None), 1, "gsm8k-0")
    (right,) = parse_stepwise({**BENCH, "label": -1})
    assert (right.labels, right.first_error) == ((1.0, 1.0, 1.0), -1)
    assert parse_stepwise({**BENCH, "label": 0})[0].labels == (0.0, None, None)
    assert parse_stepwise({**BENCH, "label": 2})[0].labels == (1.0, 1.0, 0.0)


MALFORMED = [
    ({"text": "hello"}, "no known shape"),
    ({**TRL, "labels": [True]}, "labels: has 1 entries for 3 completions"),
    ({**TRL, "labels": [True, "+", False]}, "labels[1]: is '+'"),
    ({**TRL, "labels": [True, 1.5, False]}, "labels[1]: is 1.5"),
    ({**TRL, "labels": None}, "labels: is missing"),
    ({**TRL, "labels": "TTF"}, "labels: is 'TTF', must be a list"),
    ({**TRL, "completions": []}, "completions: has 0 entries"),
    ({**TRL, "completions": ["a", " ", "c"]}, "completions[1]: is empty"),
    ({**TRL, "completions": ["a", 3, "c"]}, "completions[1]: is 3"),
    ({**TRL, "prompt": ""}, "prompt: is empty"),
    ({**TRL, "separator": 3}, "separator: is 3"),
    (prm800k([entry(candidate("a", 2))]), "label.steps[0].completions[0].rating: is 2"),
    (prm800k([entry(candidate("", 1))]), "label.steps[0].completions[0].text: is empty"),
    (prm800k([entry(candidate("a", 1), chosen=1)]), "label.steps[0].chosen_completion: is 1"),
    (prm800k([entry(candidate("a", 1), chosen=None), entry(candidate("b", 1))]), "chosen_completion: is null"),
    (prm800k([{"completions": 3, "chosen_completion": 0}]), "label.steps[0].completions: is 3"),
    (prm800k(["a"]), "label.steps[0]: is 'a'"),  # type: ignore[list-item]
    ({**SHEPHERD, "input": "no marks"}, "input: has no ки"),
    ({**SHEPHERD, "label": "another text"}, "label: does not have the text of input up to its mark 1"),
    ({**SHEPHERD, "label": SHEPHERD["label"].replace("-", "x")}, "label: does not have"),
    ({k: v + " more" if k != "task" else v for k, v in SHEPHERD.items()}, "input: goes on behind its last ки"),
    ({"input": "No end. ки", "label": "No end. +"}, 'input: has neither "Step 1:" nor a question mark'),
    ({**BENCH, "label": 3}, "label: is 3.0"),
    ({**BENCH, "label": "1"}, "label: is '1'"),
    ({**BENCH, "steps": []}, "steps: has 0 entries"),
]


@pytest.mark.parametrize(("row", "says"), MALFORMED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_malformed_row_is_one_line_with_its_place(tmp_path, row, says) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("\n".join(map(json.dumps, [TRL, row])) + "\n")
    with pytest.raises(DataError) as caught:
        list(load_stepwise(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert says in message
    assert "\n" not in message
    rejects = tmp_path / "rejects.jsonl"
    assert len(list(load_stepwise(path, skip_bad=True, rejects=rejects))) == 1
    (rejected,) = map(json.loads, rejects.read_text().splitlines())
    assert rejected["line"] == 2
    assert json.loads(rejected["row"]) == row


def test_the_readers_of_preference_data_read_them(tmp_path) -> None:
    rows = [TRL, {**TRL, "prompt": "another"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    first = [(item.prompt, item.steps, item.labels) for item in load_stepwise(rows)]
    for name in ("a.json", "a.jsonl.gz", "a.parquet"):
        found = list(load_stepwise(tmp_path / name))
        assert [(item.prompt, item.steps, item.labels) for item in found] == first
        assert [str(item.source) for item in found] == [f"{tmp_path / name}:{line}" for line in (1, 2)]


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of them has a step that was judged"):
        list(load_stepwise([{**TRL, "labels": [None, None, None]}]))
    with pytest.raises(UsageError, match="neutral"):
        list(load_stepwise([TRL], neutral="fine"))  # type: ignore[arg-type]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: "):
        list(load_stepwise(bad))
    assert shape_of({"chosen": "a", "rejected": "b"}) is None
