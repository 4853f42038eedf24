"""RewardFunction called as TRL's trainers call it."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl.trainer.utils import get_callable_name, is_async_callable

from rewardsmith.cli import main
from rewardsmith.errors import DataError, UsageError
from rewardsmith.integrations.keep_shaping import KeepShaping
from rewardsmith.integrations.trl import RewardFunction
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.shaping import Clip, Context, Normalise, Pipeline, RunningNormalise, parse
from tests import tiny
from tests.conftest import with_random_head
from tests.integrations.conftest import LOAD, Log, assistant, other_tokenizer, user

QUESTIONS = ["what is 15 + 27", "how are you"]
ANSWERS = ["42", "the quick brown fox", "a lazy dog again and again", "", "fine, thank you"]
PROMPTS = [[user(question)] for question in QUESTIONS for _ in ANSWERS]
COMPLETIONS = [[assistant(answer)] for _ in QUESTIONS for answer in ANSWERS]


def call(reward: RewardFunction, prompts: list, completions: list, log: Log | None = None, **columns: list) -> list:
    """As GRPOTrainer._calculate_rewards calls a function."""
    log = log or Log()
    return reward(
        prompts=prompts,
        completions=completions,
        completion_ids=[[1, 2, 3]] * len(prompts),
        **columns,
        trainer_state=object(),
        log_extra=log.extra,
        log_metric=log.metric,
    )


def expected(model: RewardModel, prompts: list, completions: list) -> list[float]:
    return [one.reward for one in Scorer(model).score(prompts, completions)]


def test_messages_and_text_get_the_scorers_rewards(model) -> None:
    reward = RewardFunction(model)
    assert call(reward, PROMPTS, COMPLETIONS) == pytest.approx(expected(model, PROMPTS, COMPLETIONS), abs=1e-5)
    texts = [prompt[0]["content"] for prompt in PROMPTS], [one[0]["content"] for one in COMPLETIONS]
    assert call(reward, *texts) == pytest.approx(expected(model, PROMPTS, COMPLETIONS), abs=1e-5)
    assert len(set(call(reward, *texts))) == len(PROMPTS)  # and they do differ
    assert reward([], []) == []
    with pytest.raises(UsageError, match="2 prompts for 1 completions"):
        reward(["a", "b"], ["c"])


def test_the_command_line_gives_the_same_numbers(saved, tmp_path, monkeypatch) -> None:
    shaping = "length_penalty(per_token=0.1), group_zscore, clip(low=-0.9, high=0.9)"
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    groups = [{"prompt": [user(question)], "responses": ANSWERS} for question in QUESTIONS]
    rows.write_text("".join(json.dumps(row) + "\n" for row in groups))
    argv = ["rewardsmith", "score", str(saved), str(rows), "-o", str(out), "--dtype", "float32", "--shaping", shaping]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        main.run()
    except SystemExit as stop:
        assert not stop.code
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    log = Log()
    rewards = call(RewardFunction(saved, shaping, "r", load=LOAD), PROMPTS, COMPLETIONS, log)
    assert rewards == pytest.approx([value for row in scored for value in row["shaped"]], abs=1e-4)
    assert log.columns["r/raw"] == pytest.approx([value for row in scored for value in row["reward"]], abs=1e-5)
    assert 0.9 in rewards and -0.9 in rewards and len(set(rewards)) > 4


def test_what_cannot_be_scored_is_none_and_moves_nothing_else(model, caplog) -> None:
    reward, log = RewardFunction(model, shaping="group_zscore", name="r"), Log()
    image = [{"role": "user", "content": [{"type": "image", "image": object()}, {"type": "text", "text": "x"}]}]
    bad = [[], None, [user("I am the user")], [{"role": "assistant", "content": None}]]
    prompts = [PROMPTS[0]] * 3 + [PROMPTS[0]] * len(bad) + [image]
    completions = [*COMPLETIONS[:3], *bad, COMPLETIONS[0]]
    with caplog.at_level(logging.WARNING, logger="rewardsmith"):
        rewards = call(reward, prompts, completions, log)
        call(reward, prompts, completions)
    assert rewards[3:] == [None] * 5
    assert rewards[:3] == pytest.approx(call(reward, prompts[:3], completions[:3]))
    assert log.metrics["rewards/r/unscored"] == 5 / 8
    assert all(len(column) == 8 for column in log.columns.values())
    assert [record for record in caplog.messages if "5 of 8 completions" in record] == caplog.messages[:1]
    assert call(reward, prompts[3:4], completions[3:4], log) == [None]
    assert log.metrics["rewards/r/unscored"] == 1


def test_a_template_that_refuses_turns_gives_none(bases, tmp_path) -> None:
    base = tiny.save_base("llama", tmp_path / "base", template=other_tokenizer().chat_template)
    reward = RewardFunction(RewardModel.from_base(base, LOAD))
    system = [{"role": "system", "content": "be kind"}, user("hello")]
    assert call(reward, [system, [user("hello")]], [[assistant("hi")]] * 2)[0] is None
    assert call(reward, [system, [user("hello")]], [[assistant("hi")]] * 2)[1] is not None


def test_turns_of_tools_are_part_of_the_response(model) -> None:
    turns = [assistant("let me see"), {"role": "tool", "content": "42"}, assistant("it is 42")]
    reward = RewardFunction(model)
    assert call(reward, [[user("6 * 7")]], [turns]) == pytest.approx(expected(model, [[user("6 * 7")]], [turns]))
    assert call(reward, [[user("6 * 7")]], [turns]) != call(reward, [[user("6 * 7")]], [turns[-1:]])


def test_tools_and_template_variables_reach_the_template(tmp_path) -> None:
    template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ mood | default('') }}" + tiny.CHATML
    model = RewardModel.from_base(tiny.save_base("llama", tmp_path / "base", template=template), LOAD)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    reward = RewardFunction(model)
    tools, mood = [{"name": "add"}], {"mood": "glad"}
    columns = {"tools": [tools, None, json.dumps(tools)], "chat_template_kwargs": [None, mood, None]}
    rewards = call(reward, [PROMPTS[0]] * 3, [COMPLETIONS[0]] * 3, **columns)
    scorer = Scorer(model)
    for got, variables in zip(rewards, [{"tools": tools}, {"kwargs": mood}, {"tools": tools}], strict=True):
        assert got == pytest.approx(scorer.score(PROMPTS[:1], COMPLETIONS[:1], variables)[0].reward, abs=1e-5)
    assert abs(rewards[0] - rewards[1]) > 1e-3


def test_trap_15_the_tokens_of_the_policy_are_not_looked_at(model, policy) -> None:
    """Ids of another tokenizer mean nothing here, and the policy's end token is not in the text."""
    theirs = other_tokenizer()
    ids = [theirs(one[0]["content"])["input_ids"] + [theirs.eos_token_id] for one in COMPLETIONS]
    ours = [model.template.tokenizer(one[0]["content"])["input_ids"] for one in COMPLETIONS]
    assert [one[:-1] for one in ids] != ours
    assert max(max(one) for one in ids) < len(theirs)
    texts = [[assistant(theirs.decode(one, skip_special_tokens=True))] for one in ids]  # as TRL decodes them
    reward = RewardFunction(model)
    rewards = reward(prompts=PROMPTS, completions=texts, completion_ids=ids)
    assert (
        rewards == reward(prompts=PROMPTS, completions=texts, completion_ids=[[0]] * len(ids)) == reward(PROMPTS, texts)
    )
    assert rewards == pytest.approx(expected(model, PROMPTS, COMPLETIONS), abs=1e-5)
    rendered = model.render((), texts[0][0]["content"]).ids
    assert model.template.tokenizer.eos_token_id in rendered  # the reward model's own end


