"""ThinkingReward called as TRL's trainers call it: the formula, by hand, from scores that other tests prove."""

from __future__ import annotations

import logging
import math
import pickle
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from trl.trainer.utils import get_callable_name

from rewardsmith.errors import ModelError, UsageError
from rewardsmith.integrations.thinking_reward import ThinkingReward
from rewardsmith.integrations.thinking_verdict import has_form
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.process_scores import no_process_head
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.thinking_scores import score_thinking
from rewardsmith.shaping import Context, Normalise, Pipeline, parse
from rewardsmith.thinking import custom_tags
from tests.conftest import with_random_head
from tests.integrations.conftest import LOAD, Log, assistant, user

PROMPTS = [[user("what is 15 + 27")]] * 6
TEXTS = [
    "<think>15 + 27 = 42</think>42",
    "15 + 20 = 35, and 7 more</think>\nthe answer is 42",  # the opening tag was prefilled
    "<think>the fox " + "jumps again " * 10 + "</think>a lazy dog",
    "42",  # no thinking
    "<think></think>42",  # empty
    "<think>15 + 27 and so on",  # never closed
]
COMPLETIONS = [[assistant(text)] for text in TEXTS]
FORMED = [True, True, True, False, False, False]


def call(reward: ThinkingReward, log: Log | None = None, step: int = 0, **columns) -> list:
    """As GRPOTrainer._calculate_rewards calls a function."""
    log = log or Log()
    return reward(
        prompts=columns.pop("prompts", PROMPTS),
        completions=columns.pop("completions", COMPLETIONS),
        completion_ids=[[1]] * len(PROMPTS),
        **columns,
        trainer_state=SimpleNamespace(global_step=step, max_steps=100),
        log_extra=log.extra,
        log_metric=log.metric,
    )


def test_thinking_that_never_ends_is_not_paid_for_an_empty_answer(model) -> None:
    generous = parse("clip(low=3, high=4)")  # every answer, an empty one too, is worth 3 at least
    rewards = call(ThinkingReward(model, shaping=generous, thinking_weight=0.5))
    assert rewards[-1] == -1.0 - 0.5
    assert min(rewards[:-1]) > 0


def by_hand(model, *, w_a=1.0, w_t=0.5, unformed=-1.0, free=512, price=0.001, limit=1.0, t=float, a=float) -> list:
    found = []
    for score in score_thinking(model, PROMPTS, COMPLETIONS):
        formed = score.closed and score.thinking_tokens and score.answer_tokens
        answer = a(score.answer_alone)
        answer = answer if score.answer_tokens else min(answer, unformed)
        thinking = t(score.thinking) if formed else unformed
        trust = math.exp(min(0, thinking * answer)) if formed and thinking > 0 else 1
        cost = min(limit, price * max(0, score.thinking_tokens - free))
        found.append(w_a * answer + w_t * trust * thinking - cost)
    return found


def test_the_reward_is_the_stated_sum(model) -> None:
    rewards = call(ThinkingReward(model))
    assert rewards == pytest.approx(by_hand(model), abs=1e-4)
    assert len(set(rewards)) == 5 and rewards[3] == pytest.approx(rewards[4])  # empty thinking is none
    scores = score_thinking(model, PROMPTS, COMPLETIONS)
    assert [has_form(score) for score in scores] == FORMED
    assert any(score.thinking * score.answer_alone < 0 for score in scores[:3])  # so that trust is at work
    weights = {"thinking_weight": 2.0, "answer_weight": 0.25, "unformed": -7.0, "free_tokens": 3, "per_token": 0.1}
    expected = by_hand(model, w_t=2.0, w_a=0.25, unformed=-7.0, free=3, price=0.1)
    assert call(ThinkingReward(model, **weights)) == pytest.approx(expected, abs=1e-4)
    assert call(ThinkingReward(model, **weights, limit=0.2)) != pytest.approx(expected, abs=1e-4)


def test_text_messages_and_calls_by_hand_agree(model) -> None:
    reward = ThinkingReward(model)
    texts = call(reward, prompts=[prompt[0]["content"] for prompt in PROMPTS], completions=TEXTS)
    assert texts == pytest.approx(call(reward), abs=1e-4)
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(texts, abs=1e-4)
    assert reward([], []) == []
    with pytest.raises(UsageError, match="2 prompts for 1 completions"):
        reward(["a", "b"], ["c"])


