"""The think-format reward, and templates that write the opening tag themselves."""

from __future__ import annotations

import pickle

import pytest
from trl.rewards import think_format_reward as theirs
from trl.trainer.utils import get_callable_name

from rewardsmith.errors import UsageError
from rewardsmith.integrations.trl import ThinkFormat, think_format_reward
from rewardsmith.thinking.tags import FAMILIES
from tests import tiny
from tests.integrations.conftest import PREFILLS, assistant, user

WHOLE = "<think>\n2 + 2 = 4\n</think>\n4"
CUT = "2 + 2 = 4\n</think>\n4"  # what is left when the template wrote the opening tag
BAD = {
    "no thinking": "4",
    "never closed": "<think>2 + 2 = 4",
    "closed twice": "<think>a</think>b</think>4",
    "opened twice": "<think>a<think>b</think>4",
    "opened again in the answer": "<think>a</think>4 <think>b",
    "nothing thought": "<think> \n</think>4",
    "nothing answered": "<think>2 + 2 = 4</think>\n ",
    "text in front": "Sure! <think>2 + 2 = 4</think>4",
    "empty": "",
}


def chat(*texts: str) -> list[list[dict[str, str]]]:
    return [[assistant(text)] for text in texts]


def test_trap_18_a_prefilled_tag_does_not_make_the_reward_always_zero() -> None:
    assert theirs(chat(CUT)) == [0.0]  # the trap
    tokenizer = tiny.chat_tokenizer(PREFILLS)
    check = ThinkFormat.of(tokenizer)
    assert check.prefilled is True
    assert check(prompts=[[user("2 + 2")]] * 2, completions=chat(CUT, "4"), completion_ids=[[1]] * 2) == [1.0, 0.0]
    assert think_format_reward(prompts=[[user("2 + 2")]], completions=chat(CUT), trainer_state=None) == [1.0]
    rendered = tokenizer.apply_chat_template([user("2 + 2")], tokenize=False, add_generation_prompt=True)
    assert think_format_reward(prompts=[rendered], completions=[CUT]) == [1.0]  # text prompts show it themselves


def test_where_the_tag_must_be_written_it_counts_that_it_is() -> None:
    check = ThinkFormat.of(tiny.chat_tokenizer())
    assert check.prefilled is False
    assert check(completions=chat(WHOLE, CUT)) == [1.0, 0.0]
    assert think_format_reward(prompts=["2 + 2 ="] * 2, completions=[WHOLE, CUT]) == [1.0, 0.0]
    assert ThinkFormat(prefilled=True)(completions=chat(WHOLE, CUT)) == [0.0, 1.0]  # opened twice


@pytest.mark.parametrize("what", BAD)
def test_malformed(what) -> None:
    assert think_format_reward(completions=[BAD[what], *chat(BAD[what])]) == [0.0, 0.0]
    assert ThinkFormat(prefilled=False)(completions=[BAD[what]]) == [0.0]
    cut = BAD[what].replace("<think>", "", 1)
    assert ThinkFormat(prefilled=True)(completions=[cut]) == [float(what == "text in front")]  # then it is thinking


@pytest.mark.parametrize("tags", FAMILIES.values(), ids=FAMILIES)
def test_a_perfect_response_of_every_family_is_perfect(tags) -> None:
    for opened in tags.opens:
        for closed in tags.closes:
            perfect = f"{opened}after some analysis 2 + 2 = 4{closed}4"
            assert ThinkFormat(tags=tags)(completions=[perfect, f"{perfect}{closed}4"]) == [1.0, 0.0]
            assert ThinkFormat(prefilled=False, tags=tags)(completions=[perfect]) == [1.0]
    for closed in tags.bare:
        assert ThinkFormat(prefilled=True, tags=tags)(completions=[f"2 + 2 = 4{closed}4"]) == [1.0]


def test_thinking_that_the_trainer_has_parsed_already() -> None:
    """With a response template TRL hands over the thinking beside the content, in which no tag is left."""
    parsed = [[{"role": "assistant", "reasoning_content": "2 + 2 = 4", "content": "4"}]]
    assert theirs(parsed) == [0.0]
    assert think_format_reward(completions=parsed) == [1.0]
    assert think_format_reward(completions=[[{**parsed[0][0], "content": ""}]]) == [0.0]
    assert think_format_reward(completions=[[]]) == [0.0]


def test_tags_of_another_family() -> None:
    template = tiny.CHATML + "{% if add_generation_prompt %}{{ '[THINK]' }}{% endif %}{# [/THINK] #}"
    check = ThinkFormat.of(tiny.chat_tokenizer(template))
    assert (check.tags, check.prefilled) == (FAMILIES["mistral"], True)
    assert check(completions=["2 + 2 = 4[/THINK]4", "2 + 2 = 4</think>4", "[THINK]a[/THINK]4"]) == [1.0, 0.0, 0.0]


def test_name_and_pickling() -> None:
    assert get_callable_name(think_format_reward) == "think_format_reward"
    assert pickle.loads(pickle.dumps(ThinkFormat(prefilled=True))) == ThinkFormat(prefilled=True)
    with pytest.raises(UsageError, match="has no chat template"):
        ThinkFormat.of(tiny.chat_tokenizer(None))
