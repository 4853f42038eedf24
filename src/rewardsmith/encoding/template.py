"""The only place where a prompt and a response become tokens.

Training, scoring and serving all call :meth:`Template.render`, so a response has one token sequence, whoever asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from rewardsmith.encoding.kept_thinking import has_thinking, lost_thinking, ways_to_keep
from rewardsmith.encoding.parsed_thinking import in_content, parted
from rewardsmith.errors import TemplateError
from rewardsmith.thinking.boundary import tokenizer_tags
from rewardsmith.thinking.tags import THINK, Tags
from rewardsmith.types import Message, Text

Mode = Literal["chat", "text", "pair"]

# Texts whose token ids stand for the tokenizer's behaviour in the fingerprint.
_PROBES = (
    "Hello, world!",
    "  two spaces\n\n\ttab",
    "naïve café 日本語 🙂",
    "x = [1, 2.50]  # code",
    "<think>\n42\n</think>",
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """One response in its prompt, as tokens.

    Args:
        ids: the whole sequence, [T], T >= 1.
        response_start: index of the response's first token, in [0, T); T for an empty response to an encoder.
        truncated: True when oldest turns or tokens were dropped to fit.
    """

    ids: tuple[int, ...]
    response_start: int
    truncated: bool = False

    @property
    def own(self) -> int:
        """Tokens of the response, with what the template puts behind it."""
        return len(self.ids) - self.response_start


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix of two token lists."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    low, high = 0, shorter  # invariant: a[:low] equal, a[:high] different; slices compare in C
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Template:
    """Renders prompts and responses with one tokenizer, always in the same way.

    Args:
        tokenizer: a Hugging Face tokenizer.
        mode: ``chat`` renders with the tokenizer's chat template (plain text becomes one user and one assistant turn);
            ``text`` is prompt + response + EOS, for tokenizers without a chat template; ``pair`` is the two-segment
            input of encoders.
        kwargs: further variables for the chat template, e.g. ``{"enable_thinking": False}``.
    """

    tokenizer: Any
    mode: Mode
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def render(
        self,
        prompt: Text,
        response: Text,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        max_length: int | None = None,
    ) -> Rendered:
        """Render one response.

        Args:
            prompt: text or chat turns.
            response: text or chat turns.
            tools: tool specifications, handed to the chat template.
            kwargs: chat-template variables of this row, over the template's own.
            max_length: when given, oldest turns and then oldest tokens are dropped until the sequence fits, and the
                result is flagged ``truncated``. The end of the response is never cut (trap 12).

        Raises:
            TemplateError: the template refuses the messages, drops the thinking, or doubles the BOS token.
        """
        if self.mode != "chat":
            response = in_content(response, self._tags())
        if self.mode == "pair":
            return self._pair(plain(prompt), plain(response), max_length)
        variables = {**self.kwargs, **(kwargs or {})}
        rendered = self._render_once(prompt, response, tools, variables)
        if max_length is None or len(rendered.ids) <= max_length:
            return rendered
        turns = prompt
        while not isinstance(turns, str) and (shorter := _without_oldest_turn(turns)) is not None:
            turns = shorter
            rendered = self._render_once(turns, response, tools, variables)
            if len(rendered.ids) <= max_length:
                return Rendered(rendered.ids, rendered.response_start, truncated=True)
        kept = 1 if rendered.ids[0] == self.tokenizer.bos_token_id else 0  # models rely on a BOS at position 0
        cut = len(rendered.ids) - max_length
        ids = rendered.ids[:kept] + rendered.ids[kept + cut :]
        return Rendered(ids, max(0, rendered.response_start - cut), truncated=True)

    def fingerprint(self) -> dict[str, str]:
        """Hashes that change when the template or the tokenizer would render differently."""
        tokenizer = self.tokenizer
        template = json.dumps([self.mode, tokenizer.chat_template, dict(self.kwargs)], sort_keys=True)
        probes = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in _PROBES]
        probes += [tokenizer(text)["input_ids"] for text in _PROBES] + [tokenizer(*_PROBES[:2])["input_ids"]]
        special = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
        behaviour = json.dumps([sorted(tokenizer.get_vocab().items()), special, probes], ensure_ascii=False)
        return {"template_sha256": _sha256(template), "tokenizer_sha256": _sha256(behaviour)}

    # -- one rendering per mode

    def _render_once(self, prompt: Text, response: Text, tools: Any, variables: Mapping[str, Any]) -> Rendered:
        if self.mode == "chat":
            return self._chat(prompt, response, tools, variables)
        return self._text(plain(prompt), plain(response))

    def _chat(self, prompt: Text, response: Text, tools: Any, variables: Mapping[str, Any]) -> Rendered:
        turns = _dicts(prompt, "user")
        answer = _dicts(self._told(turns, response, tools, variables), "assistant")
        text, before = self.written(turns, answer, tools, variables)
        ids, start = self._tokens(text), self._tokens(before) if before else []
        return self._finish(ids, common_prefix(ids, start))

    def _told(self, turns: list[dict], response: Text, tools: Any, variables: Any) -> Text:
        """The response; thinking in a field that the template does not know goes into the content, between tags."""
        bare, thought = parted(response)
        if not thought:
            return response
        with suppress(TemplateError):
            both = [turns + _dicts(one, "assistant") for one in (response, bare)]
            known, without = (self._apply(one, tools, variables, generation=False) for one in both)
            if known != without:
                return response
        return in_content(response, self._tags())

    def _tags(self) -> Tags:
        return tokenizer_tags(self.tokenizer) or THINK

    def written(self, turns: list[dict], answer: list[dict], tools: Any, variables: Any) -> tuple[str, str]:
        """Prompt and response as text, the thinking in it; and the prompt as it stands before a response."""
        thinks, refused, text = has_thinking(answer), None, ""
        try:
            text = self._apply(turns + answer, tools, variables, generation=False)
        except TemplateError as error:
            if not thinks:
                raise
            refused = error
        before = self._apply(turns, tools, variables, generation=True) if turns else ""
        lost = lost_thinking(answer, before, text) if thinks else None
        if lost is None and refused is None:
            return text, before
        for other, tagged in ways_to_keep(answer, before):
            with suppress(TemplateError):
                text = self._apply(turns + other, tools, variables, generation=False)
                if lost_thinking(other if tagged else answer, before, text, tagged=tagged) is None:
                    return text, before
        raise refused or TemplateError(
            f"the chat template removes the text before {lost} from the response, so it could not be judged; "
            "use a template that keeps it (tokenizer.chat_template) or strip the thinking from the data on purpose"
        )

    def _text(self, prompt: str, response: str) -> Rendered:
        tokenizer = self.tokenizer
        bos, eos = tokenizer.bos_token, tokenizer.eos_token_id
        special = not (bos and (prompt or response).startswith(bos))
        ids = list(tokenizer(prompt + response, add_special_tokens=special)["input_ids"])
        if eos is not None and (not ids or ids[-1] != eos):
            ids.append(eos)
        before = list(tokenizer(prompt, add_special_tokens=special)["input_ids"]) if prompt else []
        return self._finish(ids, common_prefix(ids, before))

    def _pair(self, prompt: str, response: str, max_length: int | None) -> Rendered:
        encoded, truncated = self.tokenizer(prompt, response), False
        if max_length is not None and len(encoded["input_ids"]) > max_length:
            # The tokenizer cuts, because it alone knows where its special tokens ([CLS], [SEP]) must stay.
            alone = len(self.tokenizer("", response)["input_ids"])
            prompt, cut = (prompt, "only_first") if alone < max_length else ("", "only_second")
            self.tokenizer.truncation_side = "left"
            encoded, truncated = self.tokenizer(prompt, response, truncation=cut, max_length=max_length), True
        ids, sequence = tuple(encoded["input_ids"]), encoded.sequence_ids(0)
        return Rendered(ids, sequence.index(1) if 1 in sequence else len(ids), truncated)

    def _apply(self, turns: list[dict], tools: Any, variables: Mapping[str, Any], *, generation: bool) -> str:
        try:
            return cast(
                str,
                self.tokenizer.apply_chat_template(
                    turns,
                    tools=list(tools) if tools else None,
                    tokenize=False,
                    add_generation_prompt=generation,
                    **variables,
                ),
            )
        except Exception as error:  # jinja templates raise whatever their author chose
            roles = " ".join(str(turn["role"]) for turn in turns)
            reason = " ".join(str(error).split())
            raise TemplateError(f"the chat template refuses the turns [{roles}]: {reason}") from error

    def _tokens(self, text: str) -> list[int]:
        # The template has written every special token itself: adding more would double the BOS (trap 7).
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _finish(self, ids: list[int], response_start: int) -> Rendered:
        bos = self.tokenizer.bos_token_id
        if not ids:
            raise TemplateError("prompt and response render to no token at all")
        if bos is not None and ids[:2] == [bos, bos]:
            raise TemplateError(
                f"the rendered text begins with two BOS tokens ({self.tokenizer.bos_token!r}): "
                "the chat template and the text both write one; remove it from the text"
            )
        return Rendered(tuple(ids), min(response_start, len(ids) - 1))


def coerce(value: Any) -> Text:
    """What a caller may pass as prompt or response - text, or ``{"role", "content"}`` turns - as :data:`Text`.

    Raises:
        TemplateError: it is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_message(turn) for turn in value)
    raise TemplateError(
        f"a prompt or response is text or a list of messages, not {type(value).__name__}: {value!r:.60}"
    )


