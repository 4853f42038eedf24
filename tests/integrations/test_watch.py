"""RewardWatch: what it warns of, what it does not, and what it keeps."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rewardsmith.errors import DataError, FileError, MissingExtraError, UsageError
from rewardsmith.integrations import held_out
from rewardsmith.integrations.held_out import HeldOut
from rewardsmith.integrations.history import draw, gap_of, read_history
from rewardsmith.integrations.trend import trend
from rewardsmith.integrations.trl import RewardFunction
from rewardsmith.integrations.watch import RewardWatch
from rewardsmith.scoring.scorer import Scorer

NOISE = np.random.default_rng(0).normal(size=(3, 400))


def logs(proxy: float, held_out: float, length: float = 100.0, **more: Any) -> dict[str, Any]:
    """A record as TRL logs it."""
    return {
        "loss": 0.0,
        "reward": proxy,
        "rewards/proxy/mean": proxy,
        "rewards/proxy/std": 2.0,
        "rewards/gold/mean": held_out,
        "rewards/gold/std": 0.5,
        "completions/mean_length": length,
        "kl": 0.01,
        **more,
    }


def feed(watch: RewardWatch, records: Any, start: int = 1) -> SimpleNamespace:
    """A run's logs, one record a step."""
    state = SimpleNamespace(global_step=0, is_world_process_zero=True, log_history=[])
    control = SimpleNamespace(should_training_stop=False)
    args = SimpleNamespace(fsdp=None)
    watch.on_train_begin(args, state, control)
    for step, record in enumerate(records, start):
        state.global_step = step
        watch.on_log(args, state, control, logs=record)
    return control


def run(proxy: float = 0.0, held_out: float = 0.0, length: float = 0.0, steps: int = 60) -> list[dict[str, Any]]:
    """Series that change by so much a step, with noise of 0.1, 0.1 and 3 tokens."""
    return [
        logs(
            proxy * i + 0.1 * NOISE[0, i],
            held_out * i + 0.1 * NOISE[1, i],
            100 + length * i + 3 * NOISE[2, i],
        )
        for i in range(steps)
    ]


def test_it_warns_when_the_reward_rises_and_the_held_out_one_falls(caplog) -> None:
    watch = RewardWatch("proxy", "gold")
    with caplog.at_level(logging.WARNING, logger="rewardsmith"):
        control = feed(watch, run(proxy=0.05, held_out=-0.03))
    first = watch.alarms[0]
    assert first.kind == "hacking"
    assert 20 <= first.step <= 30
    assert f"step {first.step}: reward hacking? from step {first.step - 19} to {first.step}" in caplog.text
    assert "the reward 'proxy' rises" in caplog.text
    assert first.trends["proxy"].slope == pytest.approx(0.05, abs=0.02)
    assert first.trends["held_out"].slope == pytest.approx(-0.03, abs=0.02)
    assert len(watch.alarms) <= 3  # once in a window
    assert all(later.step - one.step >= 20 for one, later in itertools.pairwise(watch.alarms))
    assert not control.should_training_stop
    assert feed(RewardWatch("proxy", "gold", stop=True), run(proxy=0.05, held_out=-0.03)).should_training_stop


@pytest.mark.parametrize(("proxy", "held_out"), [(0.05, 0.02), (0.05, 0.0), (-0.05, -0.03), (0.0, -0.03), (0.0, 0.0)])
def test_it_is_silent_when_they_do_not_part(proxy, held_out) -> None:
    watch = RewardWatch("proxy", "gold")
    feed(watch, run(proxy, held_out))
    assert watch.alarms == []


def test_it_warns_when_length_runs_away(caplog) -> None:
    watch = RewardWatch("proxy")
    feed(watch, run(length=3.0))
    assert {alarm.kind for alarm in watch.alarms} == {"length"}
    assert "length runs away" in caplog.text
    step = watch.alarms[0].step
    assert step >= 25
    assert watch.alarms[0].trends["length"].end >= 150
    for quiet in (run(length=0.5), run(length=-1.0), [logs(0, 0, 100 if i < 20 else 400) for i in range(200)][-100:]):
        calm = RewardWatch("proxy")
        feed(calm, quiet)
        assert calm.alarms == []


