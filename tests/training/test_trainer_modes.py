"""Ways to train that must not change the numbers, and those that must, by the right amount."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from rewardsmith import RewardModel
from rewardsmith.errors import ModelError
from rewardsmith.model.quantise import is_quantised, nf4_config
from rewardsmith.training import attribute_fit, bradley_terry, launch, losses, words
from rewardsmith.training.forward import forget, teach
from rewardsmith.training.fused_lora import FusedLoraLinear
from rewardsmith.training.merge import placed, plain
from rewardsmith.training.pairs import Pairs
from tests import tiny
from tests.training.conftest import (
    PAD,
    assert_same_gradients,
    chats,
    gradients,
    independent,
    logged,
    network_of,
    plain_rewards,
    steps,
    trainer,
)

NUMBERS = ("loss", "grad_norm", "accuracy", "margin", "mean_reward", "min_reward", "max_reward", "num_tokens")


def lora(**more: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", **more)


def run(base: Any, folder: Path, *, adapters: bool = False, rows: Any = None, **more: Any) -> Any:
    """A trainer after three steps."""
    parts = {**more.pop("parts", {}), **({"peft_config": lora()} if adapters else {})}
    made = trainer(base, rows or chats(12), folder, parts=parts, **more)
    made.train()
    return made


def assert_same_steps(made: Any, other: Any, tolerance: float) -> None:
    assert len(steps(made)) == len(steps(other)) >= 3
    for name in NUMBERS:
        assert logged(made, name) == pytest.approx(logged(other, name), abs=tolerance), name


# -- precision


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_bfloat16_autocast_trains_close_to_float32(trainable, tmp_path, adapters) -> None:
    full = run(trainable["llama"], tmp_path, adapters=adapters)
    half = run(trainable["llama"], tmp_path, adapters=adapters, bf16=True)
    assert logged(half, "loss") == pytest.approx(logged(full, "loss"), abs=0.05)
    assert logged(half, "loss") != pytest.approx(logged(full, "loss"), abs=1e-6)  # it is bfloat16
    assert {one.dtype for one in half.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_bfloat16_weights_keep_a_float32_head(trainable, tmp_path, adapters) -> None:
    more: dict[str, Any] = {"model_init_kwargs": {"dtype": "bfloat16"}, "learning_rate": 1e-4, "adapters": adapters}
    made = run(trainable["llama"], tmp_path, **more)
    full = run(trainable["llama"], tmp_path, adapters=adapters, learning_rate=1e-4)
    assert logged(made, "loss") == pytest.approx(logged(full, "loss"), abs=0.1)
    kinds = {name: one.dtype for name, one in made.model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "score" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "up_proj" in name and "lora" not in name} == {torch.bfloat16}
    rewards = torch.from_numpy(made.predict(made.train_dataset).predictions)
    assert (rewards != rewards.bfloat16().float()).any()  # close scores do not tie
    saved = RewardModel.load(made.reward_model().save(tmp_path / "rm"), dtype="bfloat16")
    assert saved.head.weight.dtype == torch.float32
    row = chats(1)[0]
    limit = 0.15 if adapters else 0.03  # bfloat16 states; merging also rounds the adapters' changes
    assert saved.score(row["prompt"], row["chosen"]) == pytest.approx(rewards[0, 0].item(), abs=limit)


def test_a_dtype_object_is_taken_as_its_name(trainable, tmp_path) -> None:
    made = trainer(trainable["llama"], chats(2), tmp_path, model_init_kwargs={"dtype": torch.bfloat16})
    assert made.model.get_input_embeddings().weight.dtype == torch.bfloat16


# -- the same numbers in another way


@pytest.fixture(scope="module")
def usual(trainable, tmp_path_factory) -> dict[bool, Any]:
    """Runs with (True) and without adapters in the default way."""
    return {
        adapters: run(trainable["qwen3"], tmp_path_factory.mktemp("usual"), adapters=adapters)
        for adapters in (True, False)
    }


SAME: dict[str, tuple[bool, dict[str, Any]]] = {
    "split batches": (False, {"tokens_per_forward": 60}),
    "split batches, checkpointing": (True, {"tokens_per_forward": 60, "gradient_checkpointing": True}),
    "no sharing": (True, {"share_prompts": False}),
    "eager attention": (False, {"model_init_kwargs": {"attn_implementation": "eager"}}),
    "padding": (True, {"pad_to_multiple_of": 32}),
    "adapters as PEFT computes them": (True, {"fuse_adapters": False}),
}


@pytest.mark.parametrize(("adapters", "more"), SAME.values(), ids=SAME.keys())
def test_the_same_numbers_in_another_way(trainable, tmp_path, usual, adapters, more) -> None:
    made = run(trainable["qwen3"], tmp_path, adapters=adapters, **more)
    assert_same_steps(made, usual[adapters], 1e-4)


@pytest.mark.parametrize("more", [{}, {"pooling": "mean"}, {"language_model_coefficient": 0.1}], ids=str)
def test_a_system_prompt_that_all_share_has_the_gradients_of_each_alone(trainable, tmp_path, more) -> None:
    system = {"role": "system", "content": "You are a fox. A quick one."}
    rows = [{**row, "prompt": [system, *row["prompt"]]} for row in chats(6)]
    found = []
    for share in (True, False):
        made = trainer(trainable["qwen3"], rows, tmp_path, share_prompts=share, per_device_train_batch_size=6, **more)
        roots = [one["batch"].trunk for one in made.data_collator(list(made.train_dataset))["passes"]]
        assert (min(roots) > 8) if share else (roots == [0])
        found.append(gradients(made))
    assert_same_gradients(*found)


def test_the_other_ways_are_other_ways(trainable, tmp_path) -> None:
    split = trainer(trainable["qwen3"], chats(4), tmp_path, tokens_per_forward=60, parts={"peft_config": lora()})
    assert len(split.data_collator(list(split.train_dataset))["passes"]) > 1
    assert any(isinstance(one, FusedLoraLinear) for one in split.model.modules())
    eager = trainer(trainable["qwen3"], chats(4), tmp_path, model_init_kwargs={"attn_implementation": "eager"})
    assert not eager.data_collator.one_row
    assert eager.data_collator.share
    assert split.data_collator.one_row
    slow = trainer(trainable["qwen3"], chats(4), tmp_path, fuse_adapters=False, parts={"peft_config": lora()})
    assert not any(isinstance(one, FusedLoraLinear) for one in slow.model.modules())


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_offloaded_activations_change_nothing(trainable, tmp_path, usual, monkeypatch, adapters) -> None:
    moved: list[torch.Tensor] = []
    to_cpu = launch.to_cpu
    made = trainer(
        trainable["qwen3"],
        chats(12),
        tmp_path,
        parts={"peft_config": lora()} if adapters else {},
        activation_offloading=True,
    )
    weights = {one.untyped_storage().data_ptr() for one in made.model.parameters()}
    monkeypatch.setattr(launch, "to_cpu", lambda tensor, pin: moved.append(tensor) or to_cpu(tensor, pin))
    made.train()
    assert_same_steps(made, usual[adapters], 0.0)
    assert len(moved) > 3 * 3
    assert not any(one.untyped_storage().data_ptr() in weights for one in moved)  # weights stay where they are


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_the_networks_own_attention_trains_as_tree_attention_does(trainable, tmp_path, family) -> None:
    """As on a GPU: sdpa over packed rows with a mask."""
    tree = run(trainable[family], tmp_path)
    own = trainer(trainable[family], chats(12), tmp_path)
    own.model.set_attn_implementation("sdpa")
    own.data_collator = dataclasses.replace(own.data_collator, one_row=False)
    own.train()
    assert_same_steps(own, tree, 1e-4)


def test_tokens_per_forward_goes_with_accumulation_and_every_addition_to_the_loss(trainable, tmp_path) -> None:
    more: dict[str, Any] = {
        "gradient_accumulation_steps": 2,
        "center_rewards_coefficient": 0.1,
        "language_model_coefficient": 0.1,
        "head_anchor": 0.5,
        "rows": chats(24),
    }
    whole = run(trainable["llama"], tmp_path, **more)
    assert_same_steps(run(trainable["llama"], tmp_path, tokens_per_forward=60, **more), whole, 1e-4)


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_the_language_model_loss_goes_with_bfloat16_weights_and_autocast(trainable, tmp_path, adapters) -> None:
    more: dict[str, Any] = {"language_model_coefficient": 0.3, "learning_rate": 1e-4, "adapters": adapters}
    full = run(trainable["llama"], tmp_path, **more)
    for kinds in ({"bf16": True}, {"model_init_kwargs": {"dtype": "bfloat16"}}):
        assert logged(run(trainable["llama"], tmp_path, **kinds, **more), "loss") == pytest.approx(
            logged(full, "loss"), abs=0.1
        )
    both = run(trainable["llama"], tmp_path, bf16=True, model_init_kwargs={"dtype": "bfloat16"}, **more)
    assert logged(both, "loss") == pytest.approx(logged(full, "loss"), abs=0.1)


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_the_expected_memory_knows_of_bfloat16_weights(trainable, tmp_path, adapters) -> None:
    def expected(**more: Any) -> tuple[int, int]:
        parts = {"peft_config": lora()} if adapters else {}
        found = trainer(trainable["llama"], chats(4), tmp_path, parts=parts, bf16=True, **more).summary()
        assert found.memory
        return found.memory, found.parameters - (found.trainable if adapters else 0)

    (single, frozen), (half, _) = expected(), expected(model_init_kwargs={"dtype": "bfloat16"})
    # Two bytes less a frozen weight; eight a trained one: weight, gradient and two moments. And activations.
    assert single - half > (2 if adapters else 8) * frozen


# -- additions to the loss


def response_tokens(made: Any, row: dict[str, Any]) -> tuple[list[int], int]:
    """A chosen conversation as tokens, and where its response begins."""
    tokenizer = made.processing_class
    whole = tokenizer.apply_chat_template([*row["prompt"], *row["chosen"]], return_dict=False)
    before = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    assert whole[: len(before)] == before
    return whole, len(before)


def language_loss(made: Any, words: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """Mean of -log p over the tokens of the chosen responses, read one by one."""
    body, found = network_of(made).model, []
    for row in rows:
        ids, start = response_tokens(made, row)
        states = body(input_ids=torch.tensor([ids])).last_hidden_state[0]
        chances = log_softmax(states @ words.t(), -1)
        found += [-chances[at - 1, ids[at]] for at in range(start, len(ids))]
    return torch.stack(found).mean()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_language_model_loss_is_that_of_the_base_on_chosen_responses(trainable, tmp_path, family) -> None:
    rows, coefficient = chats(4), 0.3
    made = trainer(trainable[family], rows, tmp_path, language_model_coefficient=coefficient)
    bare = trainer(trainable[family], rows, tmp_path)
    tied = made.model.config.tie_word_embeddings
    assert tied == (family == "gemma3")
    words = AutoModelForCausalLM.from_pretrained(trainable[family]).lm_head.weight.detach()
    network_of(bare).zero_grad()
    wanted = language_loss(bare, words, rows)
    wanted.backward()
    named = network_of(bare).named_parameters()
    extra = {name: one.grad.clone() for name, one in named if one.grad is not None}
    without, found = gradients(bare), gradients(made)
    assert logged(made, "loss")[0] == pytest.approx(logged(bare, "loss")[0] + coefficient * wanted.item(), abs=1e-4)
    body = {name: one for name, one in without.items() if not tied or "embed" not in name}  # tied words learn as well
    wanted_sum = {name: one + coefficient * extra[name] for name, one in body.items() if name in extra}
    assert_same_gradients({name: found[name] for name in wanted_sum}, wanted_sum)
    assert len(wanted_sum) > 20


@pytest.mark.parametrize("more", [{}, {"tokens_per_forward": 60}], ids=["whole", "split"])
def test_accumulated_batches_predict_as_one_batch_does(trainable, tmp_path, more) -> None:
    """Responses differ in length, so a mean of the means of small batches is another number."""
    rows = chats(8)
    found = []
    for size, times in ((4, 1), (1, 4)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times}
        both: dict[str, Any] = {"rows": rows, "language_model_coefficient": 1.0, "num_train_epochs": 2, **sizes}
        found.append(run(trainable["llama"], tmp_path, **both, **(more if times > 1 else {})))
    assert logged(found[1], "loss") == pytest.approx(logged(found[0], "loss"), abs=1e-4)
    assert logged(found[1], "grad_norm") == pytest.approx(logged(found[0], "grad_norm"), abs=1e-3)


def test_the_words_of_a_vocabulary_are_never_weighed_all_at_once(trainable, tmp_path, monkeypatch) -> None:
    sizes: list[int] = []
    own = losses.language_model

    def seen(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        sizes.append(len(logits))
        return own(logits, *args, **kwargs)

    monkeypatch.setattr(losses, "language_model", seen)
    more: dict[str, Any] = {"language_model_coefficient": 0.3, "adapters": True}
    whole = run(trainable["llama"], tmp_path, **more)
    assert len(sizes) == 2 * 3 and max(sizes) > 16  # and once more in the backward pass
    sizes.clear()
    monkeypatch.setattr(words, "TOKENS", 8)
    assert_same_steps(run(trainable["llama"], tmp_path, **more), whole, 1e-5)
    assert max(sizes) == 8 and len(sizes) > 12


def test_the_expected_memory_knows_of_the_language_model_loss(trainable, tmp_path) -> None:
    found = [
        trainer(trainable["llama"], chats(4), tmp_path, language_model_coefficient=one).summary().memory
        for one in (None, 0.1)
    ]
    assert found[1] - found[0] >= 400 * 32 * 4 + 400 * 4 * 4
    assert found[1] - found[0] < 400 * 32 * 4 + 1024 * 400 * 16


def test_the_language_model_loss_falls_where_it_counts(trainable, tmp_path) -> None:
    words = AutoModelForCausalLM.from_pretrained(trainable["llama"]).lm_head.weight.detach()
    losses = {}
    for coefficient in (None, 1.0):
        more = {"language_model_coefficient": coefficient, "num_train_epochs": 3}
        made = run(trainable["llama"], tmp_path, adapters=True, rows=chats(8), **more)
        with torch.no_grad():
            losses[coefficient] = language_loss(made, words, chats(8)).item()
    assert losses[1.0] < losses[None] - 0.02


@pytest.mark.parametrize(("adapters", "more"), [(True, {}), (False, {"tokens_per_forward": 60})], ids=["lora", "split"])
def test_the_anchor_pulls_the_head_back_to_where_it_started(trainable, tmp_path, adapters, more) -> None:
    parts = {"peft_config": lora()} if adapters else {}
    found = []
    for anchor in (0.0, 0.7):
        made = trainer(trainable["llama"], chats(4), tmp_path, parts=parts, head_anchor=anchor, **more)
        ((name, head),) = [(n, p) for n, p in made.model.named_parameters() if "score" in n and p.requires_grad]
        head.data += torch.linspace(-1, 1, head.numel()).view_as(head)  # as if it had moved there
        found.append(gradients(made)[name])
    torch.testing.assert_close(
        found[1] - found[0], 0.7 * torch.linspace(-1, 1, found[0].numel()).view_as(found[0]), rtol=0, atol=1e-4
    )


# -- the head


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_the_head_learns_at_its_own_rate(trainable, tmp_path, adapters) -> None:
    rates: list[tuple[list[float], list[float]]] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found: dict[bool, list[float]] = {True: [], False: []}
            for group in kwargs["optimizer"].param_groups:
                found[any(one is head for one in group["params"])].append(group["lr"])
            rates.append((found[True], found[False]))

    parts = {"peft_config": lora()} if adapters else {}
    made = trainer(trainable["llama"], chats(12), tmp_path, parts=parts, head_learning_rate=0.1, learning_rate=1e-3)
    (head,) = [one for name, one in made.model.named_parameters() if "score" in name and one.requires_grad]
    made.add_callback(Watch())
    made.train()
    for step, (own, others) in enumerate(rates):
        left = 1 - step / 3  # the schedule is one for all
        assert own == pytest.approx([0.1 * left])
        assert others == pytest.approx([1e-3 * left] * len(others))
    grouped = [id(one) for group in made.optimizer.param_groups for one in group["params"]]
    assert sorted(grouped) == sorted(id(one) for one in made.model.parameters() if one.requires_grad)
    assert logged(made, "learning_rate") == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])


def noisy(n: int) -> list[dict[str, Any]]:
    """Pairs of which a fifth is labelled the other way."""
    rows = chats(n)
    return [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} if i % 5 == 1 else r for i, r in enumerate(rows)]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_probe_starts_at_the_optimum_on_frozen_features(trainable, tmp_path, monkeypatch, family) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))
    if family == "bert":
        rows = [{name: row[name][0]["content"] for name in ("prompt", "chosen", "rejected")} for row in noisy(30)]
        more: dict[str, Any] = {"eos_token": "[SEP]"}
    else:
        rows, more = noisy(30), {}
    more["parts"] = {"eval_dataset": Dataset.from_list(rows)}
    made = trainer(trainable[family], rows, tmp_path, head_init="probe", **more)
    assert made.evaluate()["eval_loss"] == pytest.approx(made.start.loss, abs=1e-4)
    assert made.start.loss < 0.6
    drawn = trainer(trainable[family], rows, tmp_path, **more)
    assert drawn.start is None
    assert drawn.evaluate()["eval_loss"] != pytest.approx(made.start.loss, abs=1e-2)
    caught: list[torch.Tensor] = []
    network = independent(drawn, trainable[family])
    head = network.score if family == "llama" else network.classifier
    head.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0].detach()[0]))
    plain_rewards(network, [row[name] for row in made.train_dataset for name in ("chosen_ids", "rejected_ids")])
    features = torch.stack([one[-1] if family == "llama" else one for one in caught]).numpy()
    prompts = [str(row["prompt"]) for row in rows]
    group = np.array([prompts.index(prompt) for prompt in prompts])
    pairs = Pairs.of(np.arange(0, 60, 2), np.arange(1, 60, 2), group=group)
    wanted = bradley_terry.fit(features, pairs, made.start.ridge)
    head = made.model.score if family == "llama" else made.model.classifier
    found = head.weight.detach()[0].double().numpy()
    expected = features @ wanted.weight
    np.testing.assert_allclose(features @ found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_a_probe_for_regression_starts_at_least_squares(trainable, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))
    rows = [{**row, "scores": [4.0 + i % 3, float(i % 2)], "ranks": [0, 1]} for i, row in enumerate(chats(40))]
    for row in rows:
        row["responses"] = [row.pop("chosen"), row.pop("rejected")]
    rows[3]["scores"] = None
    parts = {"eval_dataset": Dataset.from_list(rows)}
    made = trainer(trainable["llama"], rows, tmp_path, head_init="probe", loss="regression", parts=parts)
    fit = made.start
    assert fit.weight.shape == (1, 32) and fit.ridge[0] > 0
    caught: list[torch.Tensor] = []
    network = independent(made, trainable["llama"])
    network.score.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0].detach()[0, -1]))
    plain_rewards(network, [row[name] for row in made.train_dataset for name in ("chosen_ids", "rejected_ids")])
    given = [one for row in made.train_dataset for one in row["scores"] or (None, None)]
    scores = np.array(given, dtype=float)[:, None]
    features = torch.stack(caught).double().numpy()
    wanted = attribute_fit.fit_attributes(features, scores, np.arange(40).repeat(2))
    found = features @ made.model.score.weight.detach().double().numpy().T
    np.testing.assert_allclose(found, features @ wanted.weight.T, rtol=0, atol=0.02)
    known = scores[~np.isnan(scores)]
    assert made.evaluate()["eval_loss"] < 0.5 * known.var()


def test_a_probe_trains_on_with_adapters(trainable, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))
    rows = noisy(30)
    more: dict[str, Any] = {"head_init": "probe", "per_device_train_batch_size": 30}
    made = run(trainable["llama"], tmp_path, rows=rows, adapters=True, **more)
    assert logged(made, "loss")[0] == pytest.approx(made.start.loss, abs=1e-4)


# -- stopping, dropout


def test_training_stops_when_the_loss_stops_falling(trainable, tmp_path) -> None:
    more: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 2, "learning_rate": 1e-12}
    parts = {"eval_dataset": Dataset.from_list(chats(4))}
    made = run(trainable["llama"], tmp_path, parts=parts, early_stopping_patience=2, **more)
    assert made.state.global_step == 3  # the first is the best; two more are no better
    made = run(trainable["llama"], tmp_path, parts=parts, **more)
    assert made.state.global_step == 6


def test_dropout_is_off_unless_it_is_wanted(trainable, tmp_path) -> None:
    parts = {"peft_config": lora(lora_dropout=0.5)}
    quiet = trainer(trainable["llama"], chats(12), tmp_path, parts=parts)
    quiet.train()
    none = run(trainable["llama"], tmp_path, adapters=True)
    assert_same_steps(quiet, none, 1e-4)
    loud = trainer(trainable["llama"], chats(12), tmp_path, parts=parts, disable_dropout=False)
    loud.train()
    assert logged(loud, "loss")[1:] != pytest.approx(logged(none, "loss")[1:], abs=1e-4)


def test_attention_dropout_is_off_too(trainable, tmp_path) -> None:
    """transformers' decoders keep its rate as a plain number, in no Dropout module."""
    config = tiny.LlamaConfig(**tiny.SIZES, attention_dropout=0.5)
    torch.manual_seed(0)
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tiny.chat_tokenizer(pad=PAD).save_pretrained(base)
    made = run(base, tmp_path / "out")
    assert_same_steps(made, run(trainable["llama"], tmp_path / "none"), 1e-4)


