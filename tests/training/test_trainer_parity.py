"""The same script with TRL's trainer and with ours: the same numbers at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from trl.trainer.reward_trainer import DataCollatorForPreference

from tests import tiny
from tests.training.conftest import (
    assert_same_gradients,
    chats,
    gradients,
    logged,
    steps,
    texts,
    trainer,
)

MEASURED = ("loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward", "num_tokens")
LOGGED = (*MEASURED, "grad_norm", "learning_rate")


def lora() -> LoraConfig:
    return LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", lora_dropout=0.0)


def tokens(n: int) -> list[dict[str, Any]]:
    """Pre-tokenised pairs of an encoder: [CLS] text [SEP]."""
    tokenizer = tiny.pair_tokenizer()
    rows = texts(n, explicit=False)
    return [{f"{name}_ids": tokenizer(row[name])["input_ids"] for name in ("chosen", "rejected")} for row in rows]


def with_margins(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "margin": (i % 3) / 2} for i, row in enumerate(rows)]


def both(
    base: Path, rows: list[dict[str, Any]], folder: Path, *, adapters: bool, evaluate: bool = False, **more: Any
) -> tuple[Any, Any]:
    """TRL's trainer and ours after the same training, with a set to evaluate on if asked for."""
    made = []
    for module in (trl, None):
        parts: dict[str, Any] = {"eval_dataset": Dataset.from_list(rows[:8]) if evaluate else None}
        if adapters:
            parts["peft_config"] = lora()
        options = {"module": module} if module else {}
        one = trainer(base, rows, folder / (module.__name__ if module else "ours"), parts=parts, **options, **more)
        one.train()
        made.append(one)
    return made[0], made[1]


def assert_parity(theirs: Any, ours: Any) -> None:
    """Every logged number within 1e-4 in float32, and the weights that come out of it."""
    assert len(steps(theirs)) == len(steps(ours)) > 1
    for name in LOGGED:
        assert logged(ours, name) == pytest.approx(logged(theirs, name), abs=1e-4), name
    if ours.eval_dataset is not None:
        expected, found = theirs.evaluate(), ours.evaluate()
        for name in MEASURED:
            assert found[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], abs=1e-4), name
    weights = dict(theirs.model.named_parameters())
    for name, one in ours.model.named_parameters():
        torch.testing.assert_close(one, weights.pop(name), rtol=0, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert not weights


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_every_family_logs_what_trl_logs(trainable, tmp_path, family) -> None:
    assert_parity(*both(trainable[family], chats(12), tmp_path, adapters=False, evaluate=True))


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_every_family_logs_what_trl_logs_with_adapters(trainable, tmp_path, family) -> None:
    assert_parity(*both(trainable[family], chats(12), tmp_path, adapters=True))


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_an_encoder_logs_what_trl_logs(trainable, tmp_path, adapters) -> None:
    # The head's bias and the biases of keys change no difference of rewards: their gradients are rounding, and AdamW
    # steps on it as far as on any other, up to the learning rate.
    rate = {"learning_rate": 1e-4}
    assert_parity(*both(trainable["bert"], tokens(12), tmp_path, adapters=adapters, evaluate=True, **rate))


DATA = {
    "text": texts(12),
    "text, implicit prompt": texts(12, explicit=False),
    "messages, implicit prompt": chats(12, explicit=False),
    "margins": with_margins(chats(12)),
}


@pytest.mark.parametrize("rows", DATA.values(), ids=DATA.keys())
def test_every_kind_of_data_logs_what_trl_logs(trainable, tmp_path, rows) -> None:
    assert_parity(*both(trainable["mistral"], rows, tmp_path, adapters=True))


SETTINGS: dict[str, tuple[bool, dict[str, Any]]] = {
    "centering": (True, {"center_rewards_coefficient": 0.05}),
    "accumulation": (False, {"gradient_accumulation_steps": 2}),
    "checkpointing": (False, {"gradient_checkpointing": True}),
    "checkpointing, lora": (True, {"gradient_checkpointing": True}),
    "all of it": (True, {"seed": 7, "center_rewards_coefficient": 0.05, "gradient_accumulation_steps": 2}),
}


@pytest.mark.parametrize(("adapters", "more"), SETTINGS.values(), ids=SETTINGS.keys())
def test_every_setting_logs_what_trl_logs(trainable, tmp_path, adapters, more) -> None:
    rows = with_margins(chats(16 if "gradient_accumulation_steps" in more else 8))
    assert_parity(*both(trainable["llama"], rows, tmp_path, adapters=adapters, **more))


def test_an_uneven_last_batch_steps_as_with_trl(trainable, tmp_path) -> None:
    """Loss, gradient and weights are TRL's; its means over batches are not (test_trap_13)."""
    theirs, ours = both(trainable["llama"], chats(14), tmp_path, adapters=True, gradient_accumulation_steps=2)
    for name in ("loss", "grad_norm", "min_reward", "max_reward", "num_tokens"):
        assert logged(ours, name) == pytest.approx(logged(theirs, name), abs=1e-4), name
    assert logged(ours, "mean_reward")[-1] != pytest.approx(logged(theirs, "mean_reward")[-1], abs=1e-4)


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_sharing_prompts_changes_no_gradient(trainable, tmp_path, family) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"share_prompts": False},
        {"parts": {"data_collator": DataCollatorForPreference(0)}},
    ]
    rows = with_margins(chats(4))
    made = [trainer(trainable[family], rows, tmp_path, center_rewards_coefficient=0.1, **way) for way in ways]
    assert [getattr(one.data_collator, "share", None) for one in made] == [True, False, None]
    shared, alone, theirs = map(gradients, made)
    assert_same_gradients(shared, alone)
    assert_same_gradients(shared, theirs)


def test_trls_collator_takes_rows_without_margins(trainable, tmp_path) -> None:
    parts = {"data_collator": DataCollatorForPreference(0)}
    shared = trainer(trainable["llama"], chats(4), tmp_path / "shared")
    assert_same_gradients(gradients(shared), gradients(trainer(trainable["llama"], chats(4), tmp_path, parts=parts)))
