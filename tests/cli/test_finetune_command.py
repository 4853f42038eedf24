"""``rewardsmith train --method lora|full``, as a person runs it."""

from __future__ import annotations

import json

import pytest
import torch

from rewardsmith import RewardModel
from tests.cli.conftest import pairs, save


@pytest.fixture
def arguments(bases, tmp_path) -> list:
    """A short LoRA run."""
    data = save(tmp_path / "pairs.jsonl", pairs(24))
    return ["train", "--method", "lora", "-b", bases["qwen3"], "-d", data, "-o", tmp_path / "rm", "--batch-size", 4]


def test_a_run_leaves_a_portable_model_and_an_adapter_that_agree(cli, arguments, tmp_path) -> None:
    held_out = save(tmp_path / "test.jsonl", pairs(10))
    report = cli(*arguments, "--epochs", 1, "--set", "logging_steps=1", "--eval-data", held_out, "--json").json
    assert report["steps"] == 6 and report["comparisons"] == 24
    assert set(report["evaluation"]["accuracy"]) == {"value", "low", "high", "n"}
    assert len([entry for entry in report["log"] if "loss" in entry]) == 6
    merged, adapter = RewardModel.load(tmp_path / "rm"), RewardModel.load(report["adapter"])
    for model in (merged, adapter):
        model.verify()
    texts = ["42", "the answer is 42", "fox"]
    scores = [torch.tensor(model.score_batch(["what is 15 + 27?"] * 3, texts)) for model in (merged, adapter)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-5)
    assert merged.contract.training["method"] == "adapters (LORA)"
    again = cli("evaluate", tmp_path / "rm", "-d", held_out, "--json").json
    assert again["accuracy"] == report["evaluation"]["accuracy"]


def test_a_config_file_with_flags_over_it(cli, arguments, tmp_path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("lora:\n  r: 2\n  target_modules: [q_proj]\nlearning_rate: 1e-3\nmax_steps: 9\n")
    report = cli(*arguments, "--config", config, "--max-steps", 3, "--set", "logging_steps=1", "--json").json
    assert report["steps"] == 3
    assert report["log"][0]["learning_rate"] == pytest.approx(1e-3)
    run = json.loads((tmp_path / "rm.run" / "run.json").read_text())
    assert run["finished"] and run["settings"]["lora"]["r"] == 2


def test_all_weights_and_a_random_head(cli, arguments, tmp_path) -> None:
    arguments[2] = "full"
    report = cli(*arguments, "--max-steps", 2, "--head-init", "random", "--json").json
    assert report["adapter"] is None and report["trainable_parameters"] == report["parameters"]


def test_a_reward_read_as_a_mean_says_so(cli, arguments, tmp_path) -> None:
    done = cli(*arguments, "--max-steps", 2, "--pooling", "mean", "--json").json
    assert done["steps"] == 2
    model = RewardModel.load(tmp_path / "rm")
    assert (model.contract.pooling, model.backbone.pooling) == ("mean", "mean")
    assert "load it with rewardsmith only" in (tmp_path / "rm" / "README.md").read_text()


def test_early_stopping_stops(cli, arguments, tmp_path) -> None:
    held_out = save(tmp_path / "test.jsonl", pairs(6))
    options = ["--set", "early_stopping_patience=1", "--set", "save_steps=1", "--learning-rate", 1e-12]
    report = cli(*arguments, *options, "--max-steps", 50, "--eval-data", held_out, "--json").json
    assert report["steps"] < 50
    assert "early_stopping_patience needs held-out data" in cli(*arguments, *options).error


@pytest.mark.parametrize(
    "options",
    [
        ["early_stopping_patience=1", "eval_strategy=epoch"],
        ["early_stopping_patience=1", "save_strategy=epoch"],
        ["early_stopping_patience=1", "eval_steps=1"],
        ["load_best_model_at_end=true", "save_steps=2"],
        ["eval_strategy=epoch", "save_strategy=no"],
    ],
)
def test_saving_follows_evaluation(cli, arguments, tmp_path, options) -> None:
    held_out = save(tmp_path / "test.jsonl", pairs(6))
    given = [word for option in options for word in ("--set", option)]
    report = cli(*arguments, *given, "--epochs", 1, "--eval-data", held_out, "--json").json
    evaluated = [entry["step"] for entry in report["log"] if "eval_loss" in entry]
    saved = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "rm.run").glob("checkpoint-*"))
    assert evaluated and set(saved) <= set(evaluated)
    assert bool(saved) == ("save_strategy=no" not in options)


