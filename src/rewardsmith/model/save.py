"""Write a reward model as a standard Hugging Face folder, with its contract and a model card."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from rewardsmith.errors import FileError
from rewardsmith.model import contract as contracts
from rewardsmith.model.backbone import find_head
from rewardsmith.model.card import card
from rewardsmith.model.quantise import dequantise, is_quantised
from rewardsmith.model.quiet import quiet_transformers

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel


def save(model: RewardModel, folder: Path) -> Path:
    """Write ``folder``, whole or not at all. An older reward model there is replaced; anything else is left alone.

    The weights are unquantised, the head is stored in float32, and transformers, TRL, vLLM and SGLang load the folder
    as it is.

    Raises:
        FileError: the folder holds something that is not a reward model, or cannot be written.
    """
    folder = folder.resolve()
    check_target(folder)
    # Fixed names: what a kill leaves behind is used up by the next save instead of piling up.
    scratch, aside = (folder.with_name(f".{folder.name}.{part}") for part in ("new", "old"))
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        _write(model, scratch)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
        os.replace(scratch, folder)
    except (OSError, SafetensorError) as error:
        raise FileError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def check_target(folder: Path) -> None:
    """Refuse, before any work is done, a folder that :func:`save` could not write."""
    folder = folder.resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / contracts.FILE).is_file()):
        raise FileError(f"{folder}: exists and is not a reward model of ours; choose another output folder")
    foreign = [path.name for path in folder.iterdir() if not _ours(path.name)] if folder.is_dir() else []
    if foreign:
        raise FileError(
            f"{folder}: holds {foreign[0]}, which is not part of a reward model; move it or choose another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be created: {error.strerror}") from error
    if not os.access(folder.parent, os.W_OK):
        raise FileError(f"{folder}: cannot be written: no permission in {folder.parent}")


def _ours(name: str) -> bool:
    return name == "README.md" or name.endswith((".json", ".safetensors", ".jinja", ".txt", ".model"))


def _write(model: RewardModel, folder: Path) -> None:
    network = model.backbone.network
    if is_quantised(network):
        network = dequantise(copy.deepcopy(network))
    head = find_head(network)
    before, bias = head.weight.data, None if head.bias is None else head.bias.data
    head.weight.data = model.head.weight.data.float()
    if head.bias is not None:
        head.bias.data = model.head.bias.data.float()
    _describe(network.config, model)
    try:
        with quiet_transformers():
            network.save_pretrained(folder)
            model.template.tokenizer.save_pretrained(folder)
    finally:
        head.weight.data = before  # the network in memory goes on in its own dtype
        if bias is not None:
            head.bias.data = bias
    model.contract.write(folder)
    if model.posterior is not None:
        model.posterior.write(folder)
    if model.ensemble is not None:
        model.ensemble.write(folder)
    if model.process is not None:
        model.process.write(folder)
    if model.attributes is not None:
        model.attributes.write(folder)
    if model.shaping is not None:
        model.shaping.save(folder)
    (folder / "README.md").write_text(card(model), encoding="utf-8")


def _describe(config: Any, model: RewardModel) -> None:
    """What other tools read in config.json."""
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    config.mean, config.std = model.contract.mean, model.contract.std
    config.pad_token_id = model.template.tokenizer.pad_token_id
    for name in ("_name_or_path", "value_head_prefix"):
        config.__dict__.pop(name, None)
