"""A process head from step labels: features, saving, the contract, and the reward head beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from rewardsmith.errors import ContractError, DataError, ModelError, UsageError
from rewardsmith.model.average import average
from rewardsmith.model.load import LoadOptions
from rewardsmith.model.process import FILE
from rewardsmith.model.process_scores import score_steps
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import process_features
from rewardsmith.training.process import ProcessConfig, open_base, train_process
from rewardsmith.training.process_features import extract_steps, prepare_steps
from rewardsmith.types import Message, Source, Stepwise
from tests.conftest import with_random_head

LOAD = LoadOptions(dtype="float32", device="cpu")
PROMPT = "What is 15 + 27?"
STEPS = ("15 + 20 = 35.", "Then 35 + 7 = 42 🙂", "The answer is 42")


def rows(n: int = 60, seed: int = 0) -> list[Stepwise]:
    """A step that says "fox" is right; prompts come twice."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        right = rng.random(4) < 0.6
        steps = tuple(f"{rng.integers(9)}: the {'quick fox' if yes else 'lazy dog'}" for yes in right)
        found.append(Stepwise(f"question {seed} {i // 2}", steps, tuple(map(float, right)), id=str(i)))
    return found


def config(tmp_path: Path, **more) -> ProcessConfig:
    return ProcessConfig(cache=tmp_path / "cache", **more)


@pytest.fixture(scope="module")
def rewarding(bases, tmp_path_factory) -> Path:
    """Folder of a reward model without a process head."""
    model = with_random_head(RewardModel.from_base(bases["llama"], LOAD))
    return model.save(tmp_path_factory.mktemp("rewarding") / "rm")


def alone(model: RewardModel, ids: tuple[int, ...], start: int) -> torch.Tensor:
    """The slow way: a prefix through the whole network on its own."""
    with torch.inference_mode():
        states = model.backbone.body(input_ids=torch.tensor([ids])).last_hidden_state[0].float()
    return states[-1] if model.backbone.pooling == "last" else states[start:].mean(0)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral"])
@pytest.mark.parametrize("budget", [24, 4096])
def test_one_pass_reads_what_each_prefix_alone_gives(bases, tmp_path, family, pooling, budget) -> None:
    model = RewardModel.from_base(bases[family], LOAD, pooling=pooling)
    chat = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", PROMPT))
    data = [
        Stepwise(PROMPT, STEPS, (1.0, 0.0, 1.0)),
        Stepwise(PROMPT, (*STEPS[:2], "So 42"), (None, None, 0.0), separator="\n"),  # alternatives for the last step
        Stepwise(PROMPT, (*STEPS[:2], "So 42 it is"), (None, None, 1.0), separator="\n"),
        Stepwise(chat, STEPS[:2], (1.0, 0.5), separator="\n\n"),
    ]
    prepared = prepare_steps(model, data, 256)
    features = extract_steps(model, prepared.asked, tmp_path, budget=budget)
    expected, texts = [], []
    for one in prepared.asked:
        for place in one.wanted:
            ids = one.rendered.ids[: place + 1]
            expected.append(alone(model, ids, one.rendered.response_start).numpy())
            texts.append(model.template.tokenizer.decode(ids))
    np.testing.assert_allclose(features, np.stack(expected), rtol=1e-4, atol=1e-4)
    assert [text.split("assistant\n")[-1] for text in texts[:3]] == ["\n".join(STEPS[: n + 1]) for n in range(3)]
    assert texts[3].endswith("So 42")
    assert texts[4].endswith("So 42 it is")
    assert prepared.labels.tolist() == [1, 0, 1, 0, 1, 1, 0.5]
    assert prepared.groups.tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_alternatives_share_the_steps_before_them(bases) -> None:
    model = RewardModel.from_base(bases["llama"], LOAD)
    long = " ".join(["the quick brown fox"] * 20)
    others = [Stepwise(PROMPT, (long, f"{n}"), (None, 1.0)) for n in range(4)]
    one, four = (prepare_steps(model, some, 256).tokens for some in (others[:1], others))
    assert four < 1.5 * one


