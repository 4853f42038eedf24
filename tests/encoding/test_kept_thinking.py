"""Trap 10: a template never hides the thinking that is to be judged. One test per way in which templates behave."""

from __future__ import annotations

import pytest

from rewardsmith.encoding.kept_thinking import keep_thinking
from rewardsmith.encoding.template import Template
from rewardsmith.errors import TemplateError
from rewardsmith.types import Message
from tests import tiny

# Keeps the last reply's thinking, rewritten in its own layout; drops that of replies before the last user turn.
QWEN_LIKE = """
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content, thought = m.content, '' %}
{%- if m.reasoning_content is string %}{% set thought = m.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last %}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
{{- content + '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + ('<think>\\n' if prefill else '') }}{% endif %}"""

# Cuts every reply at its closing tag, and starts the reply with an opening one.
DEEPSEEK_LIKE = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content = m.content %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<|im_start|>' + content + '<|im_end|>' }}
{%- else %}{{ '<s>' + m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|><think>\\n' }}{% endif %}"""

# Writes replies as they are, and starts the next one with an opening tag.
PREFILLS = tiny.CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")

# Refuses tags in the content and has a field for thinking.
FIELDS = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- if '<|channel|>' in m.content %}{{ raise_exception('pass the analysis in the thinking field') }}{% endif %}
{%- if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

REPLY = "<think>\n15 + 27 = 42\n</think>\n\n42"
HISTORY = (Message("user", "q"), Message("assistant", "<think>\nold\n</think>\n\na"), Message("user", "q2"))


def template(text: str, keep: bool = False) -> Template:
    tokenizer = tiny.chat_tokenizer(text)
    if keep:
        assert keep_thinking(tokenizer)
    return Template(tokenizer, "chat")


def written(made: Template, prompt, response, **variables) -> str:
    return made.tokenizer.decode(made.render(prompt, response, kwargs=variables).ids)


def own(made: Template, prompt, response, **variables) -> str:
    found = made.render(prompt, response, kwargs=variables)
    return made.tokenizer.decode(found.ids[found.response_start :])


# -- templates like Qwen3's


def test_qwen_like_keeps_the_last_thinking_and_is_left_alone() -> None:
    made = template(QWEN_LIKE)
    assert written(made, "q", REPLY).endswith(f"assistant\n{REPLY}<|im_end|>\n")
    assert not keep_thinking(made.tokenizer) and made.tokenizer.chat_template == QWEN_LIKE


def test_qwen_like_drops_the_thinking_of_the_history_as_in_use() -> None:
    text = written(template(QWEN_LIKE), HISTORY, REPLY)
    assert "old" not in text and REPLY in text


def test_qwen_like_refuses_a_response_whose_earlier_thinking_it_drops() -> None:
    response = (
        Message("assistant", REPLY),
        Message("user", "sure?"),
        Message("assistant", "<think>\ny\n</think>\n\nyes"),
    )
    with pytest.raises(TemplateError, match="removes the text before </think>"):
        template(QWEN_LIKE).render("q", response)


def test_qwen_like_refuses_thinking_in_several_places_of_which_it_keeps_one() -> None:
    with pytest.raises(TemplateError, match="removes the text before </think>"):
        template(QWEN_LIKE).render("q", "<think>\na\n</think>\nb\n<think>\nc\n</think>\nd")


@pytest.mark.parametrize("response", [REPLY, REPLY.removeprefix("<think>\n")], ids=["both tags", "closing tag only"])
def test_qwen_like_that_prefills_renders_a_response_with_and_without_the_opening_tag_alike(response: str) -> None:
    made = template(QWEN_LIKE)
    assert written(made, "q", response, prefill=True).endswith(f"assistant\n{REPLY}<|im_end|>\n")
    assert own(made, "q", response, prefill=True) == "15 + 27 = 42\n</think>\n\n42<|im_end|>\n"


# -- templates like DeepSeek-R1's


def test_deepseek_like_is_refused_as_it_is() -> None:
    made = template(DEEPSEEK_LIKE)
    assert written(made, "q", "42") == "<s>q<|im_start|>42<|im_end|>"
    for response in (REPLY, REPLY.removeprefix("<think>\n")):
        with pytest.raises(TemplateError, match="removes the text before </think>"):
            made.render("q", response)


def test_deepseek_like_keeps_the_thinking_once_changed() -> None:
    made = template(DEEPSEEK_LIKE, keep=True)
    assert written(made, "q", REPLY) == f"<s>q<|im_start|>{REPLY}<|im_end|>"
    assert own(made, "q", REPLY) == "15 + 27 = 42\n</think>\n\n42<|im_end|>"
    assert written(made, "q", REPLY.removeprefix("<think>\n")) == written(made, "q", REPLY)
    assert written(made, "q", "42") == written(template(DEEPSEEK_LIKE), "q", "42")
    assert written(made, HISTORY, "42") == written(template(DEEPSEEK_LIKE), HISTORY, "42")


def test_the_change_is_made_once_and_saved_with_the_tokenizer(tmp_path) -> None:
    from transformers import AutoTokenizer

    made = template(DEEPSEEK_LIKE, keep=True)
    changed = made.tokenizer.chat_template
    assert not keep_thinking(made.tokenizer) and made.tokenizer.chat_template == changed
    made.tokenizer.save_pretrained(tmp_path)
    again = Template(AutoTokenizer.from_pretrained(tmp_path), "chat")
    assert again.render("q", REPLY) == made.render("q", REPLY)


@pytest.mark.parametrize("around", ["\n", "\n\n", "  \n"])
def test_the_change_keeps_white_space_at_the_templates_ends(around: str) -> None:
    plain, stripping = (f"{around}{text}{{{{ '' }}}}{around}" for text in (tiny.CHATML, tiny.STRIPS_THINKING))
    assert written(template(stripping, keep=True), "q", REPLY) == written(template(plain), "q", REPLY)


def test_several_blocks_stay_byte_for_byte_once_changed() -> None:
    response = "<think>\na\n</think>\nb\n<think>\nc\n</think>\nd"
    assert response in written(template(tiny.STRIPS_THINKING, keep=True), "q", response)


def test_a_template_that_would_still_garble_the_thinking_is_left_alone() -> None:
    """Without the tags in sight it would put an empty block in front."""
    garbles = QWEN_LIKE.replace("thought.strip('\\n')", "''")
    tokenizer = tiny.chat_tokenizer(garbles)
    assert not keep_thinking(tokenizer) and tokenizer.chat_template == garbles
    with pytest.raises(TemplateError, match="removes the text before </think>"):
        Template(tokenizer, "chat").render("q", REPLY)


# -- templates that start the reply


def test_a_prefilled_opening_tag_is_put_back_in_front_of_its_closing_tag() -> None:
    made = template(PREFILLS)
    assert not keep_thinking(made.tokenizer)
    assert written(made, "q", REPLY.removeprefix("<think>\n")) == written(made, "q", REPLY)
    assert own(made, "q", "15 + 27 = 42\n</think>\n\n42") == "15 + 27 = 42\n</think>\n\n42<|im_end|>\n"


def test_a_response_without_thinking_is_not_given_any() -> None:
    assert written(template(PREFILLS), "q", "42").endswith("assistant\n42<|im_end|>\n")


# -- templates with a field for thinking


def test_thinking_is_handed_over_in_the_field_a_template_has_for_it() -> None:
    made = template(FIELDS)
    response = "<|channel|>analysis<|message|>15 + 27 = 42<|end|><|start|>assistant<|channel|>final<|message|>42"
    assert not keep_thinking(made.tokenizer)
    assert own(made, "q", response) == response + "<|return|>"
    assert "<think>" in written(made, "q", REPLY)  # an ordinary text to this template: as it is
    with pytest.raises(TemplateError, match="pass the analysis in the thinking field"):
        made.render("q", "<|channel|>analysis<|message|>cut off")


def test_thinking_that_stands_elsewhere_in_the_prompt_does_not_count() -> None:
    with pytest.raises(TemplateError, match="removes the text before </think>"):
        template(tiny.STRIPS_THINKING).render("15 + 27 = 42</think> is what?", REPLY)


def test_other_families_are_looked_after_too() -> None:
    strips = tiny.CHATML.replace("m['content']", "m['content'].split('[/THINK]')[-1]")
    with pytest.raises(TemplateError, match=r"removes the text before \[/THINK\]"):
        template(strips).render("q", "[THINK]a[/THINK]b")
    tokenizer = tiny.chat_tokenizer(strips)
    tokenizer.add_tokens(["[THINK]", "[/THINK]"])
    assert keep_thinking(tokenizer)
    assert "[THINK]a[/THINK]b" in written(Template(tokenizer, "chat"), "q", "[THINK]a[/THINK]b")


def test_tokenizers_without_a_template_are_left_alone() -> None:
    assert not keep_thinking(tiny.chat_tokenizer(None))
    refuses = tiny.chat_tokenizer("{{ raise_exception('no') }}")
    assert not keep_thinking(refuses)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("template", [tiny.CHATML, QWEN_LIKE, FIELDS], ids=["unknown", "its own", "its own, no tags"])
def test_thinking_in_a_field_of_the_message_is_never_dropped(template, name) -> None:
    tokenizer = tiny.chat_tokenizer(template)
    own = Template(tokenizer, "chat")
    response = (Message("assistant", "42", {name: "15 + 27 = 42"}),)
    text = tokenizer.decode(own.render("q", response).ids)
    assert text.count("15 + 27 = 42") == 1 and text.count("42") == 2
    bare = tokenizer.decode(own.render("q", "42").ids)
    assert "15 + 27" not in bare