# -- the taught network


def packed(made: Any) -> Any:
    return made.data_collator(list(made.train_dataset))["passes"][0]["batch"]


def test_a_copy_of_a_taught_network_reads_with_the_copy(trainable, tmp_path) -> None:
    made = trainer(trainable["llama"], chats(4), tmp_path)
    batch, network = packed(made), made.model.eval()
    with torch.no_grad():
        before = network(packed=batch).logits
        copied = copy.deepcopy(network)
        torch.testing.assert_close(copied(packed=batch).logits, before, rtol=0, atol=0)
        for one in copied.model.parameters():
            one.mul_(1.5)
        assert (copied(packed=batch).logits - before).abs().max() > 0.01
        torch.testing.assert_close(network(packed=batch).logits, before, rtol=0, atol=0)
        ordinary = torch.tensor([made.train_dataset[0]["chosen_ids"]])
        torch.testing.assert_close(network(input_ids=ordinary).logits, before[:1], rtol=0, atol=1e-5)


def test_a_network_forgets_what_it_was_taught(trainable, tmp_path) -> None:
    made = trainer(trainable["llama"], chats(2), tmp_path)
    network = made.model
    assert "forward" in vars(network)
    reader = network._reader
    teach(reader)  # twice is once
    forget(network)
    assert network.forward.__func__ is type(network).forward
    assert not {"forward", "_reader", "_head_name", "_own_forward"} & set(vars(network))
    with pytest.raises((TypeError, ValueError)):
        network(packed=packed(made))


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_taking_the_plain_network_leaves_the_trained_one_as_it_is(trainable, tmp_path, adapters) -> None:
    made = run(trainable["llama"], tmp_path, adapters=adapters, learning_rate=0.01)
    before = {name: one.clone() for name, one in made.model.state_dict().items()}
    rewards = made.predict(made.train_dataset).predictions
    bare = plain(made.model, network_of(made))
    assert type(bare).__name__ == "LlamaForSequenceClassification"
    assert not any("lora" in name for name, _ in bare.named_modules())
    assert bare.forward.__func__ is type(bare).forward
    assert not bare.training
    after = made.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    np.testing.assert_array_equal(made.predict(made.train_dataset).predictions, rewards)
    found = plain_rewards(bare, [row[name] for row in made.train_dataset for name in ("chosen_ids", "rejected_ids")])
    np.testing.assert_allclose(found.detach().numpy(), rewards.flatten(), atol=1e-4)
    with torch.no_grad():  # and it is a copy
        bare.model.embed_tokens.weight.zero_()
    assert made.model.get_input_embeddings().weight.abs().max() > 0.1
    made.train()


