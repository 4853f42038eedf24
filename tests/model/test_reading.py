"""Large groups in pieces and kept prompts give the rewards of the slow way: every response alone."""

import random

import pytest
import torch

from rewardsmith.encoding.template import Rendered
from rewardsmith.encoding.tree import build
from rewardsmith.model import budget, reading
from rewardsmith.model.backbone import Backbone
from rewardsmith.model.hardware import fitting_positions
from rewardsmith.model.prefixes import PrefixCache
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.tree_attention import Past
from tests.tiny import CAUSAL

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=CAUSAL)
def model(request, bases) -> RewardModel:
    model = RewardModel.from_base(bases[request.param])
    assert model.backbone.by_tree, "these tests are of attention tree by tree"
    return model


@pytest.fixture(params=["last", "mean"])
def pooled(request, bases) -> RewardModel:
    return RewardModel.from_base(bases["llama"], pooling=request.param)


def group(seed: int, responses: int, prompt: int = 40, longest: int = 20) -> list[Rendered]:
    """Random responses to one random prompt; the first two begin with the same tokens."""
    draw = random.Random(seed)
    words = lambda n: tuple(draw.randrange(5, 300) for _ in range(n))  # noqa: E731
    head = words(prompt)
    tails = [words(draw.randint(1, longest)) for _ in range(responses)]
    if responses > 1:
        tails[1] = tails[0][:-1] + tails[1]
    return [Rendered(head + tail, prompt) for tail in tails]


def alone(model: RewardModel, rendered: list[Rendered]) -> list[float]:
    return [model.score_rendered([0], [one])[0].reward for one in rendered]


def rewards(model: RewardModel, rendered: list[Rendered], key="p", **how) -> list[float]:
    return [one.reward for one in model.score_rendered([key] * len(rendered), rendered, **how)]


def assert_close(found, wanted):
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), **TOLERANCE)


class TestLargeGroupsInPieces:
    @pytest.mark.parametrize("budget", [1, 50, 75, 100, 10_000])
    def test_any_budget_gives_the_rewards_of_each_alone(self, model, budget):
        rendered = group(1, 9)
        assert_close(rewards(model, rendered, budget=budget), alone(model, rendered))

    def test_pooling(self, pooled):
        rendered = group(2, 7)
        assert_close(rewards(pooled, rendered, budget=70), alone(pooled, rendered))

    def test_the_prompt_is_computed_once(self, bases, monkeypatch):
        model = RewardModel.from_base(bases["llama"])
        rendered, seen = group(3, 20), []
        states = Backbone.states
        monkeypatch.setattr(
            Backbone, "states", lambda self, batch, *rest, **more: seen.append(batch.input_ids.numel())
            or states(self, batch, *rest, **more)
        )  # fmt: skip
        rewards(model, rendered, budget=70)
        assert len(seen) > 2, "the group was meant not to fit"
        assert sum(seen) == len(build(rendered))
        assert max(seen) <= 70

    def test_mixed_with_small_groups_and_all_layers(self, bases):
        model = RewardModel.from_base(bases["llama"])
        groups = [group(4, 6), group(5, 1), group(6, 3, prompt=5), group(7, 12)]
        trees = [build(one) for one in groups]
        wanted = torch.cat(
            [features for _, features in reading.read(model.backbone, trees, 0, 10_000, layers=[1, 2, 3])], dim=1
        )
        order = [place for places, _ in reading.read(model.backbone, trees, 0, 10_000, layers=[1]) for place in places]
        found = torch.empty_like(wanted)
        for places, features in reading.read(model.backbone, trees, 0, 90, layers=[1, 2, 3]):
            found[:, places] = features
        torch.testing.assert_close(found[:, order], wanted, **TOLERANCE)


