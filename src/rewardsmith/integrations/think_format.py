"""A reward for the form ``<think>...</think> answer`` that knows of templates which write the opening tag (trap 18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.errors import UsageError
from rewardsmith.thinking.boundary import tokenizer_tags
from rewardsmith.thinking.parse import count_tags, split_thinking
from rewardsmith.thinking.tags import THINK, Tags
from rewardsmith.types import THINKING_FIELDS

# Where tokenizers that parse responses put the thinking, so that no tag is left in the content.


@dataclass(frozen=True)
class ThinkFormat:
    """1.0 for a response that thinks, closes its thinking once and then answers; else 0.0.

    Args:
        prefilled: whether the policy's template writes the opening tag at the end of the prompt. True: the response
            begins inside the tag. False: the response must open it itself. None: where the prompt is text, its end
            decides; where it is messages, whose rendering a reward function never sees, both forms are right.
        tags: of the policy; ``FAMILIES`` of :mod:`rewardsmith.thinking.tags` has those of other families.

    Example:
        >>> ThinkFormat()(completions=["<think>2 + 2 = 4</think>4", "2 + 2 = 4</think>4", "4"])
        [1.0, 1.0, 0.0]
        >>> ThinkFormat(prefilled=False)(completions=["2 + 2 = 4</think>4"])
        [0.0]
    """

    prefilled: bool | None = None
    tags: Tags = THINK

    @property
    def __name__(self) -> str:  # what trainers call it in their logs
        return "think_format_reward"

    @classmethod
    def of(cls, tokenizer: Any, **chat_template_kwargs: Any) -> ThinkFormat:
        """The check that fits a policy: its chat template is asked what it writes before a response.

        Args:
            tokenizer: the policy's, with a chat template.
            chat_template_kwargs: what the trainer gives the template, e.g. ``enable_thinking=True``.
        """
        if not tokenizer.chat_template:
            raise UsageError("the tokenizer has no chat template; say ThinkFormat(prefilled=True) or (prefilled=False)")
        turns = [{"role": "user", "content": "?"}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **chat_template_kwargs)
        tags = tokenizer_tags(tokenizer) or THINK
        return cls(_opened(text, tags), tags)

    def __call__(
        self, prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), **columns: Any
    ) -> list[float]:
        """One reward per completion; called as TRL calls it."""
        asked = prompts if prompts is not None else [None] * len(completions)
        return [float(self.holds(prompt, one)) for prompt, one in zip(asked, completions, strict=True)]

    def holds(self, prompt: Any, completion: Any) -> bool:
        """Whether one completion has the form."""
        if not isinstance(completion, str):
            message = completion[-1] if completion else {}
            if thought := next((message[name] for name in THINKING_FIELDS if message.get(name)), None):
                return bool(str(thought).strip() and (message.get("content") or "").strip())
            completion = message.get("content") or ""
        prefilled = self.prefilled
        if prefilled is None and isinstance(prompt, str):
            prefilled = _opened(prompt, self.tags)
        return self._well_formed(completion, prefilled)

    def _well_formed(self, text: str, prefilled: bool | None) -> bool:
        """One opening tag where it belongs, one closing tag, and something to read in and after them."""
        parts = split_thinking(text, prefilled=bool(prefilled), tags=self.tags)
        if parts.opened and (prefilled or parts.before.strip()):
            return False  # opened twice, or not at the start
        if not parts.opened and prefilled is False:
            return False
        opened, closed = count_tags(text, self.tags)
        # Tags that are words of prose (``analysis``) may be said again.
        once = closed == 1 and (opened == parts.opened or not self.tags.bare)
        return once and parts.closed and bool((parts.thinking or "").strip()) and bool(parts.answer.strip())


def _opened(prompt: str, tags: Tags) -> bool:
    return prompt.rstrip().endswith(tags.opens)


think_format_reward = ThinkFormat()
