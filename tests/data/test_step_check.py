"""`data check` of judged steps: told by their rows, counted, and every bad row named."""

from __future__ import annotations

import json

import pytest

from rewardsmith.data.adapters import detect
from rewardsmith.data.step_check import check_steps
from tests.data.samples import SAMPLES
from tests.data.test_stepwise import BENCH, SHEPHERD, TRL, candidate, entry, prm800k

PRM = prm800k([entry(candidate("a", 1), candidate("b", -1)), entry(candidate("c", 0))])
SHAPES = {"trl": TRL, "prm800k": PRM, "math-shepherd": SHEPHERD, "processbench": BENCH}
PAIR = SAMPLES["canonical"][0]


@pytest.mark.parametrize(("shape", "counts"), [
    ("trl", (1, 1, 0, 1)), ("prm800k", (2, 1, 0, 0)), ("math-shepherd", (1, 1, 0, 0)), ("processbench", (1, 1, 0, 1)),
])  # fmt: skip
def test_a_file_of_judged_steps_is_told_and_counted(cli, write, shape, counts) -> None:
    """A newcomer's step file was said to fit no known format, with the advice to rename its columns."""
    assert detect(SHAPES[shape]) is None
    path = write([SHAPES[shape]])
    report = json.loads(cli("check", path, "--json").out)
    assert report["ok"] and report["holds"] == "judged steps" and "--method process" in report["for"]
    assert report["formats"] == {shape: 1} and report["rows"] == 1
    assert tuple(report["labels"][name] for name in ("right", "wrong", "between", "unjudged")) == counts
    assert report["steps"] == sum(counts[:3])
    shown = cli("check", path)
    assert shown.code == 0 and "judged steps" in shown.out and "rewardsmith train --method process" in shown.out
    assert f"{counts[0]} ({100 * counts[0] / sum(counts[:3]):.1f}%)" in shown.out


def test_bad_step_rows_are_named_and_set_aside(cli, write, tmp_path) -> None:
    path = write([TRL, {**TRL, "labels": [True]}, {**TRL, "labels": [0.25, None, True]}, TRL])
    done = cli("check", path)
    assert done.code == 1 and f"error: {path}:2: labels: has 1 entries for 3 completions" in done.out
    assert f"{path}:4: repeats a response" in done.out and "between (a probability)" in done.out
    report = json.loads(cli("check", path, "--skip-bad", "--json").out)
    assert report["ok"] and report["bad_rows"] == 1 and report["labels"]["between"] == 1
    assert json.loads((tmp_path / "rows.jsonl.rejects.jsonl").read_text())["line"] == 2


def test_what_nothing_can_be_learnt_from_is_said(write) -> None:
    none = check_steps([str(write([{**TRL, "labels": [None, None, None]}]))])
    assert not none.ok and none.counts == {"no-label": 1}
    same = check_steps([str(write([{**TRL, "labels": [True, True, None]}]))])
    assert same.ok and "all 2 judged steps are right" in same.problems[0].message


def test_steps_where_preferences_are_wanted_are_called_what_they_are(cli, write, tmp_path) -> None:
    steps, pairs = write([TRL], "steps.jsonl"), write([PAIR], "pairs.jsonl")
    message = "holds judged steps (TRL's stepwise rows), not preferences"
    for command in (("split", steps, "-o", tmp_path / "out"), ("convert", steps, "-o", tmp_path / "c.jsonl")):
        assert message in cli(*command).err
    piped = cli("check", "-", stdin=json.dumps(TRL).encode())
    assert piped.code == 2 and message in piped.err
    assert f"{steps} holds judged steps and {pairs} does not" in cli("check", steps, pairs).err
    assert "--against is for preferences" in cli("check", steps, "--against", pairs).err
    assert "--max-length is for preferences" in cli("check", steps, "--max-length", 9).err
    assert cli("check", write([PAIR, TRL], "first.jsonl")).code == 1  # told by the first row; the other is bad
