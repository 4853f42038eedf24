"""How a reward model comes to be: from a checkpoint, from a base model, or around a network in memory."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rewardsmith.encoding.template import Mode, Template, default_mode
from rewardsmith.errors import ModelError
from rewardsmith.model import adapter, facts
from rewardsmith.model import attributes as attribute_heads
from rewardsmith.model import contract as contracts
from rewardsmith.model import ensemble as ensembles
from rewardsmith.model import pooling as poolings
from rewardsmith.model import posterior as posteriors
from rewardsmith.model import process as processes
from rewardsmith.model.backbone import Backbone, Pooling, find_head, head_name, probe
from rewardsmith.model.bases import resolve
from rewardsmith.model.hardware import dtype_name, pick_device, trained_dtype
from rewardsmith.model.load import LoadOptions, head_weight, load_network, load_tokenizer
from rewardsmith.shaping import Pipeline
from rewardsmith.shaping.pipeline import FILE as SHAPING_FILE

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

logger = logging.getLogger("rewardsmith")


def load(kind: type[RewardModel], name: str, options: LoadOptions) -> RewardModel:
    """See :meth:`RewardModel.load`; ``kind`` is the class to make, here and below."""
    folder = resolve(name, adapters=True)
    contract = contracts.read(folder)
    if contract is not None and options.dtype == "auto":
        options = replace(options, dtype=trained_dtype(contract.dtype, pick_device(options.device)))
    tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
    network, stored = _network(folder, tokenizer, options)
    ensemble = ensembles.read(folder)
    segments = _segments(tokenizer) and (contract is None or contract.mode != "text")
    backbone = probe(network, poolings.read(folder), segments=segments, attention=options.attention)
    head = _float32_head(backbone, stored)
    process = processes.read(folder, head.in_features)
    attributes = attribute_heads.read(folder, head.in_features)
    if contract is None:
        template = Template(tokenizer, default_mode(tokenizer, causal=backbone.causal))
        contract = facts.plain_contract(backbone, template, name)
    else:
        template = Template(tokenizer, contract.mode, contract.template_kwargs)  # type: ignore[arg-type]
        if dtype_name(backbone.dtype) != contract.dtype:
            logger.info("trained in %s, scored here in %s", contract.dtype, dtype_name(backbone.dtype))
        heads = facts.of_heads(head, ensemble, process, attributes)
        contracts.check(contract, folder, {**template.fingerprint(), **heads, "layers": backbone.layers})
    posterior, device = posteriors.read(folder), backbone.device
    return kind(
        backbone,
        head,
        template,
        contract,
        posterior=posterior and posterior.to(device),
        ensemble=ensemble and ensemble.to(device),
        shaping=Pipeline.load(folder) if (folder / SHAPING_FILE).is_file() else None,
        process=process and process.to(device),
        attributes=attributes and attributes.to(device),
        loaded_from=name,
    )


def from_base(
    kind: type[RewardModel],
    base: str,
    options: LoadOptions,
    *,
    pooling: Pooling | None,
    max_length: int | None,
    template_kwargs: dict[str, Any] | None,
) -> RewardModel:
    """See :meth:`RewardModel.from_base`."""
    folder = resolve(base)
    tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
    network = load_network(folder, tokenizer, options, fresh_head=True)
    backbone = probe(network, pooling, segments=_segments(tokenizer), attention=options.attention)
    template = Template(tokenizer, default_mode(tokenizer, causal=backbone.causal), template_kwargs or {})
    contract = facts.plain_contract(backbone, template, base)
    if max_length is not None:
        contract = replace(contract, max_length=max_length)
    return kind(backbone, _float32_head(backbone, head_weight(folder, network)), template, contract)


def around(
    kind: type[RewardModel],
    network: Any,
    tokenizer: Any,
    *,
    base: str,
    pooling: Pooling | None,
    attention: str | None,
    mode: Mode | None,
) -> RewardModel:
    """See :meth:`RewardModel.around`."""
    if find_head(network).out_features != 1:
        raise ModelError(f"num_labels={network.config.num_labels}: a reward model has one output; load it with 1")
    training = network.training
    backbone = probe(network.eval(), pooling, segments=_segments(tokenizer) and mode != "text", attention=attention)
    network.train(training)
    template = Template(tokenizer, mode or default_mode(tokenizer, causal=backbone.causal))
    return kind(backbone, _float32_head(backbone, None), template, facts.plain_contract(backbone, template, base))


def _network(folder: Path, tokenizer: Any, options: LoadOptions) -> tuple[Any, torch.Tensor | None]:
    """The network, an adapter merged into it, and the weight of its head as it is stored."""
    if adapter.is_adapter(folder):
        network = adapter.load_adapted(folder, tokenizer, options)
        return network, adapter.stored_head(folder, head_name(network))
    network = load_network(folder, tokenizer, options, fresh_head=False)
    return network, head_weight(folder, network)


def _segments(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def _float32_head(backbone: Backbone, stored: torch.Tensor | None) -> nn.Linear:
    head = copy.deepcopy(backbone.head).float().requires_grad_(False)
    if stored is not None:
        head.weight.copy_(stored)
    return head.to(backbone.device)
