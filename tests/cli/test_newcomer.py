"""What a person needs to be told while fine-tuning, and afterwards by the model itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rewardsmith import RewardModel
from rewardsmith.cli import console
from rewardsmith.errors import UsageError
from rewardsmith.model import contract as contracts
from rewardsmith.training import finetune, settings
from rewardsmith.training.run_folder import RunFolder
from rewardsmith.training.settings import without_secrets
from tests.cli.conftest import pairs, save


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def arguments(bases, tmp_path) -> list:
    """A LoRA run of four steps."""
    data = save(tmp_path / "pairs.jsonl", pairs(12))
    start = ["train", "--method", "lora", "-b", bases["qwen3"], "-d", data, "-o", tmp_path / "rm"]
    return [*start, "--batch-size", 4, "--max-steps", 4]


def test_losses_are_shown_and_the_model_knows_its_run(cli, arguments, tmp_path) -> None:
    first = cli(*arguments, "--lora-rank", 2)
    assert "training: 4/4 steps, loss " in first.err and "loss, mean of all steps" in first.out
    assert "will be replaced" not in first.err
    contract = RewardModel.load(tmp_path / "rm").contract
    assert contract.training["lora.r"] == 2 and contract.training["learning_rate"] == 5e-5
    assert contract.training["max_steps"] == 4 and contract.training["head_init"] == "probe"
    assert contract.data["files"] == [str(tmp_path / "pairs.jsonl")] and contract.data["comparisons"] == 12
    card = (tmp_path / "rm" / "README.md").read_text()
    assert "Not recorded" not in card and f"| files | {tmp_path / 'pairs.jsonl'} |" in card
    assert "| dropped | none |" in card and "| lora.r | 2 |" in card
    assert f"{tmp_path / 'rm'} holds a finished model; it will be replaced when this one is done" in cli(*arguments).err


def test_early_stopping_is_told(cli, arguments, tmp_path) -> None:
    held_out = save(tmp_path / "test.jsonl", pairs(6, seed=1))
    arguments += ["--eval-data", held_out, "--learning-rate", 1e-12, "--set", "save_steps=1"]
    done = cli(*arguments, "--set", "early_stopping_patience=1")
    assert "step 1: held-out loss " in done.err and "step 2: held-out loss " in done.err
    contract = RewardModel.load(tmp_path / "rm").contract
    assert contract.training["stopped"].startswith("step 2 of 4, held-out loss did not fall 1 time; kept step 1 (")
    assert "held-out accuracy (data that chose the step)" in contract.metrics
    assert "data that chose" in done.out and "did not" in done.out
    report = cli(*arguments, "--json").json
    assert report["stopped"] is None
    assert "held-out accuracy" in RewardModel.load(tmp_path / "rm").contract.metrics


def test_an_interruption_says_how_to_go_on(cli, arguments, tmp_path, monkeypatch) -> None:
    def dies(self, args, state, control, **kwargs) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune._Reporter, "on_step_end", dies)
    done = cli(*arguments, "--set", "save_steps=1", "-q")
    assert done.code == 130
    assert f"checkpoint-2 is in {tmp_path / 'rm.run'}; go on with the same command and --resume" in done.err


def test_time_left_is_told_in_logs(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    bar = console._plain_bar("training", "steps")
    for done in (10, 20):  # a run that was resumed at step 10
        bar(done, 100, "loss 0.5")
        now[0] += 60
    bar(40, 100)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "training: 20/100 steps, loss 0.5, 8.0 min left",
        "training: 40/100 steps, 4.0 min left",
    ]


def test_flags_may_stand_in_a_file() -> None:
    flat = settings.merged({"batch_size": 2, "epochs": 1, "lora_rank": 4}, {"per_device_train_batch_size": 3})
    assert flat == {"per_device_train_batch_size": 3, "num_train_epochs": 1, "lora.r": 4}
    with pytest.raises(UsageError, match="epochs and num_train_epochs: are the same setting"):
        settings.merged({"epochs": 1, "num_train_epochs": 2})
    with pytest.raises(UsageError, match="ensemble: is given on the command line, as --ensemble"):
        settings.build({"method": "lora", "data": "a", "output": "b", "ensemble": 3})


def test_a_config_without_a_method(cli, tmp_path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("learning_rate: 1e-4\n")
    assert "add 'method: lora' (or qlora, full) to it" in cli("train", "--config", config).error


def test_resuming_names_the_settings_that_differ(tmp_path) -> None:
    folder = RunFolder(tmp_path / "rm.run")
    folder.begin({"training": {"max_steps": 2}, "lora": {"r": 4}, "data": ["a"]}, resume=False)
    with pytest.raises(UsageError, match=r"lora\.r was 4, is now 8; max_steps was 2, is now 4; resume with") as error:
        folder.check({"training": {"max_steps": 4}, "lora": {"r": 8}, "data": ("a",)}, resume=True)
    assert "{" not in str(error.value)


def test_tokens_of_the_hub_are_not_published() -> None:
    given = {"model_init_kwargs": {"token": "hf_x", "dtype": "bfloat16"}, "tokens_per_forward": 3, "report_to": ["a"]}
    assert without_secrets(given) == {**given, "model_init_kwargs": {"dtype": "bfloat16"}}


def test_merging_models_of_other_lengths_and_adapters(cli, bases, model, tmp_path) -> None:
    other = RewardModel.load(model)
    other.contract = replace(other.contract, max_length=64)
    other.save(tmp_path / "other")
    (note,) = cli("merge", model, tmp_path / "other", "-o", tmp_path / "out", "-q", "--json").json["notes"]
    assert "differ in max_length (64, " in note
    adapter = tmp_path / "other.run" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({}))
    assert (tmp_path / "other" / contracts.FILE).is_file()
    error = cli("merge", model, adapter, "-o", tmp_path / "new", "-q").error
    assert f"the merged model lies in {tmp_path / 'other'}" in error
