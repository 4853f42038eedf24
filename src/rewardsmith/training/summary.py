"""One line that says what a run is about to do, before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import build
from rewardsmith.errors import ModelError
from rewardsmith.model.hardware import dtype_name
from rewardsmith.training.collator import TreeCollator
from rewardsmith.training.memory import language_model
from rewardsmith.training.method import DTYPE_BYTES
from rewardsmith.training.plan import need
from rewardsmith.training.rows import RowCount, sequences
from rewardsmith.training.shape import shape_from_config
from rewardsmith.training.words import TOKENS
from rewardsmith.training.workload import Settings

if TYPE_CHECKING:
    from rewardsmith.training.trainer import RewardTrainer

# Rows whose tokens are counted; a longer data set is estimated from its first so many.
_COUNTED = 20_000


@dataclass(frozen=True)
class Summary:
    """What a run is about to do.

    Args:
        rows: of the training data.
        tokens: to compute in an epoch, prompts once; None for a stream.
        unshared: the same with every response on its own.
        padded: positions of TRL's batches: two rows a pair, padded to the longest of the batch.
        trainable, parameters: numbers of parameters.
        memory: expected peak in bytes; None when it cannot be told.
    """

    rows: RowCount
    tokens: int | None
    unshared: int | None
    padded: int | None
    trainable: int
    parameters: int
    memory: int | None = None

    def __str__(self) -> str:
        parts = [str(self.rows)]
        if self.tokens and self.unshared and self.padded:
            parts.append(
                f"{self.tokens:,} tokens an epoch, prompts once (unshared {self.unshared:,}, padded {self.padded:,})"
            )
        share = self.trainable / max(1, self.parameters)
        parts.append(f"{self.trainable:,} of {self.parameters:,} parameters trainable ({share:.2%})")
        if self.memory is not None:
            parts.append(f"expected peak memory {self.memory / 2**30:.1f} GiB")
        return "; ".join(parts)


def count_tokens(rows: Sequence[Mapping[str, Any]], batch_size: int) -> tuple[int, int, int]:
    """Tokens of token rows: shared, unshared, and padded in batches of ``batch_size`` in their order."""
    shared, unshared, padded = 0, 0, 0
    widest, responses = 0, 0
    for number, row in enumerate(rows, start=1):
        ids = sequences(row)
        shared += len(build([Rendered(tuple(one), 0) for one in ids]))
        lengths = [len(one) for one in ids]
        unshared += sum(lengths)
        widest, responses = max(widest, *lengths), responses + len(lengths)
        if number % batch_size == 0 or number == len(rows):
            padded += widest * responses
            widest = responses = 0
    return shared, unshared, padded


def summarise(trainer: RewardTrainer) -> Summary:
    """The summary of a trainer that is ready to train."""
    from datasets import Dataset

    parameters = list(trainer.model.parameters())
    trainable, total = sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
    counted = trainer.rows["train"]
    data = trainer.train_dataset
    if not isinstance(data, Dataset):
        return Summary(counted, None, None, None, trainable, total)
    rows = data.select(range(min(len(data), _COUNTED))).to_list()
    share = len(data) / len(rows)
    tokens = [round(share * count) for count in count_tokens(rows, trainer.args.train_batch_size)]
    return Summary(counted, tokens[0], tokens[1], tokens[2], trainable, total, expected_memory(trainer, rows))


def expected_memory(trainer: RewardTrainer, rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Peak bytes of the batch of the longest rows; None for what cannot be counted (mixtures of experts ...)."""
    args, config = trainer.args, getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", None)
    if not isinstance(trainer.data_collator, TreeCollator):
        return None
    try:
        shape = shape_from_config(trainer.network.config)
    except ModelError:
        return None
    adapters = next(iter(config.values())) if config else None
    quantised = bool(getattr(trainer.network, "is_loaded_in_4bit", False))
    method = "full" if adapters is None else "qlora" if quantised else "lora"
    trees = [build([Rendered(tuple(one), 0) for one in sequences(row)]) for row in rows]
    sizes = [(len(tree.prefix), *map(len, tree.branches)) for tree in trees]
    stored = dtype_name(trainer.network.get_input_embeddings().weight.dtype)
    if stored not in DTYPE_BYTES:
        return None
    settings = Settings(
        batch_size=args.train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        rank=int(getattr(adapters, "r", 16) or 16),
        dtype="bfloat16" if args.bf16 else "float16" if args.fp16 else stored,
        stored=stored,
        autocast=False if method == "full" and stored != "float32" else None,
        optimizer="adamw_8bit" if "8bit" in str(args.optim) else "adamw_torch_fused",
        checkpointing=args.gradient_checkpointing,
        batch_tokens=args.tokens_per_forward,
        device=args.device.type,
    )
    found, _ = need(shape, sizes, settings, method)
    if (words := trainer._words) is None:
        return found.total
    said = min(TOKENS, args.train_batch_size * max(branch for _, *branches in sizes for branch in branches))
    kinds = {"compute": DTYPE_BYTES[settings.dtype], "stored": words.element_size()}
    return found.total + language_model(words.shape[0], words.shape[1], said, **kinds)
