"""Fine-tuning a reward that is read as the mean over the response: the slow way agrees, and it stays what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import default_data_collator

from rewardsmith import RewardConfig
from rewardsmith.errors import DataError, ModelError, UsageError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.types import Comparison
from tests.training.conftest import assert_same_gradients, chats, gradients, independent, trainer

MEAN: dict[str, Any] = {"pooling": "mean"}


def slow_rewards(made: Any, network: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """[N, 2]: each response alone through transformers' body, the mean of its states, the head."""
    found = []
    for row in rows:
        for name, start in zip(("chosen_ids", "rejected_ids"), row["response_start"], strict=True):
            states = network.model(input_ids=torch.tensor([row[name]])).last_hidden_state[0]
            found.append(network.score(states[start:].mean(0))[0])
    return torch.stack(found).view(-1, 2)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_first_gradient_is_that_of_means_taken_one_by_one(trainable, tmp_path, family) -> None:
    made = trainer(trainable[family], chats(4), tmp_path, **MEAN)
    network, rows = independent(made, trainable[family]), made.train_dataset.to_list()
    rewards = slow_rewards(made, network, rows)
    torch.nn.functional.softplus(rewards[:, 1] - rewards[:, 0]).mean().backward()
    slow = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
    assert_same_gradients(gradients(made), slow)
    last = trainer(trainable[family], chats(4), tmp_path)
    assert not torch.equal(gradients(last)["score.weight"], slow["score.weight"])  # the test can tell them apart


def test_what_was_trained_is_what_is_saved_and_trained_on(trainable, tmp_path) -> None:
    made = trainer(trainable["llama"], chats(8), tmp_path / "run", head_init="probe", **MEAN)
    made.train()
    rows = made.train_dataset.to_list()
    with torch.no_grad():
        wanted = slow_rewards(made, independent(made, trainable["llama"]), rows)
    model = made.reward_model()
    assert model.contract.pooling == "mean"
    model.save(tmp_path / "rm")
    loaded = RewardModel.load(tmp_path / "rm", dtype="float32", device="cpu")
    pairs = chats(8)
    for name, place in (("chosen", 0), ("rejected", 1)):
        scores = loaded.score_batch([row["prompt"] for row in pairs], [row[name] for row in pairs])
        torch.testing.assert_close(torch.tensor(scores), wanted[:, place], atol=1e-5, rtol=1e-5)
    again = trainer(tmp_path / "rm", chats(8), tmp_path / "more")  # its head goes on reading the mean
    assert again.reward_model().contract.pooling == "mean"
    with pytest.raises(UsageError, match=r"pooling last: .*rm is a reward model that reads mean; leave pooling out"):
        trainer(tmp_path / "rm", chats(8), tmp_path / "more", pooling="last")


def test_what_a_mean_cannot_be_taken_over_is_refused(trainable, tmp_path) -> None:
    with pytest.raises(UsageError, match="pooling 'middle': use last or mean"):
        RewardConfig(str(tmp_path), pooling="middle")
    with pytest.raises(UsageError, match="leave data_collator out"):
        trainer(trainable["llama"], chats(4), tmp_path, parts={"data_collator": default_data_collator}, **MEAN)
    tokens = [{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 8]}]
    known = [{**tokens[0], "response_start": [1, 1]}]
    made = trainer(trainable["llama"], Dataset.from_list(known), tmp_path, **MEAN)
    for rows in (tokens, [*known, {**tokens[0], "response_start": None}]):
        for how in (lambda rows: trainer(trainable["llama"], rows, tmp_path, **MEAN), made.evaluate, made.predict):
            with pytest.raises(DataError, match=r"row:\d: response_start.*must know where the response begins"):
                how(Dataset.from_list(rows))
    with pytest.raises(DataError, match=r"row:1: prompt: is missing, and pooling 'mean' must know"):
        trainer(trainable["llama"], [{"chosen": "hi you", "rejected": "hi"}], tmp_path, **MEAN)
    comparison = Comparison("", ("", ""), token_ids=((5, 6, 7), (5, 8)))
    with pytest.raises(DataError, match="row:1: holds tokens, and pooling 'mean' must know"):
        trainer(trainable["llama"], chats(4), tmp_path, parts={"eval_dataset": [comparison]}, **MEAN)


@pytest.mark.parametrize("starts", [[9999, 1], [-1, 1], [1], [3, 1], [1, 1, 1]], ids=str)
def test_a_start_that_is_no_place_of_the_row_is_refused(trainable, tmp_path, starts) -> None:
    rows = [{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 8], "response_start": starts}]
    for more in ({}, MEAN):
        with pytest.raises(DataError, match=r"row:1: response_start: .*one place a response, .* below \[3, 2\]"):
            trainer(trainable["llama"], Dataset.from_list(rows), tmp_path, **more)


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_save_model_and_checkpoints_keep_it(trainable, tmp_path, adapters) -> None:
    parts = {"peft_config": LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")} if adapters else {}
    made = trainer(
        trainable["llama"], chats(8), tmp_path / "run", parts=parts, save_strategy="steps", save_steps=1, **MEAN
    )
    made.train()
    made.save_model(tmp_path / "saved")
    row = chats(1)[0]
    wanted = made.reward_model().score(row["prompt"], row["chosen"])
    assert made.reward_model().contract.pooling == "mean"
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda one: int(one.name.split("-")[1]))
    for folder in (tmp_path / "saved", last):
        loaded = RewardModel.load(folder, dtype="float32", device="cpu")
        assert loaded.contract.pooling == "mean"
        assert loaded.score(row["prompt"], row["chosen"]) == pytest.approx(wanted, abs=1e-4)
    if not adapters:
        assert trainer(tmp_path / "saved", chats(8), tmp_path / "more")._source.backbone.pooling == "mean"
    (tmp_path / "saved" / "reward_pooling.json").write_text("{}")
    with pytest.raises(ModelError, match=r"reward_pooling.json: cannot be read \(KeyError\); save the model again"):
        RewardModel.load(tmp_path / "saved")


def test_an_encoder_keeps_its_own(trainable, tmp_path) -> None:
    with pytest.raises(ModelError, match="is bidirectional"):
        trainer(trainable["bert"], chats(4), tmp_path, **MEAN)


def test_adapters_are_saved_with_it(trainable, tmp_path) -> None:
    adapters = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear")
    made = trainer(trainable["llama"], chats(8), tmp_path / "run", parts={"peft_config": adapters}, **MEAN)
    made.train()
    model = made.reward_model()
    made.save_adapter(tmp_path / "adapter", model)
    loaded = RewardModel.load(tmp_path / "adapter", dtype="float32", device="cpu")
    row = chats(1)[0]
    assert loaded.contract.pooling == "mean"
    assert loaded.score(row["prompt"], row["chosen"]) == pytest.approx(
        model.score(row["prompt"], row["chosen"]), abs=1e-5
    )
