"""What planning computes, held to real models: parameters, saved tensors, the live peak of a step, operations, advice.

``pytest -s`` prints each estimate over what was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    Qwen3MoeConfig,
    T5Config,
    ViTConfig,
)

from rewardsmith.encoding import pack
from rewardsmith.encoding.template import Template
from rewardsmith.encoding.tree import Tree
from rewardsmith.errors import DataError, ModelError, UsageError
from rewardsmith.model.backbone import Backbone
from rewardsmith.training import activations, bradley_terry, memory, workload
from rewardsmith.training import plan as planning
from rewardsmith.training.activations import Pass
from rewardsmith.training.advice import advise, gib
from rewardsmith.training.memory import NF4_BYTES, RESERVE, Memory, estimate
from rewardsmith.training.method import METHODS, Method, Numbers
from rewardsmith.training.pairs import Pairs
from rewardsmith.training.plan import plan
from rewardsmith.training.shape import Shape, shape_from_config, shape_of
from rewardsmith.training.workload import Settings, Workload
from rewardsmith.types import Comparison
from tests import tiny

ROWS, WIDTH = 2, 96
KINDS = {  # name: (method, dtype of products, dtype of frozen weights)
    "full float32": ("full", "float32", "float32"),
    "full bfloat16": ("full", "bfloat16", "float32"),
    "lora float32": ("lora", "float32", "float32"),
    "lora bfloat16 on float32": ("lora", "bfloat16", "float32"),
    "lora bfloat16": ("lora", "bfloat16", "bfloat16"),
}
ALL_KINDS = {
    **KINDS,
    "qlora float32": ("qlora", "float32", "float32"),
    "qlora bfloat16": ("qlora", "bfloat16", "float32"),
}
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
)


def config_of(family: str) -> Any:
    """A family's tiny config; the BERT of :func:`tiny.save_base`, without dropout."""
    if family == "bert":
        from transformers import BertConfig

        sizes = {name: value for name, value in tiny.SIZES.items() if "key_value" not in name}
        return BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return tiny.CONFIGS[family]


def network_of(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    config = type(config)(**config.to_dict())
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, dtype=dtype).train()


@pytest.fixture(scope="module")
def shape() -> Shape:
    return shape_from_config(LLAMA_8B)


# -- parameters


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_parameters_are_counted_exactly(family) -> None:
    network = network_of(config_of(family))
    found = shape_from_config(config_of(family))
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert found.embeddings == sum(
        module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Embedding)
    )
    assert found == shape_of(network)
    assert found.shares is (family != "bert")
    assert (found.rms, found.inner) == ((False, 1) if family == "bert" else (True, 3))
    assert found.masks == (2 if family == "gemma3" else 1)


def test_a_saved_base_has_the_shape_of_its_config(bases) -> None:
    for family in tiny.CAUSAL:
        network = AutoModelForSequenceClassification.from_pretrained(bases[family], num_labels=1)
        assert shape_from_config(network.config).parameters == sum(p.numel() for p in network.parameters())


def test_the_shape_of_a_network_that_computes_tree_by_tree() -> None:
    network = network_of(tiny.CONFIGS["llama"])
    before = shape_of(network)
    network.set_attn_implementation("rewardsmith_tree")
    assert shape_from_config(network.config) == before


def test_llama_3_8b(shape) -> None:
    """Meta's own number is 8,030,261,248 with the language-model head of 128,256 x 4,096."""
    assert shape.parameters == 8_030_261_248 - 128_256 * 4_096 + 4_096
    assert shape.linear == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)


@pytest.mark.parametrize("family", tiny.CAUSAL)
@pytest.mark.parametrize("rank", [1, 8])
def test_adapters_are_counted_exactly(family, rank) -> None:
    peft = pytest.importorskip("peft")
    network = network_of(config_of(family))
    found = shape_of(network)
    adapted = peft.get_peft_model(network, peft.LoraConfig(r=rank, target_modules="all-linear", task_type="SEQ_CLS"))
    real = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert Method("lora", rank).trainable(found) == real == found.lora(rank) + found.head
    assert Method("qlora", rank).trainable(found) == real


