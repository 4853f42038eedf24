"""What the trainer refuses, and the traps of training a reward model: ``pytest -k trap``."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from trl.trainer.reward_trainer import DataCollatorForPreference

from rewardsmith import RewardConfig, RewardModel, RewardTrainer
from rewardsmith.errors import DataError, ModelError, UsageError
from rewardsmith.training.objective import scored
from rewardsmith.training.prepare import TOO_LONG
from tests import tiny
from tests.training.conftest import (
    assistant,
    chats,
    config,
    independent,
    logged,
    plain_rewards,
    steps,
    texts,
    trainer,
)

STILL = {"learning_rate": 1e-12, "lr_scheduler_type": "constant"}  # rewards stay those of the untrained network


def classifier(base: Path, labels: int = 1) -> Any:
    """transformers' own classifier on a base, as a script would load it."""
    torch.manual_seed(3)
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, dtype=torch.float32)
    network.config.pad_token_id = 0
    return network


def head_of(made: Any) -> torch.Tensor:
    """The head's weight that learns, [1, d]."""
    (name,) = [n for n, one in made.model.named_parameters() if "score" in n and one.requires_grad]
    return made.model.get_parameter(name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"max_steps": 0}, "max_steps 0: nothing would be trained"),
        ({"max_steps": -2}, "max_steps -2: nothing would be trained"),
        ({"num_train_epochs": 0}, "num_train_epochs 0: nothing would be trained"),
        ({"num_train_epochs": -1.0}, "num_train_epochs -1: nothing would be trained"),
        ({"num_train_epochs": math.inf}, "num_train_epochs inf: it would never end"),
    ],
)
def test_training_for_no_step_is_refused(bases, tmp_path, more, message) -> None:
    made = trainer(bases["llama"], chats(4), tmp_path, **more)  # to evaluate it is fine
    with pytest.raises(UsageError, match=message):
        made.train()


# -- trap 1: the head is left out


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (None, "all-linear"),
        (None, ["q_proj", "v_proj"]),
        ("SEQ_CLS", "all-linear"),
        ("FEATURE_EXTRACTION", "all-linear"),
    ],
)
def test_trap_01_lora_without_modules_to_save_trains_and_saves_the_head(trainable, tmp_path, task, targets) -> None:
    adapters = LoraConfig(task_type=task, r=2, target_modules=targets)
    made = trainer(trainable["llama"], chats(8), tmp_path, parts={"peft_config": adapters})
    before = head_of(made).detach().clone()
    made.train()
    after = head_of(made).detach()
    assert (after - before).abs().max() > 1e-4
    made.save_model(str(tmp_path / "adapter"))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    torch.testing.assert_close(saved["base_model.model.score.weight"], after, rtol=0, atol=0)
    assert sum("lora_A" in name for name in saved) == 3 * (7 if targets == "all-linear" else 2)
    learns = {name for name, one in made.model.named_parameters() if one.requires_grad}
    assert all("lora_" in name or "score" in name for name in learns)


def test_trap_01_a_head_added_to_modules_to_save_is_told(trainable, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING, "rewardsmith"):
        trainer(trainable["llama"], chats(4), tmp_path, parts={"peft_config": LoraConfig(r=2)})
    assert "the head 'score' is added to modules_to_save" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "rewardsmith"):
        trainer(trainable["llama"], chats(4), tmp_path, parts={"peft_config": LoraConfig(r=2, task_type="SEQ_CLS")})
    assert "modules_to_save" not in caplog.text


def test_trap_01_a_peft_model_whose_head_is_frozen_is_refused(trainable, tmp_path) -> None:
    network = classifier(trainable["llama"])
    model = get_peft_model(network, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match=r"head is frozen .* modules_to_save"):
        trainer(model, chats(4), tmp_path)


