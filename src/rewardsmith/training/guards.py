"""What is checked before the first step, and the summary that says what the run will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import build
from rewardsmith.errors import ModelError
from rewardsmith.model.backbone import find_head, head_name
from rewardsmith.training.rows import RowCount, sequences


def check_head(network: Any, model: Any) -> None:
    """The head learns, and will be in what is saved (traps 1 and 4).

    Args:
        network: the ``*ForSequenceClassification``.
        model: the same, or the PEFT model around it.

    Raises:
        ModelError: the head is frozen, or an adapter checkpoint would leave it out.
    """
    head = network.get_submodule(head_name(network))
    if not any(parameter.requires_grad for parameter in head.parameters()):
        raise ModelError(
            "the reward head is frozen and would stay as it is; "
            + ("put it into modules_to_save of the LoraConfig" if model is not network else "set requires_grad on it")
        )
    if model is not network:
        from peft import get_peft_model_state_dict

        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
        part = head_name(network).split(".")[0]
        if not any(f".{part}." in f".{key}" for key in saved):
            raise ModelError("the reward head would not be saved with the adapter; put it into modules_to_save")


def check_pad(tokenizer: Any, network: Any) -> None:
    """The pad token is not EOS, and the network knows it (trap 5)."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ModelError("the tokenizer has no pad token of its own; set tokenizer.pad_token to one that is not EOS")
    if network.config.get_text_config().pad_token_id != tokenizer.pad_token_id:
        raise ModelError("config.pad_token_id is not the tokenizer's; other tools would read the score elsewhere")
    if find_head(network).out_features != 1:
        raise ModelError(f"the head has {find_head(network).out_features} outputs; a reward model has one")


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
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.rows.dropped.items()) or "none"
        kept = self.rows.kept
        parts = ["rows: a stream" if kept is None else f"{kept:,} rows kept, dropped: {dropped}"]
        if self.tokens and self.unshared and self.padded:
            parts.append(
                f"{self.tokens:,} tokens an epoch to compute (unshared {self.unshared:,}, padded {self.padded:,})"
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