def test_chance_seldom_warns() -> None:
    """Reward and held-out reward wander without a trend, neighbours correlated by 0.8, as in a run."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(25):
        noise = rng.normal(size=(2, 60))
        for i in range(1, 60):
            noise[:, i] += 0.8 * noise[:, i - 1]
        watch = RewardWatch("proxy", "gold")
        feed(watch, [logs(*pair) for pair in noise.T])
        alarms += bool(watch.alarms)
    assert alarms <= 2


def test_trend_is_least_squares_with_a_standard_error() -> None:
    steps = np.arange(0, 400, 2.0)
    values = 3 + 0.01 * steps + NOISE[0, :200]
    found = trend(steps, values)
    slope, line = np.polyfit(steps, values, 1)
    assert found.slope == pytest.approx(slope)
    assert (found.start, found.end) == pytest.approx((line, line + slope * 398))
    plain = np.std(values - np.polyval([slope, line], steps)) / (np.std(steps) * np.sqrt(198))
    assert found.se == pytest.approx(plain, rel=0.15)  # residuals are independent here
    smooth = np.convolve(NOISE[0], np.ones(8) / 8, mode="valid")[:200]
    independent = np.std(smooth) / (np.std(steps) * np.sqrt(198))
    assert trend(steps, smooth).se > 2 * independent
    assert trend(steps[:4], values[:4]) is None
    assert trend([1] * 9, range(9)) is None
    flat = trend(range(9), [0.1] * 9)
    assert (flat.slope, flat.se) == (0, 0) and not flat.rises(1) and not flat.falls(1)


def test_the_gap_is_in_standard_deviations_of_the_start() -> None:
    watch = RewardWatch("proxy", "gold")
    feed(watch, [logs(1.0, 5.0), logs(3.0, 5.25), logs(5.0, 4.5, **{"rewards/proxy/std": 99.0})])
    assert [record["gap"] for record in watch.history] == pytest.approx([0, 1 - 0.5, 2 + 1])
    assert gap_of([{"step": 1, "proxy": 1.0}]) is None


def test_raw_means_are_preferred_and_nones_left_out() -> None:
    watch = RewardWatch("proxy", "gold")
    more = {"rewards/proxy/raw_mean": 7.0, "rewards/proxy/raw_std": 3.0, "rewards/proxy/disagreement": 0.3, "kl": None}
    feed(watch, [{"train_runtime": 1.0}, logs(0.0, 1.0, **more), {"eval_reward": 1.0}])
    record = {"step": 2, "proxy": 7.0, "proxy_std": 3.0, "held_out": 1.0, "held_out_std": 0.5, "gap": 0.0}
    assert watch.history == [{**record, "length": 100.0, "disagreement": 0.3}]


def test_wrong_names_and_values_are_refused() -> None:
    with pytest.raises(UsageError, match="no reward function is called 'gild'; the trainer has gold, proxy"):
        feed(RewardWatch("proxy", "gild"), run(steps=1))
    with pytest.raises(UsageError, match="window 4"):
        RewardWatch("proxy", window=4)
    with pytest.raises(UsageError, match="growth 1"):
        RewardWatch("proxy", growth=1)
    with pytest.raises(UsageError, match="neither the name"):
        RewardWatch(7)
    held = HeldOut(len, len, [{"prompt": "x"}])  # type: ignore[arg-type]
    split = SimpleNamespace(fsdp="full_shard")
    with pytest.raises(UsageError, match="evaluation=True"):
        RewardWatch("proxy", held).on_train_begin(split, SimpleNamespace(log_history=[]), None)
    for rows, every in (([], 1), ([{"question": "x"}], 1), ([{"prompt": "x"}], 0)):
        with pytest.raises(UsageError):
            HeldOut(len, len, rows, every=every)  # type: ignore[arg-type]


def test_a_resumed_run_goes_on_with_its_history(tmp_path) -> None:
    file = tmp_path / "watch.jsonl"
    whole = RewardWatch("proxy", "gold", path=file)
    feed(whole, run(steps=8))
    written = file.read_text()
    assert read_history(file) == whole.history
    again = RewardWatch("proxy", "gold", path=file)
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    state.log_history = [{**record, "step": i} for i, record in enumerate(run(steps=5), 1)]  # of its checkpoint
    again.on_train_begin(SimpleNamespace(fsdp=None), state, None)
    for step, record in enumerate(run(steps=8)[5:], 6):
        state.global_step = step
        again.on_log(None, state, SimpleNamespace(), logs=record)
    assert again.history == whole.history
    assert file.read_text() == written


def test_a_resumed_run_keeps_what_only_its_file_holds(tmp_path) -> None:
    """The trainer's log never had what HeldOut generated; and steps after the checkpoint are run again."""
    file = tmp_path / "watch.jsonl"
    held = HeldOut(len, len, [{"prompt": "x"}], every=2)  # type: ignore[arg-type]
    whole = RewardWatch("proxy", held, path=file)
    _generating(whole, held, range(1, 9))
    assert [("held_out" in record) for record in whole.history] == [False, True] * 4
    again = RewardWatch("proxy", held, path=file)
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    state.log_history = [{**record, "step": i} for i, record in enumerate(run(steps=5), 1)]
    again.on_train_begin(SimpleNamespace(fsdp=None), state, None)
    assert again.history == whole.history[:5] == read_history(file)
    _generating(again, held, range(6, 9), state)
    assert again.history == whole.history == read_history(file)
    state.log_history, state.global_step = [], 0  # a run that begins anew begins its file anew
    again.on_train_begin(SimpleNamespace(fsdp=None), state, None)
    assert again.history == read_history(file) == []


