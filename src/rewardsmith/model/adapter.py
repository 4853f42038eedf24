"""Adapter folders as PEFT writes them, ours or TRL's: the base is loaded and the adapter merged into it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rewardsmith.errors import MissingExtraError, ModelError
from rewardsmith.model.backbone import head_name

FILE = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model."""
    return (folder / FILE).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The base model an adapter was trained on.

    Raises:
        ModelError: its config does not say.
    """
    try:
        name = json.loads((folder / FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / FILE}: damaged: {error}") from error
    if not name:
        raise ModelError(f"{folder / FILE}: does not name its base model; set base_model_name_or_path")
    return str(name)


def stored_head(folder: Path, name: str) -> torch.Tensor | None:
    """The head's weight as the adapter stores it, [1, d] float32; None if it holds none.

    Args:
        folder: of the adapter.
        name: of the head in the network, e.g. ``score``.
    """
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as tensors:
        key = next((key for key in tensors.keys() if key.endswith(f".{name}.weight")), None)  # noqa: SIM118
        return tensors.get_tensor(key).float() if key else None


def with_adapter(folder: Path, load_base: Callable[[], Any]) -> Any:
    """The base network with the adapter merged into it, head included.

    Args:
        folder: of the adapter.
        load_base: gives the base as a sequence-classification network with one output.

    Raises:
        ModelError: the adapter does not fit the base, or holds no reward head.
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("lora", "loading an adapter") from error
    network = load_base()
    if stored_head(folder, head_name(network)) is None:
        raise ModelError(
            f"{folder}: holds no reward head: it was trained without modules_to_save, and its head is lost; train again"
        )
    try:
        adapted = PeftModel.from_pretrained(network, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be put on its base: {' '.join(str(error).split())[:300]}") from error
    return adapted.merge_and_unload().eval()
