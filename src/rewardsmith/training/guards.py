"""What is checked before the first step: a head that learns and is saved, and a pad token of its own."""

from __future__ import annotations

from typing import Any

from rewardsmith.errors import ModelError
from rewardsmith.model.backbone import find_head, head_name


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
