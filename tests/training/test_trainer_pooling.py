"""Fine-tuning a reward that is read as the mean over the response: the slow way agrees, and it stays what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import default_data_collator

from rewardsmith import RewardConfig
from rewardsmith.errors import UsageError
from rewardsmith.model.reward_model import RewardModel
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
    with pytest.raises(UsageError, match="do not say where the response begins"):
        trainer(trainable["llama"], Dataset.from_list(tokens), tmp_path, **MEAN)
    known = [{**tokens[0], "response_start": [1, 1]}]
    assert trainer(trainable["llama"], Dataset.from_list(known), tmp_path, **MEAN).max_length


def test_an_encoder_keeps_its_own(trainable, tmp_path) -> None:
    from rewardsmith.errors import ModelError

    with pytest.raises(ModelError, match="is bidirectional"):
        trainer(trainable["bert"], chats(4), tmp_path, **MEAN)


def test_adapters_are_saved_with_it(trainable, tmp_path) -> None:
    from peft import LoraConfig

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
