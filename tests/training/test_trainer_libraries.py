"""What libraries beneath the trainer add works with ours: compilers, optimizers, trackers, the best checkpoint."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from tests.training.conftest import chats, logged, texts, trainer


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapters"), [("llama", True), ("bert", False)])
def test_a_compiled_network_logs_the_plain_ones_losses(trainable, tmp_path, family, adapters) -> None:
    parts = {"peft_config": lora()} if adapters else {}
    rows = chats(12) if family == "llama" else texts(12)
    more: dict[str, Any] = {"parts": parts, "eos_token": None if family == "llama" else "[SEP]"}
    plain = trainer(trainable[family], rows, tmp_path, **more)
    plain.train()
    compiled = trainer(trainable[family], rows, tmp_path, torch_compile=True, torch_compile_backend="eager", **more)
    compiled.train()
    assert logged(compiled, "loss") == pytest.approx(logged(plain, "loss"), abs=1e-4)
    assert logged(compiled, "grad_norm") == pytest.approx(logged(plain, "grad_norm"), abs=1e-3)


def test_an_8_bit_optimizer_learns(trainable, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    more: dict[str, Any] = {"optim": "adamw_8bit", "num_train_epochs": 5, "learning_rate": 5e-3}
    made = trainer(trainable["llama"], chats(12), tmp_path, parts={"peft_config": lora()}, **more)
    made.train()
    assert "bitsandbytes" in type(made.optimizer.optimizer).__module__
    losses = logged(made, "loss")
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3


def test_a_tracker_is_told_what_is_logged(trainable, tmp_path, monkeypatch) -> None:
    if not importlib.util.find_spec("tensorboard"):
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    made = trainer(trainable["llama"], chats(12), tmp_path, report_to=["tensorboard"])
    made.train()
    found = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [one.value for one in found.Scalars("train/loss")] == pytest.approx(logged(made, "loss"))
    assert "train/accuracy" in found.Tags()["scalars"]


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_the_best_checkpoint_is_loaded_at_the_end_with_its_head(trainable, tmp_path, adapters) -> None:
    parts: dict[str, Any] = {"eval_dataset": Dataset.from_list(chats(4))}
    parts |= {"peft_config": lora()} if adapters else {}
    more: dict[str, Any] = {
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1},
        **{"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True},  # the worst one
        "learning_rate": 0.01,
    }
    made = trainer(trainable["llama"], chats(12), tmp_path, parts=parts, **more)
    made.train()
    losses = {one["step"]: one["eval_loss"] for one in made.state.log_history if "eval_loss" in one}
    best = max(losses, key=losses.get)
    assert len(losses) == 3 and best != 3 and made.state.best_global_step == best
    assert made.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-6)
    assert made.evaluate()["eval_loss"] != pytest.approx(losses[3], abs=1e-3)
    model, rows = made.reward_model(), chats(4)
    chosen, rejected = (
        torch.tensor(model.score_batch([row["prompt"] for row in rows], [row[name] for row in rows]))
        for name in ("chosen", "rejected")
    )
    assert torch.nn.functional.softplus(rejected - chosen).mean().item() == pytest.approx(losses[best], abs=1e-4)
