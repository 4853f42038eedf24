"""Several ratings of a response, one head each, one reward: training, the weights, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sklearn.linear_model import Ridge
from transformers import AutoModelForSequenceClassification

from rewardsmith import RewardConfig, RewardModel
from rewardsmith.errors import DataError, ModelError, UsageError
from rewardsmith.model.attributes import FILE, AttributeHeads
from rewardsmith.training import settings
from rewardsmith.training.attribute_fit import RIDGES, fit_attributes
from rewardsmith.training.attribute_heads import learn_mix, with_heads
from rewardsmith.training.attributes import names_of
from rewardsmith.training.finetune import reward_config
from rewardsmith.training.rows import prepare_rows, sequences
from rewardsmith.types import Comparison
from tests.conftest import with_random_head
from tests.training.conftest import config, gradients, network_of, steps, texts, trainer

NAMES = ["foxes", "dogs"]
GIVEN = {"foxes": 1.0, "dogs": -0.5}
HOW: dict[str, Any] = {"loss": "regression", "attributes": NAMES}


def adapters() -> dict[str, Any]:
    return {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))


def comparisons(n: int, seed: int = 0, *, sizes: tuple[int, ...] = (2,), missing: float = 0.0) -> list[Comparison]:
    """Responses of foxes and dogs, rated by how many of each they have; more foxes and fewer dogs are better."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        k = sizes[i % len(sizes)]
        counts = rng.permutation(16)[:k]
        foxes, dogs = counts // 4, counts % 4
        order = sorted(range(k), key=lambda one: (dogs[one] / 2 - foxes[one], counts[one]))
        responses, ratings = [], []
        for one in order:
            words = ["fox"] * foxes[one] + ["dog"] * dogs[one] + ["over"]
            responses.append(" ".join(rng.permutation(words)))
            both = {"foxes": float(foxes[one]), "dogs": float(dogs[one])}
            ratings.append({name: value for name, value in both.items() if rng.random() >= missing})
        found.append(Comparison(f"{seed} what is {i}", tuple(responses), tuple(range(k)), attributes=tuple(ratings)))
    return found


