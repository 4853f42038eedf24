"""``rewardsmith explain`` and ``rewardsmith score --thinking`` as a person runs them."""

from __future__ import annotations

import json
from functools import partial

import pytest

from rewardsmith.model.reward_model import RewardModel
from tests.cli.conftest import save

RESPONSE = "<think>\nfox fox\ndog\n</think>\n\nfox & <b>dog</b>"
ASK = ("-p", "a question", "-r", RESPONSE)


@pytest.fixture
def run(cli):
    """Runs ``rewardsmith explain ARGUMENTS``."""
    return partial(cli, "explain")


def test_the_page_and_the_report(run, model, tmp_path) -> None:
    out = tmp_path / "page.html"
    found = run(model, *ASK, "-o", out, "--json").json
    score = RewardModel.load(model).score_thinking("a question", RESPONSE)
    assert found["overall"] == pytest.approx(score.overall, abs=1e-4)
    assert found["answer_alone"] + found["contribution"] == found["overall"]
    assert [step["text"] for step in found["steps"]] == ["fox fox", "dog", "fox & <b>dog</b>"]
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "fox &amp; &lt;b&gt;dog&lt;/b&gt;" in text and "a question" in text
    assert f"{found['overall']:.3f}".replace("-", "−") in text
    shown = run(model, *ASK)
    assert "last step" in shown.out and "compare them with each other" in shown.err
    assert "contribution" in shown.out and "fox fox" in shown.out and "tokens are thinking" in shown.err
    assert run(model, *ASK, "-o", out, "-q").out == run(model, *ASK, "-q").err == ""


def test_with_a_process_head_the_report_marks_what_the_page_marks(cli, run, model, tmp_path) -> None:
    made = ("data", "synthesize", "thinking", "--format", "stepwise", "-n", 12, "--families", "arithmetic", "-q")
    assert cli(*made, "--difficulty", "1", "-o", tmp_path / "steps.jsonl").code == 0
    train = ("train", "--method", "process", "-b", model, "-d", tmp_path / "steps.jsonl", "--ridge", 1, "-q")
    assert cli(*train, "-o", tmp_path / "prm", "--cache", tmp_path / "c", "--dtype", "float32").code == 0
    found = run(tmp_path / "prm", *ASK, "-o", tmp_path / "page.html", "--json").json
    right = [step["probability"] for step in found["steps"]]
    place = right.index(min(right)) if min(right) < 0.5 else None
    assert found["marked_step"] == place
    assert ("▼" in (tmp_path / "page.html").read_text(encoding="utf-8")) == (place is not None)
    shown = run(tmp_path / "prm", *ASK).out
    assert f"{right[0]:.3f}" in shown and "right" in shown
    assert ("least likely right" in " ".join(shown.split())) == (place is not None)


def test_a_row_of_a_file(run, model, tmp_path) -> None:
    rows = [
        {"prompt": "a question", "response": "42"},
        {"prompt": "a question", "responses": ["42", RESPONSE]},
        {"prompt": [{"role": "user", "content": "a question"}], "chosen": RESPONSE, "rejected": "no"},
    ]
    source = save(tmp_path / "rows.jsonl", rows)
    asked = run(model, *ASK, "--json").json
    assert run(model, source, "--row", 2, "--which", 2, "--json").json == asked
    assert run(model, source, "--row", 3, "--json").json["overall"] == pytest.approx(asked["overall"], abs=1e-4)
    assert run(model, source, "--json").json["thinking"] is None
    tagged = save(tmp_path / "tags.jsonl", [{"prompt": "p", "response": "<plan>fox</plan>dog"}])
    assert run(model, tagged, "--json").json["thinking"] is None
    assert run(model, tagged, "--json", "--think-tags", "<plan>", "</plan>").json["thinking"] is not None


def test_mistakes_are_one_line(run, model, tmp_path) -> None:
    source = save(tmp_path / "rows.jsonl", [{"prompt": "p", "response": "r"}, {"prompt": "p"}])
    assert "nothing to explain" in run("nowhere").error
    assert "nothing to explain" in run("nowhere", "-p", "p").error
    assert "leave one out" in run("nowhere", source, "-r", "r").error
    assert "no such folder" in run("nowhere", *ASK, "-o", tmp_path / "no" / "page.html").error
    assert "is a folder" in run("nowhere", *ASK, "-o", tmp_path).error
    assert "must differ" in run("nowhere", *ASK, "--think-tags", "<a>", "<a>").error
    assert "--row 3" in run("nowhere", source, "--row", 3).error
    assert "rows.jsonl:2: response: missing" in run("nowhere", source, "--row", 2).error
    assert "--which 2" in run("nowhere", source, "--which", 2).error


def test_score_thinking(cli, model, tmp_path) -> None:
    source = save(tmp_path / "rows.jsonl", [{"prompt": "p", "response": RESPONSE}, {"prompt": "p", "response": "42"}])
    out = tmp_path / "out.jsonl"
    cli("score", model, source, "-o", out, "--thinking", "-q")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["answer_alone"] + rows[0]["contribution"] == rows[0]["reward"]
    assert rows[0]["closed"] and not rows[1]["closed"] and len(rows[0]["step_rewards"]) == 3
    plain = [json.loads(line) for line in cli("score", model, source).out.splitlines()]
    assert [row["reward"] for row in plain] == pytest.approx([row["reward"] for row in rows], abs=1e-4)
    assert "answer_alone" not in plain[0]
    assert "leave out --with" in cli("score", model, source, "--thinking", "--with", model).error
    assert "leave out --cache" in cli("score", model, source, "--thinking", "--cache", "c.db").error
    assert "needs members" in cli("score", model, source, "--thinking", "--aggregate", "mean").error
    assert "add --thinking" in cli("score", model, source, "--think-tags", "<a>", "</a>").error


def test_help_says_which_steps_and_which_response_are_meant(cli) -> None:
    """min_step was taken for the thinking's alone, and --which for a row's number."""
    scoring, explaining = (" ".join(cli(command, "--help").out.split()) for command in ("score", "explain"))
    assert "at the ends of all steps, of thinking and answer) and of these min_step, last_step and mean_step" in scoring
    assert "Explain the file's Nth row" in explaining and "of a pair, 1 is chosen and 2 rejected" in explaining