def test_nf4_weights_as_bitsandbytes_stores_them(tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from rewardsmith.model.quantise import nf4_config

    network_of(wide(tiny.CONFIGS["llama"])).save_pretrained(tmp_path)
    found = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=nf4_config(torch.bfloat16), dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    stored = 0
    for parameter in found.parameters():
        stored += parameter.nbytes
        if (state := getattr(parameter, "quant_state", None)) is not None:
            stored += state.absmax.nbytes + state.state2.absmax.nbytes
    computed = estimate(
        shape_from_config(wide(tiny.CONFIGS["llama"])),
        Method("qlora"),
        tokens_per_forward=1,
        longest_row=1,
        stored="bfloat16",
    )
    assert computed.weights == pytest.approx(stored, rel=1e-3)
    assert pytest.approx(4.127 / 8, rel=1e-4) == NF4_BYTES


@pytest.mark.parametrize("kind", ["qlora float32", "qlora bfloat16"])
def test_saved_tensors_over_4_bit_weights(tmp_path, kind) -> None:
    peft = pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    from rewardsmith.model.quantise import nf4_config

    config = wide(tiny.CONFIGS["llama"])
    network_of(config).save_pretrained(tmp_path)
    network = AutoModelForSequenceClassification.from_pretrained(
        tmp_path,
        quantization_config=nf4_config(getattr(torch, ALL_KINDS[kind][1])),
        dtype=torch.float32,
        device_map={"": "cpu"},
    )
    network = peft.get_peft_model(
        network, peft.LoraConfig(r=8, target_modules="all-linear", task_type="SEQ_CLS")
    ).train()
    found, body = shape_from_config(config), network.get_base_model().model
    measured = saved_bytes(network, lambda: forward(body, found, kind))
    ratio = computed_saved(found, kind, Pass(ROWS * WIDTH, WIDTH)) / measured
    print(f"saved tensors, llama, {kind}: estimate / measured {ratio:.3f}")
    assert 0.95 < ratio < 1.15


def test_moments_of_8_bit_adamw() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.randn(512, 256))
    optimizer = bitsandbytes.optim.AdamW8bit([weight])
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    state = {name: value for name, value in optimizer.state[weight].items() if isinstance(value, torch.Tensor)}
    stored = sum(value.nbytes for name, value in state.items() if not name.startswith("qmap"))
    assert stored == weight.numel() * 2 * (1 + 4 / 256)


# -- memory of a step


def wide(config: Any) -> Any:
    """The family with sizes in which activations weigh more than odds and ends."""
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}
    more = {**config.to_dict(), **sizes, "head_dim": 16}
    if len(set(more.get("layer_types") or ())) < 2:
        more.pop("layer_types", None)
    return type(config)(**more)


class Live(TorchDispatchMode):
    """Bytes of storages that are alive, and their peak."""

    def __init__(self, network: Any):
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()
        for parameter in network.parameters():
            self._add(parameter)

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            size = storage.nbytes()
            self._seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return out


def assembled(family: str, kind: str, *, fused: bool = True) -> tuple[Any, Any, Shape]:
    """(what is trained, its body, shape) as the trainer puts them together."""
    method, _, stored = KINDS[kind]
    config = wide(config_of(family)) if family != "bert" else config_of(family)
    network = network_of(config, getattr(torch, stored) if method == "lora" else torch.float32)
    found, body = shape_from_config(config), getattr(network, network.base_model_prefix)
    if method == "lora":
        peft = pytest.importorskip("peft")
        from rewardsmith.training.fused_lora import fuse

        network = peft.get_peft_model(
            network, peft.LoraConfig(r=8, target_modules="all-linear", task_type="SEQ_CLS")
        ).train()
        if fused:
            fuse(network)
    return network, body, found


def forward(body: Any, shape: Shape, kind: str, rows: int = ROWS, width: int = WIDTH) -> torch.Tensor:
    """Last states [rows, width, d] under a dense mask for each kind of layer, as :meth:`Backbone.states` calls."""
    ids = torch.randint(1, 300, (rows, width))
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor(width - 1), 0),
    }
    if shape.shares:
        mask = torch.zeros(rows, 1, width, width, dtype=body.get_input_embeddings().weight.dtype)
        masks = {"full_attention": mask, "sliding_attention": mask.clone()} if shape.masks > 1 else mask
        positions = torch.arange(width)[None].expand(rows, -1).clone()
        inputs |= {"attention_mask": masks, "position_ids": positions, "use_cache": False}
    with torch.autocast("cpu", torch.bfloat16) if ALL_KINDS[kind][1] == "bfloat16" else contextlib.nullcontext():
        return body(**inputs).last_hidden_state


