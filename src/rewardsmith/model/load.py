"""Load networks and tokenizers from local folders, with a head of one output or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewardsmith.encoding.frozen_date import freeze_date
from rewardsmith.encoding.kept_thinking import keep_thinking
from rewardsmith.errors import ModelError, UsageError
from rewardsmith.model.backbone import find_head, head_name
from rewardsmith.model.hardware import DTYPES, pick_device, pick_dtype
from rewardsmith.model.quantise import nf4_config, same_values_everywhere
from rewardsmith.model.quiet import quiet_transformers

# Special tokens that families reserve for padding or leave unused; the first that is there and is not EOS serves.
_PAD_CANDIDATES = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>", "<|unk|>")

# Layers between an encoder's body and its head, which a base model does not have.
_CLASS_LAYERS = ("classifier.", "pre_classifier.", "head.", "score.")


@dataclass(frozen=True)
class LoadOptions:
    """How to put a network on this machine.

    Args:
        dtype: ``auto`` (what the model was trained in, float32 where that is emulated; a base or another tool's model:
            bfloat16 where native, else float32), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        device_map: handed to transformers (``"auto"`` spreads a large model over devices); overrides ``device``.
        load_in_4bit: NF4 by bitsandbytes.
        trust_remote_code: run code that comes with the checkpoint.
        attention: ``tree`` (attention tree by tree), ``sdpa``, ``eager`` or ``flex_attention``; None chooses sdpa where
            the model has it, and ``tree`` on a CPU.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    load_in_4bit: bool = False
    trust_remote_code: bool = False
    attention: str | None = None


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer, right-padded, its pad token distinct from EOS (trap 5), its template free of today (trap 10)."""
    tokenizer = read_tokenizer(folder, trust_remote_code=trust_remote_code)
    tokenizer.padding_side = "right"
    separate_pad(tokenizer)
    freeze_date(tokenizer)
    keep_thinking(tokenizer)
    return tokenizer


def read_tokenizer(source: Path | str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder, or of the Hub, as it is.

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises bare Exceptions for a damaged tokenizer.json
        raise ModelError(f"{source}: its tokenizer cannot be loaded: {_one_line(error)}") from error


def separate_pad(tokenizer: Any) -> None:
    """Give the tokenizer a pad token that is not EOS, preferring one its vocabulary already has.

    transformers finds a sequence's end as the last token that is not pad. With pad = eos it skips the final EOS, and
    chosen and rejected may be scored at the same place (trap 5).
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary, template = tokenizer.get_vocab(), str(tokenizer.chat_template or "")
    for token in _PAD_CANDIDATES:
        if token in vocabulary and token not in (tokenizer.eos_token, tokenizer.bos_token) and token not in template:
            tokenizer.pad_token = token
            return
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})


def load_network(
    folder: Path,
    tokenizer: Any,
    options: LoadOptions,
    *,
    fresh_head: bool,
    seeded: bool = False,
    more: Mapping[str, Any] | None = None,
) -> Any:
    """A ``*ForSequenceClassification`` network with one output, in eval mode.

    Args:
        folder: a local model folder.
        tokenizer: its tokenizer, pad token settled.
        fresh_head: True to put a new head on a base model (an existing head of one output is kept, trap 3);
            False to insist on a trained head.
        seeded: draw missing layers from torch's generator as it stands, which the caller has seeded. Otherwise they are
            always the same and the generator is left alone.
        more: further arguments of ``from_pretrained``; those that are fields of the config change it.

    Raises:
        ModelError: the folder holds no reward model, a classifier of several labels, or an unsupported architecture.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=options.trust_remote_code)
    except Exception as error:  # fields of a wrong type raise the hub library's own errors
        raise ModelError(f"{folder}: its config.json cannot be used: {_one_line(error)}") from error
    if config.is_encoder_decoder:
        raise ModelError(f"{folder}: an encoder-decoder ({config.model_type}); use a decoder or an encoder as base")
    more = _configured(config, more or {})
    prefix = getattr(config, "value_head_prefix", None) or "score"
    has_head = _check_head(folder, config, prefix, fresh_head=fresh_head)
    _one_label(config, tokenizer.pad_token_id)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    arguments: dict[str, Any] = {"config": config, "dtype": dtype, "trust_remote_code": options.trust_remote_code}
    if options.attention not in (None, "tree"):  # tree: see backbone.probe
        arguments["attn_implementation"] = options.attention
    if options.device_map:
        arguments["device_map"] = options.device_map
    if options.load_in_4bit:
        arguments["quantization_config"] = nf4_config(dtype)
        arguments.setdefault("device_map", {"": str(device)})
    if fresh_head and not has_head:
        arguments["ignore_mismatched_sizes"] = True
    arguments |= more
    try:
        # Layers that a base model lacks (a head, an encoder's pooler) are drawn at random: always the same, so that
        # a run that is started again computes the same features.
        with quiet_transformers(), torch.random.fork_rng(enabled=not seeded):
            if not seeded:
                torch.manual_seed(0)
            network, info = AutoModelForSequenceClassification.from_pretrained(
                str(folder), output_loading_info=True, **arguments
            )
            if len(tokenizer) > network.get_input_embeddings().weight.shape[0]:
                network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded for sequence classification: {_one_line(error)}") from error
    _check_loaded(folder, network, info, has_head=has_head, fresh_head=fresh_head)
    if any(parameter.device.type == "meta" for parameter in network.parameters()):
        raise ModelError(
            f"{folder}: does not fit the devices without offloading; use --load-in-4bit or a larger device"
        )
    same_values_everywhere(network)
    return (network if arguments.get("device_map") else network.to(device)).eval()


def _configured(config: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Set on the config those of ``from_pretrained``'s arguments that are its fields, as transformers does; the others.

    Raises:
        UsageError: several labels.
    """
    if more.get("num_labels", 1) != 1:
        raise UsageError(f"num_labels {more['num_labels']}: a reward model has one output; leave it out")
    ours = ("dtype", "quantization_config")
    mine = {name for name in more if hasattr(config, name) and name not in ours}
    for name in mine:
        setattr(config, name, more[name])
    return {name: value for name, value in more.items() if name not in mine and (name, value) != ("config", None)}


