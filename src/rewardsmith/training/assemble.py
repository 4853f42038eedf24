"""From what a user hands to the trainer - a name or a network, a tokenizer, adapters - to a network ready to train."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rewardsmith.encoding.frozen_date import freeze_date
from rewardsmith.encoding.kept_thinking import keep_thinking
from rewardsmith.encoding.template import Template, default_mode
from rewardsmith.errors import MissingExtraError, ModelError, UsageError
from rewardsmith.model import pooling as poolings
from rewardsmith.model.backbone import head_name
from rewardsmith.model.bases import resolve
from rewardsmith.model.hardware import DTYPES
from rewardsmith.model.load import (
    LoadOptions,
    head_weight,
    load_network,
    load_tokenizer,
    separate_pad,
    stored_tensor,
)
from rewardsmith.model.quantise import same_values_everywhere
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.adapted_head import keep_head
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.other_template import take_template
from rewardsmith.training.rows import holds_messages, is_standard, is_tokens, text_template

logger = logging.getLogger("rewardsmith")

_HUB = ("revision", "token", "cache_dir")  # of ``model_init_kwargs``: where the files come from


@dataclass(frozen=True)
class Assembled:
    """A network before adapters, with its tokenizer.

    Args:
        network: the ``*ForSequenceClassification`` itself; inside ``model`` when that is a PEFT model.
        model: what was handed in, or ``network``.
        tokenizer: right-padded, pad distinct from EOS.
        name: of the base, for the contract.
        folder: it was loaded from; None when it is not known.
        fresh: False when it came with a trained reward head.
        new_tokens: ids that a chat template brought along; adapters learn their embeddings too.
    """

    network: Any
    model: Any
    tokenizer: Any
    name: str
    folder: Path | None = None
    fresh: bool = True
    new_tokens: Sequence[int] = ()


def assemble(model: Any, args: RewardConfig, tokenizer: Any, quantization_config: Any) -> Assembled:
    """Load or check the model and its tokenizer.

    Raises:
        ModelError: not a reward model and cannot become one: several labels, an encoder-decoder, damaged files.
        UsageError: arguments that contradict each other.
    """
    if isinstance(model, (str, Path)):
        found = _load(str(model), args, tokenizer, quantization_config)
    else:
        unused = {"model_init_kwargs": args.model_init_kwargs, "quantization_config": quantization_config}
        for name, value in unused.items():
            if value is not None:
                logger.warning("%s is ignored: the model is loaded already", name)
        found = _given(model, args, tokenizer)
    _set_eos(found, args)
    if (path := args.chat_template_path) is not None:
        trust = args.trust_remote_code
        found = replace(found, new_tokens=take_template(found.network, found.tokenizer, path, trust_remote_code=trust))
    freeze_date(found.tokenizer)
    keep_thinking(found.tokenizer)
    _set_pad(found, args)
    return found


def _load(model: str, args: RewardConfig, tokenizer: Any, quantization_config: Any) -> Assembled:
    options: dict[str, Any] = {**args.model_init_kwargs} if isinstance(args.model_init_kwargs, dict) else {}
    if quantization_config is not None:
        if "quantization_config" in options:
            raise UsageError("quantization_config is given twice: to the trainer and in model_init_kwargs")
        options["quantization_config"] = quantization_config
    trust = options.pop("trust_remote_code", args.trust_remote_code)
    dtype = _take_dtype(options)
    attention = options.pop("attn_implementation", None)
    folder = resolve(model, **{name: options.pop(name) for name in _HUB if name in options})
    if tokenizer is None:
        tokenizer = load_tokenizer(folder, trust_remote_code=trust)
    else:
        separate_pad(tokenizer)
    # A random head is drawn on the CPU, as TRL's is; 4-bit weights are made where they will be used.
    device = str(args.device) if options.get("quantization_config") is not None else "cpu"
    loading = LoadOptions(dtype=dtype, device=device, trust_remote_code=trust, attention=attention)
    with _weights_everywhere():
        network = load_network(folder, tokenizer, loading, fresh_head=True, seeded=True, more=options)
    # A head that was stored keeps its float32 values, and OpenRLHF's name for it is understood (trap 3).
    stored = head_weight(folder, network)
    head = _float_head(network)
    if stored is not None:
        head.weight.data.copy_(stored)
    return Assembled(network, network, tokenizer, model, folder, fresh=stored is None)


def _take_dtype(options: dict[str, Any]) -> str:
    """The dtype for ``LoadOptions`` out of ``from_pretrained``'s options; as stored (``auto``, None) is left to it."""
    dtype = options.pop("torch_dtype", "float32")  # the old name
    dtype = options.pop("dtype", dtype)
    dtype = next((name for name, kind in DTYPES.items() if kind == dtype), dtype)
    if dtype in (None, "auto"):
        options["dtype"] = "auto"
        return "float32"
    if dtype not in DTYPES:
        raise UsageError(f"model_init_kwargs: dtype {dtype!r}: use {', '.join(DTYPES)}, or auto for that of the files")
    return dtype