def test_a_merged_model_that_an_accelerator_has_no_room_for_stays_in_cpu_memory(trainable, tmp_path, caplog) -> None:
    network = network_of(trainer(trainable["llama"], chats(2), tmp_path))
    move = network.to

    def to(device: Any) -> Any:
        if torch.device(device).type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return move(device)

    network.to = to
    assert placed(network, torch.device("cuda")) is network
    assert network.get_input_embeddings().weight.device.type == "cpu"
    assert "does not fit cuda beside the trained one" in caplog.text


# -- four bits


@pytest.fixture(scope="module")
def qlora(trainable, tmp_path_factory) -> Any:
    """Adapters on a 4-bit network after some epochs."""
    pytest.importorskip("bitsandbytes")
    parts = {"quantization_config": nf4_config(torch.float32), "peft_config": lora()}
    folder = tmp_path_factory.mktemp("qlora")
    more = {"num_train_epochs": 5, "learning_rate": 5e-3}
    return run(trainable["llama"], folder, rows=chats(12), parts=parts, **more)


def test_qlora_learns(qlora) -> None:
    assert is_quantised(network_of(qlora))
    losses = logged(qlora, "loss")
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3
    learns = {name.split(".")[-2] for name, one in qlora.model.named_parameters() if one.requires_grad}
    assert learns == {"default"}
    assert {one.dtype for name, one in qlora.model.named_parameters() if "score" in name} == {torch.float32}


