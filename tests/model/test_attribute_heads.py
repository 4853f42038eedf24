"""Attribute heads beside a reward head: the file, the contract, the goldens, and what is said when they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from rewardsmith.errors import ContractError, ModelError
from rewardsmith.model.attributes import FILE, AttributeHeads, read
from rewardsmith.model.average import average
from rewardsmith.model.card import card
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.attribute_heads import with_heads

PROMPT, RESPONSE = "What is 15 + 27?", "15 + 27 = 42."
MIX = {"helpfulness": 0.75, "code | quality": -0.25}


@pytest.fixture(scope="module")
def saved(bases, tmp_path_factory) -> Path:
    """Folder of a model with two attribute heads."""
    torch.manual_seed(1)
    heads = AttributeHeads(tuple(MIX), torch.randn(2, 32), torch.tensor(list(MIX.values())))
    model = with_heads(RewardModel.from_base(bases["llama"]), heads).sealed()
    return model.save(tmp_path_factory.mktemp("attributes") / "rm")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "rm"))


def test_reward_and_attributes_come_from_one_file_and_one_pass(saved) -> None:
    model = RewardModel.load(saved)
    scored = model.score_responses([PROMPT] * 2, [RESPONSE, "No."])
    for one in scored:
        assert one.attributes is not None and list(one.attributes) == list(MIX)
        assert one.reward == pytest.approx(sum(MIX[name] * one.attributes[name] for name in MIX), abs=1e-5)
    assert model.score_attributes(PROMPT, RESPONSE) == pytest.approx(dict(scored[0].attributes or {}), abs=1e-5)
    network = AutoModelForSequenceClassification.from_pretrained(saved)
    ids = torch.tensor([model.render(PROMPT, RESPONSE).ids])
    assert network(input_ids=ids).logits.item() == pytest.approx(scored[0].reward, abs=1e-5)
    states = network.model(input_ids=ids).last_hidden_state[0, -1]
    alone = model.attributes.weight @ states  # type: ignore[union-attr]
    assert list(scored[0].attributes.values()) == pytest.approx(alone.tolist(), abs=1e-5)  # type: ignore[union-attr]


def test_thinking_scores_carry_them(saved) -> None:
    model = RewardModel.load(saved)
    response = f"<think>Sum it.</think>{RESPONSE}"
    whole = model.score_thinking(PROMPT, response).scored
    assert whole.attributes == pytest.approx(model.score_attributes(PROMPT, response), abs=1e-5)


def test_contract_card_and_goldens_know_them(saved) -> None:
    model = RewardModel.load(saved)
    assert model.contract.attributes == MIX and model.contract.attribute_heads_sha256
    assert all(golden.attributes and golden.attributes.keys() == MIX.keys() for golden in model.contract.goldens)
    assert len(model.verify()) == 6
    text = card(model)
    assert "| helpfulness | 0.75 |" in text and "score_attributes" in text
    assert "Attributes" not in card(replace(model, contract=replace(model.contract, attributes={})))
    again = model.save(saved.with_name("again"))
    assert (again / FILE).read_bytes() == (saved / FILE).read_bytes()


def test_other_heads_or_other_weights_do_not_load(copy, saved) -> None:
    heads = read(saved, 32)
    assert heads is not None
    others = {
        "attribute_heads": replace(heads, weight=heads.weight * 1.01),
        "attribute_heads, attributes": replace(heads, mix=heads.mix * 2),
        "attributes": replace(heads, names=("helpfulness", "other")),
    }
    for what, other in others.items():
        other.write(copy)
        with pytest.raises(ContractError, match=f"the {what} no longer matches"):
            RewardModel.load(copy)
    (copy / FILE).unlink()
    with pytest.raises(ContractError, match="attribute_heads"):
        RewardModel.load(copy)


def test_goldens_find_a_backbone_that_gives_other_attributes(saved) -> None:
    model = RewardModel.load(saved)
    before = model.contract.goldens[0]
    wrong = replace(before, attributes={**(before.attributes or {}), "helpfulness": 99.0})
    model.contract = replace(model.contract, goldens=(wrong, *model.contract.goldens[1:]))
    with pytest.raises(ContractError, match=r"helpfulness is .* in training 99"):
        model.verify()


def test_a_file_that_does_not_fit_is_refused(copy) -> None:
    with pytest.raises(ModelError, match=r"shapes are \[\[2, 32\], \[2\]\]; 2 attributes .* need \[2, 16\]"):
        read(copy, 16)
    save_file({"weight": torch.zeros(2, 32)}, copy / FILE)
    with pytest.raises(ModelError, match="damaged"):
        read(copy, 32)
    save_file({"weight": torch.zeros(2, 32), "mix": torch.zeros(2)}, copy / FILE, metadata={"names": json.dumps(["a"])})
    with pytest.raises(ModelError, match="its shapes are"):
        read(copy, 32)
    (copy / FILE).write_bytes(b"x")
    with pytest.raises(ModelError, match="damaged"):
        RewardModel.load(copy)


def test_a_bias_is_part_of_the_sum() -> None:
    heads = AttributeHeads(("a", "b"), torch.randn(2, 4), torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0]))
    weight, bias = heads.collapsed()
    features = torch.randn(5, 4)
    assert bias is not None and bias.tolist() == [-1.0]
    torch.testing.assert_close((features @ weight.T + bias)[:, 0], heads.rewards(features) @ heads.mix)
    assert heads.sha256() != replace(heads, bias=None).sha256()


def test_a_model_without_them_says_how_to_train_some(models) -> None:
    with pytest.raises(ModelError, match="no attribute heads; train some"):
        models["llama"].score_attributes(PROMPT, RESPONSE)
    assert models["llama"].score_responses([PROMPT], [RESPONSE])[0].attributes is None


def test_an_average_has_a_reward_and_no_attributes(saved, tmp_path) -> None:
    model = average([saved, saved], scratch=tmp_path / "scratch")
    assert model.attributes is None and model.contract.attributes == {}
    assert model.score(PROMPT, RESPONSE) == pytest.approx(RewardModel.load(saved).score(PROMPT, RESPONSE), abs=1e-5)
