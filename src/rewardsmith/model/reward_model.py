"""The reward model a user holds: load, score, compare, save.

One object renders, packs, reads and scores, so the reward is the same wherever it is asked for.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rewardsmith.encoding.template import Mode, Rendered, Template, coerce, default_mode
from rewardsmith.encoding.tree import Tree, build
from rewardsmith.errors import ModelError, UsageError
from rewardsmith.model import adapter, goldens, reading
from rewardsmith.model import attributes as attribute_heads
from rewardsmith.model import contract as contracts
from rewardsmith.model import ensemble as ensembles
from rewardsmith.model import posterior as posteriors
from rewardsmith.model import process as processes
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.attributes import AttributeHeads
from rewardsmith.model.backbone import Backbone, Pooling, find_head, head_name, probe
from rewardsmith.model.bases import resolve
from rewardsmith.model.contract import Contract, Golden
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.fingerprint import fingerprint, sha256
from rewardsmith.model.hardware import dtype_name, fitting_positions, free_memory, pick_device, trained_dtype
from rewardsmith.model.load import LoadOptions, head_weight, load_network, load_tokenizer
from rewardsmith.model.posterior import Posterior
from rewardsmith.model.prefixes import PrefixCache
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.quantise import is_quantised
from rewardsmith.model.tree_attention import Past
from rewardsmith.shaping import Pipeline
from rewardsmith.shaping.pipeline import FILE as SHAPING_FILE
from rewardsmith.types import ScoredResponse, Text

if TYPE_CHECKING:
    from rewardsmith.integrations.trl import RewardFunction
    from rewardsmith.model.process_scores import StepScores
    from rewardsmith.model.thinking_scores import ThinkingScore
    from rewardsmith.thinking.tags import Tags

logger = logging.getLogger("rewardsmith")

# Positions per forward pass. On a CPU more than this only costs memory; a GPU wants more to be busy.
BUDGET = {"cpu": 2048, "cuda": 16384, "mps": 4096}
LEAST_BUDGET = 256


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
        options = replace(options or LoadOptions(), **more)
        folder = resolve(str(path_or_id), adapters=True)
        contract = contracts.read(folder)
        if contract is not None and options.dtype == "auto":
            options = replace(options, dtype=trained_dtype(contract.dtype, pick_device(options.device)))
        tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
        if adapter.is_adapter(folder):
            network = adapter.load_adapted(folder, tokenizer, options)
            stored = adapter.stored_head(folder, head_name(network))
        else:
            network = load_network(folder, tokenizer, options, fresh_head=False)
            stored = head_weight(folder, network)
        ensemble = ensembles.read(folder)
        segments = _segments(tokenizer) and (contract is None or contract.mode != "text")
        backbone = probe(network, _pooling(contract), segments=segments, attention=options.attention)
        head = _float32_head(backbone, stored)
        process = processes.read(folder, head.in_features)
        attributes = attribute_heads.read(folder, head.in_features)
        if contract is None:
            template = Template(tokenizer, default_mode(tokenizer, causal=backbone.causal))
            contract = _plain_contract(backbone, template, str(path_or_id))
        else:
            template = Template(tokenizer, contract.mode, contract.template_kwargs)  # type: ignore[arg-type]
            if dtype_name(backbone.dtype) != contract.dtype:
                logger.info("trained in %s, scored here in %s", contract.dtype, dtype_name(backbone.dtype))
            actual = {
                **template.fingerprint(),
                **_heads(head, ensemble, process, attributes),
                "layers": backbone.layers,
            }
            contracts.check(contract, folder, actual)
        posterior, device = posteriors.read(folder), backbone.device
        extras = (posterior and posterior.to(device), ensemble and ensemble.to(device))
        shaping = Pipeline.load(folder) if (folder / SHAPING_FILE).is_file() else None
        extras = (*extras, shaping, process and process.to(device), attributes and attributes.to(device))
        return cls(backbone, head, template, contract, *extras, loaded_from=str(path_or_id))

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
        folder = resolve(str(base))
        tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
        network = load_network(folder, tokenizer, options, fresh_head=True)
        backbone = probe(network, pooling, segments=_segments(tokenizer), attention=options.attention)
        template = Template(tokenizer, default_mode(tokenizer, causal=backbone.causal), template_kwargs or {})
        contract = _plain_contract(backbone, template, str(base))
        if max_length is not None:
            contract = replace(contract, max_length=max_length)
        return cls(backbone, _float32_head(backbone, head_weight(folder, network)), template, contract)

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
        if find_head(network).out_features != 1:
            raise ModelError(f"num_labels={network.config.num_labels}: a reward model has one output; load it with 1")
        training = network.training
        backbone = probe(network.eval(), pooling, segments=_segments(tokenizer) and mode != "text", attention=attention)
        network.train(training)
        template = Template(tokenizer, mode or default_mode(tokenizer, causal=backbone.causal))
        return cls(backbone, _float32_head(backbone, None), template, _plain_contract(backbone, template, base))

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
        return self.score_rendered(*self._rendered(prompts, responses), budget=budget)

    @property
    def members(self) -> torch.Tensor | None:
        """The heads of the ensemble, [K, d] float32; None without one."""
        return self.ensemble.members if self.ensemble else None

    @as_loaded
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
        if self.ensemble is None:
            raise UsageError("this model carries no ensemble: train it with --method head --ensemble K")
        keys, rendered = self._rendered(prompts, responses)
        found: list[list[float]] = [[] for _ in rendered]
        for indices, features in self._features(keys, rendered, budget):
            rewards = self.member_values(features).tolist()
            self._check_finite(value for row in rewards for value in row)
            for index, row in zip(indices, rewards, strict=True):
                found[index] = row
        return found

    def member_values(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] features -> [R, K] rewards of the ensemble's members, normalised as the contract says."""
        assert self.ensemble is not None
        return (self.ensemble.rewards(features) - self.contract.mean) / self.contract.std

    def _rendered(self, prompts: Sequence[Any], responses: Sequence[Any]) -> tuple[list[Any], list[Rendered]]:
        """Prompts, as keys by which to share them, and the tokens of every response."""
        if isinstance(prompts, str) or isinstance(responses, str) or len(prompts) != len(responses):
            raise UsageError(
                f"prompts and responses must be lists of equal length, not {len(prompts)} and {len(responses)}"
            )
        pairs = [(coerce(prompt), coerce(response)) for prompt, response in zip(prompts, responses, strict=True)]
        return [p for p, _ in pairs], [self.render(p, r) for p, r in pairs]

    def render(self, prompt: Text, response: Text, **row: Any) -> Rendered:
        """Tokens of one response for scoring: cut to the contract's ``max_length`` from the oldest end."""
        return self.template.render(prompt, response, max_length=self.contract.max_length, **row)

    @as_loaded
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
        scored: list[ScoredResponse | None] = [None] * len(rendered)
        for indices, features in self._features(keys, rendered, budget, prefixes):
            rewards = self.rewards(features).tolist()
            errors = self.standard_errors(features)
            members = self.member_values(features).tolist() if self.ensemble else [None] * len(rewards)
            named = self.attributes.by_name(features) if self.attributes else [None] * len(rewards)
            self._check_finite(rewards)
            for index, reward, error, each, by_name in zip(indices, rewards, errors, members, named, strict=True):
                item = rendered[index]
                each = each and tuple(each)
                scored[index] = ScoredResponse(reward, error, item.truncated, len(item.ids), item.own, each, by_name)
        return [item for item in scored if item is not None]

    def _features(
        self,
        keys: Sequence[Any],
        rendered: Sequence[Rendered],
        budget: int | None,
        prefixes: PrefixCache | None = None,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Indices into ``rendered``, R at a time, and their features [R, d]; equal ``keys`` share a prefix."""
        groups: dict[Any, list[int]] = {}
        for index, key in enumerate(keys):
            groups.setdefault(key, []).append(index)
        order = [index for group in groups.values() for index in group]
        trees = [build([rendered[index] for index in group]) for group in groups.values()]
        pasts = None
        if prefixes is not None and self.backbone.by_tree:
            trees, pasts = prefixes.prepare(list(groups), trees)
        for places, features in self.read(trees, budget=budget, pasts=pasts):
            yield [order[place] for place in places], features[0]
        if prefixes is not None:
            prefixes.trim()

    def _check_finite(self, rewards: Iterable[float]) -> None:
        if not all(map(math.isfinite, rewards)):
            kind = dtype_name(self.backbone.dtype)
            raise ModelError(f"a reward is not a finite number in {kind}; use --dtype float32 or bfloat16")

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
        read, device = self.backbone, self.backbone.device
        most, free = BUDGET.get(device.type, BUDGET["cpu"]), free_memory(device)
        if free is None:
            return most
        config, mask = read.network.config.get_text_config(), read.shares and not read.by_tree
        return max(LEAST_BUDGET, min(most, fitting_positions(free, config, read.dtype.itemsize, dense_mask=mask)))

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
        network = self.backbone.network
        how = (
            is_quantised(network),
            network.config._attn_implementation,
            self.backbone.device.type,
            self.backbone.shares,
        )
        heads = [_head_sha256(self.head), *(one.sha256() if one else "" for one in (self.ensemble, self.posterior))]
        settings = (json.dumps(asdict(self.contract), sort_keys=True), *heads, repr(how))
        return fingerprint(network, dtype_name(self.backbone.dtype), *settings)

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
        now = {
            **self.template.fingerprint(),
            **_heads(self.head, self.ensemble, self.process, self.attributes),
            "layers": self.backbone.layers,
            "dtype": dtype_name(self.backbone.dtype),
            "goldens": (),
        }
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

        heads, contract = _heads(self.head, self.ensemble, self.process, self.attributes), self.contract
        as_it_is = {**heads, "dtype": dtype_name(self.backbone.dtype), "layers": self.backbone.layers}
        holds = contract.goldens and all(getattr(contract, name) == value for name, value in as_it_is.items())
        return save(self if holds else self.sealed(), Path(path))


def _segments(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def _pooling(contract: Contract | None) -> Pooling | None:
    return contract.pooling if contract else None  # type: ignore[return-value]


def _float32_head(backbone: Backbone, stored: torch.Tensor | None) -> nn.Linear:
    head = copy.deepcopy(backbone.head).float().requires_grad_(False)
    if stored is not None:
        head.weight.copy_(stored)
    return head.to(backbone.device)


def _head_sha256(head: nn.Linear) -> str:
    return sha256(*([head.weight] if head.bias is None else [head.weight, head.bias]))


def _heads(
    head: nn.Linear, ensemble: Ensemble | None, process: ProcessHead | None, attributes: AttributeHeads | None
) -> dict[str, Any]:
    """What the contract says of head, ensemble, process head and attribute heads."""
    hashes = {"members_sha256": ensemble and ensemble.sha256(), "process_head_sha256": process and process.sha256()}
    return {"head_sha256": _head_sha256(head), **hashes, **attribute_heads.facts(attributes)}


def _plain_contract(backbone: Backbone, template: Template, name: str) -> Contract:
    """The contract of a checkpoint that came without one: what its config says, OpenRLHF's mean and std included."""
    config = backbone.network.config
    prints = template.fingerprint()
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 4096
    # RoBERTa's tokenizer knows that two of its positions cannot be used; others say "very many".
    positions = min(positions, template.tokenizer.model_max_length)
    return Contract(
        mode=template.mode,
        template_sha256=prints["template_sha256"],
        tokenizer_sha256=prints["tokenizer_sha256"],
        max_length=int(positions),
        pooling=backbone.pooling,
        layers=backbone.layers,
        dtype=dtype_name(backbone.dtype),
        template_kwargs=dict(template.kwargs),
        mean=float(getattr(config, "mean", None) or 0.0),
        std=float(getattr(config, "std", None) or 1.0),
        base_model=name,
    )