def test_a_second_run_computes_nothing_and_a_begun_one_goes_on(bases, tmp_path, monkeypatch) -> None:
    model, data = RewardModel.from_base(bases["llama"], LOAD), rows(20)
    prepared = prepare_steps(model, data, 256)
    whole = extract_steps(model, prepared.asked, tmp_path / "a")
    extract_steps(model, prepared.asked[:7], tmp_path / "b")
    read: list[int] = []
    real = process_features.step_features

    def counting(model, asked, **options):
        read.append(len(asked))
        return real(model, asked, **options)

    monkeypatch.setattr(process_features, "step_features", counting)
    np.testing.assert_allclose(extract_steps(model, prepared.asked, tmp_path / "b"), whole, atol=1e-5)
    np.testing.assert_array_equal(extract_steps(model, prepared.asked, tmp_path / "a"), whole)
    assert read == [13, 0]


@pytest.mark.parametrize("loss", ["soft", "binary", "pairwise"])
def test_a_head_learns_and_comes_back_bit_for_bit(bases, tmp_path, loss) -> None:
    result = train_process(open_base(bases["llama"], LOAD), rows(), config(tmp_path, loss=loss))
    model, held_out = result.model, rows(30, seed=1)
    scores = score_steps(model, [row.prompt for row in held_out], [row.steps for row in held_out])
    logits = np.array([score.logits for score in scores])
    labels = np.array([row.labels for row in held_out])
    assert ((logits > 0) == (labels > 0.5)).mean() > 0.8
    features = extract_steps(model, result.prepared.asked, next((tmp_path / "cache" / "features").iterdir()))
    trained = score_steps(model, [row.prompt for row in rows()], [row.steps for row in rows()])
    expected = features @ result.fit.weight + result.fit.bias  # the log-odds that were trained are those one gets
    np.testing.assert_allclose([x for score in trained for x in score.logits], expected, rtol=1e-3, atol=1e-3)
    reloaded = RewardModel.load(model.save(tmp_path / "prm"), LOAD)
    assert score_steps(reloaded, [row.prompt for row in held_out], [row.steps for row in held_out]) == scores
    assert reloaded.contract == model.contract
    assert reloaded.contract.process["ridge"] == result.fit.ridge
    assert len(reloaded.verify()) == 6
    assert torch.equal(load_file(tmp_path / "prm" / FILE)["weight"], model.process.weight)  # type: ignore[union-attr]


def test_a_reward_model_keeps_its_rewards(rewarding, tmp_path) -> None:
    before = RewardModel.load(rewarding, LOAD)
    model = train_process(open_base(rewarding), rows(), config(tmp_path, ridge=3.0)).model
    after = RewardModel.load(model.save(tmp_path / "both"), LOAD)
    assert after.score(PROMPT, "42") == before.score(PROMPT, "42")
    ours = {"process", "process_head_sha256", "goldens"}
    for name in set(before.contract.__dataclass_fields__) - ours:
        assert getattr(after.contract, name) == getattr(before.contract, name), name
    assert [g.score for g in after.contract.goldens] == pytest.approx([g.score for g in before.contract.goldens])
    assert after.score_steps(PROMPT, list(STEPS)).min is not None
    assert "## Process head" in (tmp_path / "both" / "README.md").read_text()
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "both", dtype=torch.float32)
    assert torch.equal(network.score.weight.data, before.head.weight)  # transformers sees the reward model


def test_what_would_change_its_rewards_is_refused(rewarding, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--dtype bfloat16.*whose rewards would change"):
        open_base(rewarding, LoadOptions(dtype="bfloat16"))
    with pytest.raises(UsageError, match="--load-in-4bit"):
        open_base(rewarding, LoadOptions(load_in_4bit=True))
    with pytest.raises(UsageError, match="--pooling mean"):
        open_base(rewarding, LOAD, pooling="mean")
    with pytest.raises(UsageError, match="--layer 1: the model's reward head reads layer 3"):
        train_process(open_base(rewarding), rows(), config(tmp_path, layer=1))


def test_a_base_gets_a_process_head_alone(bases, tmp_path) -> None:
    model = train_process(open_base(bases["qwen3"], LOAD), rows(), config(tmp_path, ridge=3.0, layer=2)).model
    loaded = RewardModel.load(model.save(tmp_path / "prm"), LOAD)
    assert loaded.backbone.layers == 2
    for asked in (lambda: loaded.score(PROMPT, "42"), lambda: loaded.score_thinking(PROMPT, "42")):
        with pytest.raises(ModelError, match="no reward head: it judges steps"):
            asked()
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "prm")
    assert not network.score.weight.any()  # 0 for everything: nothing that could be taken for a reward
    again = open_base(tmp_path / "prm")
    assert not again.contract.reward_head
    with pytest.raises(ModelError, match="no reward head, so there are no rewards to average"):
        average([tmp_path / "prm", tmp_path / "prm"], scratch=tmp_path / "scratch")
    card = (tmp_path / "prm" / "README.md").read_text()
    assert "It has no reward head" in card
    assert "model.score(" not in card