def head_weight(folder: Path, network: Any) -> torch.Tensor | None:
    """The head's weight as stored, [1, d] float32; None if there is none.

    Read from the file because the network may have cast it to its own dtype (trap 9), or may know it by another name
    than the checkpoint (OpenRLHF's ``value_head_prefix``).
    """
    weight = stored_tensor(folder, *_head_names(getattr(network.config, "value_head_prefix", None) or "score"))
    if weight is None or weight.shape != find_head(network).weight.shape:
        return None
    return weight.float()


def stored_tensor(folder: Path, *names: str) -> torch.Tensor | None:
    """A tensor of a checkpoint by the first of its names that is there; None when none is."""
    found = _stored(folder, names)
    if found is None:
        return None
    from safetensors import safe_open

    with safe_open(found[0], framework="pt") as tensors:
        return tensors.get_tensor(found[1])


def has_reward_head(folder: Path) -> bool:
    """Whether a checkpoint folder stores a head of one output."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: its config.json cannot be used: {_one_line(error)}") from error
    weight = stored_tensor(folder, *_head_names(config.get("value_head_prefix") or "score"))
    return weight is not None and weight.shape[0] == 1


def stored_dtype(folder: Path) -> str:
    """The dtype that a checkpoint's config names; ``auto`` when it names none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("dtype") or config.get("torch_dtype"))
    return name if name in DTYPES else "auto"


def _one_label(config: Any, pad_token_id: int) -> None:
    config.num_labels = 1  # also shrinks id2label and label2id, which is what is stored
    config.id2label, config.label2id = {0: "reward"}, {"reward": 0}
    config.problem_type = "regression"
    config.pad_token_id = pad_token_id
    config.get_text_config().pad_token_id = pad_token_id
    config.use_cache = False


def _check_head(folder: Path, config: Any, prefix: str, *, fresh_head: bool) -> bool:
    """True when the folder has a head of one output. Refuses what cannot be a reward model."""
    found = _stored(folder, _head_names(prefix))
    if found is None:
        if any(folder.glob("*.safetensors")) and not fresh_head:
            kind = (config.architectures or [config.model_type])[0]
            raise ModelError(
                f"{folder}: has no reward head (it is a {kind}); train one: "
                f"rewardsmith train --method head --base {folder} --data FILE -o OUT"
            )
        return False
    from safetensors import safe_open

    file, key = found
    with safe_open(file, framework="pt") as tensors:
        outputs = tensors.get_slice(key).get_shape()[0]
    if outputs != 1 and not fresh_head:
        raise ModelError(
            f"{folder}: its head {key} has {outputs} outputs: a classifier, not a reward model (rule: one output); "
            "train a new head on it with rewardsmith train --method head --base"
        )
    return outputs == 1


def _head_names(prefix: str) -> tuple[str, ...]:
    return (f"{prefix}.weight", "score.weight", "classifier.weight", "classifier.out_proj.weight")


def _stored(folder: Path, names: Sequence[str]) -> tuple[Path, str] | None:
    """File and key of the first of ``names`` that the checkpoint has."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            where = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError) as error:
            raise ModelError(f"{index}: damaged: {_one_line(error)}") from error
        lost = sorted(name for name in set(where.values()) if not (folder / name).is_file())
        if lost:
            raise ModelError(f"{folder}: {len(lost)} weight files are missing, e.g. {lost[0]}; download it again")
        return next(((folder / where[name], name) for name in names if name in where), None)
    file = folder / "model.safetensors"
    if not file.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            keys = set(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: damaged weights: {_one_line(error)}") from error
    return next(((file, name) for name in names if name in keys), None)


def _check_loaded(folder: Path, network: Any, info: dict, *, has_head: bool, fresh_head: bool) -> None:
    """Refuse weights that are missing or of another shape: transformers would have drawn them at random."""
    head = f"{head_name(network)}."
    missing = {key for key in info["missing_keys"] if not (key.startswith(head) and (has_head or fresh_head))}
    if fresh_head:  # a base encoder has no classification layers yet: they stay as drawn, and are saved
        missing = {key for key in missing if not key.startswith(_CLASS_LAYERS) and "pooler" not in key}
    if any(key.startswith(head) for key in missing):
        raise ModelError(f"{folder}: has no reward head: {head}weight is not among its weights")
    odd = {key for key, *_ in info["mismatched_keys"] if not key.startswith(head)}
    for keys, what in ((missing, "missing"), (odd, "of another shape")):
        if keys:
            raise ModelError(
                f"{folder}: {len(keys)} backbone weights are {what}, e.g. {min(keys)}; "
                "the folder is incomplete or of another architecture than its config.json says"
            )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