def saved_bytes(network: Any, call: Any) -> int:
    """Bytes that autograd keeps from ``call()``, parameters aside, each storage once."""
    known = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in known:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def computed_saved(shape: Shape, kind: str, forward: Pass, *, fused: bool = True) -> int:
    name, dtype, stored = ALL_KINDS[kind]
    method = Method(name, 8, fused)  # type: ignore[arg-type]
    numbers = Numbers.of(method, dtype, stored=stored)
    kept, _, _ = activations.activations(shape, method, numbers, forward, checkpointing=False)
    return kept + activations.masks(shape, method, numbers, forward, checkpointing=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_saved_tensors(family, kind) -> None:
    network, body, found = assembled(family, kind)
    measured = saved_bytes(network, lambda: forward(body, found, kind))
    ratio = computed_saved(found, kind, Pass(ROWS * WIDTH, WIDTH)) / measured
    print(f"saved tensors, {family}, {kind}: estimate / measured {ratio:.3f}")
    assert 0.95 < ratio < 1.15


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("lora")])
def test_saved_tensors_of_pefts_own_layers(kind) -> None:
    network, body, found = assembled("llama", kind, fused=False)
    measured = saved_bytes(network, lambda: forward(body, found, kind))
    ratio = computed_saved(found, kind, Pass(ROWS * WIDTH, WIDTH), fused=False) / measured
    print(f"saved tensors of peft's own layers, llama, {kind}: estimate / measured {ratio:.3f}")
    assert 0.95 < ratio < 1.15


