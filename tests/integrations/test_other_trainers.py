"""OpenRLHF, verl and slime: called as they call, each gives what the scorer gives."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from rewardsmith.errors import DataError, TemplateError, UsageError
from rewardsmith.integrations import openrlhf, single, slime, verl
from rewardsmith.integrations.combiner import Combiner
from rewardsmith.integrations.policy_text import PolicyText
from rewardsmith.integrations.single import OneByOne
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.shaping import Pipeline, RunningNormalise
from tests import tiny
from tests.integrations.conftest import LOAD, OTHER, PREFILLS, assistant, other_tokenizer, user

TALK = [user("how are you?"), assistant("fine, thank you"), user("what is 15 + 27")]
ANSWERS = ["42", "the quick brown fox", ""]


@pytest.fixture(autouse=True)
def environment(saved, policy, monkeypatch) -> None:
    monkeypatch.setattr(single, "_from_environment", [])
    for name in ("SHAPING", "UNSCORABLE"):
        monkeypatch.delenv(f"REWARDSMITH_{name}", raising=False)
    monkeypatch.setenv("REWARDSMITH_MODEL", str(saved))
    monkeypatch.setenv("REWARDSMITH_POLICY", str(policy))
    monkeypatch.setenv("REWARDSMITH_DEVICE", "cpu")


@pytest.fixture
def wanted(model) -> list[float]:
    return [one.reward for one in Scorer(model).score([TALK] * 3, [[assistant(text)] for text in ANSWERS])]


def rollout(prompt: str) -> list[str]:
    """The query of each answer: as decoded with special tokens, the policy's end token and padding among them."""
    ends = ["<end_of_turn>", "<end_of_turn><pad><pad>", ""]
    return [prompt + answer + end for answer, end in zip(ANSWERS, ends, strict=True)]


def rendered(messages: Any = TALK, tokenizer: Any = None) -> str:
    tokenizer = tokenizer or other_tokenizer()
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("shaping", "grouped", "says"),
    [
        ("group_zscore", False, "works on a group"),
        ("zscore, running", False, "works on a batch"),  # a wide scope hides no other
        ("center(by='group'), zscore", True, "works on a batch"),
        ("running", False, "order in which responses arrive"),
        ("group_zscore, running", True, "order in which responses arrive"),
    ],
)
def test_shapes_that_need_more_than_a_response(model, shaping, grouped, says) -> None:
    with pytest.raises(UsageError, match=says):
        OneByOne(model, shaping=shaping, grouped=grouped)


def test_shapes_that_need_no_more(model) -> None:
    OneByOne(model, shaping=Pipeline([RunningNormalise().fit([1.0, 2.0]).freeze()]))
    OneByOne(model, shaping="group_zscore", grouped=True)


# -- OpenRLHF


def test_openrlhf_file(wanted) -> None:
    spec = importlib.util.spec_from_file_location("reward_func", openrlhf.__file__)
    module = importlib.util.module_from_spec(spec)  # as OpenRLHF loads the file
    spec.loader.exec_module(module)
    prompt = rendered()
    for query, reward in zip(rollout(prompt), wanted, strict=True):
        found = module.reward_func([query], [prompt], [None])  # one sample a call, positionally
        assert found["rewards"] == pytest.approx([reward], abs=1e-5)
        assert found["scores"] == found["rewards"] == found["extra_logs"]["raw"]
        assert found["extra_logs"]["truncated"] == [0.0]
        json.dumps(found)
    found = module.reward_func(rollout(prompt), [prompt] * 3, ["a", "b", "c"])
    assert found["rewards"] == pytest.approx(wanted, abs=1e-5)
    assert module.reward_func([], [], []) == {"rewards": [], "scores": [], "extra_logs": {}}


def test_openrlhf_takes_messages_from_the_label(wanted, monkeypatch) -> None:
    """Then it does not matter which template made the prompt."""
    prompt = "<|weird|>" + rendered()
    for label in (TALK, json.dumps(TALK)):
        found = openrlhf.reward_func(rollout(prompt), [prompt] * 3, [label] * 3)
        assert found["rewards"] == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(TemplateError, match=r"been through a chat template.*'<\|weird\|>'.*name the policy's"):
        openrlhf.reward_func(rollout(prompt), [prompt] * 3, ["[1, 2]"] * 3)


def test_openrlhf_text_prompts_and_prompts_that_were_cut(model) -> None:
    found = openrlhf.reward_func(["what is 2?two<end_of_turn>"], ["what is 2?"], [None])
    assert found["rewards"] == pytest.approx([model.score("what is 2?", "two")], abs=1e-5)
    with pytest.raises(DataError, match="does not begin with its prompt"):
        openrlhf.reward_func(["is 2?two"], ["what is 2?"], [None])