class TestKeptPrompts:
    @pytest.mark.parametrize("budget", [60, 10_000])
    def test_second_call_uses_them_and_gives_the_same(self, model, budget):
        first, second = group(8, 3), group(8, 6)  # one seed, one prompt
        prefixes = PrefixCache()
        assert_close(rewards(model, first, prefixes=prefixes, budget=budget), alone(model, first))
        assert prefixes.bytes > 0
        assert_close(rewards(model, second, prefixes=prefixes, budget=budget), alone(model, second))
        assert len(prefixes) == 1

    def test_one_response_at_a_time(self, pooled, monkeypatch):
        rendered, prefixes, seen = group(9, 5), PrefixCache(), []
        states = Backbone.states
        monkeypatch.setattr(
            Backbone, "states", lambda self, batch, *rest, **more: seen.append(batch.input_ids.numel())
            or states(self, batch, *rest, **more)
        )  # fmt: skip
        found = [rewards(pooled, [one], prefixes=prefixes)[0] for one in rendered]
        monkeypatch.undo()
        assert_close(found, alone(pooled, rendered))
        assert seen[1:] == [len(one.ids) - 40 for one in rendered[1:]], "the prompt was computed again"

    def test_another_conversation_under_the_same_key(self, bases):
        model = RewardModel.from_base(bases["llama"])
        prefixes = PrefixCache()
        rewards(model, group(10, 2), prefixes=prefixes)
        other = group(11, 2)
        assert_close(rewards(model, other, prefixes=prefixes), alone(model, other))

    def test_a_prompt_that_is_only_partly_the_same(self, bases):
        model = RewardModel.from_base(bases["llama"])
        first, prefixes = group(12, 2), PrefixCache()
        rewards(model, first, prefixes=prefixes)
        changed = [Rendered((*one.ids[:30], 7, *one.ids[31:]), 40) for one in first]
        assert_close(rewards(model, changed, prefixes=prefixes), alone(model, changed))

    def test_the_limit_drops_what_was_used_longest_ago(self, bases):
        model = RewardModel.from_base(bases["llama"])
        prefixes = PrefixCache()
        rewards(model, group(13, 2), key="a", prefixes=prefixes)
        one = prefixes.bytes
        prefixes.limit = int(2.5 * one)
        for key in "bacd":
            rewards(model, group(13, 2), key=key, prefixes=prefixes)
        assert len(prefixes) == 2
        assert prefixes.bytes == 2 * one
        assert set(prefixes._pasts) == {"c", "d"}

    def test_known_tokens_stop_where_responses_begin(self):
        tree = build([Rendered((1, 2, 3, 4, 5), 2), Rendered((1, 2, 3, 9), 2)])
        past = Past((1, 2, 3, 4))
        assert reading.known_tokens(tree, past) == 0, "nothing is known before it is filled"
        past.layers[0] = (torch.zeros(1, 1, 4, 1),) * 2
        assert reading.known_tokens(tree, past) == 2


class TestBudgetFromFreeMemory:
    def test_less_memory_means_fewer_positions_and_the_same_rewards(self, bases, monkeypatch):
        model = RewardModel.from_base(bases["llama"])
        rendered = group(14, 60)
        wanted, most = rewards(model, rendered), model.budget
        monkeypatch.setattr(budget, "free_memory", lambda device: 1_200_000)
        assert budget.LEAST_BUDGET <= model.budget < most
        assert_close(rewards(model, rendered), wanted)
        monkeypatch.setattr(budget, "free_memory", lambda device: 0)
        assert model.budget == budget.LEAST_BUDGET
        monkeypatch.setattr(budget, "free_memory", lambda device: None)
        assert model.budget == most

    @pytest.mark.parametrize("dense_mask", [False, True])
    @pytest.mark.parametrize("free", [10**6, 10**9, 10**11])
    def test_what_fits_fills_half_of_the_memory(self, bases, free, dense_mask):
        config = RewardModel.from_base(bases["llama"]).backbone.network.config
        found = fitting_positions(free, config, 4, dense_mask=dense_mask)
        width = 8 * config.hidden_size + 3 * config.intermediate_size
        needs = lambda p: 4 * (p * width + dense_mask * p * p)  # noqa: E731
        assert needs(found) <= free / 2 < needs(found + 1) * 1.001
