"""What reward functions of TRL's trainers have in common: how they are called, what they log, when they complain."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rewardsmith.errors import UsageError
from rewardsmith.integrations import behind
from rewardsmith.integrations.judge import Judge, Models, group_numbers
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.shaping import Pipeline

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
        self.restored = False  # by KeepShaping
        self._complained = self._called = False

    @property
    def shapings(self) -> dict[str, Pipeline]:
        """What it shapes by, under the name by which :class:`KeepShaping` keeps it."""
        return {self.__name__: self.judge.shaping} if self.judge.shaping else {}

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes of all steps of its shapings."""
        return frozenset(scope for pipeline in self.shapings.values() for scope in pipeline.scopes)

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
                reward model's template, else those of the trainer do. Whatever else it gives is not looked at.

        Raises:
            UsageError: no lists, unequal lengths, a column that is not there, two functions of one name in one trainer,
                part of a group for a shape over groups.
        """
        prompts, completions = _given("prompts", prompts), _given("completions", completions)
        if len(prompts) != len(completions):
            raise UsageError(f"{len(prompts)} prompts for {len(completions)} completions; there must be one for each")
        trainer = behind.trainer_of(log_metric)
        behind.check_name(self.__name__, trainer)
        rows = [
            {"prompt": prompt, "response": completion, "tools": tools, "chat_template_kwargs": variables}
            for prompt, completion, tools, variables in zip(
                prompts, completions, *behind.template_variables(columns, trainer, len(prompts)), strict=True
            )
        ]
        if "group" in self.scopes:
            behind.check_groups(self.__name__, group_numbers(rows), trainer)
        self._look_back(trainer_state)
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

    def _look_back(self, state: Any) -> None:
        """Say once that running statistics begin anew in the middle of a run."""
        step = getattr(state, "global_step", None)
        if step is None or self._called:
            return
        self._called = True
        if step and "stream" in self.scopes and not self.restored:
            logger.warning(
                "%s: the run goes on at step %d, and its running normaliser begins anew; add the callback "
                "KeepShaping(reward) (rewardsmith.integrations.keep_shaping), or freeze a fitted one",
                self.__name__,
                step,
            )

    def _complain(self, verdicts: Sequence[Judged]) -> None:
        """Say once why completions have no reward; how many is a metric."""
        problems = [verdict.problem for verdict in verdicts if verdict.problem]
        if problems and not self._complained:
            self._complained = True
            count = f"{len(problems)} of {len(verdicts)} completions"
            logger.warning("%s: %s have no reward, the first because: %s", self.__name__, count, problems[0])


def warn_of_processes(name: str, scopes: Collection[str]) -> None:
    """Say that a running normaliser, or a mean over the batch, is another in each of several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    if "stream" in scopes:
        logger.warning("%s: each process normalises by what it scored; freeze the normaliser", name)
    if "batch" in scopes:
        logger.warning("%s: each process takes its own completions for the batch; use a fitted step: normalise", name)


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
