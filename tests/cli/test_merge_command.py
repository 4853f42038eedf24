"""``rewardsmith merge`` and ``train --ensemble``, as a person runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rewardsmith import RewardModel
from rewardsmith.cli.merge import _one_by_one
from rewardsmith.shaping import parse
from tests import tiny
from tests.cli.conftest import pairs, save
from tests.conftest import with_random_head

TEXTS = ["42", "the answer is 42", "fox"]


def scores(model: RewardModel) -> torch.Tensor:
    return torch.tensor(model.score_batch(["what is 15 + 27?"] * len(TEXTS), TEXTS), dtype=torch.float64)


def moved(base: Path, folder: Path, seed: int, *, dtype: str = "float32") -> Path:
    """A "fine-tuned" model: the base with noise on all weights."""
    model = RewardModel.from_base(base, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.backbone.network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return with_random_head(model, seed).save(folder)


@pytest.fixture(scope="module")
def tuned(bases, tmp_path_factory) -> list[Path]:
    """Three models from one base. Do not change them."""
    root = tmp_path_factory.mktemp("tuned")
    return [moved(bases["llama"], root / str(seed), seed) for seed in (1, 2, 3)]


def test_the_average_of_two_is_the_average_by_hand(cli, tuned, tmp_path) -> None:
    report = cli("merge", *tuned[:2], "-o", tmp_path / "out", "--json").json
    assert report["weights"] == [0.5, 0.5] and report["goldens"] == 6
    one, two, made = (load_file(folder / "model.safetensors") for folder in (*tuned[:2], tmp_path / "out"))
    for key, value in made.items():
        torch.testing.assert_close(value, (one[key] + two[key]) / 2, atol=1e-6, rtol=1e-6)
    model = RewardModel.load(tmp_path / "out")
    model.verify()
    facts = model.contract.training
    assert facts["method"] == "average of weights (WARM)"
    assert facts["models"] == [str(folder) for folder in tuned[:2]] and model.contract.metrics == {}
    assert not list(tmp_path.glob(".*"))


def test_a_shaping_is_dropped_and_that_is_said(cli, tuned, tmp_path) -> None:
    folder = shutil.copytree(tuned[0], tmp_path / "one")
    parse("normalise").fit([0.0, 1.0]).save(folder)
    done = cli("merge", folder, tuned[1], "-o", tmp_path / "out")
    assert "note: the shaping saved with" in done.err and "rewardsmith shape" in done.err
    assert RewardModel.load(tmp_path / "out").shaping is None
    assert "shaping" not in cli("merge", *tuned[:2], "-o", tmp_path / "plain").err


def test_weights(cli, tuned, tmp_path) -> None:
    report = cli("merge", *tuned, "-o", tmp_path / "out", "--weights", 5, 3, 2, "--json").json
    assert report["weights"] == [0.5, 0.3, 0.2]
    parts = [load_file(folder / "model.safetensors") for folder in tuned]
    for key, value in load_file(tmp_path / "out" / "model.safetensors").items():
        expected = 0.5 * parts[0][key] + 0.3 * parts[1][key] + 0.2 * parts[2][key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)


def test_numbers_after_weights_may_stand_anywhere() -> None:
    spread = ["--weights", "0.5", "--weights", "0.3"]
    assert _one_by_one(["a", "b", "--weights", "0.5", "0.3"]) == ["a", "b", *spread]
    assert _one_by_one(["--weights", "0.5", "0.3", "a", "7"]) == [*spread, "a", "7"]
    assert _one_by_one([*spread, "a"]) == [*spread, "a"]
    assert _one_by_one(["--weights=0.5", "0.3"]) == ["--weights=0.5", "--weights", "0.3"]
    assert _one_by_one(["1", "2", "-o", "3"]) == ["1", "2", "-o", "3"]


def test_the_average_of_a_model_with_itself_is_itself(cli, tuned, tmp_path) -> None:
    cli("merge", *[tuned[0]] * 3, "-o", tmp_path / "out", "-q")
    assert torch.equal(scores(RewardModel.load(tmp_path / "out")), scores(RewardModel.load(tuned[0])))
    before, after = (load_file(folder / "model.safetensors") for folder in (tuned[0], tmp_path / "out"))
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_trained_model_with_standard_errors_can_be_averaged(cli, model, tmp_path) -> None:
    """Heads on one frozen backbone: the average of the weights is the average of the rewards."""
    other = with_random_head(RewardModel.load(model)).save(tmp_path / "other")
    cli("merge", model, other, "-o", tmp_path / "out", "-q")
    merged = RewardModel.load(tmp_path / "out")
    expected = (scores(RewardModel.load(model)) + scores(RewardModel.load(other))) / 2
    torch.testing.assert_close(scores(merged), expected, atol=1e-5, rtol=1e-5)
    assert merged.posterior is None


def test_bfloat16_stays_and_the_head_is_float32(cli, bases, tmp_path) -> None:
    folders = [moved(bases["llama"], tmp_path / str(seed), seed, dtype="bfloat16") for seed in (1, 2)]
    assert cli("merge", *folders, "-o", tmp_path / "out", "--json").json["dtype"] == "bfloat16"
    made = load_file(tmp_path / "out" / "model.safetensors")
    heads = [load_file(folder / "model.safetensors")["score.weight"] for folder in folders]
    torch.testing.assert_close(made["score.weight"], (heads[0] + heads[1]) / 2, atol=1e-7, rtol=1e-6)
    assert made["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    RewardModel.load(tmp_path / "out", dtype="bfloat16").verify()


def test_shards_are_read_one_by_one(cli, tuned, tmp_path) -> None:
    """A model in several files, averaged with one in a single file."""
    whole, sharded = tuned[1], tmp_path / "sharded"
    shutil.copytree(whole, sharded)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    where = {key: names[number % 2] for number, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: v for k, v in tensors.items() if where[k] == name}, sharded / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    cli("merge", sharded, tuned[0], "-o", tmp_path / "a", "-q")
    cli("merge", whole, tuned[0], "-o", tmp_path / "b", "-q")
    assert torch.equal(scores(RewardModel.load(tmp_path / "a")), scores(RewardModel.load(tmp_path / "b")))


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_output_loads_in_transformers(cli, bases, tmp_path, family) -> None:
    folders = [moved(bases[family], tmp_path / str(seed), seed) for seed in (1, 2)]
    cli("merge", *folders, "-o", tmp_path / "out", "-q")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    network, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    prompt, response = "what is 15 + 27?", "42"
    if family == "bert":
        inputs = tokenizer(prompt, response, return_tensors="pt")
    else:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        plain = network(**inputs).logits.item()
    assert RewardModel.load(tmp_path / "out").score(prompt, response) == pytest.approx(plain, abs=1e-4)


def test_models_that_do_not_fit_are_told_apart(cli, bases, tuned, tmp_path) -> None:
    out = tmp_path / "out"
    other = moved(bases["qwen3"], tmp_path / "qwen3", 1)
    error = cli("merge", tuned[0], other, "-o", out, "-q").error
    assert "differ in architecture (LlamaForSequenceClassification, Qwen3ForSequenceClassification)" in error
    assert "base model" in error and "layers" not in error.split(":", 2)[1]
    base = tiny.save_base("llama", tmp_path / "base", template=tiny.WITH_BOS)
    templated = moved(base, tmp_path / "templated", 1)
    error = cli("merge", tuned[0], templated, "-o", out, "-q").error
    assert "base model" in error and "chat template" in error and "architecture" not in error
    assert not out.exists()


def test_a_cut_model_does_not_fit_a_whole_one(cli, bases, data, model, tmp_path) -> None:
    arguments = ["train", "-d", data["train"], "-b", bases["llama"], "--ridge", 1, "--cache", tmp_path, "-q"]
    assert cli(*arguments, "-o", tmp_path / "cut", "--layer", 2, "--json").json["layers"] == 2
    assert "number of layers (3, 2)" in cli("merge", model, tmp_path / "cut", "-o", tmp_path / "out", "-q").error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", 1], "1 weights for 2 models"),
        (["--weights", 1, 2, 3], "3 weights for 2 models"),
        (["--weights", 0, 0], "sum greater than 0"),
        (["--weights", 1, -1], "must be >= 0"),
    ],
)
def test_weights_that_cannot_work(cli, tuned, tmp_path, options, message) -> None:
    assert message in cli("merge", *tuned[:2], "-o", tmp_path / "out", "-q", *options).error


def test_mistakes_end_in_one_line(cli, bases, tuned, tmp_path) -> None:
    out = tmp_path / "out"
    assert "at least 2 models" in cli("merge", tuned[0], "-o", out, "-q").error
    assert "no such folder" in cli("merge", tuned[0], "./none", "-o", out, "-q").error
    assert "has no reward_contract.json" in cli("merge", tuned[0], bases["llama"], "-o", out, "-q").error
    assert "is one of the models" in cli("merge", *tuned[:2], "-o", tuned[1], "-q").error
    assert "not a reward model of ours" in cli("merge", *tuned[:2], "-o", tmp_path.parent, "-q").error
    changed = tmp_path / "changed"
    shutil.copytree(tuned[1], changed)
    tensors = load_file(changed / "model.safetensors")
    save_file({**tensors, "score.weight": tensors["score.weight"] * 2}, changed / "model.safetensors")
    outcome = cli("merge", tuned[0], changed, "-o", out, "-q")
    assert outcome.code == 3 and "head no longer matches" in outcome.err
    shutil.copy(tuned[1] / "model.safetensors", changed)
    (changed / "model.safetensors").write_bytes((tuned[1] / "model.safetensors").read_bytes()[:500])
    assert "weights cannot be read" in cli("merge", tuned[0], changed, "-o", out, "-q").error
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_an_ensemble_of_heads(cli, bases, data, tmp_path) -> None:
    arguments = ["train", "-d", data["train"], "-b", bases["llama"], "--ridge", 1, "--cache", tmp_path / "cache", "-q"]
    report = cli(*arguments, "-o", tmp_path / "rm", "--ensemble", 3, "--json").json
    assert report["ensemble"] == 3
    rewards = RewardModel.load(tmp_path / "rm").member_rewards(["a"], ["fox fox"])
    assert len(rewards[0]) == 3 and len(set(rewards[0])) == 3
    assert cli("info", tmp_path / "rm", "--json").json["training"]["ensemble"].startswith("3 heads")
    shown = cli(*arguments, "-o", tmp_path / "rm", "--ensemble", 3).out
    assert "3 heads" in shown
    assert cli(*arguments, "-o", tmp_path / "rm", "--json").json["ensemble"] is None
    assert not (tmp_path / "rm" / "ensemble.safetensors").exists()


@pytest.fixture
def finetuning(bases, tmp_path, monkeypatch) -> list:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path / "cache"))
    data = save(tmp_path / "pairs.jsonl", [*pairs(16), {"prompt": "a", "chosen": "fox " * 300, "rejected": "dog"}])
    arguments = ["train", "--method", "lora", "-b", bases["llama"], "-d", data, "-o", tmp_path / "rm"]
    return [*arguments, "--ensemble", 2, "--max-steps", 2, "--batch-size", 2, "--seed", 5, "--max-length", 200]


def test_an_ensemble_of_adapters(cli, finetuning, data, tmp_path, monkeypatch) -> None:
    from rewardsmith.training import finetune_ensemble

    starts, drawn, real = [], [], finetune_ensemble.finetune

    def watched(*args, **options):
        made = real(*args, **options)
        starts.append(made.trainer.start.weight)
        drawn.append([tuple(row["chosen_ids"]) for row in made.trainer.train_dataset])
        return made

    monkeypatch.setattr(finetune_ensemble, "finetune", watched)
    report = cli(*finetuning, "--eval-data", data["test"], "--json").json
    assert [one["seed"] for one in report["members"]] == [5, 6] and report["evaluation"]["accuracy"]["n"] == 20
    folders = [tmp_path / "rm.members" / name for name in ("1", "2")]
    assert [one["model"] for one in report["members"]] == list(map(str, folders))
    one, two, made = (load_file(folder / "model.safetensors") for folder in (*folders, tmp_path / "rm"))
    for key, value in made.items():
        torch.testing.assert_close(value, (one[key] + two[key]) / 2, atol=1e-6, rtol=1e-6)
    assert not torch.equal(one["score.weight"], two["score.weight"])
    for folder in (*folders, tmp_path / "rm"):
        RewardModel.load(folder).verify()
    assert RewardModel.load(folders[1]).contract.training["ensemble"].startswith("member 2 of 2")
    assert (starts[0] == starts[1]).all()  # one head, the optimum on all data
    assert [len(rows) for rows in drawn] == [16, 16] and drawn[0] != drawn[1]  # a prompt has one row here
    assert all(len(set(rows)) < 16 for rows in drawn)


def test_a_killed_ensemble_goes_on_to_the_same_bits(cli, finetuning, tmp_path, monkeypatch) -> None:
    """The second member dies between its steps; the first is not trained again."""
    from rewardsmith.training import finetune_ensemble

    finetuning += ["--set", "save_steps=1"]
    cli(*finetuning, "-q")
    expected = load_file(tmp_path / "rm" / "model.safetensors")
    for name in ("rm", "rm.run", "rm.members"):
        shutil.rmtree(tmp_path / name)

    real = finetune_ensemble.finetune
    trained: list[str] = []

    def dies(settings, *args, **options):
        trained.append(Path(settings.output).name)
        if trained == ["1", "2"]:
            report = options["report"]

            def stop(done, total, logs):
                if done == 2:  # its first step and checkpoint are past
                    raise KeyboardInterrupt
                report(done, total, logs)

            options["report"] = stop
        return real(settings, *args, **options)

    monkeypatch.setattr(finetune_ensemble, "finetune", dies)
    assert cli(*finetuning, "-q").code == 130
    assert not (tmp_path / "rm").exists() and (tmp_path / "rm.members" / "1").is_dir()
    assert "unfinished ensemble" in cli(*finetuning, "-q").error
    assert "unfinished ensemble" in cli(*finetuning[:9], "-q").error  # nor may a plain run take its place
    changed = [3 if one == 2 and finetuning[at - 1] == "--ensemble" else one for at, one in enumerate(finetuning)]
    assert "ensemble was 2, is now 3" in cli(*changed, "--resume", "-q").error
    report = cli(*finetuning, "--resume", "-q", "--json").json
    assert trained == ["1", "2", "2"]
    assert [one.get("trained_before", False) for one in report["members"]] == [True, False]
    found = load_file(tmp_path / "rm" / "model.safetensors")
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_members_of_all_weights_and_what_is_refused(cli, finetuning, tmp_path) -> None:
    finetuning[2] = "full"
    assert "must start from one head" in cli(*finetuning, "--head-init", "random", "-q").error
    (tmp_path / "rm.members").mkdir()
    (tmp_path / "rm.members" / "mine.txt").write_text("precious")
    assert "holds mine.txt" in cli(*finetuning, "-q").error
    (tmp_path / "rm.members" / "mine.txt").unlink()
    shown = cli(*finetuning, "-q").out
    assert "average of their weights" in shown
