"""Step labels from the command line: made, learnt from, measured, used; and what a person is told when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewardsmith.data.stepwise import load_stepwise
from rewardsmith.evaluation.process_metrics import evaluate_steps
from rewardsmith.model.load import LoadOptions
from rewardsmith.model.reward_model import RewardModel
from tests.cli.conftest import save

FLOAT = ("--dtype", "float32")


def rows(count: int, seed: int = 0) -> list[dict]:
    return [
        {
            "prompt": f"question {seed} {i // 2}",
            "completions": ["0: the quick fox", "1: the lazy dog", "2: the quick fox"][: 2 + i % 2],
            "labels": [True, i % 3 == 0, True][: 2 + i % 2],
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("steps")
    return {"train": save(folder / "train.jsonl", rows(30)), "test": save(folder / "test.jsonl", rows(12, seed=1))}


def test_from_made_up_steps_to_a_judged_file(cli, bases, tmp_path) -> None:
    """The way through: synthesize, train with held-out data, evaluate, score steps, info."""
    made = ["data", "synthesize", "thinking", "--format", "stepwise", "-q"]
    options = ("--families", "arithmetic", "--difficulty", "1")
    assert cli(*made, "-n", 12, "-o", tmp_path / "a.jsonl", *options).code == 0
    assert cli(*made, "-n", 4, "--seed", 1, "-o", tmp_path / "b.jsonl", *options).code == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    assert {label for line in lines for label in line["labels"]} == {True, False}
    train = ["train", "--method", "process", "-b", bases["llama"], "-d", tmp_path / "a.jsonl", "-o", tmp_path / "prm"]
    more = ("--eval-data", tmp_path / "b.jsonl", "--cache", tmp_path / "cache", "--folds", 3)
    report = cli(*train, *more, *FLOAT, "-q", "--json").json
    assert report["responses"] + sum(report["dropped"].values()) == 24  # the tiny model has few positions
    assert report["reward_head"] is False
    assert report["cross_validation"]["folds"] == 3
    assert 0 <= report["evaluation"]["auc"]["value"] <= 1
    shown = cli(*train, *more, *FLOAT, "-q")
    assert "none: this model judges steps alone" in shown.out
    found = cli("evaluate", tmp_path / "prm", "--steps", tmp_path / "b.jsonl", *FLOAT, "-q", "--json").json
    assert found["step_accuracy"] == report["evaluation"]["step_accuracy"]
    assert "F1" in cli("evaluate", tmp_path / "prm", "--steps", tmp_path / "b.jsonl", *FLOAT, "-q").out
    judged = tmp_path / "judged.jsonl"
    counts = cli("score-steps", tmp_path / "prm", tmp_path / "b.jsonl", "-o", judged, *FLOAT, "-q", "--json").json
    assert counts["rows"] == 8
    model = RewardModel.load(tmp_path / "prm", LoadOptions(dtype="float32"))
    for line in map(json.loads, judged.read_text().splitlines()):
        alone = model.score_steps(line["prompt"], line["completions"])
        assert line["step_scores"] == pytest.approx(alone.probabilities, abs=1e-5)
        assert line["process_min"] == min(one for one in line["step_scores"] if one is not None)
    info = cli("info", tmp_path / "prm", "--verify", "--json").json
    assert info["judges_steps"]
    assert info["process"]["steps"] == report["steps"]


def test_responses_are_split_and_bad_rows_passed_over(cli, bases, steps, tmp_path) -> None:
    train = ["train", "--method", "process", "-b", bases["llama"], "-d", steps["train"], "-o", tmp_path / "prm"]
    cli(*train, "--ridge", 1, "--step-loss", "pairwise", "--cache", tmp_path / "c", *FLOAT, "-q")
    source = save(tmp_path / "in.jsonl", [{"prompt": "a", "response": "one\ntwo"}, {"prompt": "b"}])
    run = ["score-steps", tmp_path / "prm", source, "-o", tmp_path / "out.jsonl", "-q", *FLOAT]
    assert f"{source}:2: response: is missing" in cli(*run).error
    assert not (tmp_path / "out.jsonl").exists()
    assert cli(*run, "--skip-bad", "--json").json["skipped"] == 1
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["step_texts"] == ["one", "two"]
    assert len(first["step_scores"]) == 2
    assert second == {"prompt": "b", **dict.fromkeys(second.keys() - {"prompt"})}
    again = ["score-steps", tmp_path / "prm", tmp_path / "out.jsonl", "-o", tmp_path / "more.jsonl", "-q"]
    assert "step_scores: is there already" in cli(*again).error


def test_steps_are_parted_as_the_head_was_trained_unless_said_otherwise(cli, bases, steps, tmp_path) -> None:
    blank = ("--step-separator", "\\n\\n")
    train = ["train", "--method", "process", "-b", bases["llama"], "-d", steps["train"], "-o", tmp_path / "prm"]
    cli(*train, "--ridge", 1, "--cache", tmp_path / "c", *blank, *FLOAT, "-q")
    run = ["evaluate", tmp_path / "prm", "--steps", steps["test"], *FLOAT, "-q", "--json"]
    model = RewardModel.load(tmp_path / "prm", LoadOptions(dtype="float32"))
    for more, separator in (((), "\n\n"), (blank, "\n\n"), (("--step-separator", "\\n"), "\n")):
        labelled = list(load_stepwise(steps["test"], separator=separator))
        found = cli(*run, *more).json
        assert found["auc"] == evaluate_steps(model, labelled).as_dict()["auc"], separator
    source = save(tmp_path / "in.jsonl", [{"prompt": "a", "response": "one\nmore\n\n two\n\n\nthree"}])
    judge = ["score-steps", tmp_path / "prm", source, "-o", tmp_path / "out.jsonl", "-q", *FLOAT]
    for more, texts in (
        ((), ["one\nmore", "two", "three"]),
        (("--step-separator", "\\n"), ["one", "more", "two", "three"]),
    ):
        assert cli(*judge, *more).code == 0
        line = json.loads((tmp_path / "out.jsonl").read_text())
        assert line["step_texts"] == texts and len(line["step_scores"]) == len(texts)
    whole, listed = (model.score_steps("a", one) for one in ("one\nmore\n\ntwo", ["one\nmore", "two"]))
    assert whole.probabilities == pytest.approx(listed.probabilities, abs=1e-5)


def test_a_reward_model_goes_on_scoring(cli, model, steps, tmp_path) -> None:
    responses = save(tmp_path / "r.jsonl", [{"prompt": "a", "response": "fox"}])
    train = ["train", "--method", "process", "-b", model, "-d", steps["train"], "-o", tmp_path / "both", "--ridge", 1]
    assert cli(*train, "--cache", tmp_path / "c", "-q", "--json").json["reward_head"] is True
    for name, folder in (("before", model), ("after", tmp_path / "both")):
        assert cli("score", folder, responses, "-o", tmp_path / f"{name}.jsonl", "-q").code == 0
    assert (tmp_path / "before.jsonl").read_text() == (tmp_path / "after.jsonl").read_text()
    assert cli("evaluate", tmp_path / "both", "--steps", steps["test"], "-q", "--json").code == 0


def test_mistakes_are_one_line(cli, bases, model, steps, tmp_path) -> None:
    train = ["train", "--method", "process", "-b", bases["llama"], "-o", tmp_path / "prm", "-q"]
    with_data = [*train, "-d", steps["train"]]
    assert "--data is missing" in cli(*train).error
    assert "--lora-rank is not for --method process" in cli(*with_data, "--lora-rank", 4).error
    assert "--ensemble is not for --method process" in cli(*with_data, "--ensemble", 4).error
    assert "--format is not for --method process" in cli(*with_data, "--format", "hh").error
    assert "--ridge -1: must be greater than 0" in cli(*with_data, "--ridge", -1).error
    assert "--layer auto: with --method process, must be a layer number" in cli(*with_data, "--layer", "auto").error
    assert "--step-loss is for --method process" in cli("train", "-d", "x", "-o", "y", "--step-loss", "soft").error
    bad = save(tmp_path / "bad.jsonl", [*rows(2), {"prompt": "p", "completions": ["a"], "labels": [2]}])
    assert f"{bad}:3: labels[0]: is 2" in cli(*train, "-d", bad).error
    done = cli(*train, "-d", bad, "--skip-bad", "--ridge", 1, "--cache", tmp_path / "c", *FLOAT)
    assert done.code == 0, done.err
    assert (tmp_path / "prm.rejects.jsonl").read_text().count("\n") == 1
    responses = save(tmp_path / "r.jsonl", [{"prompt": "a", "response": "b"}])
    assert "no reward head" in cli("score", tmp_path / "prm", responses, "-o", tmp_path / "s.jsonl").err
    headless = (("score-steps", model, steps["test"], "-o", tmp_path / "s.jsonl"), ("evaluate", model, "--steps"))
    for command in (headless[0], (*headless[1], steps["test"], "-q")):
        said = cli(*command).error
        assert f"{model}: there is no process head" in said and f"--base {model} --data" in said
    assert "either --data FILE" in cli("evaluate", model).error
    assert "--format is for --data" in cli("evaluate", model, "--steps", steps["test"], "--format", "hh").error
    assert "ends in .jsonl" in cli("score-steps", model, steps["test"], "-o", tmp_path / "s.parquet").error
    made = ["data", "synthesize", "thinking", "--format", "stepwise", "-o", tmp_path / "x.jsonl"]
    assert "leave --from out" in cli(*made, "--from", steps["test"]).error
    assert "corruption 'loop' has no labels for steps" in cli(*made, "--corruptions", "loop", "-n", 2).error
