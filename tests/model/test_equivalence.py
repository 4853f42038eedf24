"""One response has one score: shared or alone, packed or not, in any batch and order, here and in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rewardsmith.encoding.template import plain
from rewardsmith.encoding.tree import build
from rewardsmith.model.backbone import Backbone, probe
from rewardsmith.model.reward_model import RewardModel
from tests import tiny

# Long enough to leave the windows of Gemma 3 (8) and Mistral (12) behind, with words that tokenise in several ways.
PIECES = ["what", "is", "15", "+", "27", "the", "answer", "fox", "日本", "🙂", "\n", "\t", ""]
WORDS = st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)
GROUPS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=4)
RELAXED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def alone(model: RewardModel, prompt: str, response: str) -> float:
    """The slow, obvious way: the whole network on the whole sequence, no mask, no packing, no sharing."""
    ids = torch.tensor([model.template.render(prompt, response).ids])
    extra = {}
    if not model.backbone.causal:
        extra = {"token_type_ids": model.template.tokenizer(plain(prompt), plain(response), return_tensors="pt")}
        extra = {"token_type_ids": extra["token_type_ids"]["token_type_ids"]}
    head = model.backbone.head
    kept = head.weight.data
    head.weight.data = model.head.weight.data
    try:
        with torch.inference_mode():
            return model.backbone.network(input_ids=ids, **extra).logits[0, 0].item()
    finally:
        head.weight.data = kept


@pytest.mark.parametrize("family", tiny.FAMILIES)
@RELAXED
@given(groups=GROUPS, budget=st.sampled_from([16, 64, 300, 4096]), turn=st.randoms(use_true_random=False))
def test_shared_packed_any_order_any_budget_equals_alone(models, family, groups, budget, turn) -> None:
    model = models[family]
    rows = [(prompt, response) for prompt, responses in groups for response in responses]
    turn.shuffle(rows)
    scores = [s.reward for s in model.score_responses([p for p, _ in rows], [r for _, r in rows], budget=budget)]
    expected = [alone(model, prompt, response) for prompt, response in rows]
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), **TOLERANCE)


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_prompts_are_really_shared(models, family) -> None:
    model = models[family]
    assert model.backbone.shares
    trees = [build([model.render("a long shared prompt " * 3, text) for text in ("one", "two", "three")])]
    arranged, batches = model.backbone.arrange(trees, 4096)
    assert len(arranged) == 1
    assert len(trees[0]) < 0.6 * sum(len(trees[0].sequence(k)) for k in range(3))
    assert batches == [[[0]]]


@pytest.mark.parametrize("family", tiny.CAUSAL)
@RELAXED
@given(groups=GROUPS)
def test_mean_pooling_shared_equals_alone(models, family, groups) -> None:
    backbone = models[family].backbone
    mean = Backbone(backbone.network, causal=True, shares=True, pooling="mean")
    single = Backbone(backbone.network, causal=True, shares=False, pooling="mean")
    rendered = [[models[family].render(prompt, text) for text in texts] for prompt, texts in groups]
    trees = [build(items) for items in rendered]
    torch.testing.assert_close(_features(mean, trees), _features(single, trees), **TOLERANCE)
    for row, item in zip(_features(mean, trees), [item for items in rendered for item in items], strict=True):
        with torch.inference_mode():
            states = backbone.body(input_ids=torch.tensor([item.ids])).last_hidden_state[0]
        torch.testing.assert_close(row, states[item.response_start :].mean(0), **TOLERANCE)


def _features(backbone: Backbone, trees) -> torch.Tensor:
    from rewardsmith.encoding import pack
    from rewardsmith.encoding.tree import first_places

    arranged, batches = backbone.arrange(trees, 512)
    first, found = first_places(arranged), {}
    with torch.inference_mode():
        for rows in batches:
            batch = pack.collate(arranged, rows, 0)
            for (tree, k), row in zip(batch.owner, backbone.features(batch)[0], strict=True):
                found[first[tree] + k] = row
    return torch.stack([found[place] for place in range(len(found))])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_reloaded_equals_in_memory_and_transformers(models, family, tmp_path: Path) -> None:
    model = models[family]
    folder = model.save(tmp_path / "rm")
    rows = [("what is 15 + 27", "the answer is 42"), ("hello", "x"), ("what is 15 + 27", "fox " * 20)]
    prompts, responses = [p for p, _ in rows], [r for _, r in rows]
    scores = model.score_batch(prompts, responses)
    reloaded = RewardModel.load(folder)
    assert reloaded.score_batch(prompts, responses) == scores  # the same bits
    assert [score for _, score in reloaded.verify()] == [golden.score for golden in model.contract.goldens]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    assert network.config.num_labels == 1
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    if family == "bert":
        encoded = tokenizer(prompts, responses, padding=True, return_tensors="pt")
    else:
        turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in rows]
        encoded = tokenizer.apply_chat_template(turns, padding=True, return_tensors="pt", return_dict=True)
        encoded.pop("token_type_ids", None)
    with torch.inference_mode():
        theirs = network(**encoded).logits[:, 0]
    torch.testing.assert_close(torch.tensor(scores), theirs, **TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_flex_attention_equals_dense(models, bases, family) -> None:
    rows = [("what is 15 + 27", text) for text in ("42", "the answer is 42", "fox " * 12)]
    with torch.compiler.set_stance("force_eager"):  # the same arithmetic; compiling it on a CPU takes minutes
        flex = RewardModel.from_base(bases[family], attention="flex_attention")
        flex.head.weight.data = models[family].head.weight.data
        assert flex.backbone.shares
        assert flex.backbone.network.config._attn_implementation == "flex_attention"
        scores = flex.score_batch([p for p, _ in rows], [r for _, r in rows])
    expected = models[family].score_batch([p for p, _ in rows], [r for _, r in rows])
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), **TOLERANCE)


def test_an_encoder_is_found_and_not_shared(models) -> None:
    backbone = models["bert"].backbone
    assert (backbone.causal, backbone.shares, backbone.pooling) == (False, False, "model")


def test_a_backbone_that_ignores_the_mask_falls_back_and_says_so(bases, caplog, monkeypatch) -> None:
    """State-space layers mix positions whatever the mask says: the self-check must notice."""
    model = RewardModel.from_base(bases["llama"])
    body = model.backbone.body
    original = body.forward

    def deaf(*args, attention_mask=None, layout=None, **kwargs):
        masked = attention_mask is not None and attention_mask.dim() == 4
        return original(*args, attention_mask=None if masked else attention_mask, **kwargs)

    monkeypatch.setattr(body, "forward", deaf)
    backbone = probe(model.backbone.network)
    assert backbone.causal
    assert not backbone.shares
    assert "prompts are not shared" in caplog.text
    deaf_model = RewardModel(backbone, model.head, model.template, model.contract)
    monkeypatch.undo()
    rows = [("what is 15 + 27", text) for text in ("42", "the answer is 42", "fox " * 12)]
    expected = [alone(model, p, r) for p, r in rows]
    scores = deaf_model.score_batch([p for p, _ in rows], [r for _, r in rows])
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), **TOLERANCE)
