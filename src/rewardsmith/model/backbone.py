"""One forward pass over a packed batch, for whatever network lies underneath.

Shapes: B rows, L positions, R responses, d hidden size, N layers asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rewardsmith.encoding import pack
from rewardsmith.encoding.pack import Batch
from rewardsmith.encoding.tree import Tree, split, trunk, unshare
from rewardsmith.errors import ModelError, UsageError
from rewardsmith.model import tree_attention
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.tree_attention import Layout, Past

Pooling = Literal["last", "mean", "model"]
logger = logging.getLogger("rewardsmith")

_MASKED_KINDS = {"full_attention", "sliding_attention"}


@dataclass
class Backbone:
    """A ``*ForSequenceClassification`` network, read up to the input of its head.

    Args:
        network: the transformers model, in eval mode for scoring.
        causal: True when a later token cannot change an earlier state.
        shares: True when responses may share their prompt's tokens in one row (proven by the self-check).
        pooling: ``last`` token or ``mean`` over the response's tokens (causal), or the ``model``'s own (encoders).
        segments: True when the tokenizer of an encoder tells prompt and response apart by token types.
    """

    network: Any
    causal: bool
    shares: bool
    pooling: Pooling
    segments: bool = False

    @property
    def body(self) -> Any:
        """The network without its head."""
        return getattr(self.network, self.network.base_model_prefix)

    @property
    def head(self) -> nn.Linear:
        """The network's own head."""
        return find_head(self.network)

    @property
    def device(self) -> torch.device:
        return self.body.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.body.get_input_embeddings().weight.dtype

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return self.network.config.get_text_config().num_hidden_layers

    @property
    def by_tree(self) -> bool:
        """True when attention is computed tree by tree; all trees of a batch then stand in one row, without padding."""
        return self.shares and self.network.config._attn_implementation == tree_attention.NAME

    def arrange(self, trees: Sequence[Tree], budget: int) -> tuple[list[Tree], list[list[list[int]]]]:
        """Trees as this backbone can read them, and batches of rows of their indices. Responses keep their order."""
        if self.shares:
            pieces = [piece for tree in trees for piece in split(tree, budget)]
            batches = pack.plan([len(tree) for tree in pieces], budget)
            if self.by_tree:
                batches = [[[index for row in rows for index in row]] for rows in batches]
            return pieces, batches
        alone = [single for tree in trees for single in unshare(tree)]
        return alone, pack.plan([len(tree) for tree in alone], budget, one_per_row=True)

    def collate(self, trees: Sequence[Tree], rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
        """Rows of trees as one batch; what all of them begin with stands in it once, where sharing is exact."""
        return pack.collate(trees, rows, pad_id, trunk=trunk([trees[i] for row in rows for i in row]) * self.shares)

    def features(
        self, batch: Batch, layers: Sequence[int] | None = None, pasts: Sequence[Past | None] | None = None
    ) -> torch.Tensor:
        """What the head reads, one vector per response.

        Args:
            batch: packed rows; one response per row when ``shares`` is False.
            layers: 1-based layer numbers; the features are those a backbone cut to that many layers would give.
                None means the last layer.
            pasts: per tree of the batch, keys and values to use or to fill (only when ``by_tree``).

        Returns:
            [N, R, d] float32 on the backbone's device.
        """
        batch = batch.to(self.device)
        if self.pooling == "model":
            return self._head_inputs(batch)[None]
        if layers is None or list(layers) == [self.layers]:
            return self.pool(self.states(batch, pasts).last_hidden_state, batch)[None]
        hidden = self.states(batch, pasts, output_hidden_states=True).hidden_states
        # The last of the hidden states has been through the final norm already; the others have not.
        norms = [None if n == self.layers else self.body.norm for n in layers]
        return torch.stack([self.pool(hidden[n], batch, norm) for n, norm in zip(layers, norms, strict=True)])

    def pool(self, states: torch.Tensor, batch: Batch, norm: Any = None) -> torch.Tensor:
        """[B, L, d] -> [R, d] float32. The norm works position by position, so it need only see those that are read."""
        flat = states.flatten(0, 1)
        norm = norm or (lambda x: x)
        if self.pooling == "last":
            pooled = norm(flat[batch.last.to(flat.device)]).float()
        else:
            spans = [torch.cat([flat[start:stop] for start, stop in spans]) for spans in batch.spans]
            pooled = torch.stack([norm(span).float().mean(0) for span in spans])
        return pooled.to(self.device)  # layers may live on several devices

    def states(self, batch: Batch, pasts: Sequence[Past | None] | None = None, **options: Any) -> Any:
        """The body's output for a batch on its device, gradients and all."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False, **options}
        if self.by_tree:
            inputs |= {"position_ids": batch.position_ids, "layout": Layout.of(batch, self._windows(), pasts)}
            mask = tree_attention.placeholder(batch.input_ids.device)
            inputs["attention_mask"] = dict.fromkeys(self._kinds(), mask) if len(self._kinds()) > 1 else mask
        elif self.shares:
            inputs |= {"position_ids": batch.position_ids, "attention_mask": self._mask(batch)}
        else:
            inputs["attention_mask"] = (batch.tree != pack.PAD).long()
        return self.body(**inputs)

    def _kinds(self) -> set[str]:
        return set(getattr(self.network.config.get_text_config(), "layer_types", None) or ())

    def _windows(self) -> list[int | None]:
        """Per layer, its sliding window; None for full attention."""
        config = self.network.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * self.layers
        return [window if kind == "sliding_attention" else None for kind in kinds]

    def _mask(self, batch: Batch) -> Any:
        config = self.network.config.get_text_config()
        kinds, window = self._kinds(), getattr(config, "sliding_window", None)
        if len(kinds) > 1:
            return {kind: self._one_mask(batch, window if kind == "sliding_attention" else None) for kind in kinds}
        return self._one_mask(batch, None if kinds == {"full_attention"} else window)

    def _one_mask(self, batch: Batch, window: int | None) -> Any:
        if self.network.config._attn_implementation == "flex_attention":
            return pack.block_mask(batch, window)
        return pack.dense_mask(batch, self.dtype, window)

    def plain_inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """A batch of one response a row as any transformers model takes it."""
        inputs = {"input_ids": batch.input_ids, "attention_mask": (batch.tree != pack.PAD).long()}
        if self.segments:
            inputs["token_type_ids"] = _segments(batch)
        return inputs

    def _head_inputs(self, batch: Batch) -> torch.Tensor:
        """Run the whole classifier and catch what enters its head: right for every encoder's own pooling."""
        caught: list[torch.Tensor] = []
        head = self.head

        def catch(_module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            caught.append(inputs[0])
            return (inputs[0].to(head.weight.dtype),)  # a float32 head refuses what a bfloat16 body gives

        handle = head.register_forward_pre_hook(catch)
        try:
            self.network(**self.plain_inputs(batch))
        finally:
            handle.remove()
        return caught[-1].float().to(self.device)


def _segments(batch: Batch) -> torch.Tensor:
    """Token types of a sentence pair: 0 for the prompt, 1 for the response, [B, L]."""
    types = torch.zeros_like(batch.input_ids).flatten()
    for spans in batch.spans:
        for start, stop in spans:
            types[start:stop] = 1
    return types.view_as(batch.input_ids)


def find_head(network: Any) -> nn.Linear:
    """The last linear layer with one output outside the body: ``score``, ``classifier`` or ``out_proj``.

    While attributes are trained the network has as many labels, and its head as many outputs.

    Raises:
        ModelError: there is none.
    """
    outputs = network.config.num_labels
    body = set(getattr(network, network.base_model_prefix).modules())
    outside = [module for module in network.modules() if module not in body]
    heads = [module for module in outside if isinstance(module, nn.Linear) and module.out_features == outputs]
    if not heads:
        raise ModelError(
            f"{type(network).__name__} has no head with {'one output' if outputs == 1 else f'{outputs} outputs'}; "
            "it is not a reward model"
        )
    return heads[-1]


def head_name(network: Any) -> str:
    """The head's dotted name inside the network, e.g. ``score``."""
    head = find_head(network)
    return next(name for name, module in network.named_modules() if module is head)


@as_loaded
def probe(
    network: Any, pooling: Pooling | None = None, *, segments: bool = False, attention: str | None = None
) -> Backbone:
    """Find out, by trying, how a network may be read (the self-check of the encoding).

    A backbone is causal when changing the last token leaves earlier states alone. It shares when the same responses get
    the same features in a tree on a trunk and alone. Where sharing is not exact (encoders, linear attention,
    state-space layers), rows hold one response each and a log line says so.

    Args:
        network: freshly loaded.
        pooling: what the head reads; None for the kind's default.
        segments: see :class:`Backbone`.
        attention: ``tree`` computes attention tree by tree, ``own`` leaves the network its own; None takes ``tree``
            on a CPU, where it is faster, and ``own`` elsewhere.

    Raises:
        ModelError: the pooling does not go with the network.
        UsageError: ``tree`` was asked for and does not work here.
    """
    config = network.config.get_text_config()
    vocabulary = config.vocab_size
    tokens = [(7 * k) % (vocabulary - 1) + 1 for k in range(1, 15)]
    changed = [*tokens[:-1], tokens[-1] % (vocabulary - 1) + 1]
    backbone = Backbone(network, causal=False, shares=False, pooling="model", segments=segments)
    states = [_plain_states(backbone, ids) for ids in (tokens, changed)]
    backbone.causal = bool(torch.allclose(states[0][:, :-1], states[1][:, :-1], atol=1e-6))
    if not backbone.causal:
        if pooling in ("last", "mean"):
            raise ModelError(f"pooling {pooling!r} needs a causal model; {type(network).__name__} is bidirectional")
        return backbone
    if pooling == "model":
        raise ModelError("pooling 'model' is for encoders; a causal model pools 'last' or 'mean'")
    backbone.pooling = pooling or "last"
    reason = _settle_attention(backbone, tokens, attention)
    backbone.shares = reason is None
    if reason:
        logger.warning("prompts are not shared between responses: %s; every response gets a row of its own", reason)
    return backbone


def _settle_attention(backbone: Backbone, tokens: list[int], wanted: str | None) -> str | None:
    """Choose the attention that shares prompts; None when one does, else what is wrong with the last tried."""
    network = backbone.network
    own = network.config._attn_implementation
    own = "sdpa" if own == tree_attention.NAME else own  # probed before
    if wanted == "tree" or (wanted is None and own == "sdpa" and backbone.device.type == "cpu"):
        network.set_attn_implementation(tree_attention.NAME)
        reason = _sharing_fails(backbone, tokens)
        if reason is None:
            return None
        if wanted == "tree":
            raise UsageError(f"attention 'tree' does not work with this model: {reason}; leave it out")
        logger.info("attention 'tree' does not work with this model: %s; sdpa with a dense mask does its work", reason)
        network.set_attn_implementation(own)
    reason = _sharing_fails(backbone, tokens)
    if reason and own == "flex_attention":
        logger.warning("flex attention does not work here: %s; sdpa with a dense mask does its work", reason)
        network.set_attn_implementation("sdpa")
        reason = _sharing_fails(backbone, tokens)
    return reason


def _plain_states(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    output = backbone.body(input_ids=torch.tensor([ids], device=backbone.device))
    return output.last_hidden_state.float()


def _sharing_fails(backbone: Backbone, tokens: list[int]) -> str | None:
    """Score a small tree both ways; None when they agree, else what is wrong."""
    kinds = set(getattr(backbone.network.config.get_text_config(), "layer_types", None) or ())
    if kinds - _MASKED_KINDS:
        return f"layers of kind {sorted(kinds - _MASKED_KINDS)} have no mask"
    config = backbone.network.config.get_text_config()
    if getattr(config, "attention_types", None) or getattr(config, "attention_layers", None):
        return f"{type(backbone.network).__name__} has local layers that mask by distance in the row"
    rope = getattr(config, "rope_parameters", None) or {}
    if {"dynamic", "longrope"} & {str(rope.get("rope_type")), str((rope.get("full_attention") or {}).get("rope_type"))}:
        return "its positions are scaled by the longest sequence of the batch"
    tree = Tree(tuple(tokens[:6]), (tuple(tokens[6:9]), tuple(tokens[9:14]), tuple(tokens[3:5])), (6, 6, 6))
    filler = Tree((), ((*tokens[:2], *tokens[8:10]),), (2,))
    alone = torch.stack([_plain_states(backbone, list(tree.sequence(k)))[0, -1] for k in range(3)])
    sharing = Backbone(backbone.network, causal=True, shares=True, pooling="last")
    try:
        shared = sharing.features(pack.collate([filler, tree], [[0, 1]], pad_id=0, trunk=2))[0, 1:]
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        return f"{type(backbone.network).__name__} refuses the tree mask ({' '.join(str(error).split())[:120]})"
    error = ((shared - alone).norm() / alone.norm()).item()
    limit = 1e-4 if backbone.dtype == torch.float32 else 3e-2
    return None if error <= limit else f"shared and unshared states differ by {error:.1e} (limit {limit:.0e})"