def test_openrlhf_shaped(saved, policy, wanted) -> None:
    reward_func = openrlhf.make_reward_func(saved, shaping="clip(low=-1, high=1)", policy=policy, load=LOAD)
    assert list(inspect.signature(reward_func).parameters)[:3] == ["queries", "prompts", "labels"]
    found = reward_func(rollout(rendered()), [rendered()] * 3, [None] * 3)
    assert found["rewards"] == pytest.approx([min(max(one, -1), 1) for one in wanted], abs=1e-5)
    assert found["scores"] == pytest.approx(wanted, abs=1e-5)


# -- verl


def test_verl(wanted) -> None:
    """By keyword, from a pool of threads, with arrays where Parquet had lists, and arguments it may add."""
    extra = {"messages": np.array(TALK, dtype=object), "index": 3, "num_turns": 2}

    def ask(answer: str) -> dict[str, float]:
        return verl.compute_score(
            data_source="d", solution_str=answer, ground_truth="42", extra_info=extra, reward_router_address=None
        )

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, ANSWERS))
    assert [one["score"] for one in found] == pytest.approx(wanted, abs=1e-5)
    assert all(isinstance(value, float) for one in found for value in one.values())
    assert set(found[0]) == {"score", "raw", "truncated"}
    with pytest.raises(DataError, match=r"extra_info: has no prompt; it has index.*'messages'"):
        verl.compute_score("d", "42", "42", {"index": 1})
    with pytest.raises(DataError, match="has nothing"):
        verl.compute_score("d", "42", "42", None)


def test_verl_shaped(saved, wanted) -> None:
    compute_score = verl.make_compute_score(saved, shaping="clip(high=0)", load=LOAD)
    found = compute_score("d", ANSWERS[0], None, {"prompt": TALK})
    assert found["score"] == pytest.approx(min(wanted[0], 0), abs=1e-5)
    assert found["raw"] == pytest.approx(wanted[0], abs=1e-5)


# -- slime


@dataclass
class Sample:
    """The fields of slime's Sample that a reward may read."""

    prompt: Any
    response: str
    label: str | None = None
    metadata: dict = field(default_factory=dict)


def test_slime(wanted) -> None:
    samples = [Sample(rendered(), query.removeprefix(rendered())) for query in rollout(rendered())]

    async def gather() -> list[Any]:
        return await asyncio.gather(*(slime.reward(None, sample, evaluation=False) for sample in samples))

    assert asyncio.run(gather()) == pytest.approx(wanted, abs=1e-5)
    assert asyncio.run(slime.reward(None, samples)) == pytest.approx(wanted, abs=1e-5)  # --group-rm
    assert asyncio.run(slime.reward(None, Sample(TALK, "42<end_of_turn>"))) == pytest.approx(wanted[0], abs=1e-5)
    given = Sample("<|other|>prompt", "42", metadata={"messages": TALK})
    assert asyncio.run(slime.reward(None, given)) == pytest.approx(wanted[0], abs=1e-5)


def test_slime_shapes_of_a_group(saved, wanted) -> None:
    reward = slime.make_reward(saved, shaping="group_zscore", load=LOAD, grouped=True)
    assert inspect.iscoroutinefunction(reward)
    found = asyncio.run(reward(None, [Sample(TALK, answer) for answer in ANSWERS]))
    spread = np.std(wanted)
    assert found == pytest.approx([(one - np.mean(wanted)) / spread for one in wanted], abs=1e-4)


def test_slime_leaves_the_event_loop_free(saved) -> None:
    """While one pass runs, further samples arrive and share the next."""
    judge, passes, gate = OneByOne(saved, load=LOAD), [], threading.Event()

    def slow(rows: Any) -> Any:
        passes.append(len(rows))
        assert gate.wait(10)
        return judge.judge(rows)

    judge._ask = Combiner(slow)

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(slime._reward(judge, Sample("q", f"answer {i}"))) for i in range(5)]
        while not passes:
            await asyncio.sleep(0.001)
        while len(judge._ask._waiting) < 4:  # the loop turns: the others have come
            await asyncio.sleep(0.001)
        gate.set()
        return await asyncio.gather(*tasks)

    found = asyncio.run(run())
    assert passes == [1, 4]
    assert found == pytest.approx([judge.one("q", f"answer {i}")["score"] for i in range(5)], abs=1e-5)


# -- what they share