@contextlib.contextmanager
def _weights_everywhere() -> Iterator[None]:
    """Every process loads all weights, for each finds out how the network may be read.

    FSDP's ``cpu_ram_efficient_loading`` would leave them to the first, and ZeRO-3 would give each a part; both still
    spread them when training begins.
    """
    from transformers.integrations import deepspeed

    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before, zero = os.environ.get(name), deepspeed._hf_deepspeed_config_weak_ref
    if before is not None:
        os.environ[name] = "false"
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = zero
        if before is not None:
            os.environ[name] = before


def _given(model: Any, args: RewardConfig, tokenizer: Any) -> Assembled:
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    if labels != 1:
        raise ModelError(
            f"the model has num_labels={labels}; a reward model has one output: load it with num_labels=1, "
            "or give its name"
        )
    if any(parameter.is_meta or parameter.numel() == 0 for parameter in model.parameters()):
        raise UsageError("FSDP or ZeRO-3 left this process without the model's weights: give the model by name instead")
    network = same_values_everywhere(model.get_base_model() if hasattr(model, "get_base_model") else model)
    for one in getattr(model, "peft_config", {}).values():
        _refuse_virtual_tokens(one)
    name = str(getattr(network.config, "_name_or_path", "") or type(network).__name__)
    if tokenizer is None:
        tokenizer = load_tokenizer(resolve(name), trust_remote_code=args.trust_remote_code)
    folder = _local_folder(name, getattr(network.config, "_commit_hash", None))
    _float_head(network)
    fresh = folder is not None and head_weight(folder, network) is None
    if args.head_init == "probe" and not args.attributes:
        logger.warning(
            "head_init 'probe': the model that was handed in %s",
            f"gets a new head, as {name} has none; give head_init='random' to keep the head it has now"
            if fresh
            else "keeps the head it has, which may be a trained one; give a base model by its name for a new head",
        )
    return Assembled(network, model, tokenizer, name, folder, fresh=fresh)


def _float_head(network: Any) -> Any:
    """The head, in float32 unless it is itself in 4 bits: close scores must not tie, nor small steps vanish."""
    head = network.get_submodule(head_name(network))
    if isinstance(head, torch.nn.Linear) and head.weight.is_floating_point():
        head.float()
    return head


def _local_folder(name: str, revision: str | None) -> Path | None:
    """Where the weights of a network that was handed in lie, if they are on this machine; nothing is downloaded."""
    from huggingface_hub import snapshot_download

    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except (OSError, ValueError):  # not there, or no name of a repository
            return None
    return folder if any(folder.glob("*.safetensors")) else None


def _set_eos(found: Assembled, args: RewardConfig) -> None:
    if args.eos_token is None:
        return
    if args.eos_token not in found.tokenizer.get_vocab():
        raise UsageError(f"eos_token {args.eos_token!r} is not in the tokenizer's vocabulary; use one of its tokens")
    found.tokenizer.eos_token = args.eos_token
    found.network.config.get_text_config().eos_token_id = found.tokenizer.eos_token_id


