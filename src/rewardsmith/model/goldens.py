"""Golden cases: fixed texts whose tokens and scores a checkpoint must give again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rewardsmith.errors import ContractError, TemplateError
from rewardsmith.model.contract import GOLDEN_TEXTS, Golden, tokens_sha256
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.quantise import is_quantised

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

# Golden scores must come back within this, relative to 1 + the largest of them, in the dtype they were made in.
GOLDEN_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


def make(model: RewardModel, texts: Sequence[tuple[str, str]] = GOLDEN_TEXTS) -> tuple[Golden, ...]:
    """What the model makes of prompts and responses now."""
    prompts, responses = [prompt for prompt, _ in texts], [response for _, response in texts]
    rewarded = texts and model.contract.reward_head
    scores = model.score_responses(prompts, responses) if rewarded else [None] * len(texts)
    return tuple(
        Golden(
            prompt,
            response,
            tokens_sha256(model.render(prompt, response).ids),
            scored and scored.reward,
            _steps(model, prompt, response),
            scored and scored.attributes,
        )
        for (prompt, response), scored in zip(texts, scores, strict=True)
    )


def verify(model: RewardModel) -> list[tuple[Golden, float]]:
    """The contract's golden cases with what each of them scores now; see :meth:`RewardModel.verify`."""
    stored = model.contract.goldens
    now = make(model, [(golden.prompt, golden.response) for golden in stored])
    for before, after in zip(stored, now, strict=True):
        if before.tokens_sha256 != after.tokens_sha256:
            raise ContractError(f"golden {before.response[:30]!r}: renders to other tokens than in training")
    if not is_quantised(model.backbone.network):
        same_dtype = dtype_name(model.backbone.dtype) == model.contract.dtype
        limit = GOLDEN_TOLERANCE[model.contract.dtype if same_dtype else "bfloat16"]
        _check(
            "scores", [(before, before.score, after.score) for before, after in zip(stored, now, strict=True)], limit
        )
        _check("steps score", [(old, old.process, new.process) for old, new in zip(stored, now, strict=True)], limit)
        for name in model.contract.attributes:
            values = [(old, _attribute(old, name), _attribute(new, name)) for old, new in zip(stored, now, strict=True)]
            _check(f"{name} is", values, limit)
    return [(before, value) for before, after in zip(stored, now, strict=True) for value in _value(after)]


def _check(what: str, values: Sequence[tuple[Golden, float | None, float | None]], limit: float) -> None:
    """Refuse values that are not those of training."""
    known = [(golden, before, now) for golden, before, now in values if before is not None and now is not None]
    scale = 1 + max((abs(before) for _, before, _ in known), default=0.0)
    for golden, before, now in known:
        if not abs(now - before) <= limit * scale:  # also when either is not a number
            raise ContractError(f"golden {golden.response[:30]!r}: {what} {now:.4f}, in training {before:.4f}")


def _attribute(golden: Golden, name: str) -> float | None:
    return golden.attributes.get(name) if golden.attributes else None


def _value(golden: Golden) -> Iterator[float]:
    """Its reward, or what its steps score where there is no reward head."""
    value = golden.process if golden.score is None else golden.score
    if value is not None:
        yield value


def _steps(model: RewardModel, prompt: str, response: str) -> float | None:
    """The mean log-odds of a response's steps; None without a process head, or when the template changes the text."""
    if model.process is None:
        return None
    try:
        logits = model.score_steps(prompt, response).logits
    except TemplateError:
        return None
    known = [logit for logit in logits if logit is not None]
    return sum(known) / len(known) if known else None
