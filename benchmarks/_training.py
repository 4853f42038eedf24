"""What the accuracy benchmarks share: training a reward model on comparisons by one of the methods, in this process."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig

from rewardsmith import RewardConfig, RewardModel, RewardTrainer
from rewardsmith.model.cut import cut
from rewardsmith.training.head import HeadConfig, train_head
from rewardsmith.types import Comparison, Text

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def options(parser: argparse.ArgumentParser) -> None:
    """The settings of the training."""
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--method", choices=("head", "lora"), default="head")
    parser.add_argument("--layers", type=int, help="cut the base to its first layers")
    parser.add_argument("--pooling", choices=("last", "mean"), default="last", help="what the head reads")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast in fine-tuning")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", help="folder for the trained model")


def trained(args: argparse.Namespace, rows: Sequence[Comparison]) -> tuple[RewardModel, float]:
    """The model, and the seconds its training took (features included)."""
    started = time.perf_counter()
    model = _head(args, rows) if args.method == "head" else _lora(args, rows)
    seconds = time.perf_counter() - started
    if args.output:
        model.save(args.output)
    return model, seconds


def shallow(base: str, layers: int | None, folder: Path) -> str:
    """The first ``layers`` layers of a base model as a base model of its own; the base itself without a number."""
    if layers is None:
        return base
    model = RewardModel.from_base(base)
    cut(model.backbone.network, layers)
    body = model.backbone.body
    body.config.architectures = None
    body.save_pretrained(folder)
    model.template.tokenizer.save_pretrained(folder)
    return str(folder)


def record(comparison: Comparison) -> dict[str, Any]:
    """A comparison as a conversational row of the trainer."""
    prompt = _messages(comparison.prompt, "user")
    responses = [_messages(response, "assistant") for response in comparison.responses]
    if len(responses) == 2 and comparison.ranks == (0, 1):
        return {"prompt": prompt, "chosen": responses[0], "rejected": responses[1]}
    return {"prompt": prompt, "responses": responses, "ranks": list(comparison.ranks)}


def _head(args: argparse.Namespace, rows: Sequence[Comparison]) -> RewardModel:
    model = RewardModel.from_base(args.base, pooling=args.pooling)
    return train_head(model, rows, HeadConfig(layer=args.layers), report=_report).model


def _report(done: int, total: int) -> None:
    print(f"features of {done} of {total} tokens", end="\r" if done < total else "\n", file=sys.stderr, flush=True)


def _lora(args: argparse.Namespace, rows: Sequence[Comparison]) -> RewardModel:
    with tempfile.TemporaryDirectory() as scratch:
        config = RewardConfig(
            output_dir=f"{scratch}/run",
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate,
            gradient_checkpointing=False,
            seed=args.seed,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            bf16=args.bf16,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            head_init="probe",
            pooling=args.pooling,
        )
        lora = LoraConfig(task_type="SEQ_CLS", r=args.rank, lora_alpha=2 * args.rank, target_modules=PROJECTIONS)
        base = shallow(args.base, args.layers, Path(scratch) / "base")
        data = Dataset.from_list([record(row) for row in rows])
        trainer = RewardTrainer(base, config, train_dataset=data, peft_config=lora)
        trainer.train()
        return trainer.reward_model()


def _messages(text: Text, role: str) -> list[dict[str, Any]]:
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [message.as_dict() for message in text]
