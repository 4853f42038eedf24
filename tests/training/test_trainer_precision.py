"""Rewards and heads are float32, whatever the backbone is (trap 9)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaModel

from rewardsmith.model.quantise import nf4_config
from tests import tiny
from tests.training.conftest import chats, logged, texts, trainer

BF16 = {"model_init_kwargs": {"dtype": "bfloat16"}}


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear")


@pytest.mark.parametrize("handed_in", [False, True], ids=["by name", "handed in"])
def test_the_head_of_a_4_bit_base_in_bfloat16_trains_in_float32(trainable, tmp_path, handed_in) -> None:
    pytest.importorskip("bitsandbytes")
    made_4_bit = nf4_config(torch.bfloat16)
    parts: dict[str, Any] = {"peft_config": lora()}
    if handed_in:
        base: Any = AutoModelForSequenceClassification.from_pretrained(
            trainable["llama"], num_labels=1, dtype=torch.bfloat16, quantization_config=made_4_bit
        )
        more: dict[str, Any] = {}
    else:
        base, more, parts = trainable["llama"], BF16, {**parts, "quantization_config": made_4_bit}
    made = trainer(base, chats(8), tmp_path, parts=parts, bf16=True, **more)
    kinds = {name: one.dtype for name, one in made.model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "score" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "embed_tokens" in name} == {torch.bfloat16}
    made.train()
    rewards = torch.from_numpy(made.predict(made.train_dataset).predictions)
    assert (rewards != rewards.bfloat16().float()).any()
    model = made.reward_model()
    assert model.head.weight.dtype == torch.float32


def _pairs() -> list[dict[str, Any]]:
    return texts(12)


@pytest.mark.parametrize("more", [BF16, {"bf16": True}, {**BF16, "bf16": True}], ids=["weights", "autocast", "both"])
@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_an_encoder_in_bfloat16_gives_float32_rewards(trainable, tmp_path, adapters, more) -> None:
    parts: dict[str, Any] = {"eval_dataset": Dataset.from_list(_pairs())}
    parts |= {"peft_config": lora()} if adapters else {}
    settings: dict[str, Any] = {"eos_token": "[SEP]", "learning_rate": 1e-4, "parts": parts}
    full = trainer(trainable["bert"], _pairs(), tmp_path / "full", **settings)
    made = trainer(trainable["bert"], _pairs(), tmp_path / "half", **more, **settings)
    full.train()
    made.train()
    assert logged(made, "loss") == pytest.approx(logged(full, "loss"), abs=0.1)
    rewards = torch.from_numpy(made.predict(made.train_dataset).predictions)
    assert (rewards != rewards.bfloat16().float()).any()  # close scores do not tie
    assert made.reward_model().head.weight.dtype == torch.float32


def test_an_encoder_with_layers_before_its_head_trains_in_bfloat16(tmp_path) -> None:
    """RoBERTa's head is ``classifier.out_proj``, which PEFT keeps with ``classifier.dense``."""
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = RobertaConfig(**sizes, num_attention_heads=4, max_position_embeddings=256, pad_token_id=0)
    base = tmp_path / "base"
    RobertaModel(config).save_pretrained(base)
    tiny.pair_tokenizer().save_pretrained(base)
    for more in (BF16, {**BF16, "bf16": True}):
        made = trainer(base, _pairs(), tmp_path / "out", parts={"peft_config": lora()}, eos_token="[SEP]", **more)
        made.train()
        rewards = torch.from_numpy(made.predict(made.train_dataset).predictions)
        assert (rewards != rewards.bfloat16().float()).any()


@pytest.mark.parametrize("more", [BF16, {"bf16": True}, {**BF16, "bf16": True}], ids=["weights", "autocast", "both"])
def test_padded_batches_of_another_collator_give_float32_rewards(trainable, tmp_path, more) -> None:
    collator = pytest.importorskip("trl.trainer.reward_trainer").DataCollatorForPreference(pad_token_id=0)
    made = trainer(trainable["llama"], chats(12), tmp_path, parts={"data_collator": collator}, **more)
    made.train()
    rewards = torch.from_numpy(made.predict(made.train_dataset).predictions)
    assert (rewards != rewards.bfloat16().float()).any()