def test_answer_overall_pays_for_the_whole_response(model) -> None:
    rewards = call(ThinkingReward(model, answer="overall", thinking_weight=0))
    scores = score_thinking(model, PROMPTS, COMPLETIONS)
    expected = [score.overall if score.answer_tokens else min(score.overall, -1.0) for score in scores]
    assert rewards == pytest.approx(expected, abs=1e-4)


def test_trust_falls_only_where_thinking_and_answer_disagree(model) -> None:
    reward = ThinkingReward(model, thinking_weight=1.0)
    (score,) = score_thinking(model, PROMPTS[:1], COMPLETIONS[:1])
    agree = [reward._verdict(score, *parts, 1.0).trust for parts in ((2.0, 1.0), (-2.0, -1.0), (0.0, 3.0))]
    assert agree == [1, 1, 1]
    assert reward._verdict(score, -2.0, 1.0, 1.0).trust == 1  # blame needs no trust: only praise can be won by flattery
    worse = [reward._verdict(score, 2.0, answer, 1.0) for answer in (-0.5, -1.0, -2.0)]
    assert [one.trust for one in worse] == [math.exp(-1), math.exp(-2), math.exp(-4)]
    assert worse[0].reward == pytest.approx(-0.5 + 2 * math.exp(-1))


@pytest.mark.parametrize("answer", [0.01, 0.5, 2.0, 10.0])
def test_better_thinking_never_pays_less_where_the_answer_is_good(model, answer) -> None:
    reward = ThinkingReward(model)
    (score,) = score_thinking(model, PROMPTS[:1], COMPLETIONS[:1])
    paid = [reward._verdict(score, step / 10, answer, 0.5).reward for step in range(-80, 81)]
    assert all(more > less for less, more in pairwise(paid))


def test_raw_rewards_have_no_zero_and_that_is_said(model, caplog) -> None:
    fitted = Pipeline([Normalise().fit([0.0, 1.0])])
    for options, warned in (
        ({}, True),
        ({"shaping": "clip(low=-3, high=3)"}, True),
        ({"shaping": "running"}, False),
        ({"shaping": fitted, "thinking_shaping": "clip(high=0)"}, True),
        ({"shaping": fitted}, False),
        ({"thinking_weight": 0}, False),
    ):
        caplog.clear()
        ThinkingReward(model, **options)
        assert any("no zero of their own" in line for line in caplog.messages) == warned, options


def with_process(model: RewardModel) -> RewardModel:
    weight = torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(5))
    contract = replace(model.contract, process={"separator": "\n"})
    return replace(model, process=ProcessHead(weight / 3, torch.zeros(1)), contract=contract)


@pytest.mark.parametrize("form", ["min", "last", "mean"])
def test_a_process_head_can_judge_the_thinking(model, form) -> None:
    """T = 2 p - 1, of the thinking's steps alone, from the same forward pass as the rewards."""
    judge = with_process(model)
    texts = ["<think>one fox\ntwo dogs\n15 + 27</think>the answer\nis 42", "<think>a\nb</think>c", "42"]
    completions, prompts = [[assistant(text)] for text in texts], PROMPTS[:3]
    expected = []
    for one, text, count in zip(score_thinking(judge, prompts, completions), texts, (3, 2, 0), strict=True):
        steps = judge.score_steps(prompts[0], [assistant(text)])
        assert [step.probability for step in one.steps] == pytest.approx(steps.probabilities, abs=1e-5)
        known = steps.probabilities[:count]
        chosen = {"min": min, "last": lambda ps: ps[-1], "mean": lambda ps: sum(ps) / len(ps)}[form]
        expected.append(2 * chosen(known) - 1 if known else -1.0)
    log = Log()
    reward = ThinkingReward(judge, thinking=f"process_{form}", name="t", per_token=0)
    paid = call(reward, log, prompts=prompts, completions=completions)
    assert log.columns["t/thinking"] == pytest.approx(expected, abs=1e-5)
    assert log.columns[f"t/process_{form}"][2] is None
    assert log.columns[f"t/process_{form}"][:2] == pytest.approx([(T + 1) / 2 for T in expected[:2]], abs=1e-5)
    answers = [score.answer_alone for score in score_thinking(judge, prompts, completions)]
    trust = [math.exp(min(0, max(0, T) * A)) for T, A in zip(expected, answers, strict=True)]
    assert paid == pytest.approx([A + 0.5 * w * T for A, w, T in zip(answers, trust, expected, strict=True)], abs=1e-4)


