"""Ensembles: bootstraps of prompts, heads that disagree as much as the data leave open, and averages of weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rewardsmith.errors import ContractError, DataError, ModelError, UsageError
from rewardsmith.model import ensemble as ensembles
from rewardsmith.model.average import mean, normalised_weights
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.bradley_terry import fit, predict, reward_se
from rewardsmith.training.ensemble import bootstrap, bootstrap_pairs, fit_members
from rewardsmith.training.head import HeadConfig, train_head
from rewardsmith.training.pairs import Pairs
from rewardsmith.types import Comparison

PROMPTS = ["what is 15 + 27?", "what is 15 + 27?", "a question"]
RESPONSES = ["42", "the answer is fox", "lazy dog"]


def simulated(n: int = 600, d: int = 6, seed: int = 0) -> tuple[np.ndarray, Pairs]:
    """Features with a large part that all responses share, and pairs labelled by Bradley-Terry; two pairs a prompt."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2 * n, d)) + 5.0
    truth = rng.normal(size=d)
    margin = (features[::2] - features[1::2]) @ truth
    first = np.where(rng.random(n) < 1 / (1 + np.exp(-margin)), 0, 1)
    rows = 2 * np.arange(n)
    return features, Pairs.of(rows + first, rows + 1 - first, group=np.arange(n) // 2)


def comparisons(n: int = 40) -> list[Comparison]:
    rng = np.random.default_rng(0)
    words = ["fox", "dog", "answer", "lazy", "brown", "42"]
    return [
        Comparison(f"question {i // 2}", tuple(" ".join(["fox"] * k + list(rng.choice(words[1:], 5))) for k in (2, 0)))
        for i in range(n)
    ]


def test_a_bootstrap_draws_whole_prompts() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9, 9, 1])
    counts = bootstrap(groups, seed=0, member=1)
    for group in np.unique(groups):
        assert len(set(counts[groups == group])) == 1
    assert sum(counts[[0, 2, 5, 7]]) == 4
    np.testing.assert_array_equal(counts, bootstrap(groups, seed=0, member=1))
    many = np.arange(1000)
    drawn = [bootstrap(many, seed=0, member=member) for member in range(3)]
    assert all(abs((one == 0).mean() - np.exp(-1)) < 0.05 for one in drawn)  # a bootstrap leaves out 1/e
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.1
    with pytest.raises(DataError, match="1 prompt"):
        bootstrap(np.zeros(5, dtype=int), seed=0, member=0)


def test_a_bootstrap_of_pairs_counts_what_it_drew_twice() -> None:
    _, pairs = simulated(50)
    drawn = bootstrap_pairs(pairs, seed=3, member=0)
    counts = bootstrap(pairs.group, seed=3, member=0)
    np.testing.assert_array_equal(drawn.first, pairs.first[counts > 0])
    assert drawn.weight.sum() == counts.sum()


def test_a_bootstrap_without_a_preference_is_drawn_again_or_refused() -> None:
    mostly_ties = Pairs.of([0, 2, 4], [1, 3, 5], probability=[1.0, 0.5, 0.5])
    for member in range(20):
        drawn = bootstrap_pairs(mostly_ties, seed=0, member=member)
        assert len(drawn) >= 2 and (drawn.probability != 0.5).any()
    with pytest.raises(DataError, match="too few preferences"):
        bootstrap_pairs(Pairs.of([0, 2], [1, 3], probability=[0.5, 0.5]), seed=0, member=0)


def test_members_spread_like_the_laplace_standard_error() -> None:
    """Two estimates of one thing: what another sample of prompts would have changed."""
    features, pairs = simulated()
    whole = fit(features, pairs, 1e-2)
    ensemble = fit_members(features, pairs, whole, 40, seed=0, ties="soft")
    rewards = ensemble.rewards(torch.tensor(features, dtype=torch.float32)).numpy()
    ratio = rewards.std(axis=1, ddof=1) / reward_se(features, whole)
    assert 0.8 < np.median(ratio) < 1.25
    assert ratio.min() > 0.5 and ratio.max() < 2
    # All members agree about the average response, and are right on average.
    at_center = ensemble.rewards(torch.tensor(whole.center, dtype=torch.float32)[None])
    torch.testing.assert_close(at_center[0], torch.full((40,), whole.center @ whole.weight).float(), atol=1e-4, rtol=0)
    assert np.corrcoef(rewards.mean(1), predict(features, whole))[0, 1] > 0.999