def test_trap_01_a_network_whose_head_is_frozen_is_refused(trainable, tmp_path) -> None:
    network = classifier(trainable["llama"])
    network.score.requires_grad_(False)
    with pytest.raises(ModelError, match=r"head is frozen .* requires_grad"):
        trainer(network, chats(4), tmp_path)


def test_trap_01_a_head_that_learns_but_would_not_be_saved_is_refused(trainable, tmp_path) -> None:
    network = classifier(trainable["llama"])
    model = get_peft_model(network, LoraConfig(r=2, target_modules=["q_proj"]))
    network.score.requires_grad_(True)
    with pytest.raises(ModelError, match="would not be saved with the adapter"):
        trainer(model, chats(4), tmp_path)


def test_trap_01_a_peft_model_with_its_head_trains(trainable, tmp_path) -> None:
    model = get_peft_model(classifier(trainable["llama"]), LoraConfig(r=2, task_type="SEQ_CLS"))
    made = trainer(model, chats(4), tmp_path)
    before = head_of(made).detach().clone()
    made.train()
    assert (head_of(made) - before).abs().max() > 1e-4


# -- trap 2: what is saved is no reward model


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_trap_02_what_was_trained_is_saved_as_a_classifier_that_transformers_loads(
    trainable, tmp_path, adapters
) -> None:
    parts = {"peft_config": LoraConfig(r=4, target_modules="all-linear")} if adapters else {}
    made = trainer(trainable["qwen3"], chats(8), tmp_path, parts=parts, learning_rate=0.02)
    made.train()
    rewards = torch.from_numpy(made.predict(made.train_dataset).predictions).flatten()
    folder = made.reward_model().save(tmp_path / "rm")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["architectures"] == ["Qwen3ForSequenceClassification"]
    assert settings["id2label"] == {"0": "reward"}
    network, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert network.config.num_labels == 1
    torch.testing.assert_close(network.score.weight, head_of(made).detach(), rtol=0, atol=0)
    rows = list(made.train_dataset)
    found = plain_rewards(network.eval(), [row[name] for row in rows for name in ("chosen_ids", "rejected_ids")])
    torch.testing.assert_close(found.detach(), rewards, rtol=0, atol=1e-4)
    assert rewards.std() > 0.1


def test_trap_02_a_model_of_two_labels_is_refused(trainable, tmp_path) -> None:
    with pytest.raises(ModelError, match="num_labels=2; a reward model has one output"):
        trainer(classifier(trainable["llama"], labels=2), chats(4), tmp_path)


