"""What a contract says of a model, taken from the model as it is now."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from rewardsmith.encoding.template import Template
from rewardsmith.model import attributes as attribute_heads
from rewardsmith.model.attributes import AttributeHeads
from rewardsmith.model.backbone import Backbone
from rewardsmith.model.contract import Contract
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.fingerprint import fingerprint, sha256
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.quantise import is_quantised

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel


def plain_contract(backbone: Backbone, template: Template, name: str) -> Contract:
    """The contract of a checkpoint that came without one: what its config says, OpenRLHF's mean and std included."""
    config = backbone.network.config
    prints = template.fingerprint()
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 4096
    # RoBERTa's tokenizer knows that two of its positions cannot be used; others say "very many".
    positions = min(positions, template.tokenizer.model_max_length)
    return Contract(
        mode=template.mode,
        template_sha256=prints["template_sha256"],
        tokenizer_sha256=prints["tokenizer_sha256"],
        max_length=int(positions),
        pooling=backbone.pooling,
        layers=backbone.layers,
        dtype=dtype_name(backbone.dtype),
        template_kwargs=dict(template.kwargs),
        mean=float(getattr(config, "mean", None) or 0.0),
        std=float(getattr(config, "std", None) or 1.0),
        base_model=name,
    )


def of_heads(
    head: nn.Linear, ensemble: Ensemble | None, process: ProcessHead | None, attributes: AttributeHeads | None
) -> dict[str, Any]:
    """Of head, ensemble, process head and attribute heads."""
    hashes = {"members_sha256": ensemble and ensemble.sha256(), "process_head_sha256": process and process.sha256()}
    return {"head_sha256": _head_sha256(head), **hashes, **attribute_heads.facts(attributes)}


def of_weights(model: RewardModel) -> dict[str, Any]:
    """Of everything but the text: the heads, and the backbone's depth and dtype."""
    heads = of_heads(model.head, model.ensemble, model.process, model.attributes)
    return {**heads, "layers": model.backbone.layers, "dtype": dtype_name(model.backbone.dtype)}


def identity(model: RewardModel) -> str:
    """See :meth:`RewardModel.identity`."""
    network = model.backbone.network
    how = (
        is_quantised(network),
        network.config._attn_implementation,
        model.backbone.device.type,
        model.backbone.shares,
    )
    heads = [_head_sha256(model.head), *(one.sha256() if one else "" for one in (model.ensemble, model.posterior))]
    settings = (json.dumps(asdict(model.contract), sort_keys=True), *heads, repr(how))
    return fingerprint(network, dtype_name(model.backbone.dtype), *settings)


def _head_sha256(head: nn.Linear) -> str:
    return sha256(*([head.weight] if head.bias is None else [head.weight, head.bias]))
