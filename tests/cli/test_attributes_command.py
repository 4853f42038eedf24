"""Attributes from the command line: trained, shown by ``info``, scored into columns, refused in one line."""

from __future__ import annotations

import json

import pytest

from rewardsmith import RewardModel
from tests.cli.conftest import save


def rows(n: int = 16) -> list[dict]:
    return [
        {
            "prompt": f"question {i}",
            "chosen": "fox " * (1 + i % 3),
            "rejected": f"dog {i}",
            "attributes": [{"helpfulness": 3 + i % 2, "verbosity": i % 3}, {"helpfulness": i % 2}],
        }
        for i in range(n)
    ]


@pytest.fixture
def run(cli, bases, tmp_path, monkeypatch) -> list:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))
    data = save(tmp_path / "rated.jsonl", rows())
    start = ["train", "-b", bases["qwen3"], "-d", data, "-o", tmp_path / "rm", "--batch-size", 4, "--max-steps", 2]
    return [*start, "--set", "loss=regression", "--set", "attributes=helpfulness,verbosity"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_train_info_and_score(cli, run, tmp_path, method) -> None:
    weights = "attribute_weights={helpfulness: 1, verbosity: -0.5}"
    eval_data = ["--eval-data", save(tmp_path / "held.jsonl", rows(4))]
    report = cli(*run, "--method", method, "--set", weights, *eval_data, "--json").json
    assert report["steps"] == 2 and "accuracy" in report["evaluation"]
    shown = cli("info", tmp_path / "rm", "--json", "--verify").json
    assert shown["attributes"] == {"helpfulness": 1.0, "verbosity": -0.5} and shown["goldens_verified"] == 6
    assert "| verbosity | -0.5 |" in (tmp_path / "rm" / "README.md").read_text()
    out = tmp_path / "scored.jsonl"
    assert cli("score", tmp_path / "rm", tmp_path / "rated.jsonl", "-o", out, "--attributes", "-q").code == 0
    for line in out.read_text().splitlines():
        row = json.loads(line)
        parts = zip(row["attribute_helpfulness"], row["attribute_verbosity"], strict=True)
        assert row["reward"] == pytest.approx([a - 0.5 * b for a, b in parts], abs=1e-5)
    if method == "lora":
        adapter = RewardModel.load(tmp_path / "rm.run" / "adapter")
        merged = RewardModel.load(tmp_path / "rm")
        assert adapter.score_attributes("p", "fox") == pytest.approx(merged.score_attributes("p", "fox"), abs=1e-5)


def test_an_ensemble_averages_their_rewards(cli, run, tmp_path) -> None:
    learned = ["--method", "lora", "--ensemble", 2, "--set", "attribute_weights=learned"]
    assert cli(*run, *learned, "-q").code == 0
    assert RewardModel.load(tmp_path / "rm").attributes is None
    assert set(RewardModel.load(tmp_path / "rm.members" / "1").contract.attributes) == {"helpfulness", "verbosity"}


def test_mistakes(cli, run, tmp_path) -> None:
    assert "'learned'" in cli(*run, "--method", "lora", "--set", "attribute_weights=both", "-q").error
    assert "rates 'birds'" in cli(*run, "--method", "full", "--set", "attributes=[birds]", "-q").error
    assert "leave out --thinking" in cli("score", "rm", "rows.jsonl", "--attributes", "--thinking").error
    assert "leave out --with" in cli("score", "rm", "rows.jsonl", "--attributes", "--with", "other").error