@pytest.mark.parametrize("kind", ["full float32", "lora float32", "full bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_saved_tensors_tree_by_tree(family, kind) -> None:
    network, _, found = assembled(family, kind)
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    base.set_attn_implementation("rewardsmith_tree")
    backbone = Backbone(base, causal=True, shares=True, pooling="last")
    sizes = [(50, 20, 40), (30, 31, 12, 9), (0, 25, 25)]
    trees = [Tree((5,) * p, tuple((6,) * b for b in branches), (p,) * len(branches)) for p, *branches in sizes]
    batch = pack.collate(trees, [list(range(len(trees)))], pad_id=0)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16) if ALL_KINDS[kind][1] == "bfloat16" else contextlib.nullcontext():
            backbone.states(batch)

    tokens = sum(map(sum, sizes))
    ratio = computed_saved(found, kind, Pass(tokens, tokens, sizes)) / saved_bytes(network, call)
    print(f"saved tensors tree by tree, {family}, {kind}: estimate / measured {ratio:.3f}")
    assert 0.95 < ratio < 1.15


@pytest.mark.parametrize(("checkpointing", "accumulation", "rows"), [(False, 1, 2), (True, 1, 2), (False, 2, 1)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_peak_of_a_step(family, kind, checkpointing, accumulation, rows) -> None:
    """The largest sum of live tensors over two optimiser steps, against the estimate without its reserve."""
    network, body, found = assembled(family, kind)
    if checkpointing:
        body.gradient_checkpointing_enable({"use_reentrant": False})
        body.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], fused=True)
    live = Live(network)
    with live:
        for _ in range(2):
            for _ in range(accumulation):
                forward(body, found, kind, rows)[:, -1].float().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    method, dtype, stored = KINDS[kind]
    computed = estimate(
        found,
        Method(method, 8),  # type: ignore[arg-type]
        tokens_per_forward=rows * WIDTH,
        longest_row=WIDTH,
        dtype=dtype,
        stored=stored,
        checkpointing=checkpointing,
        accumulation=accumulation,
    )
    ratio = (computed.total - RESERVE) / live.peak
    print(f"peak, {family}, {kind}, {checkpointing=}, {accumulation=}: estimate / measured {ratio:.3f}")
    assert 0.95 < ratio < 1.15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_the_peak_of_reading(family, dtype) -> None:
    config = wide(config_of(family))
    network, found = network_of(config, getattr(torch, dtype)), shape_from_config(config)
    live = Live(network)
    with live, torch.no_grad():
        forward(network.model, found, "full float32", 4)
    computed = estimate(found, Method("head"), tokens_per_forward=4 * WIDTH, longest_row=WIDTH, dtype=dtype)
    ratio = (computed.total - RESERVE) / live.peak
    print(f"peak of reading, {family}, {dtype}: estimate / measured {ratio:.3f}")
    assert 0.9 < ratio < 1.15


@pytest.mark.parametrize(("count", "width"), [(3000, 64), (800, 300)])
def test_memory_of_fitting_the_head(count, width) -> None:
    rng = np.random.default_rng(0)
    tracemalloc.start()
    features = rng.normal(size=(2 * count, width)).astype(np.float32)
    pairs = Pairs.from_ranks([[0, 1]] * count)
    tracemalloc.reset_peak()
    bradley_terry.fit(features, pairs, 10.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    small = replace(shape_from_config(tiny.CONFIGS["llama"]), hidden=width)
    assert 0.95 < memory._store(small, 2 * count) / peak < 1.25


def test_more_needs_more(shape) -> None:
    def total(name="lora", tokens=4096, row=1024, **more) -> int:
        return estimate(shape, Method(name), tokens_per_forward=tokens, longest_row=row, **more).total

    assert total(tokens=2048) < total(tokens=4096) < total(tokens=8192)
    assert total(row=512) < total(row=2048)
    assert total("head") < total("qlora") < total("lora") < total("full")
    assert total(checkpointing=True) < total()
    assert total("full", optimizer="adamw_8bit") < total("full")
    assert total("full", accumulation=2) > total("full")
    assert total(dtype="float32") > total(stored="float32") > total()
    assert estimate(shape, Method("lora", 64), tokens_per_forward=1, longest_row=1).adapters == 4 * (
        shape.lora(64) + shape.head
    )
    without = total("head", responses=100_000)
    assert total("head", responses=100_000, store_counts=True) > without == total("head")


def test_total_is_the_sum_of_its_parts_or_less(shape) -> None:
    for name in METHODS:
        for accumulation in (1, 4):
            found = estimate(shape, Method(name), tokens_per_forward=4096, longest_row=512, accumulation=accumulation)
            parts = [value for part, value in found.as_dict().items() if part not in ("total", "store")]
            assert found.weights < found.total <= sum(parts)
            if accumulation > 1:
                assert found.total == sum(parts)


# -- operations


@pytest.mark.parametrize("kind", ["full float32", "lora float32"])
def test_operations_against_torchs_counter(kind) -> None:
    _, body, found = assembled("llama", kind, fused=False)  # the counter does not know addmm_
    method = Method(KINDS[kind][0], 8)  # type: ignore[arg-type]
    one = Pass(ROWS * WIDTH, WIDTH)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            states = forward(body, found, kind)
        assert counter.get_total_flops() == pytest.approx(
            planning.operations(found, Method("head"), one)
            + (2 * found.lora(8) * one.tokens if method.name == "lora" else 0)
        )
        with FlopCounterMode(display=False) as counter:
            states.sum().backward()
    forward_and_backward = planning.operations(found, method, one)
    computed = forward_and_backward - (
        planning.operations(found, method, one, checkpointing=True) - forward_and_backward
    )
    # The first block's inputs need no gradient in reality, which the formula does not know.
    assert counter.get_total_flops() == pytest.approx(computed, rel=0.1)


def test_operations_tree_by_tree() -> None:
    found = shape_from_config(tiny.CONFIGS["llama"])
    dense = planning.operations(found, Method("head"), Pass(100, 100))
    by_tree = planning.operations(found, Method("head"), Pass(100, 100, [(60, 20, 20)]))
    q = found.heads * found.head_dim
    assert dense - by_tree == pytest.approx(4 * found.layers * q * (100 * 100 - (60 * 60 / 2 + 2 * 20 * 80)))


# -- plans


def test_assumed_lengths_and_steps() -> None:
    found = shape_from_config(tiny.CONFIGS["llama"])
    settings = Settings(batch_size=4, accumulation=2, epochs=2, device="cuda", max_length=128)
    work = Workload.assumed(42, 30, 20)
    assert work.assumption and "42 pairs" in work.assumption
    made = plan(found, work, settings, METHODS, speed=1e9)
    lora, head = made.methods["lora"], made.methods["head"]
    assert (made.kept, made.dropped) == (42, 0)
    assert (lora.peak.tokens, lora.peak.row) == (4 * 70, 70)
    assert lora.steps == 12  # 42 comparisons are 11 batches, 6 updates, twice
    assert head.steps == 0
    assert head.tokens == 42 * 70
    assert lora.tokens == pytest.approx(3 * 42 * 70, rel=0.05)  # read once for the head, trained on twice
    assert lora.seconds == pytest.approx(lora.flops / 0.5e9)
    limited = plan(found, work, replace(settings, max_steps=3), ["lora"], speed=1e9).methods["lora"]
    assert limited.steps == 3
    assert limited.flops < lora.flops
    assert plan(found, work, settings, ["lora"]).methods["lora"].seconds is None


def test_lengths_of_real_data(bases) -> None:
    from rewardsmith.model.load import load_tokenizer

    template = Template(load_tokenizer(bases["llama"]), "chat")
    rows = [Comparison("the quick brown fox", ("jumps over the lazy dog" * k, "again"), (0, 1)) for k in (1, 2, 9)]
    same = Comparison("the quick brown fox", ("again", "again"), (0, 1))
    work = Workload.of(template, [*rows, same])
    assert len(work.trees) == 3  # the one that says nothing is left out
    assert work.assumption is None
    for tree, row in zip(work.trees, rows, strict=True):
        ids = [template.render(row.prompt, response).ids for response in row.responses]
        assert tree[0] + tree[1] == len(ids[0])
        assert tree[0] + tree[2] == len(ids[1])
        assert ids[0][: tree[0]] == ids[1][: tree[0]]
    found = shape_from_config(tiny.CONFIGS["llama"])
    limit = workload.depth(work.trees[1])
    made = plan(found, work, Settings(max_length=limit), ["lora"])
    assert (made.kept, made.dropped) == (2, 1)
    with pytest.raises(DataError, match="no comparison is within the maximum length of 3 tokens"):
        plan(found, work, Settings(max_length=3), ["lora"])


def test_forward_passes_are_those_of_the_trainer() -> None:
    from rewardsmith.training.collator import TreeCollator

    found = shape_from_config(tiny.CONFIGS["llama"])
    sizes = [(30, 5, 9), (4, 3, 3), (12, 20, 2), (1, 6, 40), (25, 5, 5)]
    rows = [{"chosen_ids": [3] * p + [5] * a, "rejected_ids": [3] * p + [6] * b} for p, a, b in sizes]
    for tokens in (None, 60, 100):
        for device, one_row in (("cuda", False), ("cpu", True)):
            batch = TreeCollator(0, one_row=one_row, tokens=tokens)(rows)
            real = [one["batch"].input_ids.shape for one in batch["passes"]]
            computed = workload.passes(found, sizes, Settings(batch_tokens=tokens, device=device))
            assert [(one.tokens // one.row, one.row) for one in computed] == [tuple(shape) for shape in real]
            assert all((one.trees is not None) is one_row for one in computed)


def test_without_sharing_every_response_is_a_row() -> None:
    found = shape_from_config(config_of("bert"))
    (one,) = workload.passes(found, [(30, 5, 9), (4, 3, 3)], Settings(device="cpu"))
    assert (one.tokens, one.row, one.trees) == (4 * 39, 39, None)


# -- advice


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("gibibytes", [4, 8, 11, 16, 24, 40, 80, 200])
def test_advice_fits_when_it_is_computed_again(shape, gibibytes, checkpointing) -> None:
    work = Workload(tuple((200 + k % 700, 100 + k % 300, 150) for k in range(600)))
    settings = Settings(dtype="bfloat16", device="cuda", checkpointing=checkpointing)
    available = gibibytes << 30
    for methods in ([name] for name in METHODS):
        made = plan(shape, work, settings, methods)
        lines = advise(made, available)
        fits = made.methods[methods[0]].memory.total <= available
        assert bool(lines) is not fits, (methods, lines)
        for line in lines:
            total, name, changed = recomputed(line, made, methods[0])
            assert gib(total) in line
            if line.startswith("nothing fits"):
                assert total > available
                assert lines == [line]
                assert advise(plan(shape, work, changed, [name]), total) == []
            else:
                assert total <= available, line


def recomputed(line: str, made: planning.Plan, name: Any) -> tuple[int, Any, Settings]:
    """Bytes, method and settings of an advice line, from its flags."""
    settings, words = made.settings, iter(shlex.split(line.split(" needs ")[0].replace(",", "")))
    names = {
        "--batch-size": "batch_size",
        "--accumulation": "accumulation",
        "--batch-tokens": "batch_tokens",
        "--max-length": "max_length",
    }
    for word in words:
        if word == "--method":
            name = next(words)
        elif word == "--gradient-checkpointing":
            settings = replace(settings, checkpointing=True)
        elif word == "--frozen-dtype":
            settings = replace(settings, stored=next(words))
        elif word == "--optim":
            settings = replace(settings, optimizer=next(words))
        elif word in names:
            settings = replace(settings, **{names[word]: int(next(words))})
    trees = made.workload.within(settings.max_length)
    return planning.need(made.shape, trees, settings, name)[0].total, name, settings


def test_a_shorter_maximum_length_says_what_it_drops(shape) -> None:
    work = Workload((*(((100, 100, 100),) * 90), *(((1500, 400, 400),) * 10)))
    settings = Settings(dtype="bfloat16", device="cuda", checkpointing=True, stored="bfloat16")
    made = plan(shape, work, settings, ["lora"])
    short = planning.need(shape, work.within(1536), settings, "lora")[0].total
    lines = advise(made, (short + made.methods["lora"].memory.total) // 2)
    assert any(line.startswith("--max-length 1536 drops 10.0% of the comparisons") for line in lines), lines


# -- mistakes


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (T5Config(), "encoder-decoder"),
        (ViTConfig(), "no sequence classifier"),
        (
            Qwen3MoeConfig(
                num_hidden_layers=2, hidden_size=32, num_experts=2, num_attention_heads=2, num_key_value_heads=2
            ),
            "experts or convolutions",
        ),
    ],
)
def test_what_cannot_be_planned(config, says) -> None:
    with pytest.raises(ModelError, match=says):
        shape_from_config(config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens_per_forward": 0},
        {"longest_row": 0},
        {"accumulation": 0},
        {"responses": -1},
        {"dtype": "int8"},
        {"stored": "int8"},
        {"optimizer": "sgd"},
    ],
)
def test_numbers_that_cannot_be(shape, wrong) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)) if "stored" not in wrong else "dtype"):
        estimate(shape, Method("lora"), **{"tokens_per_forward": 8, "longest_row": 8, **wrong})


