"""Attention over packed trees, each tree for itself: what the mask would hide is never computed.

A dense mask over a packed row makes attention compute every pair of positions in the row, across trees and branches,
and throw most of them away. Here every segment (a prefix, or a branch) is one call of PyTorch's
``scaled_dot_product_attention`` on the keys it may see: a prefix on itself, a branch on its prefix and itself, both on
the trunk if there is one. Nothing is padded: all trees of a batch stand in one row.

It is registered with transformers under :data:`NAME` and gets its layout as a keyword argument of the forward call;
without a layout it is transformers' own sdpa attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rewardsmith.encoding.pack import Batch, attends

NAME = "rewardsmith_tree"


@dataclass
class Past:
    """Keys and values of the first tokens of a prompt, layer by layer: what later responses to it need not compute.

    Args:
        tokens: the prompt's first tokens, [P].
        layers: per layer, keys and values [1, kv_heads, P, head_dim]; filled by the first forward pass that gets it.
    """

    tokens: tuple[int, ...]
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(one.numel() * one.element_size() for pair in self.layers.values() for one in pair)


@dataclass(frozen=True)
class Segment:
    """The trunk, a prefix or a branch in the row.

    Args:
        length: number of tokens, >= 0.
        before: indices of the segments that it also sees, in order.
        depth: tokens that it sees before its own: those of the past and of the segments before.
        past: keys and values to be seen (``known`` > 0) or to be filled (a prefix with ``known`` 0).
        known: how many tokens of ``past`` it sees.
    """

    length: int
    before: tuple[int, ...] = ()
    depth: int = 0
    past: Past | None = None
    known: int = 0


@dataclass
class Layout:
    """The segments of a row of trees, in order, and the masks made for them so far (layers share them).

    Args:
        segments: in the order of the row.
        windows: per layer, its sliding window in positions of the single sequence; None for full attention.
    """

    segments: list[Segment]
    windows: Sequence[int | None]
    masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, windows: Sequence[int | None], pasts: Sequence[Past | None] | None = None) -> Layout:
        """The layout of a batch of one row.

        Args:
            pasts: one per tree of the batch, or None.

        Raises:
            ValueError: the batch has several rows: their padding would be taken for tokens. Or a trunk and pasts, which
                would both stand for the first tokens.
        """
        if len(batch.input_ids) != 1:
            raise ValueError(f"tree attention needs all trees in one row, not in {len(batch.input_ids)}")
        pasts = pasts or [None] * len(batch.sizes)
        if batch.trunk and any(pasts):
            raise ValueError("a batch has either a trunk or pasts")
        segments = [Segment(batch.trunk)] if batch.trunk else []
        root = tuple(range(len(segments)))
        for (prefix, *branches), known, past in zip(batch.sizes, batch.known, pasts, strict=True):
            place = len(segments)
            segments.append(Segment(prefix - known, root, known, past, known))
            segments += [Segment(n, (*root, place), prefix, past if known else None, known) for n in branches]
        padding = batch.input_ids.shape[1] - sum(segment.length for segment in segments)
        return cls([*segments, Segment(padding)] if padding else segments, windows)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return [segment.length for segment in self.segments]

    def mask(self, index: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """[length, depth + length] bool, True where a segment's token may look; None when plain causal will do."""
        segment = self.segments[index]
        if window is not None and segment.depth + segment.length <= window:
            window = None  # nothing is further away than the window
        if segment.depth == 0 and window is None:
            return None
        key = (index, window)
        if key not in self.masks:
            keys = torch.arange(segment.depth + segment.length, device=device)
            queries = keys[segment.depth :, None]
            one = torch.zeros((), dtype=torch.int32, device=device)  # within a segment tree and branch are the same
            self.masks[key] = attends(one, one, queries, one, one, keys[None], window)
        return self.masks[key]


def placeholder(device: torch.device) -> torch.Tensor:
    """A four-dimensional mask of one element: transformers hands it through instead of making one of its own."""
    return torch.zeros(1, 1, 1, 1, device=device)


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of one row of trees, in transformers' interface.

    Args:
        query: [1, heads, N, head_dim]; key, value: [1, kv_heads, N, head_dim].
        layout: the segments; their lengths sum to N. None means an ordinary batch.

    Returns:
        [1, N, heads, head_dim], and None for the weights.
    """
    if layout is None:
        if attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            raise ValueError(f"{type(module).__name__} does not hand the layout of the trees on to its attention")
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ValueError("tree attention has neither soft caps nor attention sinks")
    window = layout.windows[module.layer_idx]  # type: ignore[index]
    # split, not slices: its backward is one concatenation instead of one zero-filled gradient per slice
    queries, keys, values = (states.split(layout.lengths, dim=2) for states in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for index, segment in enumerate(layout.segments):
        k, v = _seen(segment, index, keys, values, module.layer_idx)  # type: ignore[arg-type]
        mask = layout.mask(index, window, query.device)
        outputs.append(
            F.scaled_dot_product_attention(
                queries[index],
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _seen(
    segment: Segment, index: int, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that a segment sees, [1, kv_heads, depth + length, head_dim]; fills an empty past on the way."""
    places = [*(place for place in segment.before if keys[place].shape[2]), index]
    k, v = [keys[place] for place in places], [values[place] for place in places]
    if segment.past is not None and segment.known:
        past = segment.past.layers[layer]
        k, v = [past[0][:, :, : segment.known], *k], [past[1][:, :, : segment.known], *v]
    elif segment.past is not None:
        wanted = len(segment.past.tokens)
        segment.past.layers[layer] = (keys[index][:, :, :wanted].clone(), values[index][:, :, :wanted].clone())
    return (k[0], v[0]) if len(k) == 1 else (torch.cat(k, dim=2), torch.cat(v, dim=2))


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for ordinary batches, which go to sdpa