def _generating(watch: RewardWatch, held: HeldOut, steps: Any, state: Any = None, log_every: int = 1) -> None:
    """Steps of a run in which each evaluation finds the step's number."""
    args, control = SimpleNamespace(fsdp=None), SimpleNamespace()
    if state is None:
        state = SimpleNamespace(global_step=0, is_world_process_zero=True, log_history=[])
        watch.on_train_begin(args, state, control)
    records = run(steps=20)
    for step in steps:
        state.global_step = step
        held.__class__ = type("Found", (HeldOut,), {"__call__": lambda *_, at=step: {"proxy": at, "held_out": -at}})
        watch.on_step_end(args, state, control, model=None, processing_class=None)
        if step % log_every == 0:
            watch.on_log(args, state, control, logs=records[step - 1])


def test_no_evaluation_is_lost_between_two_records(tmp_path) -> None:
    """Logged every four steps, generated every step: all are in the history, each at its own step."""
    held = HeldOut(len, len, [{"prompt": "x"}], every=1)  # type: ignore[arg-type]
    watch = RewardWatch("proxy", held, path=tmp_path / "watch.jsonl")
    _generating(watch, held, range(1, 9), log_every=4)
    assert [(record["step"], record["proxy"]) for record in watch.history] == [(i, i) for i in range(1, 9)]
    assert ["kl" in record for record in watch.history] == [False, False, False, True] * 2
    assert read_history(tmp_path / "watch.jsonl") == watch.history


def test_held_out_functions_are_called_as_the_trainer_calls_them() -> None:
    asked: list[Any] = []

    async def judge(prompts: Any, completions: Any, completion_ids: Any, answer: Any, **more: Any) -> list[float]:
        asked.append(completion_ids)
        return [1.0, None]  # type: ignore[list-item]

    class Judge:
        async def __call__(self, prompts: Any, completions: Any, **more: Any) -> list[float]:
            return [2.0, 4.0]

    held = HeldOut(judge, Judge(), [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}])
    held._generate = lambda model, tokenizer, rows: (["x", "y"], [[1, 2], [3]])  # type: ignore[method-assign]
    found = held(None, None)
    assert (found["proxy"], found["held_out"]) == (1.0, 3.0)
    assert asked == [[[1, 2], [3]]]


def test_files_of_histories(tmp_path) -> None:
    file = tmp_path / "watch.jsonl"
    watch = RewardWatch("proxy", "gold")
    feed(watch, run(steps=3))
    watch.save(file)
    file.write_text(file.read_text() + '{"step": 4, "pro')  # a killed run
    assert read_history(file) == watch.history
    file.write_text('{"step": "x"}\n' + json.dumps({"step": 1}) + "\n")
    with pytest.raises(DataError, match=r"watch.jsonl:1: not a record of numbers"):
        read_history(file)
    with pytest.raises(FileError, match="cannot be read"):
        read_history(tmp_path / "none")
    with pytest.raises(FileError, match="cannot be written"):
        watch.save(tmp_path / "no" / "where")