def _message(turn: Any) -> Message:
    if isinstance(turn, Message):
        return turn
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        raise TemplateError(
            f"a message needs a role and a content, like {{'role': 'user', 'content': ...}}: {turn!r:.80}"
        )
    content = turn.get("content")
    if not isinstance(content, str):
        raise TemplateError(f"message content must be text, not {type(content).__name__}: {turn!r:.80}")
    return Message(
        turn["role"], content, {k: v for k, v in turn.items() if k not in ("role", "content") and v is not None}
    )


def _dicts(text: Text, role: str) -> list[dict[str, Any]]:
    return [message.as_dict() for message in as_messages(text, role)]


def as_messages(text: Text, role: str) -> tuple[Message, ...]:
    """Chat turns as they are; plain text as one turn of ``role`` (no turn when empty and a user's)."""
    if isinstance(text, str):
        return (Message(role, text),) if text or role == "assistant" else ()
    return text


def plain(text: Text) -> str:
    """Text as it is; a single assistant turn as its content; a conversation as ``role: content`` paragraphs."""
    if isinstance(text, str):
        return text
    if len(text) == 1 and text[0].role == "assistant":
        return text[0].content
    return "".join(f"{message.role}: {message.content}\n\n" for message in text)


def _without_oldest_turn(turns: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """Drop the oldest exchange, keeping system turns and the last turn; None when nothing can go.

    What is left begins with a user turn again, since templates insist on it.
    """
    system = tuple(message for message in turns if message.role == "system")
    rest = [message for message in turns if message.role != "system"]
    for index in range(1, len(rest)):
        if rest[index].role == "user":
            return system + tuple(rest[index:])
    return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def default_mode(tokenizer: Any, *, causal: bool) -> Mode:
    """The mode for a tokenizer: ``pair`` for encoders, ``chat`` when it has a chat template, else ``text``."""
    if not causal:
        return "pair"
    return "chat" if tokenizer.chat_template else "text"