def test_trap_02_what_is_no_classifier_is_refused(trainable, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(ModelError, match=r"num_labels|one output"):
        trainer(AutoModelForCausalLM.from_pretrained(trainable["llama"]), chats(4), tmp_path)


# -- trap 3: a new random head on an old reward model


@pytest.fixture(scope="module")
def by_trl(trainable, tmp_path_factory) -> Path:
    """A reward model as TRL's trainer leaves it."""
    root = tmp_path_factory.mktemp("by_trl")
    made = trainer(trainable["llama"], chats(8), root / "out", module=trl, learning_rate=0.01)
    made.train()
    made.save_model(str(root / "rm"))
    return root / "rm"


@pytest.fixture(scope="module")
def by_openrlhf(by_trl, tmp_path_factory) -> Path:
    """The same weights under OpenRLHF's name of the head."""
    found = Path(shutil.copytree(by_trl, tmp_path_factory.mktemp("by_openrlhf") / "rm"))
    weights = load_file(found / "model.safetensors")
    weights["value_head.weight"] = weights.pop("score.weight")
    save_file(weights, found / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((found / "config.json").read_text())
    (found / "config.json").write_text(json.dumps({**settings, "value_head_prefix": "value_head"}))
    return found


@pytest.mark.parametrize(("source", "adapters"), [("by_trl", True), ("by_trl", False), ("by_openrlhf", True)])
def test_trap_03_training_goes_on_from_the_head_that_is_there(request, tmp_path, source, adapters) -> None:
    folder = request.getfixturevalue(source)
    parts = {"peft_config": LoraConfig(r=2)} if adapters else {}
    rows = chats(4)
    made = trainer(folder, rows, tmp_path, parts=parts, seed=11)
    loaded = RewardModel.load(folder)
    wanted = [loaded.score(row["prompt"], row[name]) for row in rows for name in ("chosen", "rejected")]
    made.train()
    (first,) = steps(made)
    assert first["mean_reward"] == pytest.approx(sum(wanted) / 8, abs=1e-5)
    assert (first["min_reward"], first["max_reward"]) == pytest.approx((min(wanted), max(wanted)), abs=1e-5)


def test_trap_03_a_probe_does_not_replace_a_trained_head(by_trl, tmp_path) -> None:
    made = trainer(by_trl, chats(4), tmp_path, head_init="probe")
    assert made.start is None
    stored = load_file(by_trl / "model.safetensors")["score.weight"]
    torch.testing.assert_close(made.model.score.weight.detach(), stored, rtol=0, atol=0)


def test_trap_03_a_probe_does_not_replace_a_head_that_is_handed_in(by_trl, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))
    network = AutoModelForSequenceClassification.from_pretrained(by_trl)
    before = network.score.weight.detach().clone()
    made = trainer(network, chats(8), tmp_path, head_init="probe")
    torch.testing.assert_close(made.model.score.weight.detach(), before, rtol=0, atol=0)


# -- trap 4: resuming


@pytest.mark.parametrize("adapters", [True, False], ids=["lora", "full"])
def test_trap_04_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(trainable, tmp_path, adapters) -> None:
    def make(name: str, **more: Any) -> Any:
        parts = {"peft_config": LoraConfig(r=4, target_modules="all-linear")} if adapters else {}
        more |= {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 3}
        return trainer(trainable["llama"], chats(14), tmp_path / name, parts=parts, head_learning_rate=0.01, **more)

    whole = make("whole")
    whole.train()
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    clock = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")
    logs = [[{k: v for k, v in e.items() if k not in clock} for e in one.state.log_history] for one in (whole, resumed)]
    assert logs[0] == logs[1]
    assert len(steps(whole)) == 6
    assert whole.state.num_input_tokens_seen == resumed.state.num_input_tokens_seen > 0
    weights = dict(whole.model.named_parameters())
    for name, one in resumed.model.named_parameters():
        assert torch.equal(one, weights[name]), name
    moments = [one.optimizer.state_dict()["state"] for one in (whole, resumed)]
    assert moments[0].keys() == moments[1].keys()
    for key, state in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in state.items())


# -- trap 5: pad is EOS


def eos_as_pad(folder: Path) -> Path:
    tiny.save_base("llama", folder, template=None)
    tokenizer = tiny.chat_tokenizer(None)
    assert tokenizer.pad_token == tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("given", ["name", "objects"])
def test_trap_05_a_tokenizer_that_pads_with_eos_gets_another_pad(tmp_path, given) -> None:
    base = eos_as_pad(tmp_path / "base")
    model: Any = base
    parts: dict[str, Any] = {}
    if given == "objects":
        model, parts["processing_class"] = classifier(base), tiny.chat_tokenizer(None)
    made = trainer(model, texts(4), tmp_path / "out", parts=parts, **STILL)
    tokenizer = made.processing_class
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert made.model.config.pad_token_id == tokenizer.pad_token_id == made.data_collator.pad_id
    rows = [row[name] for row in made.train_dataset for name in ("chosen_ids", "rejected_ids")]
    assert all(ids[-1] == tokenizer.eos_token_id for ids in rows)
    wanted = plain_rewards(independent(made, base), rows)  # read at the EOS itself
    before = plain_rewards(independent(made, base), [ids[:-1] for ids in rows])
    made.train()
    assert logged(made, "mean_reward")[0] == pytest.approx(wanted.mean().item(), abs=1e-5)
    assert wanted.mean().item() != pytest.approx(before.mean().item(), abs=1e-3)


