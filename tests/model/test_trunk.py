"""Features of trees on a common trunk are those of every sequence read alone."""

from __future__ import annotations

import random

import pytest
import torch

from rewardsmith.encoding import pack
from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import Tree, build, trunk
from rewardsmith.model import reading
from rewardsmith.model.read_places import read_places
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.tree_attention import Layout, Past
from rewardsmith.training.features import extract
from tests.tiny import CAUSAL

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SYSTEM = 20  # tokens: longer than the windows of Gemma 3 (8) and Mistral (12)


def trees() -> list[Tree]:
    """Prompts of many lengths behind one system prompt; one is the system prompt alone, one has one response."""
    draw = random.Random(0)
    words = lambda n: tuple(draw.randrange(5, 300) for _ in range(n))  # noqa: E731
    head, made = words(SYSTEM), []
    for prompt, responses in ((0, 3), (9, 2), (4, 1), (30, 4), (2, 1)):
        own = words(prompt)
        tails = [(300 + k, *words(draw.randint(1, 20))) for k in range(responses)]  # no first token in common
        made.append(build([Rendered((*head, *own, *tail), SYSTEM + prompt) for tail in tails]))
    return made


TREES = trees()


def alone(backbone, ids: tuple[int, ...], start: int) -> torch.Tensor:
    states = backbone.body(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return states[-1] if backbone.pooling == "last" else states[start:].mean(0)


def expected(backbone) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(
            [
                alone(backbone, tree.sequence(k), tree.response_starts[k])
                for tree in TREES
                for k in range(len(tree.branches))
            ]
        )


@pytest.fixture(params=["tree", "sdpa"])
def attention(request) -> str:
    return request.param


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", CAUSAL)
def test_every_reading_equals_each_alone(bases, family, attention, pooling, monkeypatch) -> None:
    backbone = RewardModel.from_base(bases[family], attention=attention, pooling=pooling).backbone
    assert backbone.by_tree == (attention == "tree")
    seen: list[pack.Batch] = []
    states = backbone.states
    monkeypatch.setattr(
        backbone, "states", lambda batch, *more, **how: seen.append(batch) or states(batch, *more, **how)
    )
    with torch.no_grad():
        found = {}
        for places, features in reading.read(backbone, TREES, 0, 4096):
            found |= dict(zip(places, features[0], strict=True))
    assert [batch.trunk for batch in seen] == [SYSTEM]
    torch.testing.assert_close(torch.stack([found[k] for k in range(len(found))]), expected(backbone), **TOLERANCE)


@pytest.mark.parametrize("family", CAUSAL)
def test_states_within_the_responses_do_too(bases, family, attention) -> None:
    backbone = RewardModel.from_base(bases[family], attention=attention).backbone
    sequences = [(tree.sequence(k), tree.response_starts[k]) for tree in TREES for k in range(len(tree.branches))]
    places = [[start, len(ids) - 1] for ids, start in sequences]
    found: dict[int, list[torch.Tensor]] = {}
    with torch.no_grad():
        for numbers, features in read_places(backbone, TREES, places, 0, 4096):
            for number, feature in zip(numbers, features, strict=True):
                found.setdefault(number, []).append(feature)
        for number, ((ids, start), wanted) in enumerate(zip(sequences, places, strict=True)):
            slow = torch.stack([alone(backbone, ids[: place + 1], start) for place in wanted])
            torch.testing.assert_close(torch.stack(found[number]), slow, **TOLERANCE)


def test_features_for_training_do_too(bases, tmp_path) -> None:
    model = RewardModel.from_base(bases["qwen3"])
    cache, keys = extract(model, TREES, tmp_path / "cache", [model.backbone.layers])
    torch.testing.assert_close(
        torch.as_tensor(cache.get(keys, model.backbone.layers)), expected(model.backbone), **TOLERANCE
    )


def test_where_sharing_is_not_exact_there_is_none(bases) -> None:
    backbone = RewardModel.from_base(bases["llama"]).backbone
    backbone.shares = False
    arranged, batches = backbone.arrange(TREES, 4096)
    assert all(backbone.collate(arranged, rows, 0).trunk == 0 for rows in batches)


def test_a_trunk_and_kept_prompts_exclude_each_other() -> None:
    batch = pack.collate(TREES, [list(range(len(TREES)))], 0, trunk=trunk(TREES))
    with pytest.raises(ValueError, match="either a trunk or pasts"):
        Layout.of(batch, [None], [Past(())] + [None] * (len(TREES) - 1))
