"""What ``rewardsmith train --method lora`` leaves of an earlier run, and what it goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rewardsmith import RewardModel
from rewardsmith.errors import FileError
from rewardsmith.model.reward_model import RewardModel as Model
from rewardsmith.training import finetune
from tests.cli.conftest import pairs, save


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def arguments(bases, tmp_path) -> list:
    """A LoRA run of two steps."""
    data = save(tmp_path / "pairs.jsonl", pairs(12))
    start = ["train", "--method", "lora", "-b", bases["qwen3"], "-d", data, "-o", tmp_path / "rm"]
    return [*start, "--batch-size", 4, "--max-steps", 2]


def full_disk(monkeypatch: Any, at: int = 1) -> None:
    """The model that is saved as number ``at`` finds no room."""
    own, saved = Model.save, []

    def save_model(self: Model, folder: Any, **options: Any) -> Path:
        saved.append(folder)
        if len(saved) == at:
            raise FileError(f"{folder}: no space left on device")
        return own(self, folder, **options)

    monkeypatch.setattr(Model, "save", save_model)


def state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("more", [[], ["--set", "save_strategy=no"]], ids=["checkpoints", "adapter only"])
def test_what_was_trained_but_not_saved_is_not_thrown_away(cli, arguments, tmp_path, monkeypatch, more) -> None:
    with monkeypatch.context() as patch:
        full_disk(patch)
        assert "no space left" in cli(*arguments, *more, "-q").error
    run = tmp_path / "rm.run"
    assert not state(run)["finished"] and (run / "adapter").is_dir()
    assert "holds an unfinished run" in cli(*arguments, *more, "-q").error
    assert (run / "adapter").is_dir()
    report = cli(*arguments, *more, "--resume", "--json").json
    assert report["steps"] == 2 and state(run)["finished"]
    assert RewardModel.load(tmp_path / "rm").verify()


def test_an_ensemble_that_was_not_saved_is_not_thrown_away(cli, arguments, tmp_path, monkeypatch) -> None:
    arguments += ["--ensemble", 2]
    with monkeypatch.context() as patch:
        full_disk(patch, at=3)  # the average; its members are there
        assert "no space left" in cli(*arguments, "-q").error
    run = tmp_path / "rm.run"
    assert not state(run)["finished"] and state(run / "member-2")["finished"]
    assert "holds an unfinished ensemble (2 members begun)" in cli(*arguments, "-q").error
    report = cli(*arguments, "--resume", "--json").json
    assert all(member["trained_before"] for member in report["members"])
    assert state(run)["finished"] and (tmp_path / "rm" / "config.json").is_file()


@pytest.mark.parametrize("more", [[], ["--ensemble", 2]], ids=["single", "ensemble"])
def test_a_mistake_leaves_the_last_run_as_it_is(cli, arguments, tmp_path, more) -> None:
    assert cli(*arguments, *more, "-q").code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert any("checkpoint-2" in str(path) for path in before)
    for wrong in (["lora.target_modules=[nope]"], ["report_to=nobody"]):
        assert cli(*arguments, *more, "-q", "--set", *wrong).code == 2
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert cli(*arguments, *more, "-q", "--max-steps", 1).code == 0
    assert not any("checkpoint-2" in str(path) for path in tmp_path.rglob("*"))


def test_other_data_under_the_same_name_are_not_gone_on_with(cli, arguments, tmp_path) -> None:
    held_out = save(tmp_path / "test.jsonl", pairs(6, seed=1))
    arguments += ["--eval-data", held_out, "--set", "eval_strategy=epoch", "-q"]
    assert cli(*arguments).code == 0
    assert cli(*arguments, "--resume").code == 0
    save(tmp_path / "pairs.jsonl", [*pairs(11), *pairs(1, seed=1)])
    assert "--resume: the data are not those of the run" in cli(*arguments, "--resume").error
    save(tmp_path / "pairs.jsonl", pairs(12))
    save(tmp_path / "test.jsonl", pairs(6, seed=2))
    assert "--resume: the data are not those of the run" in cli(*arguments, "--resume").error
    save(tmp_path / "test.jsonl", pairs(6, seed=1))
    assert cli(*arguments, "--resume").code == 0


def test_checkpoints_without_an_optimizer_are_not_gone_on_with(cli, arguments) -> None:
    arguments += ["--set", "save_only_model=true", "-q"]
    assert cli(*arguments).code == 0
    assert "checkpoints hold no optimizer" in cli(*arguments, "--resume").error


def test_early_stopping_goes_on_counting(cli, arguments, tmp_path, monkeypatch) -> None:
    held_out = save(tmp_path / "test.jsonl", pairs(6, seed=1))
    arguments = [*arguments[:-1], 20, "--eval-data", held_out, "--learning-rate", 1e-12]
    for setting in ("early_stopping_patience=3", "save_steps=1"):
        arguments += ["--set", setting]
    whole = cli(*arguments, "--json").json
    assert whole["steps"] == 4  # the first is the best, three are no better
    arguments[arguments.index(tmp_path / "rm")] = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(finetune._Reporter, "on_step_end", dies_in_step(4))
        assert cli(*arguments, "-q").code == 130
    assert cli(*arguments, "--resume", "--json").json["steps"] == 4
    with monkeypatch.context() as patch:
        full_disk(patch)
        arguments[arguments.index(tmp_path / "killed")] = tmp_path / "unsaved"
        assert cli(*arguments, "-q").code == 2
    assert cli(*arguments, "--resume", "--json").json["steps"] == 4
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("rm", "killed", "unsaved")]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]) and torch.equal(value, weights[2][key])


def dies_in_step(number: int) -> Any:
    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == number:
            raise KeyboardInterrupt

    return on_step_end


def test_people_see_the_features_being_read(cli, arguments) -> None:
    said = cli(*arguments).err
    assert "features: " in said and "training: 2/2 steps" in said
    assert said.index("features: ") < said.index("training: ")
    assert "features: " not in cli(*arguments, "-q").err


def test_access_tokens_are_neither_kept_nor_shown(cli, arguments, tmp_path) -> None:
    secret = ["--set", "hub_token=hf_mine", "--set", "model_init_kwargs={token: hf_also_mine}"]
    done = cli(*arguments, *secret)
    assert done.code == 0 and "mine" not in done.err + done.out
    run = tmp_path / "rm.run"
    assert "mine" not in (run / "run.json").read_text()
    assert not any(b"mine" in path.read_bytes() for path in run.rglob("*.json"))
    other = [word.replace("mine", "yours") for word in secret]
    done = cli(*arguments, *other, "--resume")
    assert done.code == 0, done.err  # another token is no other setting
    text = (run / "run.json").read_text()  # of a version that kept them
    (run / "run.json").write_text(text.replace('"max_steps"', '"hub_token": "hf_mine", "max_steps"'))
    assert cli(*arguments, *other, "--resume", "-q").code == 0
    assert "mine" not in cli(*arguments[:-1], 3, "--resume", "-q").error


def test_the_adapter_is_there_before_it_is_merged(cli, arguments, tmp_path, monkeypatch) -> None:
    """Merging needs the most memory; what was trained must not end with it."""
    seen: list[Any] = []

    def full(model: Any, network: Any) -> Any:
        seen.append([one for one in model.parameters() if one.grad is not None])
        raise torch.OutOfMemoryError("CUDA out of memory")

    arguments += ["--set", "save_strategy=no"]
    whole = tmp_path / "whole"
    assert cli(*arguments, "-q").code == 0
    (tmp_path / "rm.run").rename(whole)
    with monkeypatch.context() as patch:
        patch.setattr("rewardsmith.training.trainer.plain", full)
        assert "out of memory" in cli(*arguments, "-q").error
    assert seen == [[]]  # gradients had gone by then
    found = RewardModel.load(tmp_path / "rm.run" / "adapter")
    models = (found, RewardModel.load(whole / "adapter"))
    rewards = [model.score_batch(["what is 1 + 1?"] * 2, ["2", "fox"]) for model in models]
    assert rewards[0] == pytest.approx(rewards[1])


def test_a_run_records_how_it_computed(cli, arguments, tmp_path, caplog) -> None:
    assert cli(*arguments, "-q").code == 0
    file = tmp_path / "rm.run" / "run.json"
    state = json.loads(file.read_text())
    computed = {"device": "cpu", "processes": 1, "bf16": False, "fp16": False, "weights": "float32"}
    assert state["computed"] == computed
    file.write_text(json.dumps({**state, "computed": {**computed, "device": "cuda", "bf16": True}}))
    done = cli(*arguments, "--resume", "-q")
    assert done.code == 0
    assert "--resume: bf16 was true, is now false; device was cuda, is now cpu" in caplog.text
    file.write_text(json.dumps({**state, "computed": {**computed, "processes": 4}}))
    assert "--resume: processes was 4, is now 1" in cli(*arguments, "--resume", "-q").error
    file.write_text(json.dumps({**state, "computed": None}))  # by an older version
    assert cli(*arguments, "--resume", "-q").code == 0