def test_the_default_seeds_are_told(cli, arguments, tmp_path) -> None:
    words = " ".join(cli("train", "--help").out.replace("│", " ").split())
    assert "of fine-tuning, default 42" in words
    cli(*arguments, "--max-steps", 1)
    facts = [RewardModel.load(tmp_path / "rm").contract.training["seed"]]
    cli(*arguments, "--max-steps", 1, "--seed", 0)
    assert [*facts, RewardModel.load(tmp_path / "rm").contract.training["seed"]] == [42, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ridge", 3], "--ridge is for --method head"),
        (["--layer", 2], "--layer is for --method head"),
        (["--load-in-4bit"], "--method qlora"),
        (["--dtype", "bfloat16"], "--bf16"),
        (["--set", "lerning_rate=1"], "did you mean learning_rate?"),
        (["--set", "loss=nonsense"], "loss 'nonsense': use bradley-terry"),
        (["--set", "nothing"], "must be key=value"),
        (["--config", "none.yaml"], "none.yaml: cannot be read"),
        (["--learning-rate", 0], "learning_rate 0.0: must be finite and greater than 0"),
        (["--resume"], "there is no run"),
        (["--set", "loss=margin-scaled"], "needs a margin"),
        (["--max-length", 3], "no row of the train data is left: 24 longer than max_length"),
        (["--set", "lr_scheduler_type=foo"], "foo is not a valid SchedulerType, please select one of"),
        (["--set", "lr_scheduler_type=cosine_with_min_lr"], "One of min_lr or min_lr_rate should be set"),
        (["--set", "optim=foo"], "foo is not a valid OptimizerNames"),
        (["--set", "optim=galore_adamw"], "You need to install `galore_torch`"),
        (["--set", "save_strategy=foo"], "foo is not a valid SaveStrategy"),
        (["--set", "report_to=nobody"], "nobody is not supported"),
        (["--set", "deepspeed=nofile.json"], "deepspeed"),
        (["--set", "lora.target_modules=[nope]"], "No modules were targeted for adaptation"),
        (["--set", "lora.layers=[9]"], "adapters on layer 9: Qwen3ForSequenceClassification has layers 0 to 2"),
        (["--set", "model_init_kwargs={nope: 1}"], "unexpected keyword argument 'nope'"),
        (["--set", "model_init_kwargs={dtype: int8}"], "model_init_kwargs: dtype 'int8': use float32"),
        (["--set", "per_device_eval_batch_size=0"], "per_device_eval_batch_size 0: must be at least 1"),
        (["--accumulation", 1, "--set", "seed=-1"], "Seed must be between 0"),
        (["--set", "logging_steps=0"], "requires non-zero --logging_steps"),
        (["--set", "dataloader_num_workers=-1"], "num_workers option should be non-negative"),
        (["--max-steps", 0], "max_steps 0: nothing would be trained"),
        (["--epochs", 0], "num_train_epochs 0: nothing would be trained"),
        (["--epochs", -1], "num_train_epochs -1: nothing would be trained"),
        (["--set", "eval_strategy=steps"], "you didn't pass an `eval_dataset`"),
        (["--set", "load_best_model_at_end=true"], "load_best_model_at_end needs held-out data: give --eval-data"),
        (["--set", "loss_kwargs=3"], "loss_kwargs 3: must be options by name"),
        (["--set", "loss=hinge", "--set", "loss_kwargs={gap: wide}"], "loss 'hinge': gap 'wide': must be a number"),
    ],
)
def test_mistakes_end_in_one_line(cli, arguments, options, message) -> None:
    outcome = cli(*arguments, "-q", *options)
    assert message in outcome.error


@pytest.mark.parametrize(
    ("method", "advice"),
    [("lora", "--method qlora"), ("full", "--method lora"), ("head", "a smaller --batch-tokens")],
)
def test_running_out_of_memory_ends_in_advice_that_the_method_takes(
    cli, arguments, monkeypatch, method, advice
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    arguments[2] = method
    monkeypatch.setattr("rewardsmith.training.trainer.RewardTrainer.train", full)
    monkeypatch.setattr("rewardsmith.training.head.train_head", full)
    said = cli(*(arguments[:9] if method == "head" else arguments), "-q").error
    assert "out of memory" in said and advice in said
    if method != "head":
        assert "--batch-size 1 --accumulation 8" in said and "--batch-tokens" not in said and "4bit" not in said
        assert "tokens_per_forward" in said


def test_flags_of_finetuning_are_refused_for_a_head(cli, arguments) -> None:
    arguments[2] = "head"
    assert "--lora-rank is for fine-tuning" in cli(*arguments[:9], "--lora-rank", 4).error
    assert "--data is missing" in cli("train", "-o", "x").error


def test_a_failed_upload_leaves_the_model_of_the_command(cli, bases, tmp_path, monkeypatch) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    def refuse(*_: object, **__: object) -> None:
        raise OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    data = save(tmp_path / "pairs.jsonl", pairs(8))
    arguments = ("train", "--method", "lora", "-b", bases["llama"], "-d", data, "-o", tmp_path / "rm")
    done = cli(*arguments, "--max-steps", 1, "--head-init", "random", "--set", "push_to_hub=true")
    line = done.err.splitlines()[-1]
    assert done.code == 2 and done.err.count("push_to_hub") == 1
    assert "push_to_hub: rm was not uploaded" in line and f"hf upload rm {tmp_path / 'rm'}" in line
    RewardModel.load(tmp_path / "rm").verify()