def test_methods_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="rank 0"):
        Method("lora", 0)
    with pytest.raises(UsageError, match="method 'dora'"):
        Method("dora")  # type: ignore[arg-type]


def test_memory_is_plain_numbers(shape) -> None:
    found = estimate(shape, Method("lora"), tokens_per_forward=8, longest_row=8)
    assert isinstance(found, Memory)
    assert all(type(value) is int and value >= 0 for value in found.as_dict().values())
    for name in ("memory", "activations", "method"):
        assert "import torch" not in Path(memory.__file__).with_name(f"{name}.py").read_text()


# -- the whole process


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--set", "gradient_checkpointing=true"]], ids=["kept", "recomputed"])
def test_the_resident_memory_of_train(tmp_path, more) -> None:
    """``rewardsmith train`` as a process of its own, on a CPU, against what ``plan`` says of it."""
    pytest.importorskip("peft")
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12, "max_position_embeddings": 2048}
    config = LlamaConfig(**{**tiny.SIZES, **sizes, "num_attention_heads": 9, "num_key_value_heads": 3})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tiny.chat_tokenizer(pad="<|endoftext|>").save_pretrained(tmp_path / "base")
    row = {"prompt": "the lazy dog " * 30, "chosen": "a quick fox " * 20, "rejected": "a slow dog " * 22}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    common = ["--base", tmp_path / "base", "--data", tmp_path / "rows.jsonl", "--method", "lora", "--json"]
    train = ["train", *common, "-o", tmp_path / "out", "--max-steps", "2", "--head-init", "random", "-q", *more]
    flags = ["--gradient-checkpointing"] if more else []
    (planned, _), (_, peak) = [
        _process(*map(str, arguments)) for arguments in (["plan", *common, "--tflops", "1", *flags], train)
    ]
    ratio = json.loads(planned)["methods"]["lora"]["bytes"]["total"] / peak
    print(f"resident memory of train, {flags}: estimate / measured {ratio:.3f}, {peak / 2**30:.2f} GiB")
    assert 0.85 < ratio < 1.25


def _process(*arguments: str) -> tuple[str, int]:
    """Standard output and peak resident bytes of a ``rewardsmith`` command."""
    program = "import resource, sys; from rewardsmith.cli.main import run\ntry: run()\nfinally: " + (
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, int(done.stderr.splitlines()[-1]) * 1024