def test_the_same_seed_gives_the_same_members_and_more_of_them_change_none() -> None:
    features, pairs = simulated(60)
    whole = fit(features, pairs, 1.0)
    three, again, five = (fit_members(features, pairs, whole, k, seed=4, ties="soft").members for k in (3, 3, 5))
    assert torch.equal(three, again) and torch.equal(three, five[:3])
    assert not torch.equal(three, fit_members(features, pairs, whole, 3, seed=5, ties="soft").members)
    assert not torch.equal(three[0], three[1])


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory) -> RewardModel:
    config = HeadConfig(ridge=1.0, ensemble=4, normalise=True, cache=tmp_path_factory.mktemp("cache"))
    return train_head(RewardModel.from_base(bases["llama"]), comparisons(), config).model


def test_members_come_with_the_model_and_survive_saving(trained, tmp_path) -> None:
    assert trained.members is not None and trained.members.shape == (4, 32)
    assert trained.contract.training["ensemble"] == "4 heads on bootstraps of the prompts"
    loaded = RewardModel.load(trained.save(tmp_path / "rm"))
    assert torch.equal(loaded.members, trained.members) and loaded.contract == trained.contract
    rewards = loaded.member_rewards(PROMPTS, RESPONSES)
    assert rewards == trained.member_rewards(PROMPTS, RESPONSES)
    assert [len(row) for row in rewards] == [4, 4, 4]
    again = RewardModel.load(loaded.save(tmp_path / "again"))
    assert torch.equal(again.members, trained.members)


def test_member_rewards_are_normalised_as_rewards_are(trained) -> None:
    """The main head put in as a member gives the model's own rewards."""
    same = ensembles.Ensemble(trained.head.weight.repeat(2, 1), torch.zeros(2))
    twin = RewardModel(trained.backbone, trained.head, trained.template, trained.contract, ensemble=same)
    expected = torch.tensor(twin.score_batch(PROMPTS, RESPONSES))[:, None].expand(-1, 2)
    torch.testing.assert_close(torch.tensor(twin.member_rewards(PROMPTS, RESPONSES)), expected, atol=1e-6, rtol=1e-6)


def test_the_main_head_is_the_optimum_on_all_data(trained, bases, tmp_path) -> None:
    alone = train_head(RewardModel.from_base(bases["llama"]), comparisons(), HeadConfig(ridge=1.0, cache=tmp_path))
    assert torch.equal(alone.model.head.weight, trained.head.weight)
    assert alone.model.members is None
    with pytest.raises(UsageError, match="no ensemble"):
        alone.model.member_rewards(PROMPTS, RESPONSES)


def test_a_changed_file_of_members_is_found(trained, tmp_path) -> None:
    folder = trained.save(tmp_path / "rm")
    file = folder / ensembles.FILE
    tensors = load_file(file)
    save_file({**tensors, "members": tensors["members"] + 1e-6}, file)
    with pytest.raises(ContractError, match="members no longer matches"):
        RewardModel.load(folder)
    file.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="damaged"):
        RewardModel.load(folder)
    file.unlink()
    with pytest.raises(ContractError, match="members no longer matches"):
        RewardModel.load(folder)


def test_a_contract_from_before_ensembles_loads(models, tmp_path) -> None:
    folder = models["llama"].save(tmp_path / "rm")
    path = folder / "reward_contract.json"
    contract = json.loads(path.read_text())
    assert contract.pop("members_sha256") is None
    path.write_text(json.dumps(contract))
    assert RewardModel.load(folder).members is None


def test_means_of_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 5, 7, generator=generator)
    third = [1 / 3] * 3
    assert torch.equal(mean([a, a, a], third), a)
    torch.testing.assert_close(mean([a, b, c], [0.5, 0.3, 0.2]), 0.5 * a + 0.3 * b + 0.2 * c)
    half = [x.bfloat16() for x in (a, b, c)]
    exact = sum(x.double() for x in half) / 3
    assert torch.equal(mean(half, third), exact.bfloat16())  # rounded once, at the end
    assert torch.equal(mean([torch.tensor([3]), torch.tensor([3])], [0.5, 0.5]), torch.tensor([3]))


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -0.5], [float("nan"), 1.0], [1.0, 1.0, 1.0]])
def test_weights_that_cannot_work(weights) -> None:
    with pytest.raises(UsageError, match="--weights"):
        normalised_weights(["a", "b"], weights)
    assert normalised_weights(["a", "b"], [1, 3]) == [0.25, 0.75]