def test_trap_16_a_rollout_goes_through_in_pieces(model, monkeypatch) -> None:
    widest = []
    features = type(model.backbone).features

    def seen(self, batch, *args, **kwargs):
        widest.append(batch.input_ids.numel())
        return features(self, batch, *args, **kwargs)

    monkeypatch.setattr(type(model.backbone), "features", seen)
    prompts = [f"what is {i} + 27? " * 3 for i in range(8) for _ in range(8)]
    completions = [f"the quick fox {i} " * (i % 7 + 1) for i in range(64)]
    rewards = RewardFunction(model, budget=256)(prompts, completions)
    assert len(widest) > 5
    assert max(widest) <= 256
    assert sum(widest) > 5 * 256
    widest.clear()
    whole = RewardFunction(model, budget=1_000_000)(prompts, completions)
    assert rewards == pytest.approx(whole, abs=1e-4)


def test_shaping_is_what_the_pipeline_gives_for_the_same_context(model, saved, tmp_path) -> None:
    scored = Scorer(model).score(PROMPTS, COMPLETIONS)
    raw = [one.reward for one in scored]
    text = "length_penalty(per_token=0.1), group_zscore, clip(low=-0.5, high=0.5)"
    context = Context(groups=[i // 5 for i in range(10)], lengths=[one.response_tokens for one in scored])
    wanted = parse(text)(raw, context)
    log = Log()
    assert call(RewardFunction(model, text, name="r"), PROMPTS, COMPLETIONS, log) == pytest.approx(wanted, abs=1e-5)
    assert log.columns["r/raw"] == pytest.approx(raw, abs=1e-5)
    assert log.columns["r/shaped"] == pytest.approx(wanted, abs=1e-5)
    fitted = Pipeline([Normalise(), Clip(low=-1)]).fit([0.0, 1.0, 5.0])
    fitted.save(tmp_path)
    for same in (fitted, tmp_path, str(tmp_path), tmp_path / "shaping.json"):
        assert call(RewardFunction(model, same), PROMPTS, COMPLETIONS) == pytest.approx(fitted(raw), abs=1e-5)
    assert call(RewardFunction(model, Clip(high=0.0)), PROMPTS, COMPLETIONS) == pytest.approx(
        [min(value, 0.0) for value in raw], abs=1e-5
    )
    assert call(RewardFunction(model, shaping=False), PROMPTS, COMPLETIONS) == pytest.approx(raw, abs=1e-5)
    with pytest.raises(UsageError, match="normalise: not fitted; fit it"):
        RewardFunction(model, "normalise")
    with pytest.raises(UsageError, match="unknown step 'zap'"):
        RewardFunction(model, "zap")


def test_groups_are_equal_prompts_wherever_they_stand(model) -> None:
    """As after a shuffle: the same prompt is one group, with other tools another."""
    order = [3, 0, 7, 2, 9, 5, 1, 8, 6, 4]
    reward = RewardFunction(model, "group_zscore")
    straight = call(reward, PROMPTS, COMPLETIONS)
    mixed = call(reward, [PROMPTS[i] for i in order], [COMPLETIONS[i] for i in order])
    assert mixed == pytest.approx([straight[i] for i in order], abs=1e-4)
    assert sum(straight[:5]) == pytest.approx(0, abs=1e-5)


def test_the_running_normaliser_learns_from_call_to_call(model) -> None:
    reward = RewardFunction(model, RunningNormalise())
    (running,) = reward.judge.shaping.steps
    first = call(reward, PROMPTS[:5], COMPLETIONS[:5])
    assert running.count_ == 5
    assert call(reward, PROMPTS[:5], COMPLETIONS[:5]) == pytest.approx(first, abs=1e-4)
    call(reward, PROMPTS, COMPLETIONS)
    assert running.count_ == 20  # 5 + 5 + 10: the saturation metric does not feed it again
    frozen = running.freeze().mean_
    call(reward, PROMPTS, COMPLETIONS)
    assert running.mean_ == frozen


def test_two_functions_share_no_statistics(model, tmp_path) -> None:
    """Nor with the model: what was seen in RL must not be saved with it."""
    own = Pipeline([RunningNormalise().fit([1.0, 3.0])])
    carrying = replace(model, shaping=own)
    one, two = RewardFunction(carrying, name="one"), RewardFunction(carrying, own, "two")
    call(one, PROMPTS, COMPLETIONS)
    assert [reward.judge.shaping.steps[0].count_ for reward in (one, two)] == [12, 2]
    assert own.steps[0].count_ == 2
    assert RewardModel.load(carrying.save(tmp_path / "rm"), LOAD).shaping == own == two.judge.shaping


def test_several_processes_with_a_running_normaliser_are_warned(model, monkeypatch, caplog) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    RewardFunction(model, RunningNormalise())
    assert "each process normalises by what it scored" in caplog.text
    caplog.clear()
    RewardFunction(model, RunningNormalise().fit([1.0, 2.0]).freeze())
    assert not caplog.text
    RewardFunction(model, "zscore")
    RewardFunction(model, "zscore, running")  # a wide scope hides no other
    assert [("batch" in one, "normalises" in one) for one in caplog.messages] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_references_are_numbers_or_responses_that_are_scored_once(model, monkeypatch) -> None:
    raw = expected(model, PROMPTS, COMPLETIONS)
    par = parse("par")
    reward = RewardFunction(model, "par", reference_column="ref")
    numbers = [0.5 * i for i in range(10)]
    assert call(reward, PROMPTS, COMPLETIONS, ref=numbers) == pytest.approx(
        par(raw, Context(reference=numbers)), abs=1e-4
    )
    asked = []
    ask = Scorer.ask
    monkeypatch.setattr(Scorer, "ask", lambda self, *item: asked.append(item) or ask(self, *item))
    two = expected(model, [PROMPTS[0], PROMPTS[5]], ["fine"] * 2)
    wanted = par(raw, Context(reference=[two[i // 5] for i in range(10)]))
    asked.clear()
    assert call(reward, PROMPTS, COMPLETIONS, ref=["fine"] * 10) == pytest.approx(wanted, abs=1e-4)
    assert len(asked) == 12  # ten completions, and one reference for each of two prompts
    assert call(reward, PROMPTS, COMPLETIONS, ref=[[assistant("fine")]] * 10) == pytest.approx(wanted, abs=1e-4)
    several = [["fine", 1.0]] * 10
    wanted = par(raw, Context(reference=[[two[i // 5], 1.0] for i in range(10)]))
    assert call(reward, PROMPTS, COMPLETIONS, ref=several) == pytest.approx(wanted, abs=1e-4)
    assert call(reward, PROMPTS, COMPLETIONS, ref=[None] * 9 + [0.0])[:9] == [None] * 9
    as_numpy = [np.float32(0.5), [np.float32(0.5), np.int64(1)]] * 5
    as_floats = [0.5, [0.5, 1.0]] * 5
    assert call(reward, PROMPTS, COMPLETIONS, ref=as_numpy) == call(reward, PROMPTS, COMPLETIONS, ref=as_floats)
    with pytest.raises(DataError, match=r"reference 1: is empty \(' '\)"):  # as score says it
        call(reward, PROMPTS[:2], COMPLETIONS[:2], ref=["fine", " "])
    refused = [
        [{"role": "user", "content": 7}],
        *PROMPTS[1:],
    ]  # nor can its reference: no mistake
    assert call(reward, refused, COMPLETIONS, ref=["fine"] * 10)[0] is None
    with pytest.raises(DataError, match=r"reference 1: is \{7\}"):
        call(reward, PROMPTS[:2], COMPLETIONS[:2], ref=[1.0, {7}])


def test_columns_that_a_shaping_needs_are_asked_for(model) -> None:
    with pytest.raises(UsageError, match="reference_column="):
        RewardFunction(model, "lsc")
    reward = RewardFunction(model, "lsc", reference_column="ref")
    with pytest.raises(UsageError, match="column 'ref', and the dataset has no such column, but answer"):
        call(reward, PROMPTS[:1], COMPLETIONS[:1], answer=["x"])
    summed = RewardFunction(model, "weighted_sum(weights={'safety': 2})")
    raw = expected(model, PROMPTS[:2], COMPLETIONS[:2])
    wanted = [raw[0] + 2, raw[1] - 6]
    assert call(summed, PROMPTS[:2], COMPLETIONS[:2], safety=[1, -3]) == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(UsageError, match="needs the disagreement of an ensemble"):
        RewardFunction(model, "uncertainty_penalty")


def test_disagreement_that_is_subtracted_twice_is_warned_of(ensemble, caplog) -> None:
    RewardFunction(ensemble, "uncertainty_penalty", aggregate="mean")
    RewardFunction(ensemble, "clip(low=-3)", aggregate="uncertainty")
    assert not caplog.text
    RewardFunction(ensemble, "uncertainty_penalty", aggregate="uncertainty")
    assert "the disagreement is subtracted twice" in caplog.text


@pytest.fixture
def ensemble(model) -> RewardModel:
    width = model.head.weight.shape[1]
    heads = Ensemble(torch.randn(3, width, generator=torch.Generator().manual_seed(1)), torch.zeros(3))
    return RewardModel(model.backbone, model.head, model.template, model.contract, ensemble=heads)


def test_disagreement_is_logged_and_can_be_penalised(ensemble) -> None:
    log = Log()
    rewards = call(RewardFunction(ensemble, "uncertainty_penalty(k=2)", name="r"), PROMPTS, COMPLETIONS, log)
    scored = Scorer(ensemble, aggregate="mean").score(PROMPTS, COMPLETIONS)  # not the main head
    spread = [one.disagreement for one in scored]
    assert log.columns["r/raw"] == pytest.approx([one.reward for one in scored], abs=1e-4)
    assert log.columns["r/disagreement"] == pytest.approx(spread, abs=1e-4)
    assert log.metrics["rewards/r/disagreement"] == pytest.approx(sum(spread) / 10, abs=1e-4)
    assert rewards == pytest.approx([one.reward - 2 * sd for one, sd in zip(scored, spread, strict=True)], abs=1e-3)
    again = pickle.loads(pickle.dumps(RewardFunction(ensemble, "uncertainty_penalty(k=2)")))
    assert call(again, PROMPTS, COMPLETIONS) == pytest.approx(rewards, abs=1e-4)
    scored = Scorer(ensemble).score(PROMPTS, COMPLETIONS)
    several = RewardFunction([ensemble, ensemble], aggregate="min")
    assert call(several, PROMPTS, COMPLETIONS) == pytest.approx([one.reward for one in scored], abs=1e-4)


def test_what_is_logged(model) -> None:
    log = Log()
    call(RewardFunction(model, "clip(low=0, high=3)", name="r"), PROMPTS, COMPLETIONS, log)
    raw = expected(model, PROMPTS, COMPLETIONS)
    assert set(log.columns) == {"r/raw", "r/shaped", "r/disagreement", "r/truncated"}
    assert log.columns["r/disagreement"] == [None] * 10
    assert log.columns["r/truncated"] == [False] * 10
    shaped = [min(max(value, 0.0), 3.0) for value in raw]
    metrics = {name.removeprefix("rewards/r/"): value for name, value in log.metrics.items()}
    assert metrics["raw_mean"] == pytest.approx(sum(raw) / 10, abs=1e-5)
    assert metrics["shaped_mean"] == pytest.approx(sum(shaped) / 10, abs=1e-5)
    cut = sum(value <= 0 or value >= 3 for value in raw) / 10
    assert 0 < cut < 1
    assert metrics["saturated"] == pytest.approx(cut)
    assert metrics["unscored"] == metrics["truncated"] == 0
    assert -1 <= metrics["length_correlation"] <= 1


def test_long_prompts_are_flagged(model) -> None:
    log = Log()
    call(RewardFunction(model, name="r"), ["fox " * 600, "fox"], ["dog"] * 2, log)
    assert log.columns["r/truncated"] == [True, False]
    assert log.metrics["rewards/r/truncated"] == 0.5


class Trainer:
    """What a function sees of TRL's trainer, by way of the bound ``log_metric``."""

    def __init__(self, **more) -> None:
        self.num_generations, self.num_generations_eval = 5, 2
        self.model, self.chat_template_kwargs, self.tools = SimpleNamespace(training=True), {}, []
        vars(self).update(more)

    def log_metric(self, name: str, value: float) -> None:
        pass


@pytest.mark.parametrize("shaping", ["group_zscore", "center(by='group'), clip(low=-1)", "center(by='group'), zscore"])
def test_part_of_a_group_is_refused(model, shaping) -> None:
    """TRL wants whole groups of all processes together: with one completion in each, all rewards would be 0."""
    reward, trainer = RewardFunction(model, shaping, "r"), Trainer()
    whole = reward(PROMPTS, COMPLETIONS, log_metric=trainer.log_metric)
    assert any(whole)
    reward(PROMPTS[:5] * 2, COMPLETIONS[:5] * 2, log_metric=trainer.log_metric)  # a prompt that comes twice
    for size in (1, 4, 9):
        with pytest.raises(UsageError, match=r"r: .* the 5 completions of a prompt .*steps_per_generation a multiple"):
            reward(PROMPTS[:size], COMPLETIONS[:size], log_metric=trainer.log_metric)
    trainer.model.training = False
    reward(PROMPTS[3:7], COMPLETIONS[3:7], log_metric=trainer.log_metric)
    with pytest.raises(UsageError, match=r"num_generations_eval.*per_device_eval_batch_size a multiple of 2"):
        reward(PROMPTS[:5], COMPLETIONS[:5], log_metric=trainer.log_metric)
    assert RewardFunction(model, shaping)(PROMPTS[:1], COMPLETIONS[:1]) == [0]  # by hand
    RewardFunction(model, "clip(low=-1)")(PROMPTS[:1], COMPLETIONS[:1], log_metric=trainer.log_metric)


def test_the_trainers_own_template_variables_and_tools(tmp_path) -> None:
    template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ mood | default('') }}" + tiny.CHATML
    model = with_random_head(RewardModel.from_base(tiny.save_base("llama", tmp_path / "base", template=template), LOAD))

    def add(a: int, b: int) -> int:
        """Adds.

        Args:
            a: one.
            b: two.
        """
        return a + b

    reward, scorer = RewardFunction(model), Scorer(model)
    for own, columns, variables in (
        ({"tools": [add], "chat_template_kwargs": {"mood": "glad"}}, {}, {"tools": [add], "kwargs": {"mood": "glad"}}),
        ({"chat_template_kwargs": {"mood": "glad"}}, {"chat_template_kwargs": [{"mood": "sad"}]}, {"mood": "sad"}),
        ({"tools": [add], "environment_factories": {"a": 1}}, {}, {}),  # each prompt has its own
        ({}, {}, {}),
    ):
        variables = {"kwargs": variables} if "mood" in variables else variables
        (got,) = reward(PROMPTS[:1], COMPLETIONS[:1], log_metric=Trainer(**own).log_metric, **columns)
        (wanted,) = scorer.score(PROMPTS[:1], COMPLETIONS[:1], variables)
        assert got == pytest.approx(wanted.reward, abs=1e-5)
    plain = scorer.score(PROMPTS[:1], COMPLETIONS[:1])[0].reward
    assert abs(scorer.score(PROMPTS[:1], COMPLETIONS[:1], {"tools": [add]})[0].reward - plain) > 1e-3


def test_a_running_normaliser_in_the_middle_of_a_run(model, caplog, tmp_path) -> None:
    def state(step: int) -> SimpleNamespace:
        return SimpleNamespace(global_step=step, is_world_process_zero=True)

    reward = RewardFunction(model, "running", "helpful")
    reward(PROMPTS, COMPLETIONS)  # by hand, before
    reward(PROMPTS, COMPLETIONS, trainer_state=state(7))
    assert "helpful: the run goes on at step 7, and its running normaliser begins anew" in caplog.text
    caplog.clear()
    reward(PROMPTS, COMPLETIONS, trainer_state=state(8))
    for fine in (RewardFunction(model, "running"), RewardFunction(model, "clip(low=-99)")):
        fine(PROMPTS, COMPLETIONS, trainer_state=state(0))
        fine(PROMPTS, COMPLETIONS, trainer_state=state(1))
    RewardFunction(model, "clip(low=-99)")(PROMPTS, COMPLETIONS, trainer_state=state(7))
    args = SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=None)
    (tmp_path / "checkpoint-8").mkdir()
    KeepShaping(reward).on_save(args, state(8), None)
    again = RewardFunction(model, "running", "helpful")
    KeepShaping(again).on_train_begin(args, state(8), None)
    again(PROMPTS, COMPLETIONS, trainer_state=state(8))
    assert again.judge.shaping.steps[0].count_ == 40
    assert not caplog.text
    KeepShaping(again).on_train_begin(args, state(9), None)
    assert "checkpoint-9/helpful.shaping.json: not there" in caplog.text
    other = RewardFunction(model, "running, clip(low=0)", "helpful")
    with pytest.raises(UsageError, match=r"that was kept is 'running', this one is 'running, clip\(low=0\.0\)'"):
        KeepShaping(other, resume_from=tmp_path / "checkpoint-8").on_train_begin(args, state(8), None)
    with pytest.raises(UsageError, match="give one or more reward functions of rewardsmith"):
        KeepShaping(len)  # type: ignore[arg-type]


def test_names(model, saved) -> None:
    plain, clipped = RewardFunction(saved, load=LOAD), RewardFunction(saved, "clip(low=0)", load=LOAD)
    assert [get_callable_name(one) for one in (plain, clipped)] == ["rm", "rm-Clip"]
    assert get_callable_name(RewardFunction(model, name="helpful")) == "helpful"
    assert not is_async_callable(plain)

    with pytest.raises(UsageError, match="two reward functions are called 'rm'"):
        plain(["p"], ["r"], log_metric=Trainer(reward_func_names=["rm", "rm"]).log_metric)


@pytest.mark.parametrize("in_memory", [True, False])
def test_it_can_be_pickled(model, saved, in_memory, tmp_path) -> None:
    reward = RewardFunction(
        model if in_memory else saved,
        RunningNormalise().fit([1.0, 3.0]),
        "helpful",
        load=LOAD,
        cache=tmp_path / "cache",
    )
    again = pickle.loads(pickle.dumps(reward))
    assert get_callable_name(again) == "helpful"
    assert again(PROMPTS, COMPLETIONS) == pytest.approx(reward(PROMPTS, COMPLETIONS), abs=1e-5)


def test_what_the_template_prefilled_can_be_put_back(model) -> None:
    reward = RewardFunction(model, prefill="<think>\n")
    whole = [[assistant("<think>\n6 * 7 = 42</think>42")]]
    cut = [[assistant("6 * 7 = 42</think>42")]]
    wanted = expected(model, [[user("6 * 7")]], whole)
    assert call(reward, [[user("6 * 7")]], cut) == pytest.approx(wanted, abs=1e-5)
    assert call(reward, [[user("6 * 7")]], whole) == pytest.approx(wanted, abs=1e-5)
    assert call(reward, ["6 * 7"], ["6 * 7 = 42</think>42"]) == pytest.approx(wanted, abs=1e-5)
    assert call(RewardFunction(model), [[user("6 * 7")]], cut) != pytest.approx(wanted, abs=1e-3)


# -- mistakes in calling, and names


@pytest.mark.parametrize(
    ("prompts", "completions", "says"),
    [
        (
            "p",
            "c",
            r"prompts is one text \('p'\), not a list; call it with lists.*reward\(\[prompt\], \[completion\]\)",
        ),
        (["p"], "c", "completions is one text"),
        ([user("p")], [[assistant("c")]], "prompts is one list of messages"),
        (["p"], None, "completions are missing; call it with lists"),
        (None, None, "prompts are missing"),
    ],
)
def test_calls_that_cannot_be(model, prompts, completions, says) -> None:
    with pytest.raises(UsageError, match=says):
        RewardFunction(model)(prompts, completions)


def test_what_is_missing_is_said_in_the_callers_words(model, caplog) -> None:
    reward = RewardFunction(model, "par", reference_column="ref")
    with pytest.raises(UsageError, match=r"called by hand: reward\(prompts, completions, ref=\[\.\.\.\]\)"):
        reward(["p"], ["c"])
    with pytest.raises(UsageError, match="the column 'ref' has one text for 1 completions"):
        reward(["p"], ["c"], ref="fine")
    with pytest.raises(UsageError, match="the column 'ref' has 2 entries for 1 completions"):
        reward(["p"], ["c"], ref=["fine", "well"])
    assert RewardFunction(model)(["p", "p"], ["c", None])[1] is None
    assert "it is None: there is nothing to score" in caplog.text


def test_the_name_is_the_folder_that_was_loaded(saved, model, tmp_path) -> None:
    assert RewardFunction(model).__name__ == RewardFunction(saved, load=LOAD).__name__ == saved.name == "rm"
    renamed = RewardModel.load(model.save(tmp_path / "helpful"), LOAD)
    assert renamed.as_reward_func(shaping="clip(high=1)").__name__ == "helpful-Clip"


def test_a_shaping_of_another_model_is_warned_of(model, ensemble, caplog) -> None:
    pipeline = parse("normalise").fit([0.0, 1.0], scored_by=Scorer(ensemble, aggregate="min").provenance())
    RewardFunction(ensemble, pipeline, aggregate="min")
    assert not caplog.text
    RewardFunction(ensemble, pipeline, aggregate="mean")
    assert "fitted to rewards of aggregate min, and these are of mean" in caplog.text
    RewardFunction(model, pipeline)
    assert "fitted to the rewards of another model" in caplog.text


def test_rewards_at_a_bound_are_warned_of_once(model, caplog) -> None:
    reward = RewardFunction(model, "clip(low=-0.001, high=0.001)", name="r")
    for _ in range(2):
        call(reward, PROMPTS, COMPLETIONS)
    assert [one for one in caplog.messages if "of 10 shaped rewards lie at a bound" in one] == caplog.messages[:1]
