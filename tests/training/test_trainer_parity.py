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

from rewardsmith import RewardModel
from rewardsmith.errors import UsageError
from rewardsmith.model.quantise import nf4_config
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


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_another_tokenizers_chat_template_comes_with_its_tokens_and_its_end(trainable, tmp_path, adapters) -> None:
    template = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '[end]' }}{% endfor %}"
    source = tiny.chat_tokenizer(template)
    source.add_special_tokens({"additional_special_tokens": ["[user]", "[assistant]"], "eos_token": "[end]"})
    source.save_pretrained(tmp_path / "source")
    more = {"adapters": adapters, "chat_template_path": str(tmp_path / "source")}
    theirs, ours = both(trainable["llama"], chats(12), tmp_path, **more)
    for name in ("chosen_ids", "rejected_ids"):
        assert list(ours.train_dataset[name]) == list(theirs.train_dataset[name])
    assert_parity(theirs, ours)
    tokenizer = ours.processing_class
    assert tokenizer.eos_token == "[end]" and tokenizer.get_vocab() == theirs.processing_class.get_vocab()
    assert ours.model.config.eos_token_id == theirs.model.config.eos_token_id == tokenizer.eos_token_id
    rewards = ours.predict(Dataset.from_list(chats(4))).predictions[:, 0]
    model = ours.reward_model()
    folders = [model.save(tmp_path / "rm")]
    if adapters:
        ours.save_adapter(tmp_path / "adapter", model)
        folders.append(tmp_path / "adapter")
    for folder in folders:
        found = RewardModel.load(folder)
        scores = found.score_batch([row["prompt"] for row in chats(4)], [row["chosen"] for row in chats(4)])
        assert scores == pytest.approx(rewards.tolist(), abs=1e-4)


def test_a_template_with_new_tokens_goes_with_4_bits_but_not_with_a_language_model_loss(trainable, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    source = tiny.chat_tokenizer("[extra 3]" + tiny.CHATML)
    source.add_special_tokens({"additional_special_tokens": [f"[extra {n}]" for n in range(30)]})
    source.save_pretrained(tmp_path / "source")
    parts = {"quantization_config": nf4_config(torch.float32), "peft_config": lora()}
    more: dict[str, Any] = {"chat_template_path": str(tmp_path / "source")}
    made = trainer(trainable["llama"], chats(8), tmp_path / "out", parts=parts, learning_rate=0.01, **more)
    made.train()
    rewards = made.predict(Dataset.from_list(chats(4))).predictions[:, 0]
    model = made.reward_model()
    found = model.score_batch([row["prompt"] for row in chats(4)], [row["chosen"] for row in chats(4)])
    assert found == pytest.approx(rewards.tolist(), abs=1e-3)
    with pytest.raises(UsageError, match="chat_template_path adds tokens"):
        trainer(trainable["llama"], chats(8), tmp_path / "out", language_model_coefficient=0.1, **more)


@pytest.mark.parametrize("kind", ["text", "messages"])
def test_each_data_set_is_rendered_as_what_it_is(trainable, tmp_path, kind) -> None:
    rows, other = (texts(8), chats(8)) if kind == "text" else (chats(8), texts(8))
    made = []
    for module in (trl, None):
        parts = {"eval_dataset": {"same": Dataset.from_list(rows), "other": Dataset.from_list(other)}}
        options: dict[str, Any] = {"module": module} if module else {}
        made.append(trainer(trainable["llama"], rows, tmp_path, parts=parts, **options))
    theirs, ours = made
    for name in ("same", "other"):
        wanted = [row["chosen_ids"] for row in theirs.eval_dataset[name]]
        assert [row["chosen_ids"] for row in ours.eval_dataset[name]] == wanted
    expected = trainer(trainable["llama"], other, tmp_path).train_dataset
    assert list(ours._rows(Dataset.from_list(other), "test")["chosen_ids"]) == list(expected["chosen_ids"])


def test_an_encoder_is_not_evaluated_on_data_of_the_other_kind(trainable, tmp_path) -> None:
    parts = {"eval_dataset": Dataset.from_list(chats(4))}
    with pytest.raises(UsageError, match="eval data: an encoder wants them in the same format"):
        trainer(trainable["bert"], texts(4), tmp_path, parts=parts, eos_token="[SEP]")


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