def test_qlora_merges_into_the_values_it_was_trained_around(qlora, tmp_path) -> None:
    """Tolerance 1e-3: float32 kernels of bitsandbytes against plain ones."""
    rewards = qlora.predict(qlora.train_dataset).predictions.flatten()
    before = {name: one.clone() for name, one in qlora.model.state_dict().items()}
    folder = qlora.reward_model().save(tmp_path / "rm")
    after = qlora.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    model = RewardModel.load(folder)
    assert not is_quantised(model.backbone.network)
    rows = chats(12)
    responses = [row[name] for row in rows for name in ("chosen", "rejected")]
    found = model.score_batch([row["prompt"] for row in rows for _ in range(2)], responses)
    np.testing.assert_allclose(found, rewards, atol=1e-3)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = model.template.tokenizer.apply_chat_template([*rows[0]["prompt"], *rows[0]["chosen"]], return_dict=False)
    assert plain_rewards(network, [ids]).item() == pytest.approx(float(rewards[0]), abs=1e-3)


@pytest.mark.parametrize("saved", ["adapter", "save_model"])
def test_an_adapter_of_a_4_bit_base_is_loaded_onto_the_4_bit_values(qlora, tmp_path, saved) -> None:
    """The contract of the merged model holds for the adapter. Tolerance 1e-3: as above."""
    rewards = qlora.predict(qlora.train_dataset).predictions.flatten()
    folder = tmp_path / saved
    if saved == "adapter":
        qlora.save_adapter(folder, qlora.reward_model())
    else:
        qlora.save_model(str(folder))
        qlora.processing_class.save_pretrained(folder)
    rows = chats(12)
    prompts = [row["prompt"] for row in rows for _ in range(2)]
    responses = [row[name] for row in rows for name in ("chosen", "rejected")]
    model = RewardModel.load(folder, dtype="float32")
    assert not is_quantised(model.backbone.network)
    assert bool(model.verify()) == (saved == "adapter")
    np.testing.assert_allclose(model.score_batch(prompts, responses), rewards, atol=1e-3)
    half = RewardModel.load(folder, dtype="bfloat16")
    assert {one.dtype for one in half.backbone.body.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in half.backbone.body.buffers()} == {torch.float32}
    np.testing.assert_allclose(half.score_batch(prompts, responses), rewards, atol=0.3)
    again = RewardModel.load(half.save(tmp_path / "merged"), dtype="bfloat16")
    np.testing.assert_allclose(again.score_batch(prompts, responses), half.score_batch(prompts, responses), atol=1e-3)
    (folder / "base_quantization.json").write_text("{}")
    with pytest.raises(ModelError, match=r"base_quantization\.json: damaged"):
        RewardModel.load(folder)
    (folder / "base_quantization.json").unlink()
    plain_base = RewardModel.load(folder, dtype="float32").score_batch(prompts, responses)
    assert np.abs(np.array(plain_base) - rewards).max() > 0.05  # another model


def test_an_adapter_of_a_plain_base_says_nothing_of_4_bits(trainable, tmp_path) -> None:
    made = run(trainable["llama"], tmp_path, adapters=True)
    made.save_adapter(tmp_path / "adapter", made.reward_model())
    made.save_model(str(tmp_path / "saved"))
    for name in ("adapter", "saved"):
        assert not (tmp_path / name / "base_quantization.json").exists()


def test_qlora_is_not_what_full_precision_would_give(qlora, trainable, tmp_path) -> None:
    full = run(trainable["llama"], tmp_path, adapters=True)
    assert logged(full, "loss")[0] != pytest.approx(logged(qlora, "loss")[0], abs=1e-4)
