"""The reward model a user holds: load, score, compare, save.

One object renders, packs, reads and scores, so the reward is the same wherever it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rewardsmith.encoding.template import Mode, Rendered, Template
from rewardsmith.encoding.tree import Tree
from rewardsmith.errors import ModelError
from rewardsmith.model import attributes as attribute_heads
from rewardsmith.model import facts, goldens, make, reading, response_scores
from rewardsmith.model.attributes import AttributeHeads
from rewardsmith.model.backbone import Backbone, Pooling
from rewardsmith.model.budget import positions
from rewardsmith.model.contract import Contract, Golden
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.hardware import dtype_name
from rewardsmith.model.load import LoadOptions
from rewardsmith.model.posterior import Posterior
from rewardsmith.model.prefixes import PrefixCache
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.tree_attention import Past
from rewardsmith.shaping import Pipeline
from rewardsmith.types import ScoredResponse, Text

if TYPE_CHECKING:
    from rewardsmith.integrations.trl import RewardFunction
    from rewardsmith.model.process_scores import StepScores
    from rewardsmith.model.thinking_scores import ThinkingScore
    from rewardsmith.thinking.tags import Tags


@dataclass(repr=False)
class RewardModel:
    """A backbone, a head of one output, and the contract that ties them to text.

    Use :meth:`load` for a trained model and :meth:`from_base` to start a new one.

    Args:
        backbone: the network, read up to its head's input.
        head: [1, d] linear map in float32, whatever the backbone's dtype: close scores must not tie (trap 9).
        template: renders text, the same way in training and in use.
        contract: what decides a score beside the weights.
        posterior: how sure the head is; None when unknown.
        ensemble: further heads, fitted to bootstraps of the data; None without.
        shaping: what is done to its rewards before they drive RL, saved with it; :meth:`score` does not apply it.
        loaded_from: the folder or id that :meth:`load` was given, for names in logs.
        process: a head that judges steps; None without.
        attributes: heads of which ``head`` is the weighted sum; None without.

    Example:
        >>> model = RewardModel.load("out/my-reward-model")  # doctest: +SKIP
        >>> model.score("What is 15 + 27?", "15 + 27 = 42.")  # doctest: +SKIP
        1.38
    """

    backbone: Backbone
    head: nn.Linear
    template: Template
    contract: Contract
    posterior: Posterior | None = None
    ensemble: Ensemble | None = None
    shaping: Pipeline | None = None
    process: ProcessHead | None = None
    attributes: AttributeHeads | None = None
    loaded_from: str | None = None

    def __repr__(self) -> str:
        read, kind = self.backbone, type(self.backbone.network).__name__
        return (
            f"RewardModel({kind}, base={self.contract.base_model!r}, layers={read.layers}, pooling={read.pooling!r}, "
            f"{dtype_name(read.dtype)} on {read.device})"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # in IPython; a dataclass would be printed field by field, weights and all

    # -- making one

    @classmethod
    def load(cls, path_or_id: str | Path, options: LoadOptions | None = None, **more: Any) -> RewardModel:
        """Load a trained reward model: ours, or a plain sequence-classification checkpoint of TRL or OpenRLHF.

        Args:
            path_or_id: a folder or a Hugging Face id; a PEFT adapter is merged into its base.
            options, more: see :class:`LoadOptions`; ``more`` are its fields by name.

        Raises:
            ModelError: no such model, no reward head, or a head of several outputs.
            ContractError: the template, tokenizer or head changed since it was trained.
        """
        return make.load(cls, str(path_or_id), replace(options or LoadOptions(), **more))

    @classmethod
    def from_base(
        cls,
        base: str | Path,
        options: LoadOptions | None = None,
        *,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        template_kwargs: dict[str, Any] | None = None,
        **more: Any,
    ) -> RewardModel:
        """Put a new head on a base model. A head of one output that is already there is kept (trap 3).

        Args:
            base: a folder, a Hugging Face id, or ``smollm2``.
            pooling: ``last`` (the default, portable) or ``mean`` over the response; encoders have their own.
            max_length: tokens; None means what the model's positions allow.
        """
        options = replace(options or LoadOptions(), **more)
        return make.from_base(
            cls, str(base), options, pooling=pooling, max_length=max_length, template_kwargs=template_kwargs
        )

    @classmethod
    def around(
        cls,
        network: Any,
        tokenizer: Any,
        *,
        base: str = "",
        pooling: Pooling | None = None,
        attention: str | None = None,
        mode: Mode | None = None,
    ) -> RewardModel:
        """A reward model of a network that is in memory already, its head copied as it is now.

        Args:
            network: a ``*ForSequenceClassification`` with one output.
            tokenizer: its tokenizer, its pad token distinct from EOS.
            base: a name for the contract.
            pooling: None for the kind's default.
            attention: see :func:`backbone.probe`.
            mode: how text is rendered; None for the tokenizer's default.

        Raises:
            ModelError: the network has no head, or one of several outputs.
        """
        return make.around(cls, network, tokenizer, base=base, pooling=pooling, attention=attention, mode=mode)

    # -- scoring

    def score(self, prompt: Any, response: Any) -> float:
        """The reward of one response. ``prompt`` and ``response`` are text or lists of messages."""
        return self.score_responses([prompt], [response])[0].reward

    def score_batch(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[float]:
        """The rewards of many, in order. Equal prompts are computed once."""
        return [scored.reward for scored in self.score_responses(prompts, responses)]

    def compare(self, prompt: Any, a: Any, b: Any) -> float:
        """The probability, in (0, 1), that response ``a`` is preferred to ``b`` (Bradley-Terry)."""
        rewards = self.score_batch([prompt, prompt], [a, b])
        difference = (rewards[0] - rewards[1]) * self.contract.std / self.contract.temperature
        return 1.0 / (1.0 + math.exp(-difference)) if difference > -700 else 0.0

    def score_attributes(self, prompt: Any, response: Any) -> dict[str, float]:
        """What each attribute of one response is worth, by name. Many: :meth:`score_attributes_batch`."""
        return self.score_attributes_batch([prompt], [response])[0]

    def score_attributes_batch(
        self, prompts: Sequence[Any], responses: Sequence[Any], *, budget: int | None = None
    ) -> list[dict[str, float]]:
        """The attributes of many responses, in order; ``contract.attributes`` has the weights that make the reward.

        Args:
            prompts, responses, budget: as for :meth:`score_responses`, which gives reward and attributes in one pass.

        Raises:
            ModelError: the model was not trained on attributes.
        """
        if self.attributes is None:
            raise ModelError(f"this model {attribute_heads.NO_ATTRIBUTES}")
        scored = self.score_responses(prompts, responses, budget=budget)
        return [dict(one.attributes or {}) for one in scored]

    def score_thinking(self, prompt: Any, response: Any, tags: Tags | None = None) -> ThinkingScore:
        """The reward of one response taken apart: its thinking, its answer, each step. Many: :func:`score_thinking`.

        Args:
            prompt, response: text or messages.
            tags: the think tags to look for; None for all that are known.

        Raises:
            ModelError: the model is an encoder, in which every token sees the whole response.
            TemplateError: a text that the template refuses, or changes so that its tokens cannot be found.
        """
        from rewardsmith.model.thinking_scores import score_thinking

        return score_thinking(self, [prompt], [response], tags=tags)[0]

    def score_steps(self, prompt: Any, steps: Any, separator: str | None = None) -> StepScores:
        """How likely each step of one response is right. Many: :func:`rewardsmith.model.process_scores.score_steps`.

        Args:
            prompt: text or messages.
            steps: a list of step texts, or a whole response, which is split into lines.
            separator: what stands between the steps of a list; None for what the head was trained with.

        Raises:
            ModelError: the model has no process head.
        """
        from rewardsmith.model.process_scores import score_steps

        return score_steps(self, [prompt], [steps], separator=separator)[0]

    def score_responses(
        self, prompts: Sequence[Any], responses: Sequence[Any], *, budget: int | None = None
    ) -> list[ScoredResponse]:
        """Rewards with their standard errors, in order.

        Args:
            prompts, responses: equally many, text or lists of messages.
            budget: positions per forward pass.

        Raises:
            UsageError: unequal lengths.
            TemplateError: a text that the template refuses.
        """
        return self.score_rendered(*response_scores.render(self, prompts, responses), budget=budget)

    @property
    def members(self) -> torch.Tensor | None:
        """The heads of the ensemble, [K, d] float32; None without one."""
        return self.ensemble.members if self.ensemble else None

    def member_rewards(
        self, prompts: Sequence[Any], responses: Sequence[Any], *, budget: int | None = None
    ) -> list[list[float]]:
        """The rewards that each member of the ensemble gives, [N][K], normalised like rewards, in one forward pass.

        Args:
            prompts, responses, budget: as for :meth:`score_responses`.

        Raises:
            UsageError: unequal lengths, or the model carries no ensemble.
            TemplateError: a text that the template refuses.
        """
        return response_scores.member_rewards(self, prompts, responses, budget=budget)

    def member_values(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] features -> [R, K] rewards of the ensemble's members, normalised as the contract says."""
        assert self.ensemble is not None
        return (self.ensemble.rewards(features) - self.contract.mean) / self.contract.std

    def render(self, prompt: Text, response: Text, **row: Any) -> Rendered:
        """Tokens of one response for scoring: cut to the contract's ``max_length`` from the oldest end."""
        return self.template.render(prompt, response, max_length=self.contract.max_length, **row)

    def score_rendered(
        self,
        keys: Sequence[Any],
        rendered: Sequence[Rendered],
        *,
        budget: int | None = None,
        prefixes: PrefixCache | None = None,
    ) -> list[ScoredResponse]:
        """Score what :meth:`render` gave; responses with equal ``keys`` share their common prefix.

        Args:
            prefixes: keeps the prompts' keys and values for the next call (where attention works tree by tree).
        """
        return response_scores.score_rendered(self, keys, rendered, budget=budget, prefixes=prefixes)

    def rewards(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] features -> [R] rewards, normalised as the contract says.

        Raises:
            ModelError: the model has a process head alone.
        """
        if not self.contract.reward_head:
            from rewardsmith.model.process_scores import NO_REWARD_HEAD

            raise ModelError(NO_REWARD_HEAD)
        outputs = nn.functional.linear(features, self.head.weight, self.head.bias)[:, 0]
        return (outputs - self.contract.mean) / self.contract.std

    def standard_errors(self, features: torch.Tensor) -> list[float | None]:
        """[R, d] features -> R standard errors of the rewards, None each when the model carries no posterior."""
        if self.posterior is None:
            return [None] * len(features)
        return (self.posterior.standard_error(features) / self.contract.std).tolist()

    def read(
        self,
        trees: Sequence[Tree],
        *,
        budget: int | None = None,
        layers: Sequence[int] | None = None,
        pasts: Sequence[Past | None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Run the backbone over trees: see :func:`rewardsmith.model.reading.read`."""
        pad, limit = self.template.tokenizer.pad_token_id, budget or self.budget
        yield from reading.read(self.backbone, trees, pad, limit, layers=layers, pasts=pasts, progress=progress)

    @property
    def budget(self) -> int:
        """Positions per forward pass: what keeps this device busy, or less where its free memory holds less."""
        return positions(self.backbone)

    def as_reward_func(self, shaping: Any = None, name: str | None = None, **options: Any) -> RewardFunction:
        """This model as a reward function for TRL's GRPOTrainer and RLOOTrainer.

        Args:
            shaping: a pipeline, its text form or file; None for the model's own, False for raw rewards.
            name: in TRL's logs.
            options: see :class:`rewardsmith.integrations.trl.RewardFunction`.
        """
        from rewardsmith.integrations.trl import RewardFunction

        return RewardFunction(self, shaping=shaping, name=name, **options)

    # -- trust

    def identity(self) -> str:
        """24 hexadecimal digits that stand for everything a score depends on: weights, contract, and how it is run."""
        return facts.identity(self)

    def verify(self) -> list[tuple[Golden, float]]:
        """Rescore the contract's golden cases.

        Returns:
            Each golden with the score it has now.

        A model loaded in 4 bits is another model: only its tokens are checked. With a process head, the log-odds of the
        goldens' steps are checked as well.

        Raises:
            ContractError: a golden's tokens or score differ.
        """
        return goldens.verify(self)

    def sealed(self, **changes: Any) -> RewardModel:
        """A copy whose contract has ``changes``, current fingerprints and fresh goldens: done once, after training."""
        now = {**self.template.fingerprint(), **facts.of_weights(self), "goldens": ()}
        contract = replace(self.contract, **{**now, **changes})
        sealed = replace(self, contract=contract)
        sealed.contract = replace(contract, goldens=goldens.make(sealed))
        return sealed

    def save(self, path: str | Path) -> Path:
        """Write a standard sequence-classification folder with its contract, atomically.

        A model whose contract does not speak of it as it is now (it came without one, or was loaded in another dtype)
        is sealed first.

        Raises:
            FileError: the folder exists and holds something else, or cannot be written.
        """
        from rewardsmith.model.save import save

        contract, as_it_is = self.contract, facts.of_weights(self)
        holds = contract.goldens and all(getattr(contract, name) == value for name, value in as_it_is.items())
        return save(self if holds else self.sealed(), Path(path))
