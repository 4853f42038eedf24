"""What loads, what is refused, and with which words."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from rewardsmith.errors import ContractError, FileError, ModelError, UsageError
from rewardsmith.model import adapter, bases
from rewardsmith.model import contract as contracts
from rewardsmith.model.hardware import pick_device, pick_dtype
from rewardsmith.model.load import separate_pad
from rewardsmith.model.reward_model import RewardModel
from tests import tiny

ROWS = (["hello", "hello", "what is 15 + 27"], ["fine", "fine, thank you", "42"])


def classifier(base: Path, folder: Path, labels: int, seed: int = 1) -> Path:
    """A sequence-classification checkpoint as TRL's RewardTrainer leaves it."""
    torch.manual_seed(seed)
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    network.config.pad_token_id = 2
    network.save_pretrained(folder)
    tiny.chat_tokenizer().save_pretrained(folder)
    return folder


def test_a_plain_checkpoint_of_trl_loads(bases, tmp_path) -> None:
    folder = classifier(bases["llama"], tmp_path / "trl", 1)
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    model = RewardModel.load(folder)
    ids = torch.tensor([model.template.render("hello", "fine").ids])
    assert model.score("hello", "fine") == pytest.approx(network(input_ids=ids).logits.item(), abs=1e-5)
    assert model.verify() == []


def test_an_openrlhf_checkpoint_loads_with_its_head_mean_and_std(bases, tmp_path) -> None:
    folder = classifier(bases["llama"], tmp_path / "openrlhf", 1)
    plain = RewardModel.load(folder).score_batch(*ROWS)
    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"value_head_prefix": "value_head", "mean": 0.5, "std": 2.0, "architectures": ["LlamaForCausalLM"]}
    for name in ("id2label", "label2id", "problem_type"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    model = RewardModel.load(folder)
    assert model.score_batch(*ROWS) == pytest.approx([(score - 0.5) / 2.0 for score in plain], abs=1e-5)
    difference = plain[0] - plain[1]
    assert model.compare("hello", "fine", "fine, thank you") == pytest.approx(
        torch.sigmoid(torch.tensor(difference)).item(), abs=1e-5
    )
    saved = RewardModel.load(model.sealed().save(tmp_path / "ours"))
    assert saved.score_batch(*ROWS) == model.score_batch(*ROWS)


def test_a_model_without_a_head_is_refused(bases) -> None:
    with pytest.raises(ModelError, match=r"has no reward head .*rewardsmith train --method head --base"):
        RewardModel.load(bases["llama"])


def test_trap_02_a_two_label_model_is_refused(bases, tmp_path) -> None:
    folder = classifier(bases["llama"], tmp_path / "two", 2)
    with pytest.raises(ModelError, match="has 2 outputs: a classifier, not a reward model"):
        RewardModel.load(folder)


def test_trap_02_the_saved_folder_is_a_one_label_regression_with_its_head(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "reward"}
    assert config["problem_type"] == "regression"
    assert config["pad_token_id"] != config["eos_token_id"]
    assert (config["mean"], config["std"]) == (0.0, 1.0)
    weights = load_file(folder / "model.safetensors")
    assert weights["score.weight"].shape == (1, 32)
    assert torch.equal(weights["score.weight"], models["llama"].head.weight)
    assert not any("lora" in name or "quant" in name for name in weights)


def test_trap_03_an_existing_head_is_kept(bases, tmp_path) -> None:
    folder = classifier(bases["llama"], tmp_path / "trained", 1)
    stored = load_file(folder / "model.safetensors")["score.weight"]
    assert torch.equal(RewardModel.from_base(folder).head.weight, stored)
    fresh = RewardModel.from_base(classifier(bases["llama"], tmp_path / "two", 2))  # two labels: a new head
    assert fresh.head.weight.shape == (1, 32)


def test_trap_05_pad_is_not_eos(bases) -> None:
    model = RewardModel.from_base(bases["llama"])
    tokenizer = model.template.tokenizer
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.backbone.network.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_trap_05_responses_that_differ_after_an_early_eos_score_differently(models) -> None:
    model = models["llama"]
    scores = model.score_batch(["a<|im_end|>b"] * 2, ["x<|im_end|>one", "x<|im_end|>two"])
    assert abs(scores[0] - scores[1]) > 1e-3


def test_trap_05_a_tokenizer_without_any_spare_token_gets_one(tmp_path) -> None:
    tokenizer = tiny.chat_tokenizer("{{ '<|endoftext|>' }}" + tiny.CHATML)  # the template uses the only candidate
    separate_pad(tokenizer)
    assert tokenizer.pad_token == "<|pad|>"
    folder = tiny.save_base("llama", tmp_path / "base", template="{{ '<|endoftext|>' }}" + tiny.CHATML)
    model = RewardModel.from_base(folder)
    rows = model.backbone.network.get_input_embeddings().weight.shape[0]
    assert model.template.tokenizer.pad_token_id < rows


def test_trap_09_a_bfloat16_backbone_keeps_a_float32_head(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    model = RewardModel.load(folder, dtype="bfloat16")
    assert model.backbone.dtype == torch.bfloat16
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, models["llama"].head.weight)
    features = torch.randn(1, 32) + torch.tensor([[0.0], [1e-4]]) * torch.randn(1, 32)
    close = model.rewards(features)
    assert close[0] != close[1]  # in bfloat16 these two would tie
    model.verify()


def test_trap_21_reload_is_checked_by_the_contract(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    assert contracts.read(folder) == models["llama"].contract
    changes = {
        "tokenizer_config": lambda d: (d / "chat_template.jinja").write_text(tiny.CHATML + "{{ '\n' }}"),
        "weights": lambda d: _change_head(d),
    }
    for name, change in changes.items():
        broken = tmp_path / name
        shutil.copytree(folder, broken)
        change(broken)
        with pytest.raises(ContractError, match=r"no longer matches reward_contract\.json"):
            RewardModel.load(broken)


def test_trap_21_changed_backbone_weights_are_found_by_the_goldens(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match=r"golden .* scores .*, in training"):
        RewardModel.load(folder).verify()


def _change_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 99}', '{"version": 1, "goldens": [1]}'])
def test_a_damaged_contract_is_one_clear_error(models, tmp_path, text) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    (folder / contracts.FILE).write_text(text)
    with pytest.raises(ContractError, match=r"reward_contract\.json"):
        RewardModel.load(folder)


def test_missing_and_wrong_paths(tmp_path) -> None:
    with pytest.raises(FileError, match="no such folder"):
        RewardModel.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        RewardModel.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="a file, not a model folder"):
        RewardModel.load(tmp_path / "file")
    with pytest.raises(ModelError, match=r"^nobody/nothing: no folder of this name here, and as .* HF_HUB_OFFLINE"):
        RewardModel.load("nobody/nothing")