def test_trap_05_a_vocabulary_without_a_spare_token_grows(tmp_path) -> None:
    base = tiny.save_base("llama", tmp_path / "base")
    tokenizer = tiny.chat_tokenizer()
    for token in tiny.SPECIAL[:1]:  # <|endoftext|> is taken
        tokenizer.chat_template = tokenizer.chat_template + "{# " + token + " #}"
    tokenizer.save_pretrained(base)
    made = trainer(base, chats(4), tmp_path / "out")
    assert made.processing_class.pad_token == "<|pad|>"
    assert made.model.get_input_embeddings().weight.shape[0] >= len(made.processing_class)
    made.train()


# -- trap 10: the template hides what is to be judged


def test_trap_10_a_template_that_strips_the_thinking_is_refused_with_the_row(tmp_path) -> None:
    # One that cuts up to the tag can be led round (encoding/kept_thinking); one that rewrites the text cannot.
    template = tiny.CHATML.replace("m['content']", "m['content']|replace('15 + 27 = 43', '')")
    base = tiny.save_base("llama", tmp_path / "base", template=template)
    rows = chats(4)
    trainer(base, rows, tmp_path / "out")  # nobody thinks: nothing to strip
    rows[2] = {**rows[2], "rejected": [assistant("<think>\n15 + 27 = 43\n</think>\n\n43")]}
    with pytest.raises(DataError, match=r"row:3: the chat template removes the text before </think>"):
        trainer(base, rows, tmp_path / "out")


# -- trap 11: shapes that broadcast