def rated(model: RewardModel, data: list[Comparison]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attributes the model gives, [R, A], those planted, [R, A], and the rewards [R]."""
    prompts = [one.prompt for one in data for _ in one.responses]
    scored = model.score_responses(prompts, [text for one in data for text in one.responses])
    given = np.array([[one.attributes[name] for name in NAMES] for one in scored])  # type: ignore[index]
    planted = np.array([[known[name] for name in NAMES] for one in data for known in one.attributes or ()])
    return given, planted, np.array([one.reward for one in scored])


# -- the numbers


@pytest.mark.parametrize("weights", [None, [2.0, 0.5]], ids=["alike", "weighed"])
def test_loss_and_gradient_are_those_of_plain_torch(trainable, tmp_path, weights) -> None:
    data = comparisons(6, sizes=(2, 3), missing=0.4)
    more = {**HOW, "loss_kwargs": {"attribute_weights": weights} if weights else None, "tokens_per_forward": 60}
    made = trainer(trainable["qwen3"], data, tmp_path, per_device_train_batch_size=6, **more)
    assert len(made.data_collator(list(made.train_dataset))["passes"]) > 1
    network = AutoModelForSequenceClassification.from_pretrained(trainable["qwen3"], num_labels=2, dtype=torch.float32)
    network.load_state_dict(made.model.state_dict())
    shares, total = weights or [1.0, 1.0], torch.zeros(())
    for row in made.train_dataset:
        rewards = torch.stack([network(input_ids=torch.tensor([ids])).logits[0] for ids in sequences(row)])
        known = torch.tensor([[float("nan") if x is None else x for x in one] for one in row["scores"]])
        for a, share in enumerate(shares):
            here = ~known[:, a].isnan()
            if here.any():
                total = total + share * (rewards[here, a] - known[here, a]).square().mean() / sum(shares)
    total = total / len(data)
    total.backward()
    found = gradients(made)
    for name, one in network.named_parameters():
        torch.testing.assert_close(found[name], one.grad, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert steps(made)[0]["loss"] == pytest.approx(total.item(), rel=1e-4)
    assert found["score.weight"].shape == (2, 32)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("weights", [GIVEN, "learned", None], ids=["given", "learned", "alike"])
def test_planted_attributes_are_found_saved_and_given_back(trainable, tmp_path, lora, weights) -> None:
    data, held_out = comparisons(120, sizes=(2, 2, 3)), comparisons(30, seed=1)
    parts = {"eval_dataset": held_out, **(adapters() if lora else {})}
    more = {**HOW, "attribute_weights": weights, "head_init": "probe", "max_steps": 12}
    more["learning_rate"] = 1e-2 if lora else 2e-3
    made = trainer(trainable["llama"], data, tmp_path, parts=parts, **more)
    before = made.evaluate()
    made.train()
    after = made.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    model = made.reward_model()
    given, planted, rewards = rated(model, held_out)
    for a in range(2):
        assert np.corrcoef(given[:, a], planted[:, a])[0, 1] > 0.8
    mix = model.contract.attributes
    np.testing.assert_allclose(rewards, given @ [mix[name] for name in NAMES], atol=1e-5)
    accuracy = np.mean([rewards[i] > rewards[i + 1] for i in range(0, len(rewards), 2)])
    if weights != "learned":  # of which the metrics of training have the mean
        assert after["eval_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    if weights == "learned":
        assert mix["foxes"] > 0 > mix["dogs"] and accuracy > 0.8
    else:
        assert mix == (weights or {"foxes": 0.5, "dogs": 0.5})
    folder = model.save(tmp_path / "rm")
    loaded = RewardModel.load(folder)
    assert rated(loaded, held_out)[0].tolist() == given.tolist() and loaded.contract == model.contract
    assert len(loaded.verify()) == 6 and loaded.contract.goldens[0].attributes is not None
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    assert network.config.num_labels == 1 and network.config.id2label == {0: "reward"}
    prompt, response = held_out[0].prompt, held_out[0].responses[0]
    ids = torch.tensor([loaded.render(prompt, response).ids])  # type: ignore[arg-type]
    assert network(input_ids=ids).logits[0].tolist() == pytest.approx([rewards[0]], abs=1e-5)
    assert loaded.score_attributes(prompt, response) == pytest.approx(dict(zip(NAMES, given[0], strict=True)), abs=1e-5)
    batch = loaded.score_attributes_batch([prompt] * 2, held_out[0].responses)
    np.testing.assert_allclose([list(one.values()) for one in batch], given[:2], atol=1e-5)
    if lora:
        made.save_adapter(tmp_path / "adapter", model)
        alone = RewardModel.load(tmp_path / "adapter")
        assert alone.contract == model.contract
        np.testing.assert_allclose(rated(alone, held_out)[0], given, atol=1e-5)
        np.testing.assert_allclose(rated(alone, held_out)[2], rewards, atol=1e-5)


def test_an_encoder_keeps_the_bias_of_its_head(trainable, tmp_path) -> None:
    data = comparisons(24)
    more = {**HOW, "attribute_weights": GIVEN, "head_init": "probe", "max_steps": 3, "eos_token": "[SEP]"}
    made = trainer(trainable["bert"], data, tmp_path, **more)
    made.train()
    model = made.reward_model()
    given, _, rewards = rated(model, data)
    assert model.attributes.bias is not None and model.attributes.bias.abs().min() > 1e-3  # type: ignore[union-attr]
    np.testing.assert_allclose(rewards, given @ list(GIVEN.values()), atol=1e-5)
    loaded = RewardModel.load(model.save(tmp_path / "rm"))
    np.testing.assert_allclose(rated(loaded, data)[2], rewards, atol=1e-5)


def test_one_attribute_and_its_weight(trainable, tmp_path) -> None:
    more = {**HOW, "attributes": "foxes", "attribute_weights": {"foxes": -2.0}}
    made = trainer(trainable["llama"], comparisons(8), tmp_path, **more)
    predicted = made.predict(made.train_dataset).predictions
    model = made.reward_model()
    assert model.score(comparisons(8)[0].prompt, comparisons(8)[0].responses[0]) == pytest.approx(
        predicted[0, 0], abs=1e-5
    )
    assert model.contract.attributes == {"foxes": -2.0}


def test_a_run_that_is_resumed_ends_with_the_same_heads(trainable, tmp_path) -> None:
    more = {**HOW, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "attribute_weights": GIVEN}
    made = trainer(trainable["qwen3"], comparisons(16), tmp_path / "a", parts=adapters(), **more)
    made.train()
    again = trainer(trainable["qwen3"], comparisons(16), tmp_path / "a", parts=adapters(), **more)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    (one, other) = (made.reward_model().attributes, again.reward_model().attributes)
    assert torch.equal(one.weight, other.weight)
    with pytest.raises(ModelError, match=r"its head has 2 outputs.*load the model that the run saved"):
        RewardModel.load(tmp_path / "a" / "checkpoint-2")


def test_a_dataset_of_rows_is_read_as_comparisons_are(trainable, tmp_path) -> None:
    data = comparisons(4, missing=0.3)
    rows = [
        {"prompt": one.prompt, "chosen": one.responses[0], "rejected": one.responses[1], "attributes": one.attributes}
        for one in data
    ]
    made = trainer(trainable["llama"], Dataset.from_list(rows), tmp_path, **HOW)
    ours = trainer(trainable["llama"], data, tmp_path, **HOW)
    assert made.train_dataset["scores"] == ours.train_dataset["scores"]
    assert ours.train_dataset["scores"][0] == [[one.get(name) for name in NAMES] for one in data[0].attributes or ()]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    streamed = trainer(trainable["llama"], stream, tmp_path, max_steps=1, **HOW).train_dataset
    assert next(iter(streamed))["scores"] == ours.train_dataset["scores"][0]
    again = trainer(trainable["llama"], ours.train_dataset, tmp_path, **HOW)  # rows that are tokens already
    assert again.train_dataset["scores"] == ours.train_dataset["scores"]
    with pytest.raises(DataError, match="row:1: scores: must hold for each of 2 responses a list of 3 numbers"):
        trainer(trainable["llama"], ours.train_dataset, tmp_path, **{**HOW, "attributes": [*NAMES, "birds"]})


# -- the weights that are learnt


def test_learnt_weights_are_those_the_preferences_were_drawn_with(bases) -> None:
    model = with_random_head(RewardModel.from_base(bases["llama"]))
    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    weight = torch.from_numpy(rng.normal(size=(3, 32)) / 4).float()
    heads = AttributeHeads(names, weight, torch.ones(3) / 3)
    true = np.array([1.0, -0.6, 0.0])
    words = ["fox", "dog", "lazy", "quick", "42", "answer"]
    prompts = [f"q {i // 2}" for i in range(1200)]
    responses = [" ".join(rng.choice(words, 4)) for _ in prompts]
    known = with_heads(model, heads).score_attributes_batch(prompts, responses)
    utility = np.array([list(one.values()) for one in known]) @ true
    data = []
    for i in range(0, len(prompts), 2):
        first = rng.random() < 1 / (1 + np.exp(utility[i + 1] - utility[i]))
        data.append(Comparison(prompts[i], tuple(responses[i : i + 2][:: 1 if first else -1])))
    rows, _ = prepare_rows(data, model.template, 256)
    found = learn_mix(model, heads, rows)
    assert found.mix.numpy() == pytest.approx(true, abs=0.2)
    assert torch.equal(found.weight, heads.weight) and found.names == names


def test_heads_on_frozen_features_are_ridge_regressions() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(60, 5)) * [1, 10, 0.1, 1, 1] + [3, 0, 0, 0, 0]).astype(np.float32)
    scores = np.stack([features @ [1, 0.1, 0, 2, 0], features @ [0.5, 0, 3, 0, 1]], axis=1) + rng.normal(size=(60, 2))
    scores[rng.random(60) < 0.3, 1] = np.nan
    comparison = np.arange(60) // 2
    for intercept in (False, True):
        fit = fit_attributes(features, scores, comparison, intercept=intercept)
        for a in range(2):
            known = ~np.isnan(scores[:, a])
            share = np.array([1 / known[comparison == group].sum() for group in comparison[known]])
            scale = features.std(0, dtype=np.float64)
            plain = Ridge(alpha=fit.ridge[a], fit_intercept=intercept)
            plain.fit(features[known] / scale, scores[known, a], sample_weight=share)
            np.testing.assert_allclose(fit.weight[a], plain.coef_ / scale, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(fit.bias[a], plain.intercept_, rtol=1e-6, atol=1e-8)
            assert fit.ridge[a] in RIDGES
    single = fit_attributes(features[:2], np.array([[1.0, np.nan], [np.nan, 2.0]]), np.zeros(2, dtype=int))
    assert np.isfinite(single.weight).all()


# -- settings


def test_names_are_taken_as_a_list_as_json_and_with_commas(tmp_path) -> None:
    for given in (NAMES, tuple(NAMES), '["foxes", "dogs"]', "foxes, dogs"):
        assert names_of(given) == NAMES
        assert config(tmp_path, loss="regression", attributes=given).attributes == NAMES
    by_text = RewardConfig(str(tmp_path), loss="regression", attributes=NAMES, attribute_weights=json.dumps(GIVEN))
    assert by_text.attribute_weights == GIVEN


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_file_and_set_reach_them(tmp_path, method) -> None:
    (tmp_path / "run.yaml").write_text(f"method: {method}\ndata: a.jsonl\noutput: out\nattribute_weights: learned\n")
    assigned = settings.assignments(["attributes=[foxes, dogs]", "loss=regression"])
    built = settings.build(settings.merged(settings.read_yaml(tmp_path / "run.yaml"), assigned))
    made = reward_config(built, tmp_path, "cpu", False, evaluates=False)
    assert (made.attributes, made.attribute_weights, made.head_init) == (NAMES, "learned", "probe")
    text = settings.assignments(
        ["attributes=foxes,dogs", "attribute_weights={foxes: 1, dogs: -0.5}", "loss=regression"]
    )
    built = settings.build(settings.merged(settings.read_yaml(tmp_path / "run.yaml"), text))
    made = reward_config(built, tmp_path, "cpu", False, evaluates=False)
    assert (made.attributes, made.attribute_weights) == (NAMES, GIVEN)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"attributes": NAMES}, "learnt from ratings by loss 'regression', not 'bradley-terry'"),
    "nothing to weigh": ({"attribute_weights": GIVEN}, "no attributes to weigh"),
    "twice": ({**HOW, "attributes": ["a", "a"]}, "'a' is there twice"),
    "empty": ({**HOW, "attributes": []}, "must be names"),
    "empty name": ({**HOW, "attributes": "a,,b"}, "must be names"),
    "numbers": ({**HOW, "attributes": [1]}, "must be names"),
    "not json": ({**HOW, "attributes": "[a"}, "not JSON"),
    "unknown": ({**HOW, "attribute_weights": {**GIVEN, "birds": 1}}, "'birds' is none of the attributes foxes, dogs"),
    "missing": ({**HOW, "attribute_weights": {"foxes": 1}}, "no weight for 'dogs'; give 0"),
    "not finite": ({**HOW, "attribute_weights": {"foxes": float("nan"), "dogs": 1}}, "must be a finite number"),
    "text": ({**HOW, "attribute_weights": {"foxes": "1", "dogs": 1}}, "must be a finite number"),
    "all 0": ({**HOW, "attribute_weights": {"foxes": 0, "dogs": 0}}, "so would be every reward"),
    "word": ({**HOW, "attribute_weights": "learnt"}, "numbers by name, or 'learned'"),
    "centering": ({**HOW, "center_rewards_coefficient": 0.1}, "centres one reward"),
    "losses": ({**HOW, "loss_kwargs": {"attribute_weights": [1, 2, 3]}}, "3 numbers for 2 attributes"),
}


@pytest.mark.parametrize(("more", "message"), WRONG.values(), ids=WRONG)
def test_settings_that_cannot_work_are_refused(tmp_path, more, message) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path, **more)


def test_data_that_cannot_teach_them_are_refused(trainable, tmp_path) -> None:
    base = trainable["llama"]
    with pytest.raises(DataError, match="no row of the train data rates 'birds'"):
        trainer(base, comparisons(4), tmp_path, **{**HOW, "attributes": [*NAMES, "birds"]})
    with pytest.raises(DataError, match="no row of the train data rates 'foxes'"):
        trainer(base, texts(4), tmp_path, **HOW)
    with pytest.raises(DataError, match="no row of the eval data rates 'foxes'"):
        trainer(base, comparisons(4), tmp_path, parts={"eval_dataset": Dataset.from_list(texts(4))}, **HOW)
    wrong = [{**texts(1)[0], "attributes": [{"foxes": 1.0}]}]
    with pytest.raises(DataError, match="row:1: attributes: has 1 entries for 2 responses"):
        trainer(base, wrong, tmp_path, **HOW)


def test_weights_cannot_be_learnt_from_ties_or_a_stream(trainable, tmp_path) -> None:
    tied = [Comparison(c.prompt, c.responses, (0, 0), attributes=c.attributes) for c in comparisons(4)]
    with pytest.raises(DataError, match="'learned' needs preferences, and every comparison of the train data is a tie"):
        trainer(trainable["llama"], tied, tmp_path, **HOW, attribute_weights="learned")
    assert trainer(trainable["llama"], tied, tmp_path, **HOW).reward_model().contract.attributes["dogs"] == 0.5
    rows = [{**row, "attributes": [{"foxes": 1.0, "dogs": 0.0}] * 2} for row in texts(4)]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(UsageError, match="cannot be a stream"):
        trainer(trainable["llama"], stream, tmp_path, max_steps=1, **HOW, attribute_weights="learned")


def test_models_of_several_labels_or_with_adapters_are_refused_as_ever(trainable, tmp_path) -> None:
    two = AutoModelForSequenceClassification.from_pretrained(trainable["llama"], num_labels=2, dtype=torch.float32)
    with pytest.raises(ModelError, match="num_labels=2; a reward model has one output"):
        trainer(two, comparisons(4), tmp_path, **HOW)
    one = AutoModelForSequenceClassification.from_pretrained(trainable["llama"], num_labels=1, dtype=torch.float32)
    with pytest.raises(UsageError, match="attributes need a model without adapters"):
        trainer(get_peft_model(one, adapters()["peft_config"]), comparisons(4), tmp_path, **HOW)


def test_a_reward_model_gives_its_head_for_those_of_the_attributes(trainable, tmp_path, caplog) -> None:
    first = trainer(trainable["llama"], texts(4), tmp_path).reward_model().save(tmp_path / "rm")
    with caplog.at_level("WARNING", "rewardsmith"):
        made = trainer(first, comparisons(8), tmp_path, head_init="probe", **HOW)
    assert "gives way to one head for each attribute" in caplog.text
    assert network_of(made).score.weight.shape == (2, 32) and made.start.ridge.shape == (2,)
    saved = made.reward_model().save(tmp_path / "other")
    assert (saved / FILE).is_file() and not (first / FILE).exists()
    assert isinstance(saved, Path)