def test_it_is_drawn(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    watch = RewardWatch("proxy", "gold")
    feed(watch, run(proxy=0.05, held_out=-0.03))
    figure = watch.plot(tmp_path / "watch.png")
    assert (tmp_path / "watch.png").stat().st_size > 10_000
    assert [axis.get_ylabel() for axis in figure.axes] == ["proxy", "held out", "gap", "kl", "length"]
    assert len(figure.axes[0].lines) == 1 + len(watch.alarms)
    assert draw([]).axes
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"rewardsmith\[plot\]"):
        watch.plot()


def test_held_out_prompts_are_judged_by_the_raw_reward(model) -> None:
    """One response a prompt: a shape over groups would make every one 0, and the watch blind."""
    shaped = RewardFunction(model, "group_zscore", name="shaped")
    prompts, completions = ["what is", "who is", "fox"], ["fox dog", "dog", "42 42"]
    assert shaped(prompts=prompts, completions=completions) == [0, 0, 0]
    wanted = Scorer(model).score(prompts, completions)
    found = held_out._raw(shaped, prompts=prompts, completions=completions)
    assert found == pytest.approx([one.reward for one in wanted], abs=1e-4)
    other = held_out._raw(lambda prompts, **_: [1.0] * len(prompts), prompts=prompts, completions=completions)
    assert other == [1.0] * 3  # another's function gives what it gives


def test_held_out_prompts_are_rendered_with_tools_and_variables() -> None:
    """As the trainer renders them; and a column that only a later row has is handed over."""
    from tests import tiny

    template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ mood | default('') }}" + tiny.CHATML
    tokenizer = tiny.chat_tokenizer(template)
    chat, tools = [{"role": "user", "content": "fox"}], [{"type": "function", "function": {"name": "add"}}]
    rows = [
        {"prompt": chat},
        {"prompt": chat, "tools": tools, "chat_template_kwargs": {"mood": "glad"}, "answer": 42},
        {"prompt": "plain text", "tools": None},
    ]
    texts = [tokenizer.decode(held_out._prompt_ids(tokenizer, row)) for row in rows]
    bare = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert texts[0] == bare and texts[2] == "plain text"
    assert texts[1] == tokenizer.apply_chat_template(
        chat, tools=tools, mood="glad", tokenize=False, add_generation_prompt=True
    )
    assert texts[1] != bare
    seen: dict[str, Any] = {}

    def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(prompts)

    held = HeldOut(reward, reward, rows)
    held._generate = lambda model, tokenizer, rows: (["x"] * 3, [[1]] * 3)  # type: ignore[method-assign]
    held(None, tokenizer)
    assert seen["answer"] == [None, 42, None] and seen["tools"] == [None, tools, None]
    assert seen["chat_template_kwargs"] == [None, {"mood": "glad"}, None]


def test_held_out_prompts_are_rendered_with_what_the_trainer_gives_the_template(model) -> None:
    """GRPOConfig(chat_template_kwargs=...) reached the rollouts, and not the held-out prompts beside them."""
    from trl import GRPOConfig

    from tests import tiny

    # JSON text, as on a command line.
    args = GRPOConfig("unused", chat_template_kwargs='{"mood": "sad"}', report_to=[], bf16=False)
    tokenizer = tiny.chat_tokenizer("{{ mood | default('') }}" + tiny.CHATML)
    chat = [{"role": "user", "content": "fox"}]
    rows = [{"prompt": chat}, {"prompt": chat, "chat_template_kwargs": {"mood": "glad"}}]
    seen: dict[str, Any] = {}

    def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(prompts)

    held = HeldOut(reward, reward, rows, every=1)

    def generate(policy: Any, tokenizer: Any, rows: Any) -> Any:
        seen["texts"] = [tokenizer.decode(held_out._prompt_ids(tokenizer, row)) for row in rows]
        return ["x"] * 2, [[1]] * 2

    held._generate = generate  # type: ignore[method-assign]
    watch = RewardWatch("proxy", held)
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    watch.on_step_end(args, state, None, model=None, processing_class=tokenizer)
    assert [text[: text.index("<")] for text in seen["texts"]] == ["sad", "glad"]
    assert seen["chat_template_kwargs"] == [{"mood": "sad"}, {"mood": "glad"}]
    watch.on_step_end(SimpleNamespace(), state, None, model=None, processing_class=tokenizer)
    assert seen["texts"][0].startswith("<") and seen["chat_template_kwargs"] == [None, {"mood": "glad"}]
