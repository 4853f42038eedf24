"""A reward taken apart: every number is the one that scoring the text alone would give, and they add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rewardsmith.encoding.kept_thinking import keep_thinking
from rewardsmith.errors import ModelError, TemplateError, UsageError
from rewardsmith.model.backbone import Backbone
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.load import LoadOptions
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.steps import Curve, split_steps
from rewardsmith.model.thinking_scores import ThinkingScore, score_thinking
from rewardsmith.thinking import custom_tags, split_thinking
from rewardsmith.types import Message, ScoredResponse
from tests import tiny
from tests.conftest import with_random_head
from tests.encoding.test_kept_thinking import DEEPSEEK_LIKE, FIELDS, PREFILLS, QWEN_LIKE

LOAD = LoadOptions(dtype="float32", device="cpu")
PROMPT = "What is 15 + 27?"
THOUGHT = "15 + 20 = 35.\nThen 35 + 7 = 42 🙂"
RESPONSE = f"<think>\n{THOUGHT}\n</think>\n\nThe answer is 42."
HARMONY = (
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>The answer is 42."
)
RELAXED = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CLOSE = {"abs": 1e-4, "rel": 1e-4}


def cut_at(model: RewardModel, prompt: str, response: str, ids: int) -> float:
    """The slow way: the first ``ids`` tokens of the sequence through the whole network, alone."""
    rendered = model.template.render(prompt, response)
    sequence = torch.tensor([rendered.ids[:ids]])
    with torch.inference_mode():
        states = model.backbone.body(input_ids=sequence).last_hidden_state[0].float()
        own = states[-1] if model.backbone.pooling == "last" else states[rendered.response_start :].mean(0)
        return model.rewards(own[None]).item()


def tokens_until(model: RewardModel, prompt: str, response: str, end: int) -> int:
    """Tokens up to and with the one that holds the last character of ``response[:end]``, found by decoding."""
    rendered = model.template.render(prompt, response)
    tokenizer = model.template.tokenizer
    behind = len(response) - end
    for count in range(rendered.response_start, len(rendered.ids) + 1):
        rest = tokenizer.decode(rendered.ids[count:])
        rest = rest.split("<|im_end|>")[0]
        if "�" not in rest and len(rest) <= behind:
            return count
    raise AssertionError


def with_template(bases, tmp_path, template: str, **options) -> RewardModel:
    base = tiny.save_base("llama", tmp_path / "base", template=template)
    model = RewardModel.from_base(base, LOAD, **options)
    if template is not None:
        keep_thinking(model.template.tokenizer)
    return with_random_head(model)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_every_reward_is_the_one_of_the_text_alone(models, family, pooling) -> None:
    model = replace(models[family], backbone=replace(models[family].backbone, pooling=pooling))
    found = model.score_thinking(PROMPT, RESPONSE)
    assert found.overall == pytest.approx(model.score(PROMPT, RESPONSE), **CLOSE)
    assert found.answer_alone == pytest.approx(model.score(PROMPT, "The answer is 42."), **CLOSE)
    closing = RESPONSE.index("</think>") + len("</think>")
    count = tokens_until(model, PROMPT, RESPONSE, closing)
    assert found.thinking == pytest.approx(cut_at(model, PROMPT, RESPONSE, count), **CLOSE)
    assert [step.text for step in found.steps] == [*THOUGHT.split("\n"), "The answer is 42."]
    assert [step.part for step in found.steps] == ["thinking", "thinking", "answer"]
    for step in found.steps:
        assert RESPONSE[step.start : step.end] == step.text
        count = tokens_until(model, PROMPT, RESPONSE, step.end)
        assert step.reward == pytest.approx(cut_at(model, PROMPT, RESPONSE, count), **CLOSE)
    count = tokens_until(model, PROMPT, RESPONSE, RESPONSE.index("15"))
    assert found.curve.start == pytest.approx(cut_at(model, PROMPT, RESPONSE, count), **CLOSE)
    assert len({found.overall, found.thinking, found.answer_alone, *found.curve.rewards}) == 6  # they do differ


PIECES = ["<think>", "</think>", "\n", "\n\n", "15 + 27", " = 42.", "So", " ", "🙂", "日本", "fox", "The answer is 42."]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


@RELAXED
@given(prompts=st.lists(st.sampled_from(["p", "another prompt"]), min_size=1, max_size=4), data=st.data())
def test_any_batch_gives_what_separate_scoring_gives(models, prompts, data) -> None:
    model = models["mistral"]
    responses = [data.draw(TEXTS) for _ in prompts]
    budget = data.draw(st.sampled_from([16, 80, 4096]))
    for prompt, response, found in zip(
        prompts, responses, score_thinking(model, prompts, responses, budget=budget), strict=True
    ):
        parts = split_thinking(response)
        assert found.overall == pytest.approx(model.score(prompt, response), **CLOSE)
        alone = model.score(prompt, parts.visible.lstrip()) if parts.blocks else found.overall
        assert found.answer_alone == pytest.approx(alone, **CLOSE)
        assert found.answer_alone + found.contribution == found.overall
        assert (found.thinking is None) <= (not parts.blocks or not (parts.thinking or parts.closed))
        assert [step.text for step in found.steps] == [response[a:b] for a, b, _ in split_steps(parts)]
        one = score_thinking(model, [prompt], [response])[0]
        assert one.curve.rewards == pytest.approx(found.curve.rewards, **CLOSE)
        assert one.thinking == pytest.approx(found.thinking, **CLOSE) if one.thinking else found.thinking is None
        if parts.closed:
            end = parts.spans[-1][1] + len("</think>")
            count = tokens_until(model, prompt, response, end)
            assert found.thinking == pytest.approx(cut_at(model, prompt, response, count), **CLOSE)


FLOATS = st.one_of(st.just(0.0), *(st.floats(2.0**-14, 2.0**14, width=32).map(float(sign).__mul__) for sign in (1, -1)))


@given(overall=FLOATS, alone=FLOATS, thinking=FLOATS)
@example(overall=2.0**-14, alone=2.0**14 - 2.0**-10, thinking=-(2.0**14))
def test_the_parts_add_up_exactly(overall: float, alone: float, thinking: float) -> None:
    assert all(torch.tensor(value).item() == value for value in (overall, alone, thinking))  # they are float32
    scored = ScoredResponse(overall, None, False, 9)
    found = ThinkingScore("", scored, thinking, alone, Curve(None, ()), 1, 1, 0.0, True, True, True)
    assert found.answer_alone + found.contribution == found.overall
    assert found.answer_given_thinking is not None
    assert thinking + found.answer_given_thinking == found.overall


def test_without_thinking_all_is_the_answer(models) -> None:
    found = models["llama"].score_thinking(PROMPT, "15 + 20 = 35.\n\nSo 42.")
    assert found.thinking is None and found.answer_given_thinking is None
    assert not found.opened and not found.closed and not found.prefilled
    assert found.contribution == 0 and found.answer_alone == found.overall
    assert (found.thinking_tokens, found.share, found.repetition) == (0, 0, 0)
    assert [step.part for step in found.steps] == ["answer", "answer"]


def test_facts_of_empty_unclosed_and_repeated_thinking(models) -> None:
    model = models["llama"]
    empty = model.score_thinking(PROMPT, "<think></think>42")
    assert empty.closed and empty.thinking is not None and empty.thinking_tokens == 0 and empty.share == 0
    unclosed = model.score_thinking(PROMPT, "<think>\n15 + 20 = 35\n")
    assert unclosed.opened and not unclosed.closed and not unclosed.prefilled
    assert unclosed.thinking == unclosed.last_step
    assert unclosed.answer_alone == pytest.approx(model.score(PROMPT, ""), **CLOSE)
    looping = model.score_thinking(PROMPT, "<think>" + "I must go on and on. " * 20 + "</think>42")
    assert looping.repetition > 0.9 and looping.share > 0.9
    bare = model.score_thinking(PROMPT, "15 + 27 = 42\n</think>\n42")
    assert bare.prefilled and not bare.opened and bare.closed
    assert model.score_thinking(PROMPT, "").steps == ()
    assert model.score_thinking(PROMPT, "").curve.start is None


def test_token_counts_are_those_of_the_parts(models) -> None:
    model, tokenizer = models["llama"], models["llama"].template.tokenizer
    found = model.score_thinking(PROMPT, "<think> fox fox fox</think> dog")
    assert found.thinking_tokens == len(tokenizer(" fox fox fox")["input_ids"])
    assert found.answer_tokens == len(tokenizer(" dog")["input_ids"])
    assert (
        found.scored.response_tokens
        == model.score_responses([PROMPT], ["<think> fox fox fox</think> dog"])[0].response_tokens
    )


@pytest.mark.parametrize(
    ("template", "response", "prefilled"),
    [
        (QWEN_LIKE, RESPONSE, False),
        (QWEN_LIKE, f"<think>{THOUGHT}</think>The answer is 42.", False),
        (PREFILLS, RESPONSE, False),
        (PREFILLS, RESPONSE.removeprefix("<think>\n"), True),
        (FIELDS, HARMONY, False),
        (tiny.CHATML.replace("m['content']", "m['content'] | trim"), RESPONSE + "\n\n", False),
        (DEEPSEEK_LIKE, RESPONSE, False),
        (None, RESPONSE, False),
    ],
    ids=["qwen", "qwen rewritten", "prefill, both tags", "prefill", "fields", "trim", "deepseek", "no template"],
)
def test_templates_that_rewrite_the_response(bases, tmp_path, template, response, prefilled) -> None:
    model = with_template(bases, tmp_path, template)
    found = model.score_thinking(PROMPT, response)
    assert found.prefilled == prefilled and found.closed
    assert [step.text for step in found.steps] == [*THOUGHT.split("\n"), "The answer is 42."]
    rendered = model.render(PROMPT, response)
    decoded = model.template.tokenizer.decode(rendered.ids)
    # Each step's reward is that of the text written so far: found by its last words.
    for step in found.steps:
        last = step.text[-6:]
        fits = [
            count
            for count in range(1, len(rendered.ids) + 1)
            if model.template.tokenizer.decode(rendered.ids[:count]).endswith(decoded[: decoded.rindex(last)] + last)
        ]
        assert step.reward == pytest.approx(cut_at(model, PROMPT, response, fits[0]), **CLOSE)
    head = decoded[: decoded.rindex("The answer")].rstrip()
    ends = "final<|message|>" if template == FIELDS else "</think>"
    assert head.endswith(ends)
    first = next(n for n in range(1, 999) if model.template.tokenizer.decode(rendered.ids[:n]).startswith(head))
    if template != FIELDS:  # there it may be the token before the answer, whichever ends the tag
        assert found.thinking == pytest.approx(cut_at(model, PROMPT, response, first), **CLOSE)


def test_a_tag_that_the_template_writes_in_its_own_way_ends_before_the_answer(bases, tmp_path) -> None:
    own = tiny.CHATML.replace(
        "+ m['content'] +", "+ ('[R]' + m.thinking + '[/R]' if m.thinking else '') + m['content'] +"
    )
    own = (
        "{% for m in messages %}{% if '</think>' in m.content %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
        + own
    )
    model = RewardModel.from_base(tiny.save_base("llama", tmp_path / "base", template=own), LOAD)
    model.head.weight.data = torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(0))
    found = model.score_thinking(PROMPT, RESPONSE)
    rendered = model.render(PROMPT, RESPONSE).ids
    assert "42 🙂[/R]The answer" in model.template.tokenizer.decode(rendered)
    count = next(n for n in range(len(rendered)) if model.template.tokenizer.decode(rendered[:n]).endswith("[/R]"))
    assert found.thinking == pytest.approx(cut_at(model, PROMPT, RESPONSE, count), **CLOSE)
    assert found.thinking != pytest.approx(found.steps[1].reward, **CLOSE)
    empty = model.score_thinking(PROMPT, f"<think>{THOUGHT}</think>")  # nothing before which the tag could end
    assert empty.thinking == pytest.approx(empty.last_step)


def test_a_template_that_changes_the_words_is_refused(bases, tmp_path) -> None:
    yes = tiny.CHATML.replace("m['content']", "m['content'].replace('no', 'yes')")
    with pytest.raises(TemplateError, match="changes the response: 'no, it is' is not in what it writes"):
        with_template(bases, tmp_path, yes).score_thinking(PROMPT, "<think>so</think>no, it is")


def test_thinking_in_a_field_of_its_own_is_thinking(models) -> None:
    message = Message("assistant", "The answer is 42.", {"reasoning_content": THOUGHT})
    found = models["llama"].score_thinking(PROMPT, (message,))
    assert found.response == RESPONSE
    assert found.overall == pytest.approx(models["llama"].score(PROMPT, RESPONSE), **CLOSE)
    assert found.overall == pytest.approx(models["llama"].score(PROMPT, (message,)), **CLOSE)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_thinking_in_a_field_of_its_own_is_read_by_every_way_of_rendering(models, family) -> None:
    template = models[family].template
    message = Message("assistant", "The answer is 42.", {"reasoning_content": THOUGHT})
    modes = ("chat", "text") if family == "llama" else ("pair",)
    for mode in modes:
        own = replace(template, mode=mode)
        assert own.render(PROMPT, (message,)) == own.render(PROMPT, RESPONSE)


def test_of_several_turns_the_last_is_taken_apart(models) -> None:
    turns = [
        {"role": "assistant", "content": "The answer is 42."},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": RESPONSE},
    ]
    found = models["llama"].score_thinking(PROMPT, turns)
    assert found.response == RESPONSE
    assert found.overall == pytest.approx(models["llama"].score(PROMPT, turns), **CLOSE)
    alone = [*turns[:2], {"role": "assistant", "content": "The answer is 42."}]
    assert found.answer_alone == pytest.approx(models["llama"].score(PROMPT, alone), **CLOSE)


def test_other_tags_and_template_variables(bases, tmp_path) -> None:
    model = with_template(bases, tmp_path, "{{ mood | default('') }}" + tiny.CHATML)
    response = "<plan>one</plan>two"
    assert model.score_thinking(PROMPT, response).thinking is None
    found = model.score_thinking(PROMPT, response, custom_tags("<plan>", "</plan>"))
    assert found.thinking is not None
    assert found.answer_alone == pytest.approx(model.score(PROMPT, "two"), **CLOSE)
    tags, row = custom_tags("<plan>", "</plan>"), {"kwargs": {"mood": "glad"}}
    (glad,) = score_thinking(model, [PROMPT], [response], tags=tags, variables=row)
    assert abs(glad.overall - found.overall) > 1e-3


def test_what_is_cut_off_has_no_reward(bases, tmp_path) -> None:
    model = with_template(bases, tmp_path, tiny.CHATML, max_length=16)
    found = model.score_thinking("a long prompt " * 5, RESPONSE)
    assert found.scored.truncated
    assert found.overall == pytest.approx(model.score("a long prompt " * 5, RESPONSE), **CLOSE)
    assert [step.text for step in found.steps] == ["The answer is 42."]
    whole = with_template(bases, tmp_path / "whole", tiny.CHATML).score_thinking("a long prompt " * 5, RESPONSE)
    assert (found.thinking_tokens, found.answer_tokens) == (whole.thinking_tokens, whole.answer_tokens)
    turns = [{"role": "user", "content": "fox " * 20}, {"role": "assistant", "content": "dog"}]
    asked = [*turns, {"role": "user", "content": "42?"}]
    assert model.score_thinking(asked, "<think>no</think>yes").thinking is not None


def test_models_with_posterior_or_ensemble_say_so(models) -> None:
    model = models["llama"]
    generator = torch.Generator().manual_seed(1)
    members = torch.randn(3, model.head.weight.shape[1], generator=generator)
    ensemble = Ensemble(members, torch.zeros(3))
    found = replace(model, ensemble=ensemble).score_thinking(PROMPT, RESPONSE)
    expected = replace(model, ensemble=ensemble).score_responses([PROMPT], [RESPONSE])[0]
    assert found.scored.members == pytest.approx(expected.members, **CLOSE)
    assert found.scored.tokens == expected.tokens


def test_encoders_and_unequal_lists_are_refused(models) -> None:
    with pytest.raises(ModelError, match="need a causal model"):
        models["bert"].score_thinking(PROMPT, RESPONSE)
    with pytest.raises(UsageError, match="not 1 and 2"):
        score_thinking(models["llama"], ["a"], ["b", "c"])
    with pytest.raises(UsageError, match=r"tags \('<plan>', '</plan>'\): give custom_tags\(open, close\)"):
        models["llama"].score_thinking(PROMPT, RESPONSE, tags=("<plan>", "</plan>"))
    assert score_thinking(models["llama"], [], []) == []


def test_one_forward_pass_and_the_prompt_once(models, monkeypatch) -> None:
    model, seen = models["llama"], []
    states = Backbone.states
    monkeypatch.setattr(
        Backbone, "states", lambda self, batch, *more: (seen.append(batch), states(self, batch, *more))[1]
    )
    prompt = "a long shared prompt " * 5
    score_thinking(model, [prompt] * 3, [RESPONSE, RESPONSE + " Yes.", "42"])
    (batch,) = seen
    texts = [RESPONSE, "The answer is 42.", RESPONSE + " Yes.", "The answer is 42. Yes.", "42"]
    alone = [model.render(prompt, text) for text in texts]
    shared = min(item.response_start for item in alone)
    assert batch.input_ids.numel() == shared + sum(len(item.ids) - shared for item in alone)


def test_steps_are_lines_and_sentences_of_a_single_line() -> None:
    def steps(text: str) -> list[str]:
        return [text[start:end] for start, end, _ in split_steps(split_thinking(text))]

    assert steps("<think>\n  a \n\n b. c\n</think>\nOne. Two? 3.5!\n") == ["a", "b. c", "One.", "Two?", "3.5!"]
    assert steps("一。二。三") == ["一。", "二。", "三"]
    assert steps("<think></think>") == steps(" \n ") == []
    assert steps("no end") == ["no end"]


def test_the_forms_of_the_curve(models) -> None:
    found = models["llama"].score_thinking(PROMPT, RESPONSE)
    rewards = found.curve.rewards
    assert found.min_step == min(rewards) and found.last_step == rewards[-1]
    assert found.mean_step == pytest.approx(sum(rewards) / 3)
    changes = [step.change for step in found.steps]
    assert changes == [b - a for a, b in zip([found.curve.start, *rewards], rewards, strict=False)]
    assert found.curve.worst == changes.index(min(changes))
    assert Curve(None, ()).min_step is None is Curve(None, ()).worst
    report = found.as_dict()
    assert report["steps"][0]["reward"] == rewards[0]
    assert report["answer_alone"] + report["contribution"] == report["overall"]
