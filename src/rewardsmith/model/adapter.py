"""Adapter folders as PEFT writes them, ours or TRL's: the base is loaded and the adapter merged into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rewardsmith.errors import MissingExtraError, ModelError
from rewardsmith.model.backbone import head_name
from rewardsmith.model.bases import resolve
from rewardsmith.model.hardware import DTYPES, pick_dtype
from rewardsmith.model.load import LoadOptions, load_network
from rewardsmith.model.quantise import dequantise, from_recipe, is_quantised, recipe

FILE = "adapter_config.json"
RECIPE = "base_quantization.json"


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
    """The head's weight as the adapter stores it, [1, d] float32 ([A, d] amid training on A attributes); None if none.

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


def _fit_vocabulary(network: Any, folder: Path) -> None:
    """As many embeddings as the adapter was trained beside: a chat template may have brought tokens along."""
    words = network.get_input_embeddings()
    name = next(name for name, module in network.named_modules() if module is words)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
        ends = (f".{name}.weight", f".{name}.base_layer.weight", f".{name}.token_adapter.base_layer.weight")
        key = next((key for key in tensors.keys() if key.endswith(ends)), None)  # noqa: SIM118
        rows = tensors.get_slice(key).get_shape()[0] if key else words.weight.shape[0]
    if rows != words.weight.shape[0]:
        network.resize_token_embeddings(rows, mean_resizing=False)


def write_recipe(folder: Path, network: Any) -> None:
    """Write beside an adapter how its base was brought to 4 bits, if it was: it fits those values and no others."""
    file, made = folder / RECIPE, recipe(network)
    if made is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapted(folder: Path, tokenizer: Any, options: LoadOptions) -> Any:
    """The base network with the adapter merged into it, head included.

    An adapter that was trained on a 4-bit base is merged into the values of that, whatever the precision asked for.

    Args:
        folder: of the adapter.
        tokenizer: of the adapter.
        options: how to load the base. ``load_in_4bit`` keeps it in 4 bits, and rounds what the adapter adds to them.

    Raises:
        ModelError: the adapter does not fit the base, or holds no reward head.
        MissingExtraError: peft is not installed, or bitsandbytes for a 4-bit base.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("lora", "loading an adapter") from error
    base, made = resolve(base_of(folder)), None if options.load_in_4bit else _read_recipe(folder)
    if made is None:
        network = load_network(base, tokenizer, options, fresh_head=True)
    else:
        loading = replace(options, dtype=made["dtype"], load_in_4bit=True)
        more = {"quantization_config": from_recipe(made)}
        network = load_network(base, tokenizer, loading, fresh_head=True, more=more)
    head = stored_head(folder, head_name(network))
    if head is None:
        raise ModelError(
            f"{folder}: holds no reward head: it was trained without modules_to_save, and its head is lost; train again"
        )
    if len(head) != 1:
        raise ModelError(
            f"{folder}: its head has {len(head)} outputs, as training on attributes keeps it; "
            "load the model that the run saved, or its adapter folder"
        )
    _fit_vocabulary(network, folder)
    try:
        adapted = PeftModel.from_pretrained(network, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be put on its base: {' '.join(str(error).split())[:300]}") from error
    if made is None:
        return adapted.merge_and_unload().eval()
    merged = merge(adapted).eval()
    dtype = pick_dtype(options.dtype, merged.get_input_embeddings().weight.device)
    for parameter in merged.parameters():  # not the buffers: angles of positions stay exact
        parameter.data = parameter.data.to(dtype)
    return merged


def merge(model: Any) -> Any:
    """The network of a PEFT model, its active adapters added to its weights. ``model`` is used up.

    A 4-bit network's adapters were trained around its 4-bit values: those are what they are added to, unquantised.
    """
    if not is_quantised(model.get_base_model()):
        return model.merge_and_unload()
    changes, words = _changes(model), _learnt_words(model)
    bare = dequantise(model.unload())
    with torch.no_grad():
        for name, weight in words.items():
            bare.get_submodule(name).weight.copy_(weight)
        for name, change in changes.items():
            weight = bare.get_submodule(name).weight
            weight.add_(change.to(weight.dtype))
    return bare


def _learnt_words(model: Any) -> dict[str, torch.Tensor]:
    """Embeddings of which the active adapter learnt some tokens', by their name in the bare network."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    named = model.base_model.model.named_modules()
    layers = {name: layer for name, layer in named if isinstance(layer, TrainableTokensLayer)}
    return {
        name.removesuffix(".token_adapter"): layer.get_merged_weights(layer.active_adapters).detach().clone()
        for name, layer in layers.items()
    }


def _changes(model: Any) -> dict[str, torch.Tensor]:
    """What the active adapters add to the weight of each layer, by the layer's name in the bare network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, torch.Tensor] = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, BaseTunerLayer) and (change := getattr(layer, "get_delta_weight", None)):
            changes = [change(adapter) for adapter in layer.active_adapters]
            found[name] = torch.stack(changes).sum(0)
    return found


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    file = folder / RECIPE
    if not file.is_file():
        return None
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        if made["dtype"] not in DTYPES:
            raise ValueError(f"dtype {made['dtype']!r}")
        from_recipe(made)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{file}: damaged: {error}; train again, or restore the file") from error
    except ImportError as error:
        raise MissingExtraError("quant", "an adapter of a 4-bit base") from error
    return made