def test_process_thinking_needs_a_head_and_no_normaliser(model, saved, caplog) -> None:
    with pytest.raises(ModelError) as said:
        ThinkingReward(model, thinking="process_min")
    assert str(said.value).startswith(f"{saved}: there is no process head") and f"--base {saved} " in str(said.value)
    assert str(no_process_head()).startswith("there is no process head") and "--base MODEL " in str(no_process_head())
    assert "--base 'a b' " in str(no_process_head("a b"))
    with pytest.raises(UsageError, match="thinking 'process_max': use reward, process_min"):
        ThinkingReward(model, thinking="process_max")
    caplog.clear()
    reward = ThinkingReward(with_process(model), "running", thinking="process_min")
    assert reward.thinking_shaping is None and not caplog.messages  # 2 p - 1 has a zero: even odds


def test_thinking_that_did_not_fit_costs_what_it_costs(bases) -> None:
    """max_length cuts the front off: the part that is left must not make long thinking cheap."""
    long = [[assistant("<think>" + "the fox jumps again and again " * 6 + "</think>42")]]
    whole = with_random_head(RewardModel.from_base(bases["llama"], LOAD))
    cut = replace(whole, contract=replace(whole.contract, max_length=24))
    options = {"free_tokens": 10, "per_token": 0.01, "limit": 9.0}
    found = [
        ThinkingReward(one, **options).verdicts([{"prompt": "q", "response": long[0]}], 0.5)[0] for one in (whole, cut)
    ]
    assert found[1].score.scored.truncated and found[0].cost == found[1].cost > 0.2


@pytest.mark.parametrize(
    ("anneal", "middle"), [("linear", 0.5), ("cosine", 0.5), ("none", 1.0)], ids=["linear", "cosine", "none"]
)
def test_the_thinking_weight_is_annealed(model, anneal, middle) -> None:
    reward = ThinkingReward(model, anneal=anneal, thinking_weight=2.0, anneal_to=0.1)
    at = [reward.annealed(SimpleNamespace(global_step=step, max_steps=100)) for step in (0, 50, 100, 150)]
    end = 2.0 if anneal == "none" else 0.2
    assert at == pytest.approx([2.0, 2 * (0.1 + 0.9 * middle) if anneal != "none" else 2.0, end, end])
    assert reward.annealed(None) == reward.annealed(object()) == 2.0
    log = Log()
    assert call(reward, log, step=100) == pytest.approx(by_hand(model, w_t=end), abs=1e-4)
    assert log.metrics[f"rewards/{reward.__name__}/thinking_weight"] == pytest.approx(end)
    quarter = reward.annealed(SimpleNamespace(global_step=25, max_steps=100))
    assert anneal != "cosine" or quarter > 2 * (0.1 + 0.9 * 0.75)  # slower at first than a line


def test_parts_are_shaped_each_with_its_own(model) -> None:
    scores = score_thinking(model, PROMPTS, COMPLETIONS)
    thinking = Normalise().fit([score.thinking for score in scores[:3]])
    answers = Normalise().fit([score.answer_alone for score in scores])
    reward = ThinkingReward(model, Pipeline([answers]), thinking_shaping=Pipeline([thinking]))
    expected = by_hand(model, t=lambda r: thinking([r])[0], a=lambda r: answers([r])[0])
    assert call(reward) == pytest.approx(expected, abs=1e-4)
    one = ThinkingReward(model, "running")
    call(one)
    steps = [pipeline.steps[0] for pipeline in (one.answer_shaping, one.thinking_shaping)]
    assert steps[0].to_dict() != steps[1].to_dict()
    clipped = ThinkingReward(model, "clip(low=-1, high=1)", per_token=0)
    assert max(abs(value) for value in call(clipped)) <= 1.5
    group = ThinkingReward(model, "group_zscore", thinking_shaping="clip(high=0)")
    expected_a = list(parse("group_zscore")([score.answer_alone for score in scores], Context(groups=[0] * 6)))
    expected_a[-1] = min(expected_a[-1], -1.0)  # it has no answer
    log = Log()
    call(group, log)
    assert log.columns[f"{group.__name__}/answer"] == pytest.approx(expected_a, abs=1e-4)


