"""What is logged after a run goes on from a checkpoint is what would have been logged without the break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from tests.training.conftest import chats, trainer

TIMES = ("runtime", "per_second", "total_flos", "train_loss")


def history(made: Any) -> list[dict[str, float]]:
    entries = made.state.log_history
    return [{k: v for k, v in entry.items() if not any(word in k for word in TIMES)} for entry in entries]


@pytest.mark.parametrize(("log", "save"), [(4, 3), (3, 2), (2, 2)], ids=["4, 3", "3, 2", "2, 2"])
def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(trainable, tmp_path, log, save) -> None:
    more: dict[str, Any] = {
        "logging_steps": log,
        "save_strategy": "steps",
        "save_steps": save,
        "max_steps": 9,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
    }

    def new() -> Any:
        return trainer(trainable["llama"], chats(14), tmp_path, parts={"peft_config": LoraConfig(r=4)}, **more)

    whole = new()
    whole.train()
    assert [entry["step"] for entry in history(whole)[:-1]] == list(range(log, 10, log))
    for step in range(save, 9, save):
        made = new()
        made.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert history(made) == history(whole), step


def test_a_checkpoint_of_another_tool_is_gone_on_from(trainable, tmp_path) -> None:
    """It does not say what was not logged yet."""
    more: dict[str, Any] = {"logging_steps": 3, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = trainer(trainable["llama"], chats(16), tmp_path, **more)
    whole.train()
    (tmp_path / "checkpoint-2" / "log_state.json").unlink()
    made = trainer(trainable["llama"], chats(16), tmp_path, **more)
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert made.state.global_step == 4
    assert made.state.log_history[0]["step"] == 3
    assert made.state.log_history[0]["loss"] != whole.state.log_history[0]["loss"]


def test_the_mean_loss_of_a_resumed_run_is_that_of_its_own_steps(trainable, tmp_path) -> None:
    more: dict[str, Any] = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = trainer(trainable["llama"], chats(16), tmp_path, **more)
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    made = trainer(trainable["llama"], chats(16), tmp_path, **{**more, "logging_steps": 3})
    made.train()
    again = trainer(trainable["llama"], chats(16), tmp_path, **{**more, "logging_steps": 3})
    found = again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert found.training_loss == pytest.approx(sum(losses[2:]) / 2, abs=1e-5)
    assert json.loads(Path(tmp_path / "checkpoint-2" / "log_state.json").read_text())["last_logged"] == 0
