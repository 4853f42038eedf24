"""The scorer: prompts and responses in, rewards out, in order, whatever their number.

It groups by prompt, shares prefixes, keeps to a budget of positions per forward pass, finds known scores in a cache
on disk, and lets several models vote. Everything that scores goes through it: files, RL reward functions, servers.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from rewardsmith.encoding.template import Rendered, coerce
from rewardsmith.errors import RewardsmithError, UsageError
from rewardsmith.model.prefixes import PrefixCache, token_bytes
from rewardsmith.model.response_scores import check_lengths
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring.aggregates import AGGREGATES, aggregate_for, combined, name_of
from rewardsmith.scoring.ahead import ahead
from rewardsmith.scoring.cache import Entry, ScoreCache, key_of
from rewardsmith.scoring.memory import Budget
from rewardsmith.scoring.provenance import mark_of
from rewardsmith.shaping import Pipeline
from rewardsmith.types import ScoredResponse, Text

logger = logging.getLogger("rewardsmith")

WINDOW = 512  # responses rendered and scored together: enough to find equal lengths, few enough for constant memory
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Asked:
    """One response to be scored, rendered by each model.

    Args:
        key: the prompt with what the template gets beside it; equal keys share a prefix.
        rendered: one per model.
    """

    key: Hashable
    rendered: tuple[Rendered, ...]


Result = ScoredResponse | RewardsmithError


class Scorer:
    """Scores responses with one reward model, or with several that vote.

    Args:
        models: one, or several that read the same text each with its own tokenizer and template.
        aggregate: how members become one reward: ``mean``, ``median``, ``min`` (the most pessimistic, against reward
            hacking: Coste et al. 2024) or ``uncertainty`` (mean minus one standard deviation). ``auto`` takes the mean
            of several models, and the main head of one model even when it carries an ensemble of heads (its members'
            mean under a shaping that takes their disagreement off: :meth:`for_shaping`).
        budget: positions per forward pass; None for the device's default. Halved when a GPU's memory runs out.
        cache: file of known scores (:class:`ScoreCache`), None for none.
        prefix_cache: keep the keys and values of prompts between calls; a number is the bytes that each model's may
            take. Forget them with :meth:`forget` when the weights change. Needs attention tree by tree.
        window: responses that :meth:`stream` holds at a time.

    Raises:
        UsageError: no model, an unknown ``aggregate``, or one that needs members the model does not have.

    Example:
        >>> with Scorer(RewardModel.load("out/rm"), cache="scores.db") as scorer:  # doctest: +SKIP
        ...     scored = scorer.score(prompts, responses)

    The same text gets the same reward whatever it is scored with, up to rounding: docs/scoring.md states the tolerance
    of each dtype. With a cache it is exactly the same. One thread at a time may use a scorer.
    """

    columns: tuple[str, ...] = ()  # what results have beside the fields of ScoredResponse

    def __init__(
        self,
        models: RewardModel | Sequence[RewardModel],
        *,
        aggregate: str = "auto",
        budget: int | None = None,
        cache: str | Path | None = None,
        prefix_cache: bool | int = False,
        window: int = WINDOW,
    ):
        self.models = [models] if isinstance(models, RewardModel) else list(models)
        self.aggregate = aggregate_for(aggregate, self.models)
        if budget is not None and budget < 1:
            raise UsageError(f"budget {budget}: a forward pass needs at least one position; leave it out")
        if window < 1:
            raise UsageError(f"window {window}: must be at least 1")
        self.window = window
        self.budget = Budget(budget)
        self._prefixes = [_prefixes(model, prefix_cache) for model in self.models]
        self._cache = None if cache is None else ScoreCache(cache)
        self._identities = [] if cache is None else [model.identity() for model in self.models]

    @property
    def votes(self) -> bool:
        """True when results have members, so that their disagreement is known."""
        return len(self.models) > 1 or self.models[0].ensemble is not None

    def for_shaping(self, shaping: Pipeline | None) -> Self:
        """This scorer; or one like it, sharing all it holds, whose members vote by their mean.

        The latter where one model's ensemble was asked for nothing (``auto``) and the shaping takes the members'
        disagreement off the reward: that belongs to their mean, not to the main head.
        """
        if shaping is None or "disagreement" not in shaping.needs or self.aggregate or not self.votes:
            return self
        voting = copy(self)
        voting.aggregate = AGGREGATES["mean"]
        return voting

    def identity(self) -> str:
        """Stands for everything a score depends on: the models and how they vote."""
        return "+".join([*(model.identity() for model in self.models), name_of(self.aggregate)])

    def provenance(self) -> str:
        """Which models gave these rewards, and how they voted; the same on every machine and in every dtype."""
        marks = "+".join(sorted(map(mark_of, self.models)))
        return f"{marks} {name_of(self.aggregate)}".rstrip()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cache file and of the kept prompts."""
        self.forget()
        if self._cache is not None:
            self._cache.close()

    def forget(self) -> None:
        """Drop the kept keys and values of prompts."""
        for prefixes in self._prefixes:
            if prefixes is not None:
                prefixes.clear()

    # -- lists

    def score(
        self, prompts: Sequence[Any], responses: Sequence[Any], variables: Any = None, *, progress: bool = False
    ) -> list[ScoredResponse]:
        """The rewards of responses, in order.

        Args:
            prompts, responses: equally many, text or lists of messages.
            variables: what the chat template gets beside the turns, ``{"tools": ..., "kwargs": ...}``: one mapping for
                all, or one (or None) per response.
            progress: show a text progress bar on standard error.

        Raises:
            UsageError: unequal lengths.
            TemplateError: a text that a template refuses; nothing is scored then.
        """
        asked = self._ask_all(prompts, responses, variables)
        failed = next((one for one in asked if isinstance(one, RewardsmithError)), None)
        if failed:
            raise failed
        return self._score_all(asked, progress)  # type: ignore[return-value]

    def try_score(
        self, prompts: Sequence[Any], responses: Sequence[Any], variables: Any = None, *, progress: bool = False
    ) -> list[Result]:
        """As :meth:`score`, with the error in place of the result where a text cannot be rendered."""
        return self._score_all(self._ask_all(prompts, responses, variables), progress)

    def _ask_all(
        self, prompts: Sequence[Any], responses: Sequence[Any], variables: Any
    ) -> list[Asked | RewardsmithError]:
        check_lengths(prompts, responses)
        each = _per_response(variables, len(prompts))
        return [self.ask(*item) for item in zip(prompts, responses, each, strict=True)]

    def _score_all(self, asked: Sequence[Asked | RewardsmithError], progress: bool) -> list[Result]:
        if not progress:
            return self.score_asked(asked)
        from tqdm import tqdm

        results: list[Result] = []
        with tqdm(total=len(asked), desc="scoring", unit="response") as bar:
            for start in range(0, len(asked), self.window):
                results += self.score_asked(asked[start : start + self.window])
                bar.update(len(results) - start)
        return results

    # -- streams

    def stream(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[ScoredResponse]:
        """Prompts and responses in, rewards out, in order, in constant memory.

        The next window is read and rendered by a thread while this one is scored. Stop whenever you like: closing the
        iterator ends the thread.

        Raises:
            TemplateError: when its turn comes, after all before it were given; an error of ``pairs`` likewise.
        """
        windows = _windows(iter(pairs), self.window)
        with ahead([self.ask(*pair) for pair in window] for window in windows) as rendered:
            for window in rendered:
                for result in self.score_asked(window):
                    if isinstance(result, RewardsmithError):
                        raise result
                    yield result

    # -- the steps

    def ask(self, prompt: Any, response: Any, variables: Mapping[str, Any] | None = None) -> Asked | RewardsmithError:
        """Render one response with every model's template; the error when one refuses it."""
        try:
            texts: tuple[Text, Text] = (coerce(prompt), coerce(response))
            rendered = tuple(model.render(*texts, **(variables or {})) for model in self.models)
        except RewardsmithError as error:
            return error
        return Asked((texts[0], repr(sorted((variables or {}).items()))), rendered)

    def score_asked(self, asked: Sequence[Asked | RewardsmithError]) -> list[Result]:
        """Score what :meth:`ask` gave, in order; errors stay in their places."""
        good = [item for item in asked if isinstance(item, Asked)]
        by_model = [self._score_with(number, good) for number in range(len(self.models))]
        scored = iter([combined(results, self.aggregate) for results in zip(*by_model, strict=True)])
        return [next(scored) if isinstance(item, Asked) else item for item in asked]

    def _score_with(self, number: int, asked: Sequence[Asked]) -> list[ScoredResponse]:
        keys, rendered = [item.key for item in asked], [item.rendered[number] for item in asked]
        if self._cache is None:
            return self._compute(number, keys, rendered)
        names = [key_of(self._identities[number], item) for item in rendered]
        known = self._cache.get(list(dict.fromkeys(names)))
        missing = {name: place for place, name in enumerate(names) if name not in known}  # equal texts once
        new = self._compute(
            number, [keys[place] for place in missing.values()], [rendered[place] for place in missing.values()]
        )
        entries = {name: Entry(one.reward, one.reward_se, one.members) for name, one in zip(missing, new, strict=True)}
        self._cache.put(entries.items())
        known |= entries
        return [
            ScoredResponse(entry.reward, entry.reward_se, item.truncated, len(item.ids), item.own, entry.members)
            for entry, item in zip((known[name] for name in names), rendered, strict=True)
        ]

    def _compute(self, number: int, keys: list[Hashable], rendered: list[Rendered]) -> list[ScoredResponse]:
        """Forward passes, with a smaller budget from then on when memory runs out.

        Raises:
            torch.OutOfMemoryError: not even a small pass fits.
        """
        if not rendered:
            return []
        model = self.models[number]
        return self.budget.run(
            lambda positions: model.score_rendered(keys, rendered, budget=positions, prefixes=self._prefixes[number]),
            model.budget,
            self.forget,  # an interrupted pass leaves prompts of which some layers are missing
        )


def _prefixes(model: RewardModel, asked: bool | int) -> PrefixCache | None:
    """The kept prompts of one model, None when nothing is to be kept or its attention cannot use them."""
    if asked is False:
        return None
    if asked is not True and asked < 1:
        raise UsageError(f"prefix_cache {asked}: must be True, False, or the bytes to keep (at least 1)")
    if not model.backbone.by_tree:
        logger.warning("prefix_cache: attention is not tree by tree, so nothing is kept; load with attention='tree'")
        return None
    each = token_bytes(model.backbone)
    return PrefixCache(token_bytes=each) if asked is True else PrefixCache(asked, token_bytes=each)


def _windows(source: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to ``size`` items. What came before an error of the source is given before it is raised."""
    while True:
        window: list[Item] = []
        try:
            for item in islice(source, size):
                window.append(item)
        except Exception:
            if window:
                yield window
            raise
        if not window:
            return
        yield window


def _per_response(variables: Any, count: int) -> Sequence[Mapping[str, Any] | None]:
    each = [variables] * count if variables is None or isinstance(variables, Mapping) else variables
    if len(each) != count:
        raise UsageError(f"variables: {len(each)} of them for {count} responses; give one for all, or one each")
    unknown = next((name for one in each for name in one or () if name not in ("tools", "kwargs")), None)
    if unknown is not None:
        raise UsageError(
            f"variables: {unknown!r} is neither tools nor kwargs; what the chat template reads goes into kwargs, as "
            f'{{"kwargs": {{{unknown!r}: ...}}}}'
        )
    return each