def test_the_environment_decides(monkeypatch, saved) -> None:
    monkeypatch.setenv("REWARDSMITH_SHAPING", "clip(low=100)")
    monkeypatch.setenv("REWARDSMITH_UNSCORABLE", "-7.5")
    judge = OneByOne.from_environment()
    assert judge.one(TALK, "42")["score"] == 100
    refused = judge.one([{"role": "user", "content": 7}], "42")
    assert refused == {"score": -7.5, "raw": -7.5, "truncated": 0.0}, "trainers make columns: every row has every name"
    assert refused.keys() == judge.one(TALK, "42").keys()
    monkeypatch.setenv("REWARDSMITH_SHAPING", "none")
    assert OneByOne.from_environment().judge.shaping is None
    monkeypatch.setenv("REWARDSMITH_MODEL", f"{saved}, {saved}")
    assert OneByOne.from_environment().one(TALK, "42")["disagreement"] == pytest.approx(0, abs=1e-6)
    monkeypatch.setenv("REWARDSMITH_UNSCORABLE", "low")
    with pytest.raises(UsageError, match="REWARDSMITH_UNSCORABLE is 'low'"):
        OneByOne.from_environment()
    monkeypatch.delenv("REWARDSMITH_MODEL")
    with pytest.raises(UsageError, match="REWARDSMITH_MODEL is not set"):
        verl.compute_score("d", "42", "42", {"prompt": "x"})


def test_what_these_trainers_cannot_do_is_refused(saved) -> None:
    with pytest.raises(UsageError, match="works on a group, which this trainer does not hand over"):
        OneByOne(saved, shaping="group_zscore", load=LOAD)
    with pytest.raises(UsageError, match="works on a batch"):
        OneByOne(saved, shaping="zscore", load=LOAD, grouped=True)
    with pytest.raises(UsageError, match="compares with a reference"):
        OneByOne(saved, shaping="par", load=LOAD)
    with pytest.raises(DataError, match=r"messages\[0\]|prompt.*REWARDSMITH_UNSCORABLE"):
        OneByOne(saved, load=LOAD).one([{"role": "user", "content": 7}], "42")


def test_an_error_of_a_pass_reaches_all_in_it() -> None:
    def fail(items: Any) -> Any:
        raise ValueError("no")

    asked = Combiner(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            asked(1)
    assert Combiner(lambda items: [item + 1 for item in items])(1) == 2


TALKS = [
    [user("hello")],
    TALK,
    [{"role": "system", "content": "be kind"}, *TALK],
    [user("two\n\nparagraphs, <b>marked</b> and [INSTRUCTED]")],
]


@pytest.mark.parametrize("template", [tiny.CHATML, tiny.WITH_BOS, PREFILLS, OTHER])
@pytest.mark.parametrize("talk", TALKS)
def test_rendered_prompts_are_turned_back(template, talk) -> None:
    tokenizer = other_tokenizer() if template == OTHER else tiny.chat_tokenizer(template)
    if template == OTHER and talk[0]["role"] == "system":
        pytest.skip("that template has no system turn")
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert PolicyText(tokenizer).prompt(text) == talk


def test_a_default_system_turn_is_left_to_the_template() -> None:
    """As Qwen 2.5 writes one when there is none."""
    default = (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    )
    tokenizer = tiny.chat_tokenizer(default + tiny.CHATML)
    text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert "You are helpful" in text
    assert PolicyText(tokenizer).prompt(text) == TALK


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nhello<|im_end|>\n",  # no generation prompt
        "<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n",
        "[INST] hello [/INST]",
        "<s>hello",
        "<start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\n",
    ],
)
def test_prompts_of_another_template_are_refused(text) -> None:
    with pytest.raises(TemplateError, match="been through a chat template"):
        PolicyText(tiny.chat_tokenizer()).prompt(text)


def test_what_cannot_be_rendered_again_is_refused() -> None:
    """A turn that the marks do not show, and a text that the template would not have written so."""
    tool = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(TemplateError, match="been through a chat template"):
        PolicyText(tiny.chat_tokenizer()).prompt(tool)
    untrimmed = "<bos><start_of_turn>user\n hello <end_of_turn>\n<start_of_turn>model\n"
    with pytest.raises(TemplateError, match="been through a chat template"):
        PolicyText(other_tokenizer()).prompt(untrimmed)


def test_plain_prompts_are_left_as_they_are() -> None:
    for text in ("hello", "", "a < b and [1, 2] | c", "User: hi\nAssistant:"):
        assert PolicyText(tiny.chat_tokenizer()).prompt(text) == text
    assert PolicyText(tiny.chat_tokenizer(None)).prompt("hello") == "hello"


def test_special_tokens_are_taken_off_the_end_alone() -> None:
    text = PolicyText(tiny.chat_tokenizer())
    assert text.response("42<|im_end|>\n<|endoftext|>") == "42"
    assert text.response("4<|im_end|>2\n") == "4<|im_end|>2\n"
    assert text.response("42 \n") == "42 \n"
    assert text.response("<|im_end|>") == ""
