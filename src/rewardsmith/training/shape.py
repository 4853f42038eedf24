"""The shape of a network, counted on an empty one made from its config: what memory and time are computed from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from rewardsmith.errors import ModelError

_WRITTEN_OUT = {"gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"}  # activations of several operations


@dataclass(frozen=True)
class Shape:
    """What a network is made of.

    Args:
        layers, hidden, intermediate, heads, kv_heads, head_dim: as in the config; ``intermediate`` is what the MLP's
            last matrix reads.
        linears: (inputs, outputs) of every linear layer of the blocks: what LoRA adapts and NF4 quantises.
        embeddings, head, other: parameters of the embeddings, of the head, and of the rest (norms, biases, poolers).
        normed: numbers per token that go through a norm, all blocks together.
        rms: True when norms are RMSNorms, computed in float32.
        inner: tensors of ``intermediate`` numbers that the MLP keeps beside the input of its last matrix: 3 when gated
            (gate, its activation, up), 1 when not, 3 more for a GELU written out in Python (GPT-2, Phi).
        masks: dense masks of a forward pass, one per kind of attention layer.
        squares: L x L tensors that attention keeps per head: 0 for sdpa, 1 for eager, 2 for eager with capped logits.
        shares: True when the config lets responses share their prompt: a causal model of full or sliding attention.
        positions: the longest sequence that the config allows.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    linears: tuple[tuple[int, int], ...]
    embeddings: int
    head: int
    other: int
    normed: int
    rms: bool
    inner: int
    masks: int
    squares: int
    shares: bool
    positions: int

    @property
    def linear(self) -> int:
        """Weights of the blocks' linear layers."""
        return sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def parameters(self) -> int:
        """All of them, the head included."""
        return self.linear + self.embeddings + self.head + self.other

    def lora(self, rank: int) -> int:
        """Parameters of adapters on every linear layer of the blocks: r (in + out) each (Hu et al. 2021)."""
        return rank * sum(inputs + outputs for inputs, outputs in self.linears)


def shape_from_config(config: Any, *, trust_remote_code: bool = False) -> Shape:
    """The shape of a config's sequence classifier of one label, without its weights.

    Raises:
        ModelError: an encoder-decoder, an architecture that has no sequence classifier, or one that cannot be counted.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from rewardsmith.model.quiet import quiet_transformers

    kind = config.model_type
    if config.is_encoder_decoder:
        raise ModelError(f"an encoder-decoder ({kind}) has no reward head here; use a decoder or an encoder as base")
    config = copy.deepcopy(config)
    config.num_labels = 1
    config.__dict__.pop("quantization_config", None)
    try:
        with quiet_transformers(), torch.device("meta"):
            network = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{kind}: no sequence classifier can be made of this config.json [{reason}]") from error
    return shape_of(network)


def shape_of(network: Any) -> Shape:
    """The shape of a plain ``*ForSequenceClassification`` network, not quantised, without adapters.

    Raises:
        ModelError: its blocks are not attention and MLP (mixture of experts, state space, convolution).
    """
    from torch import nn

    from rewardsmith.model.backbone import find_head

    config = network.config.get_text_config()
    blocks = _blocks(network, config)
    parts = [_parts(block) for block in blocks]
    linears = tuple(size for attention, mlp in parts for size in (*attention, *mlp))
    mlp = parts[0][1]
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    norms = [(name, module) for name, module in blocks.named_modules() if _is_norm(module)]
    embedded = {id(m.weight): m.weight.numel() for m in network.modules() if isinstance(m, nn.Embedding)}
    head = sum(parameter.numel() for parameter in find_head(network).parameters())
    everything = sum(parameter.numel() for parameter in network.parameters())
    kinds = set(getattr(config, "layer_types", None) or ())
    return Shape(
        layers=len(blocks),
        hidden=config.hidden_size,
        intermediate=mlp[-1][0],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        linears=linears,
        embeddings=sum(embedded.values()),
        head=head,
        other=everything - head - sum(embedded.values()) - sum(a * b for a, b in linears),
        normed=sum(_normed(name, module, head_dim, heads, kv_heads) for name, module in norms),
        rms=not all(isinstance(module, nn.LayerNorm) for _, module in norms),
        inner=_inner(config, mlp),
        masks=max(1, len(kinds)),
        squares=_squares(network.config, config),
        shares=any(getattr(module, "is_causal", False) for module in blocks.modules()),
        positions=getattr(config, "max_position_embeddings", None) or 4096,
    )


def _blocks(network: Any, config: Any) -> Any:
    """The list of transformer blocks; refuses what the formulas above do not describe."""
    from torch import nn

    kind, depth = config.model_type, getattr(config, "num_hidden_layers", None)
    lists = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if not lists or not getattr(config, "num_attention_heads", None):
        raise ModelError(f"{kind}: has no list of attention blocks whose memory could be counted")
    blocks = max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))
    if any(parameter.dim() > 2 for parameter in blocks.parameters()) or kinds:
        what = f"layers of kind {', '.join(sorted(kinds))}" if kinds else "experts or convolutions"
        raise ModelError(f"{kind}: has {what}; plan counts blocks of attention and a dense MLP only")
    return blocks


def _parts(block: Any) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(inputs, outputs) of the linear layers of attention, and of the MLP in order."""
    from torch import nn

    within = {id(m) for part in block.modules() if "Attention" in type(part).__name__ for m in part.modules()}
    attention, mlp = [], []
    for module in block.modules():
        if isinstance(module, nn.Linear):
            size = (module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D":  # GPT-2's linear layer, stored the other way round
            size = (module.weight.shape[0], module.weight.shape[1])
        else:
            continue
        (attention if id(module) in within else mlp).append(size)
    if not attention or not mlp:
        raise ModelError(f"{type(block).__name__}: not a block of attention and MLP, so its memory cannot be counted")
    return attention, mlp


def _inner(config: Any, mlp: list[tuple[int, int]]) -> int:
    named = (getattr(config, name, None) for name in ("hidden_act", "activation_function", "hidden_activation"))
    gated = sum(outputs for _, outputs in mlp[:-1]) == 2 * mlp[-1][0]
    return (3 if gated else 1) + (3 if _WRITTEN_OUT & {name for name in named if isinstance(name, str)} else 0)


def _squares(config: Any, text_config: Any) -> int:
    if config._attn_implementation != "eager":
        return 0
    return 2 if getattr(text_config, "attn_logit_softcapping", None) else 1


def _is_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and weight is not None and weight.dim() == 1


def _normed(name: str, module: Any, head_dim: int, heads: int, kv_heads: int) -> int:
    """Numbers per token that go through a norm; those of queries and keys work head by head."""
    width, last = module.weight.numel(), name.rsplit(".", 1)[-1]
    if width == head_dim and last.startswith(("q", "k")):
        return width * (heads if last.startswith("q") else kv_heads)
    return width
