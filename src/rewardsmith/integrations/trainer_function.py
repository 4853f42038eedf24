"""What reward functions of TRL's trainers have in common: how they are called, what they log, when they complain."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rewardsmith.errors import UsageError
from rewardsmith.integrations.judge import Judge, Models
from rewardsmith.model.reward_model import RewardModel

logger = logging.getLogger("rewardsmith")

_HOW = "call it with lists, one entry for each completion: reward([prompt], [completion])"


class Judged(Protocol):
    """What a function made of one completion."""

    @property
    def reward(self) -> float | None: ...

    @property
    def problem(self) -> str | None: ...


class TrainerFunction:
    """A reward function; a subclass says what it makes of rows (:meth:`_judged`) and what it logs of that.

    Args:
        judge: reads rows and holds the model.
        name: in the trainer's logs.
    """

    def __init__(self, judge: Judge, name: str):
        self.judge, self.__name__ = judge, name
        self._complained = False

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: Any = None,
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The reward of each completion, None for one that cannot be scored.

        Args:
            prompts, completions: N each, text or lists of messages.
            completion_ids: not looked at.
            trainer_state: how far training has come, for functions that look at it.
            log_extra, log_metric: the trainer's, absent when called by hand.
            columns: further columns of the dataset, N values each; ``tools`` and ``chat_template_kwargs`` reach the
                reward model's template. Whatever else the trainer gives is not looked at.

        Raises:
            UsageError: no lists, unequal lengths, a column that is not there, two functions of one name in one trainer.
        """
        prompts, completions = _given("prompts", prompts), _given("completions", completions)
        if len(prompts) != len(completions):
            raise UsageError(f"{len(prompts)} prompts for {len(completions)} completions; there must be one for each")
        check_name(self.__name__, log_metric)
        nothing = [None] * len(prompts)
        rows = [
            {"prompt": prompt, "response": completion, "tools": tools, "chat_template_kwargs": variables}
            for prompt, completion, tools, variables in zip(
                prompts,
                completions,
                columns.get("tools") or nothing,
                columns.get("chat_template_kwargs") or nothing,
                strict=True,
            )
        ]
        verdicts = self._judged(rows, columns, trainer_state)
        self._complain(verdicts)
        if log_extra:
            for name, values in self._columns(verdicts).items():
                log_extra(f"{self.__name__}/{name}", values)
        if log_metric:
            for name, value in self._metrics(verdicts, trainer_state).items():
                log_metric(f"rewards/{self.__name__}/{name}", value)
        return [verdict.reward for verdict in verdicts]

    # -- what a subclass says

    def _judged(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any], state: Any) -> Sequence[Any]:
        """One verdict (:class:`Judged`) for each row."""
        raise NotImplementedError

    def _columns(self, verdicts: Sequence[Any]) -> dict[str, list[Any]]:
        """What is logged of each completion; always the same names, as the trainer makes a table of them."""
        raise NotImplementedError

    def _metrics(self, verdicts: Sequence[Any], state: Any) -> dict[str, float]:
        """What is logged of the batch."""
        raise NotImplementedError

    def _complain(self, verdicts: Sequence[Judged]) -> None:
        """Say once why completions have no reward; how many is a metric."""
        problems = [verdict.problem for verdict in verdicts if verdict.problem]
        if problems and not self._complained:
            self._complained = True
            count = f"{len(problems)} of {len(verdicts)} completions"
            logger.warning("%s: %s have no reward, the first because: %s", self.__name__, count, problems[0])


def warn_of_processes(name: str, scopes: Iterable[str]) -> None:
    """Say that a running normaliser has statistics of its own in each of several processes."""
    if "stream" in scopes and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        logger.warning("%s: each process normalises by what it scored; freeze the normaliser", name)


def check_name(name: str, log_metric: Any) -> None:
    """TRL logs by name: of two functions with one name it would log neither's mean.

    Raises:
        UsageError: the trainer behind ``log_metric`` has another function of this name.
    """
    names = getattr(getattr(log_metric, "__self__", None), "reward_func_names", [])
    if names.count(name) > 1:
        raise UsageError(f"two reward functions are called {name!r}; tell them apart by name=")


def name_of(models: Models, judge: Judge) -> str:
    """Of the folder (or folders) and the shapes, so that two functions rarely share it."""
    several = [models] if isinstance(models, RewardModel | str | Path) else list(models)
    folders = [one.loaded_from or one.contract.base_model if isinstance(one, RewardModel) else one for one in several]
    steps = [type(step).__name__ for step in judge.shaping.steps] if judge.shaping else []
    return "-".join([*(Path(folder).name or "reward" for folder in folders), *steps])


def _given(what: str, values: Any) -> Sequence[Any]:
    """A list of prompts or completions.

    Raises:
        UsageError: missing, bare text, or the messages of one chat.
    """
    if values is None:
        raise UsageError(f"{what} are missing; {_HOW}")
    if isinstance(values, str):
        raise UsageError(f"{what} is one text ({values!r:.40}), not a list; {_HOW}")
    if len(values) and isinstance(values[0], Mapping):
        raise UsageError(f"{what} is one list of messages, not a list of such lists; {_HOW}")
    return values