def _set_pad(found: Assembled, args: RewardConfig) -> None:
    """A pad token that is not EOS (trap 5), known to the network's config."""
    tokenizer, network = found.tokenizer, found.network
    if args.pad_token is not None:
        if args.pad_token not in tokenizer.get_vocab():
            raise UsageError(
                f"pad_token {args.pad_token!r} is not in the tokenizer's vocabulary; use one of its tokens"
            )
        tokenizer.pad_token = args.pad_token
    before = tokenizer.pad_token
    separate_pad(tokenizer)
    if before is not None and tokenizer.pad_token != before:
        logger.warning("the pad token %r is also EOS: %r takes its place", before, tokenizer.pad_token)
    if len(tokenizer) > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for config in (network.config, network.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id


def add_adapters(found: Assembled, peft_config: Any, args: RewardConfig) -> Assembled:
    """Wrap the network with adapters, the head always among what is trained and saved (trap 1).

    Raises:
        MissingExtraError: peft is not installed.
        UsageError: the model has adapters already, or the config is not PEFT's.
    """
    if peft_config is None:
        return found
    try:
        from peft import PeftConfig, PeftModel, get_peft_model
    except ImportError as error:
        raise MissingExtraError("lora", "peft_config") from error
    if not isinstance(peft_config, PeftConfig):
        raise UsageError(f"peft_config must be a peft.PeftConfig such as LoraConfig, not {type(peft_config).__name__}")
    if isinstance(found.model, PeftModel):
        raise UsageError("the model has adapters already: merge them first, or leave peft_config out")
    _refuse_virtual_tokens(peft_config)
    if getattr(peft_config, "layers_to_transform", None) is not None:
        _name_linear_layers(found.network, peft_config)
    keep_head(found.network, peft_config, found.folder)
    if found.new_tokens:
        _learn_tokens(found, peft_config)
    model = get_peft_model(found.network, peft_config)
    if args.gradient_checkpointing:
        model.enable_input_require_grads()
    return replace(found, model=model)


def _learn_tokens(found: Assembled, peft_config: Any) -> None:
    """Let adapters learn the embeddings of new tokens, which are drawn at random, as TRL's trainer does."""
    network = found.network
    words = network.get_input_embeddings()
    name = next(name for name, module in network.named_modules() if module is words).split(".")[-1]
    given = getattr(peft_config, "trainable_token_indices", None) or {}
    given = {name: given} if isinstance(given, list) else given
    peft_config.trainable_token_indices = {**given, name: [*given.get(name, ()), *found.new_tokens]}


def _name_linear_layers(network: Any, peft_config: Any) -> None:
    """``all-linear`` as names, which PEFT wants when only some layers get adapters.

    Raises:
        UsageError: the network does not have these layers, or the target is a pattern, which has layers of its own.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    layers, depth = peft_config.layers_to_transform, network.config.get_text_config().num_hidden_layers
    for layer in [layers] if isinstance(layers, int) else layers:
        if not isinstance(layer, int) or not 0 <= layer < depth:
            raise UsageError(f"adapters on layer {layer}: {type(network).__name__} has layers 0 to {depth - 1}")
    if isinstance(peft_config.target_modules, str):
        if peft_config.target_modules != "all-linear":
            raise UsageError("adapters on some layers only: give target_modules as a list of names, or all-linear")
        body = getattr(network, network.base_model_prefix)
        linear = (torch.nn.Linear, Conv1D)
        names = {name.split(".")[-1] for name, module in body.named_modules() if isinstance(module, linear)}
        peft_config.target_modules = names


def _refuse_virtual_tokens(peft_config: Any) -> None:
    if getattr(peft_config, "is_prompt_learning", False):
        raise UsageError(
            f"{type(peft_config).__name__} puts virtual tokens before the prompt, which shared prompts have no place "
            "for; use LoRA or another adapter of weights"
        )


def without_dropout(model: Any) -> None:
    """Switch every dropout off, in place."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attention_dropout_prob"):  # applied in a function, not by a module
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def language_head(found: Assembled, *, causal: bool) -> torch.Tensor:
    """The base model's matrix from hidden states to words, [V, d], frozen, which a reward model has no use for else.

    Raises:
        UsageError: the base keeps none, or it cannot be found.
    """
    network = found.network
    if found.new_tokens:
        raise UsageError(
            "language_model_coefficient: the template of chat_template_path adds tokens that the base cannot write"
        )
    if not causal:
        raise UsageError("language_model_coefficient: an encoder predicts no next word; use it with a decoder")
    if network.config.get_text_config().tie_word_embeddings:
        return network.get_input_embeddings().weight.detach().clone()
    weight = stored_tensor(found.folder, "lm_head.weight") if found.folder else None
    if weight is None:
        raise UsageError("language_model_coefficient needs a base with a language-model head; give the model by name")
    return weight.to(network.dtype)


def reward_model_around(found: Assembled, args: RewardConfig, dataset: Any) -> RewardModel:
    """The reward model around the network, rendering text as TRL does: plain pairs joined, messages by the template."""
    tree = args.device.type == "cpu" and args.share_prompts and not args.torch_compile
    attention = (None if tree else "own") if args.share_prompts else "own"
    model = RewardModel.around(
        found.network, found.tokenizer, base=found.name, pooling=_pooling(found, args), attention=attention
    )
    # An encoder's token rows do not say where responses begin, so they have no token types either.
    if is_standard(dataset) or (is_tokens(dataset) and not model.backbone.causal):
        model.template = text_template(model.template)
        model.backbone.segments = False
    return model


def _pooling(found: Assembled, args: RewardConfig) -> Any:
    """What the head is to read; a trained head goes on reading what it was trained to.

    Raises:
        UsageError: another pooling was asked for.
    """
    known = None if found.fresh or found.folder is None else poolings.read(found.folder)
    if known is None:
        return args.pooling
    if args.pooling not in (None, known):
        raise UsageError(
            f"pooling {args.pooling}: {found.name} is a reward model that reads {known}; leave pooling out"
        )
    return known


def template_for(model: RewardModel, dataset: Any, name: str) -> Template:
    """How a data set is rendered: text pairs joined, messages by the chat template, whatever the training data are.

    Comparisons and other shapes are rendered as the training data, as they will be scored.

    Raises:
        UsageError: an encoder would read the two kinds in different ways.
    """
    own = model.template
    mode = own.mode
    if is_standard(dataset):
        mode = "text"
    elif holds_messages(dataset):
        mode = default_mode(own.tokenizer, causal=model.backbone.causal)
    if mode == own.mode:
        return own
    if not model.backbone.causal:
        raise UsageError(
            f"{name} data: an encoder wants them in the same format as the training data, text or messages"
        )
    return replace(own, mode=mode)


def short_name(model: Any) -> str:
    """The last part of a model's name or folder."""
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "") or "model"
    return str(name).rstrip("/").split("/")[-1]