class Columns(DataCollatorForPreference):
    """A collator that gives margins as a column."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        found = super().torch_call(examples)
        return {**found, "margin": found["margin"][:, None]}


def test_trap_11_a_column_of_margins_is_refused(trainable, tmp_path) -> None:
    rows = [{**row, "margin": 0.5} for row in chats(4)]
    made = trainer(trainable["llama"], rows, tmp_path, parts={"data_collator": Columns(0)})
    with pytest.raises(UsageError, match=r"margin must have shape \[P\], here \[4\], not \[4, 1\]: it would broadcast"):
        made.train()


@pytest.mark.parametrize("collator", [None, DataCollatorForPreference(0)], ids=["trees", "trl's"])
@pytest.mark.parametrize("n", [1, 4])
def test_trap_11_rewards_of_one_column_are_not_broadcast(trainable, tmp_path, collator, n) -> None:
    rows = [{**row, "margin": 0.25 * i} for i, row in enumerate(chats(n))]
    made = trainer(trainable["llama"], rows, tmp_path, parts={"data_collator": collator}, **STILL)
    network = independent(made, trainable["llama"])
    chosen, rejected = (plain_rewards(network, made.train_dataset[f"{name}_ids"]) for name in ("chosen", "rejected"))
    d = (chosen - rejected).detach()
    made.train()
    margins = torch.tensor([row["margin"] for row in rows])
    assert logged(made, "loss")[0] == pytest.approx(
        -torch.nn.functional.logsigmoid(d - margins).mean().item(), abs=1e-5
    )
    assert logged(made, "margin")[0] == pytest.approx(d.mean().item(), abs=1e-5)
    assert logged(made, "accuracy")[0] == pytest.approx((d > 0).float().mean().item())


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 4), (4, 1, 1)])
def test_trap_11_another_number_of_rewards_is_refused(shape) -> None:
    labels = {
        "first": torch.tensor([0, 2]),
        "second": torch.tensor([1, 3]),
        "comparison": torch.tensor([0, 0, 1, 1]),
        "rank": torch.tensor([0, 1, 0, 1]),
    }
    with pytest.raises(UsageError, match=r"the network gave rewards of shape \[.*\] for 4 responses; wanted \[R, 1\]"):
        scored(torch.zeros(shape), labels, 2)
    assert scored(torch.zeros(4, 1), labels, 2).rewards.shape == (4,)


# -- trap 12: long rows


def test_trap_12_a_row_that_is_too_long_is_dropped_counted_and_never_cut(trainable, tmp_path) -> None:
    rows = [*chats(3), {**chats(1)[0], "chosen": [assistant("the answer is " * 60 + "42")]}]
    made = trainer(trainable["llama"], rows, tmp_path, max_length=128)
    assert made.rows["train"].dropped == {TOO_LONG: 1}
    whole = trainer(trainable["llama"], rows, tmp_path, max_length=None)
    assert whole.rows["train"].kept == 4
    lengths = [max(map(len, (row["chosen_ids"], row["rejected_ids"]))) for row in whole.train_dataset]
    assert [length > 128 for length in lengths] == [False, False, False, True]
    for cut, row in zip(made.train_dataset, whole.train_dataset, strict=False):
        assert cut["chosen_ids"] == row["chosen_ids"]
    end = made.processing_class.encode("<|im_end|>\n")
    assert all(row[name][-len(end) :] == end for row in whole.train_dataset for name in ("chosen_ids", "rejected_ids"))
    edge = trainer(trainable["llama"], rows, tmp_path, max_length=max(lengths))
    assert edge.rows["train"].kept == 4  # exactly as long is not longer


# -- trap 13: means of means


def by_hand(made: Any, base: Path, batch: int, rows: Any) -> dict[str, float]:
    """The metrics of a data set in its order, from rewards read one by one."""
    network = independent(made, base)
    rewards = torch.stack(
        [plain_rewards(network, (row["chosen_ids"], row["rejected_ids"])).detach() for row in rows]
    ).double()
    d = rewards[:, 0] - rewards[:, 1]
    batches = rewards.split(batch)
    return {
        "loss": -torch.nn.functional.logsigmoid(d).mean().item(),
        "accuracy": (d > 0).double().mean().item(),
        "margin": d.mean().item(),
        "mean_reward": rewards.mean().item(),
        "min_reward": sum(one.min().item() for one in batches) / len(batches),
        "max_reward": sum(one.max().item() for one in batches) / len(batches),
    }


UNEVEN = [chats(9)[i] for i in (0, 1, 2, 3, 4, 5, 8)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_trap_13_an_uneven_last_batch_counts_for_what_it_holds(trainable, tmp_path, accumulation) -> None:
    base = trainable["qwen3"]
    more = {"gradient_accumulation_steps": accumulation, "logging_steps": 3 - accumulation}
    more |= {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    rows = Dataset.from_list(UNEVEN)
    made = trainer(base, rows, tmp_path, parts={"eval_dataset": rows}, **STILL, **more)
    wanted = by_hand(made, base, 4, made.train_dataset)
    found = made.evaluate()
    for name, value in wanted.items():
        assert found[f"eval_{name}"] == pytest.approx(value, abs=1e-5), name
    made.train()
    (last,) = steps(made)
    for name in ("accuracy", "margin", "mean_reward", "min_reward", "max_reward"):
        assert last[name] == pytest.approx(wanted[name], abs=1e-5), name
    assert last["num_tokens"] == sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in made.train_dataset)
    assert 7 * wanted["accuracy"] == pytest.approx(round(7 * wanted["accuracy"]))
    halves = [by_hand(made, base, 4, [made.train_dataset[i] for i in part]) for part in (range(4), range(4, 7))]
    assert sum(one["margin"] for one in halves) / 2 != pytest.approx(wanted["margin"], abs=1e-3)  # the trap


# -- trap 21: another model after loading


@pytest.mark.parametrize(("family", "kind"), [("llama", chats), ("llama", texts), ("bert", texts)])
def test_trap_21_the_saved_model_has_the_accuracy_that_was_evaluated(trainable, tmp_path, family, kind) -> None:
    more = {"eos_token": "[SEP]"} if family == "bert" else {}
    rows = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if i % 3 else row
        for i, row in enumerate(kind(24))
    ]
    parts = {"eval_dataset": Dataset.from_list(rows)}
    made = trainer(trainable[family], rows[:8], tmp_path, parts=parts, learning_rate=3e-3, **more)
    made.train()
    metrics = made.evaluate()
    model = RewardModel.load(made.reward_model().save(tmp_path / "rm"))
    d = [model.score(row["prompt"], row["chosen"]) - model.score(row["prompt"], row["rejected"]) for row in rows]
    assert metrics["eval_margin"] == pytest.approx(sum(d) / len(d), abs=1e-4)
    assert metrics["eval_accuracy"] == sum(one > 0 for one in d) / len(d)
    assert 0 < metrics["eval_accuracy"] < 1
    assert model.verify()


# -- arguments


def test_a_data_set_is_required_and_has_a_type(trainable, tmp_path) -> None:
    model, args = str(trainable["llama"]), config(tmp_path)
    with pytest.raises(DataError, match="train_dataset is required"):
        RewardTrainer(model, args)
    for wrong in (chats(2), DatasetDict(train=Dataset.from_list(chats(2))), "data.jsonl"):
        with pytest.raises(UsageError, match=f"not {type(wrong).__name__}"):
            RewardTrainer(model, args, train_dataset=wrong)


@pytest.mark.parametrize(
    "adapters",
    [
        PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
        PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
        PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    ],
    ids=lambda one: type(one).__name__,
)
def test_prompt_learning_is_refused(trainable, tmp_path, adapters) -> None:
    with pytest.raises(UsageError, match=f"{type(adapters).__name__} puts virtual tokens before the prompt"):
        trainer(trainable["llama"], chats(2), tmp_path, parts={"peft_config": adapters})


def test_a_peft_model_of_prompt_learning_is_refused_too(trainable, tmp_path) -> None:
    adapters = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    with pytest.raises(UsageError, match="virtual tokens"):
        trainer(get_peft_model(classifier(trainable["llama"]), adapters), chats(4), tmp_path)


def test_adapters_twice_or_of_another_kind_are_refused(trainable, tmp_path) -> None:
    model = get_peft_model(classifier(trainable["llama"]), LoraConfig(r=2, task_type="SEQ_CLS"))
    with pytest.raises(UsageError, match="has adapters already"):
        trainer(model, chats(2), tmp_path, parts={"peft_config": LoraConfig(r=2)})
    with pytest.raises(UsageError, match=r"must be a peft\.PeftConfig such as LoraConfig, not dict"):
        trainer(trainable["llama"], chats(2), tmp_path, parts={"peft_config": {"r": 2}})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"loss": "bradley"}, "loss 'bradley': use bradley-terry, "),
    "head_init": ({"head_init": "zero"}, "head_init 'zero': use random or probe"),
    "max_length": ({"max_length": 0}, "max_length 0: must be at least 1"),
    "tokens_per_forward": ({"tokens_per_forward": -5}, "tokens_per_forward -5: must be at least 1"),
    "learning_rate": ({"learning_rate": 0.0}, "learning_rate 0.0: must be finite and greater than 0"),
    "learning_rate inf": ({"learning_rate": math.inf}, "learning_rate inf: must be finite"),
    "learning_rate nan": ({"learning_rate": math.nan}, "learning_rate nan: must be"),
    "label_smoothing": ({"label_smoothing_factor": 0.5}, r"label_smoothing_factor 0.5: must be in \[0, 0.5\)"),
    "head_anchor": ({"head_anchor": -1.0}, "head_anchor -1.0: must be finite and >= 0"),
    "head_anchor nan": ({"head_anchor": math.nan}, "head_anchor nan: must be"),
    "head_learning_rate": ({"head_learning_rate": -1.0}, "head_learning_rate -1.0: must be"),
    "language_model": ({"language_model_coefficient": -0.1}, "language_model_coefficient -0.1: must be"),
    "patience": ({"early_stopping_patience": 2}, "early_stopping_patience needs evaluations"),
    "patience 0": ({"early_stopping_patience": 0, "eval_strategy": "epoch"}, "early_stopping_patience 0: must be"),
    "center inf": ({"center_rewards_coefficient": math.inf}, "center_rewards_coefficient inf: must be finite"),
    "padding 0": ({"pad_to_multiple_of": 0}, "pad_to_multiple_of '0': a number of at least 1"),
    "padding 2.5": ({"pad_to_multiple_of": 2.5}, "pad_to_multiple_of '2.5': a number of at least 1"),
    "init kwargs": ({"model_init_kwargs": 3}, "model_init_kwargs 3: must be arguments by name"),
    "metrics": ({"include_for_metrics": ["inputs"]}, "include_for_metrics 'inputs': batches are packed trees"),
    "padding": ({"pad_to_multiple_of": "wide"}, "pad_to_multiple_of 'wide': a number of at least 1, auto or none"),
}


@pytest.mark.parametrize(("more", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_setting_out_of_range_is_refused_at_once(tmp_path, more, message) -> None:
    with pytest.raises(UsageError, match=message):
        RewardConfig(str(tmp_path), use_cpu=True, **more)


def test_early_stopping_on_several_sets_needs_the_one_that_counts(trainable, tmp_path) -> None:
    sets = {name: Dataset.from_list(chats(4)) for name in ("a", "b")}
    more: dict[str, Any] = {"early_stopping_patience": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    more |= {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    with pytest.raises(UsageError, match=r"metric_for_best_model 'loss': is of none .* 'a', 'b'; .*'eval_a_loss'"):
        trainer(trainable["llama"], chats(4), tmp_path, parts={"eval_dataset": sets}, **more)
    made = trainer(
        trainable["llama"],
        chats(4),
        tmp_path,
        parts={"eval_dataset": sets},
        metric_for_best_model="eval_b_loss",
        **more,
    )
    made.train()
    assert made.state.best_metric is not None


def test_arguments_of_the_model_that_are_fields_of_its_config_change_it(trainable, tmp_path) -> None:
    options = {"num_labels": 1, "use_cache": False, "attention_dropout": 0.25, "num_hidden_layers": 1, "config": None}
    made = trainer(trainable["llama"], chats(2), tmp_path, model_init_kwargs=options)
    config = made.model.config
    assert (config.num_labels, config.attention_dropout, config.num_hidden_layers) == (1, 0.25, 1)
    assert len(made.model.model.layers) == 1
    with pytest.raises(UsageError, match="num_labels 2: a reward model has one output"):
        trainer(trainable["llama"], chats(2), tmp_path, model_init_kwargs={"num_labels": 2})
    with pytest.raises(ModelError, match="unexpected keyword argument 'nonsense'"):
        trainer(trainable["llama"], chats(2), tmp_path, model_init_kwargs={"nonsense": 2})


def test_columns_of_other_things_are_not_looked_at(trainable, tmp_path) -> None:
    """As TRL does: what is preferred stands in chosen and rejected."""
    more = {"responses": ["a", "b"], "attributes": "x", "id": 7}
    plain, more_columns = chats(4), [{**row, **more} for row in chats(4)]
    rows = [trainer(trainable["llama"], one, tmp_path).train_dataset[0] for one in (plain, more_columns)]
    assert rows[0] == rows[1]


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"loss_kwargs": {"gap": 2.0}}, "loss 'bradley-terry' has no option 'gap'; it has label_smoothing"),
    "missing": ({"loss": "rao-kupper"}, "loss 'rao-kupper' needs loss_kwargs with 'threshold'"),
    "smoothed": ({"loss": "hinge", "label_smoothing_factor": 0.1}, "has no option 'label_smoothing'; it has gap"),
    "as JSON": ({"loss": "hinge", "loss_kwargs": '{"threshold": 1}'}, "has no option 'threshold'"),
}


@pytest.mark.parametrize(("more", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_options_that_a_loss_does_not_have_are_refused(trainable, tmp_path, more, message) -> None:
    with pytest.raises(UsageError, match=message):
        trainer(trainable["llama"], chats(2), tmp_path, **more)


def test_options_of_a_loss_are_used(trainable, tmp_path) -> None:
    for kwargs in ({"gap": 3.0}, '{"gap": 3.0}'):
        made = trainer(trainable["llama"], chats(4), tmp_path, loss="hinge", loss_kwargs=kwargs, **STILL)
        pairs = list(made.predict(made.train_dataset).predictions)
        made.train()
        wanted = sum(max(0.0, 3.0 - float(a - b)) for a, b in pairs) / 4
        assert logged(made, "loss")[0] == pytest.approx(wanted, abs=1e-5)


def test_a_loss_that_needs_what_the_data_do_not_have_says_so(trainable, tmp_path) -> None:
    with pytest.raises(UsageError, match="margin-scaled needs a margin for each pair"):
        trainer(trainable["llama"], chats(4), tmp_path, loss="margin-scaled").train()


@pytest.mark.parametrize("name", ["eos_token", "pad_token"])
def test_a_token_that_is_not_in_the_vocabulary_is_refused(trainable, tmp_path, name) -> None:
    with pytest.raises(UsageError, match=f"{name} '<nothing>' is not in the tokenizer's vocabulary"):
        trainer(trainable["llama"], chats(2), tmp_path, **{name: "<nothing>"})


def test_an_encoder_has_no_language_model_to_keep(trainable, tmp_path) -> None:
    with pytest.raises(UsageError, match="language_model_coefficient"):
        trainer(trainable["bert"], texts(4), tmp_path, eos_token="[SEP]", language_model_coefficient=0.1)


def test_a_chat_template_can_be_given(trainable, tmp_path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}")
    made = trainer(trainable["llama"], chats(2), tmp_path / "out", chat_template_path=str(file))
    text = made.processing_class.decode(made.train_dataset[1]["chosen_ids"])
    assert text == f"<user>{chats(2)[1]['prompt'][0]['content']}<assistant>{chats(2)[1]['chosen'][0]['content']}"
    other = tiny.save_base("llama", tmp_path / "other", template="{{ 'other' }}" + tiny.CHATML)
    made = trainer(trainable["llama"], chats(2), tmp_path / "out", chat_template_path=str(other))
    assert made.processing_class.decode(made.train_dataset[1]["chosen_ids"]).startswith("other")


def test_a_model_of_the_hub_is_taken_at_its_revision_with_its_token_from_its_cache(
    trainable, tmp_path, monkeypatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, *, allow_patterns: Any, **how: Any) -> str:
        asked.append({"name": name, **how})
        return str(trainable["llama"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = {"revision": "v2", "token": "hf_mine", "cache_dir": str(tmp_path / "cache")}
    made = trainer("org/model", chats(2), tmp_path / "out", model_init_kwargs=options)
    assert asked == [{"name": "org/model", **options}]
    made.train()
    with pytest.raises(UsageError, match=r"revision 'v2': is for models of the Hugging Face hub; .* is a folder"):
        trainer(trainable["llama"], chats(2), tmp_path / "out", model_init_kwargs={"revision": "v2"})
    trainer(trainable["llama"], chats(2), tmp_path / "out", model_init_kwargs={"token": "hf_mine"})
    with pytest.raises(UsageError, match="revision 'v2': is for models of the Hugging Face hub"):
        trainer("smollm2", chats(2), tmp_path / "out", model_init_kwargs={"revision": "v2"})
    assert "hf_mine" not in str(made.args.to_dict())
