"""A policy's responses to held-out prompts, judged by the reward it is trained on and by one that it never sees."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewardsmith.errors import UsageError
from rewardsmith.scoring.row import variables

RewardFunc = Callable[..., Any]
"""As TRL takes them: gives N rewards or None, or is a coroutine function that does."""

# The policy's own distribution: transformers would take top_k=50, and what the checkpoint's generation config says.
_WHOLE = {"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


@dataclass
class HeldOut:
    """What :class:`RewardWatch` asks every few steps, when the trainer's own logs do not hold it.

    Args:
        proxy: the reward function that is optimised.
        reward: another one that is not, called in the same way: a second reward model, a check of the answer.
        rows: the held-out prompts, as rows with ``prompt`` and whatever columns the two functions want; ``tools`` and
            ``chat_template_kwargs`` reach the policy's template too. A row without the latter gets the trainer's own.
        every: optimiser steps between two evaluations.
        max_new_tokens, temperature: of generation; 1.0 samples from the policy itself.
        generation: further arguments of ``generate``. Without them nothing but the temperature shapes the sampling,
            whatever the policy's ``generation_config.json`` says, as in training by TRL's defaults.
        batch_size: prompts generated for at a time.
        seed: of sampling. Each evaluation starts from it, and training's own random numbers are left as they were.

    Raises:
        UsageError: no rows, or one without a prompt.
    """

    proxy: RewardFunc
    reward: RewardFunc
    rows: Sequence[Mapping[str, Any]]
    every: int = 10
    max_new_tokens: int = 256
    temperature: float = 1.0
    batch_size: int = 16
    seed: int = 0
    generation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = list(self.rows)
        if not self.rows or any("prompt" not in row for row in self.rows):
            raise UsageError("rows: held-out prompts are needed, each row with a prompt")
        if self.every < 1:
            raise UsageError(f"every {self.every}: must be at least 1")

    def __call__(
        self, model: Any, tokenizer: Any, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Generate with ``model`` and judge.

        Args:
            model: the policy, whole on this process (not split over GPUs by FSDP or ZeRO-3).
            tokenizer: the policy's.
            chat_template_kwargs: what the trainer gives the template, ``args.chat_template_kwargs`` of TRL's; for rows
                that have none of their own.

        Returns:
            ``proxy``, ``proxy_std``, ``held_out`` and ``held_out_std``, over responses that have these rewards.
        """
        rows = [_with_variables(row, chat_template_kwargs) for row in self.rows]
        completions, ids = self._generate(model, tokenizer, rows)
        prompts = [row["prompt"] for row in rows]
        names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
        columns = {name: [row.get(name) for row in rows] for name in names}
        found: dict[str, float] = {}
        for name, reward in (("proxy", self.proxy), ("held_out", self.reward)):
            values = _raw(reward, prompts=prompts, completions=completions, completion_ids=ids, **columns)
            known = np.array([np.nan if value is None else value for value in values], dtype=float)
            known = known[np.isfinite(known)]
            if len(known):
                found[name] = float(known.mean())
            if len(known) > 1:
                found[f"{name}_std"] = float(known.std(ddof=1))
        return found

    def _generate(
        self, model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Any], list[list[int]]]:
        """One sampled response per prompt, as the trainer would hand it over (text, or a list of one message); ids."""
        import torch

        prompts = [row["prompt"] for row in rows]
        training, side = model.training, tokenizer.padding_side
        devices = [model.device] if model.device.type == "cuda" else []
        ids: list[list[int]] = []
        try:
            tokenizer.padding_side = "left"
            with torch.random.fork_rng(devices), torch.no_grad():
                torch.manual_seed(self.seed)
                model.eval()
                for start in range(0, len(prompts), self.batch_size):
                    ids += self._sampled(model, tokenizer, rows[start : start + self.batch_size])
        finally:
            tokenizer.padding_side = side
            model.train(training)
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        completions = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return completions, ids

    def _sampled(self, model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        ids = [_prompt_ids(tokenizer, row) for row in rows]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
        made = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=self.max_new_tokens,
            **{**_WHOLE, "temperature": self.temperature, "pad_token_id": tokenizer.pad_token_id, **self.generation},
        )
        return [_ended(row, tokenizer) for row in made[:, batch["input_ids"].shape[1] :].tolist()]


def _ended(ids: list[int], tokenizer: Any) -> list[int]:
    """A completion up to its end token, without the padding of its batch."""
    if tokenizer.eos_token_id in ids:
        return ids[: ids.index(tokenizer.eos_token_id) + 1]
    while ids and ids[-1] == tokenizer.pad_token_id:  # ended by another token of the generation config
        ids = ids[:-1]
    return ids


def _with_variables(row: Mapping[str, Any], given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The row with the trainer's template variables, unless it has its own."""
    return {**row, "chat_template_kwargs": dict(given)} if given and not row.get("chat_template_kwargs") else row


def _prompt_ids(tokenizer: Any, row: Mapping[str, Any]) -> list[int]:
    """The tokens that the policy goes on from, as the trainer makes them."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    found = variables(row)
    text = tokenizer.apply_chat_template(
        prompt, tools=found.get("tools"), tokenize=False, add_generation_prompt=True, **found.get("kwargs", {})
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # a chat template writes its special tokens itself


def _raw(reward: Any, **rows: Any) -> Any:
    """The rewards before shaping, where a function of ours logs them: one response a prompt is no group to shape by."""
    logged: dict[str, Any] = {}
    values = reward(**rows, log_extra=logged.__setitem__)
    if inspect.isawaitable(values):
        values = _awaited(values)
    return logged.get(f"{getattr(reward, '__name__', '')}/raw", values)


def _awaited(values: Awaitable[Any]) -> Any:
    """What a coroutine gives; in a thread of its own, as a notebook runs a loop already."""

    async def wait() -> Any:
        return await values

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, wait()).result()