def test_what_cannot_be_scored_is_none_and_moves_nothing_else(model, caplog) -> None:
    bad = [[], None, [{"role": "assistant", "content": None}]]
    reward, log = ThinkingReward(model, name="t"), Log()
    with caplog.at_level(logging.WARNING, logger="rewardsmith"):
        rewards = call(reward, log, prompts=[PROMPTS[0]] * 9, completions=[*COMPLETIONS, *bad])
        call(reward, prompts=[PROMPTS[0]] * 3, completions=bad)
    assert rewards[6:] == [None] * 3 and rewards[:6] == pytest.approx(by_hand(model), abs=1e-4)
    assert log.metrics["rewards/t/unscored"] == pytest.approx(3 / 9)
    assert all(len(column) == 9 for column in log.columns.values())
    assert len([line for line in caplog.messages if "3 of 9 completions" in line]) == 1


def test_what_is_logged_is_what_was_paid(model) -> None:
    log, reward = Log(), ThinkingReward(model, name="t", free_tokens=0)
    rewards = call(reward, log)
    columns = {name.removeprefix("t/"): values for name, values in log.columns.items()}
    again = [
        answer + 0.5 * trust * thinking - cost
        for answer, trust, thinking, cost in zip(
            *(columns[name] for name in ("answer", "trust", "thinking", "cost")), strict=True
        )
    ]
    assert rewards == pytest.approx(again)
    assert log.metrics["rewards/t/formed"] == 0.5
    assert log.metrics["rewards/t/thinking_tokens"] == pytest.approx(sum(columns["thinking_tokens"]) / 6)
    assert get_callable_name(reward) == "t"


def test_template_variables_tags_and_prefill(model) -> None:
    tagged = [[assistant("<plan>15 + 27</plan>42")]]
    log = Log()
    call(ThinkingReward(model, tags=custom_tags("<plan>", "</plan>")), log, prompts=PROMPTS[:1], completions=tagged)
    assert next(iter(values for name, values in log.columns.items() if name.endswith("thinking_tokens")))[0] > 0
    bare = [[assistant("15 + 27 and on")]]
    found = call(ThinkingReward(model, prefill="<think>\n"), prompts=PROMPTS[:1], completions=bare)
    whole = [[assistant("<think>\n15 + 27 and on")]]
    assert found == pytest.approx(call(ThinkingReward(model), prompts=PROMPTS[:1], completions=whole), abs=1e-5)


def test_it_travels_to_another_process(saved, model) -> None:
    reward = ThinkingReward(saved, load=LOAD)
    again = pickle.loads(pickle.dumps(reward))
    assert again.__name__ == reward.__name__ == "rm-thinking"
    assert call(again) == pytest.approx(by_hand(model), abs=1e-4)


def test_wrong_arguments_are_refused(model, models) -> None:
    for options, said in (
        ({"thinking_weight": -1}, "thinking_weight must be a finite number >= 0"),
        ({"thinking_weight": 0, "answer_weight": 0}, "both 0"),
        ({"anneal": "stairs"}, "anneal 'stairs': use none, linear, cosine"),
        ({"anneal_to": 2}, r"in \[0, 1\]"),
        ({"answer": "first"}, "use alone, overall"),
        ({"per_token": -0.1}, "per_token"),
        ({"unformed": math.nan}, "unformed"),
        ({"shaping": "par"}, "needs reference"),
        ({"thinking_shaping": "normalise"}, "not fitted"),
    ):
        with pytest.raises(UsageError, match=said):
            ThinkingReward(model, **options)
    with pytest.raises(UsageError, match="one model"):
        ThinkingReward([model, model])
    with pytest.raises(ModelError, match="is an encoder"):
        ThinkingReward(models["bert"])
    log_metric = type("T", (), {"reward_func_names": ["t", "t"], "metric": lambda self, *_: None})().metric
    with pytest.raises(UsageError, match="two reward functions are called 't'"):
        ThinkingReward(model, name="t")([], [], log_metric=log_metric)


@pytest.mark.parametrize("wrong", [{"per_token": -1}, {"free_tokens": "a"}, {"limit": 0}, {"limit": -1}])
def test_a_cost_that_cannot_be_is_named_as_the_user_spelt_it(wrong) -> None:
    """free_tokens was called `free`, of a length_penalty that the user never wrote."""
    name, value = list(wrong.items())[-1]
    with pytest.raises(UsageError, match=f"^thinking reward: {name} must be a finite number >=? 0, not {value!r}$"):
        ThinkingReward("nowhere", **wrong)
