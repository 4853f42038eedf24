"""A caller's autocast changes no reward: an RL trainer may score in the middle of its own mixed precision."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewardsmith.evaluation.evaluate import evaluate_model
from rewardsmith.integrations.trl import RewardFunction
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.training.head import HeadConfig, train_head
from rewardsmith.types import Comparison

PROMPTS = ["what is 15 + 27?"] * 2 + ["a question"]
RESPONSES = ["42", "<think>fox</think>the answer is fox", "lazy dog"]


@pytest.fixture(scope="module")
def model(trained: RewardModel) -> RewardModel:
    """With all the heads there are."""
    generator = torch.Generator().manual_seed(3)
    width = trained.head.in_features
    members = Ensemble(torch.randn(4, width, generator=generator), torch.zeros(4))
    process = ProcessHead(torch.randn(1, width, generator=generator), torch.zeros(1))
    return replace(trained, ensemble=members, process=process)


WAYS = {
    "score": lambda model, folder: model.score(PROMPTS[0], RESPONSES[0]),
    "score_responses": lambda model, folder: model.score_responses(PROMPTS, RESPONSES),
    "compare": lambda model, folder: model.compare(PROMPTS[0], *RESPONSES[:2]),
    "members": lambda model, folder: model.member_rewards(PROMPTS, RESPONSES),
    "scorer": lambda model, folder: Scorer(model).score(PROMPTS, RESPONSES),
    "reward function": lambda model, folder: RewardFunction(model, shaping=False)(PROMPTS, RESPONSES),
    "thinking": lambda model, folder: model.score_thinking(PROMPTS[1], RESPONSES[1]).as_dict(),
    "steps": lambda model, folder: model.score_steps(PROMPTS[0], ["it is", "42"]),
    "evaluate": lambda model, folder: evaluate_model(
        model, [Comparison(prompt, ("fox", "dog")) for prompt in ("a", "b", "c")]
    ).as_dict(),
    "head": lambda model, folder: _features(model, folder),
    "loaded": lambda model, folder: RewardModel.load(model.save(folder)).score("a", "b"),
}


def _features(model: RewardModel, folder: Path) -> list:
    rows = [Comparison(prompt, ("fox", "dog")) for prompt in ("a", "b", "c")]
    plain = replace(copy.deepcopy(model), ensemble=None, process=None)
    return train_head(plain, rows, HeadConfig(ridge=1.0, cache=folder)).fit.weight.tolist()


@pytest.mark.parametrize("way", WAYS)
def test_inside_and_outside_of_autocast(model, way, tmp_path) -> None:
    outside = WAYS[way](model, tmp_path / "1")
    with torch.autocast("cpu", torch.bfloat16):
        inside = WAYS[way](model, tmp_path / "2")
    assert inside == outside


def test_the_cache_keeps_the_models_rewards(model, tmp_path) -> None:
    outside = Scorer(model).score(PROMPTS, RESPONSES)
    with torch.autocast("cpu", torch.bfloat16), Scorer(model, cache=tmp_path / "scores.db") as scorer:
        scorer.score(PROMPTS, RESPONSES)
    with Scorer(model, cache=tmp_path / "scores.db") as scorer:
        assert scorer.score(PROMPTS, RESPONSES) == outside