@pytest.mark.parametrize("change", ["weight", "bias", "gone", "shape", "broken"])
def test_a_changed_process_head_is_refused(bases, tmp_path, change) -> None:
    model = train_process(open_base(bases["llama"], LOAD), rows(20), config(tmp_path, ridge=3.0)).model
    path = model.save(tmp_path / "prm") / FILE
    tensors = load_file(path)
    if change == "gone":
        path.unlink()
    elif change == "broken":
        path.write_bytes(b"no tensors")
    elif change == "shape":
        save_file({**tensors, "weight": torch.zeros(1, 7)}, path)
    else:
        save_file({**tensors, change: tensors[change] + 1e-3}, path)
    says = {"shape": r"its shapes are \[1, 7\]", "broken": "damaged"}.get(change, "the process_head no longer matches")
    with pytest.raises(ContractError if "matches" in says else ModelError, match=says):
        RewardModel.load(tmp_path / "prm", LOAD)


def test_goldens_hold_the_process_head(bases, tmp_path) -> None:
    model = train_process(open_base(bases["llama"], LOAD), rows(20), config(tmp_path, ridge=3.0)).model
    first, *rest = model.contract.goldens
    assert first.score is None
    wrong = replace(first, process=first.process + 1)  # type: ignore[operator]
    model.contract = replace(model.contract, goldens=(wrong, *rest))
    with pytest.raises(ContractError, match="steps score"):
        model.verify()


def test_what_cannot_be_used_is_counted_or_said(bases, tmp_path) -> None:
    model = open_base(bases["llama"], LOAD)
    long = Stepwise(PROMPT, ("fox " * 300,), (1.0,))
    unknown = Stepwise(PROMPT, STEPS, (None, None, None))
    result = train_process(model, [*rows(20), long, unknown], config(tmp_path, ridge=3.0))
    assert result.prepared.dropped == {"longer than max_length": 1, "without a judged step": 1}
    with pytest.raises(DataError, match="no response is left to train on: 1 longer than max_length"):
        train_process(model, [long], config(tmp_path))
    blank = Stepwise(PROMPT, ("a", " "), (1.0, 0.0), source=Source("f.jsonl", 3))
    with pytest.raises(DataError, match=r"f\.jsonl:3: a list of steps"):
        train_process(model, [blank], config(tmp_path))
    with pytest.raises(ModelError, match="is an encoder"):
        open_base(bases["bert"], LOAD)


def test_a_response_is_split_where_the_steps_ended_in_training(bases, tmp_path) -> None:
    model = train_process(open_base(bases["llama"], LOAD), rows(20), config(tmp_path, ridge=3.0)).model
    listed = model.score_steps(PROMPT, ["<think>\n15 + 20 = 35.", "35 + 7 = 42.", "</think>\n\n42"])
    split = model.score_steps(PROMPT, "<think>\n15 + 20 = 35.\n35 + 7 = 42.\n</think>\n\n42")
    assert split.steps == ("15 + 20 = 35.", "35 + 7 = 42.", "42")
    assert split.logits == pytest.approx(listed.logits, abs=1e-5)
    p = [1 / (1 + np.exp(-x)) for x in listed.logits]  # type: ignore[operator]
    assert (listed.min, listed.last) == (pytest.approx(min(p)), pytest.approx(p[-1]))
    assert (listed.mean, listed.product) == (pytest.approx(np.mean(p)), pytest.approx(np.prod(p)))
    many = score_steps(model, [PROMPT] * 3, [list(STEPS), "42", [{"role": "assistant", "content": "42"}]], budget=16)
    assert many[0].logits == pytest.approx(model.score_steps(PROMPT, list(STEPS)).logits, abs=1e-4)
    assert many[1].logits == pytest.approx(many[2].logits, abs=1e-4)
    assert model.score_steps(PROMPT, "").as_dict()["min"] is None
    cut = model.score_steps(PROMPT, ["fox " * 300, "42"])
    assert cut.truncated
    assert cut.logits[1] is not None
    with pytest.raises(UsageError, match="none of them blank"):
        model.score_steps(PROMPT, ["a", ""])


def test_a_model_without_one_says_how_to_get_one(models) -> None:
    with pytest.raises(ModelError, match="train --method process --base"):
        models["llama"].score_steps(PROMPT, list(STEPS))