def test_a_mistyped_folder_names_the_one_beside_it(tmp_path, monkeypatch) -> None:
    """`out/rmm` was answered with a hub library's account of its cache."""
    (tmp_path / "out" / "rm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as said:
        RewardModel.load("out/rmm")
    assert str(said.value) == (
        "out/rmm: no folder of this name here (did you mean out/rm?), and as an id of the Hugging Face hub it could "
        "not be fetched: HF_HUB_OFFLINE is set, and it was not downloaded before"
    )
    with pytest.raises(FileError, match=r"^\./out/rmm: no such folder \(did you mean out/rm\?\)$"):
        RewardModel.load("./out/rmm")
    with pytest.raises(ModelError, match=r"no folder of this name here, and .* it is no id, which looks like org/name"):
        RewardModel.load("other/a b")


@pytest.mark.parametrize(("kind", "why"), [
    (errors.LocalEntryNotFoundError, "cannot be reached; check the network"),
    (errors.RepositoryNotFoundError, "or it is private"),
    (errors.GatedRepoError, "accept terms on its page"),
    (errors.RevisionNotFoundError, "no such revision"),
    (RuntimeError, "RuntimeError"),
])  # fmt: skip
def test_what_the_hub_said_is_one_clear_reason(kind, why) -> None:
    assert why in bases._why(kind.__new__(kind))  # those of the hub want an HTTP response to be made


def test_damaged_weights_are_one_clear_error(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged weights"):
        RewardModel.load(folder)


def test_missing_backbone_weights_are_refused(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 backbone weights are missing"):
        RewardModel.load(folder)


def test_save_never_overwrites_what_is_not_ours(models, tmp_path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FileError, match="exists and is not a reward model"):
        models["llama"].save(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    ours = models["llama"].save(tmp_path / "rm")
    assert models["llama"].save(ours) == ours  # replacing our own is fine
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_devices_and_dtypes() -> None:
    assert pick_device("cpu").type == "cpu"
    for wrong in ("gpu", "meta", "cuda" if not torch.cuda.is_available() else "tpu0"):
        with pytest.raises(UsageError):
            pick_device(wrong)
    with pytest.raises(UsageError, match="--dtype int8"):
        pick_dtype("int8", torch.device("cpu"))
    assert pick_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_a_plain_checkpoint_is_sealed_when_saved(bases, tmp_path) -> None:
    folder = classifier(bases["llama"], tmp_path / "trl", 1)
    model = RewardModel.load(folder)
    saved = RewardModel.load(model.save(tmp_path / "ours"))
    assert saved.score_batch(*ROWS) == model.score_batch(*ROWS)
    assert len(saved.verify()) == len(contracts.GOLDEN_TEXTS)


@pytest.mark.parametrize("native", [True, False])
def test_auto_scores_in_what_the_model_was_trained_in(models, tmp_path, monkeypatch, native) -> None:
    """A machine with bfloat16 must not give another reward than the machine of the training (trap 9)."""
    monkeypatch.setattr("rewardsmith.model.hardware._multiplies_bfloat16", lambda device: native)
    exact = models["llama"].save(tmp_path / "exact")  # the fixture's models are float32
    assert RewardModel.load(exact).backbone.dtype == torch.float32
    low = RewardModel.load(exact, dtype="bfloat16").sealed().save(tmp_path / "low")
    assert RewardModel.load(low).backbone.dtype == (torch.bfloat16 if native else torch.float32)
    assert RewardModel.load(low, dtype="float32").backbone.dtype == torch.float32


def test_a_model_saved_in_another_dtype_is_sealed_again(models, tmp_path) -> None:
    low = RewardModel.load(models["llama"].save(tmp_path / "rm"), dtype="bfloat16")
    again = RewardModel.load(low.save(tmp_path / "low"), dtype="bfloat16")
    assert again.contract.dtype == "bfloat16"
    assert len(again.verify()) == len(contracts.GOLDEN_TEXTS)


def test_save_refuses_a_model_folder_with_other_peoples_files(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    (folder / "scored.jsonl").write_text("{}")
    with pytest.raises(FileError, match=r"holds scored\.jsonl"):
        models["llama"].save(folder)
    assert (folder / "scored.jsonl").exists()


def test_a_reward_that_is_not_a_number_is_an_error(models) -> None:
    model = models["llama"]
    broken = RewardModel(model.backbone, copy.deepcopy(model.head), model.template, model.contract)
    broken.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not a finite number"):
        broken.verify()


def test_identity_tells_models_and_settings_apart(models) -> None:
    model = models["llama"]
    same = RewardModel(model.backbone, model.head, model.template, model.contract)
    assert model.identity() == same.identity()
    scaled = RewardModel(model.backbone, model.head, model.template, replace(model.contract, std=2.0))
    assert len({model.identity(), scaled.identity(), models["qwen3"].identity()}) == 3


def test_an_adapter_folder_says_to_merge(tmp_path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge it"):  # a base cannot be an adapter; a trained model can
        RewardModel.from_base(tmp_path)
    for text in ("{}", "not JSON"):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"adapter_config\.json"):
            adapter.base_of(tmp_path)


def test_a_trained_encoder_without_its_pooler_is_refused(models, tmp_path) -> None:
    folder = models["bert"].save(tmp_path / "rm")
    weights = load_file(folder / "model.safetensors")
    weights.pop("bert.pooler.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing, e\.g\. bert\.pooler"):
        RewardModel.load(folder)


def test_a_new_encoder_is_the_same_every_time(bases) -> None:
    one, two = RewardModel.from_base(bases["bert"]), RewardModel.from_base(bases["bert"])
    for (name, a), (_, b) in zip(
        one.backbone.network.named_parameters(), two.backbone.network.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
