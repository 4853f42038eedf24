"""4-bit NF4 weights by bitsandbytes (Dettmers et al. 2023, QLoRA), and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rewardsmith.errors import MissingExtraError
from rewardsmith.model.hardware import dtype_name


def nf4_config(compute_dtype: torch.dtype) -> Any:
    """The transformers quantisation config for NF4. The head stays in full precision: it is what we train."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("quant", "4-bit loading") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["score", "classifier", "lm_head"],
    )


def is_quantised(network: Any) -> bool:
    """True when the weights are stored in 4 bits."""
    return bool(getattr(network, "is_loaded_in_4bit", False))


def same_values_everywhere(network: Any) -> Any:
    """The network, computing with its stored 4-bit values in evaluation as in training; returns it.

    On CPUs with AVX512-BF16 bitsandbytes repacks a layer at its first call in evaluation mode, for speed, and rounds
    the scales of its blocks to bfloat16: the reward would change between training and scoring, from one kind of CPU to
    another, and between the 4-bit model and the same values merged. It also fails on inputs of fewer than 64 channels.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return network


def recipe(network: Any) -> dict[str, Any] | None:
    """How a network was brought to 4 bits, as JSON can hold it; None when it was not."""
    if not is_quantised(network):
        return None
    config = network.config.quantization_config
    dtype = dtype_name(network.get_input_embeddings().weight.dtype)  # what the 4-bit values were made from
    return {"dtype": dtype, "config": config if isinstance(config, dict) else config.to_dict()}


def from_recipe(made: Mapping[str, Any]) -> Any:
    """The transformers quantisation config that :func:`recipe` wrote down."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig.from_dict(dict(made["config"]))


def dequantise(network: Any) -> Any:
    """Plain weights with the very values the 4-bit network computes with, so the saved model keeps its scores."""
    plain = network.dequantize()
    plain.config.__dict__.pop("quantization_config", None)
    plain.hf_quantizer = None
    plain.is_loaded_in_4bit = False
    plain.is_quantized = False
    return plain
