"""A reward model as reward function of TRL's GRPOTrainer and RLOOTrainer (TRL 1.16)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rewardsmith.errors import UsageError
from rewardsmith.integrations.judge import Judge, Models, Shaping, Verdict
from rewardsmith.integrations.summary import summarise
from rewardsmith.integrations.think_format import ThinkFormat, think_format_reward
from rewardsmith.integrations.trainer_function import TrainerFunction, name_of, warn_of_processes
from rewardsmith.shaping.bounds import saturation_warning

__all__ = ["RewardFunction", "ThinkFormat", "think_format_reward"]

logger = logging.getLogger("rewardsmith")

_ENOUGH = 8  # rewards of one call, from which a share of saturated ones says something


class RewardFunction(TrainerFunction):
    """Scores and shapes completions; give it to a trainer as ``reward_funcs``.

    Prompts and completions come as text or as messages and are scored as ``rewardsmith score`` scores them, by the
    reward model's own tokenizer and template. ``completion_ids`` are tokens of the policy and are not looked at: they
    mean nothing to another tokenizer, and a completion ends in the reward model's own end token (traps 7, 15). All goes
    through :class:`Scorer`, a budget of tokens at a time, never a whole rollout in one forward pass (trap 16).

    A completion that cannot be scored - no message in it, an image, turns that the reward model's template refuses -
    has the reward None, which the trainer leaves out. Empty text is a response like any other and is scored.

    Args:
        models: a reward model or its folder, or several that vote.
        shaping: see :class:`Judge`. Shapes of scope ``group`` take completions of equal prompts together, of scope
            ``batch`` all of one call. Both see what this process scores; part of a group is refused. A running
            normaliser (scope ``stream``) has one set of statistics per process, which are the function's own, and
            learns from evaluation rollouts too: freeze it, or run one process; :class:`KeepShaping` keeps it with the
            checkpoints.
        name: what the trainer's logs call it; None for the model's folder and the shapes.
        reference_column: column of the dataset with reference rewards (numbers) or reference responses (text or
            messages, scored against the same prompt), one or a list of them, for shapes that compare with a reference
            (PAR, LSC). Other rewards that a shape combines are columns of numbers under their names.
        other: further arguments of :class:`Judge`: ``prefill``, ``load``, ``aggregate``, ``budget``, ``cache``,
            ``prefix_cache``.

    Dataset columns ``tools`` and ``chat_template_kwargs`` reach the reward model's template; without them, the tools
    and ``chat_template_kwargs`` that the trainer itself gives the policy's.

    Where the trainer offers ``log_extra`` and ``log_metric``, it logs per completion ``NAME/raw``, ``NAME/shaped``,
    ``NAME/disagreement``, ``NAME/truncated``, and per batch what :func:`summarise` says, as ``rewards/NAME/raw_mean``
    etc.

    Raises:
        UsageError: the shaping needs a reference and no ``reference_column`` is named.

    Example:
        >>> reward = RewardFunction("out/rm", shaping="clip(low=-3, high=3)", name="helpful")  # doctest: +SKIP
        >>> GRPOTrainer(policy, reward_funcs=[reward], train_dataset=prompts)  # doctest: +SKIP
    """

    def __init__(
        self,
        models: Models,
        shaping: Shaping = None,
        name: str | None = None,
        *,
        reference_column: str | None = None,
        **other: Any,
    ):
        judge = Judge(models, shaping=shaping, **other)
        super().__init__(judge, name or name_of(models, judge))
        self.reference_column = reference_column
        self._warned_of_bounds = False
        shaping = self.judge.shaping
        if shaping and "reference" in shaping.needs and reference_column is None:
            raise UsageError("the shaping compares with a reference: name its column of the dataset, reference_column=")
        warn_of_processes(self.__name__, self.scopes)

    def __repr__(self) -> str:
        return f"RewardFunction({self.__name__!r}, shaping={self.judge.shaping!r})"

    def forget(self) -> None:
        """Drop prompts kept by ``prefix_cache``: call it when the reward model's weights have changed."""
        self.judge.scorer.forget()

    def _judged(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any], state: Any) -> list[Verdict]:
        others = self.judge.shaping.others if self.judge.shaping else ()
        verdicts = self.judge(
            rows,
            references=self.reference_column and _column(columns, self.reference_column, len(rows)),
            others={name: _column(columns, name, len(rows)) for name in others},
        )
        given = [verdict.saturated for verdict in verdicts if verdict.reward is not None]
        if (
            len(given) >= _ENOUGH
            and not self._warned_of_bounds
            and (text := saturation_warning(sum(given), len(given)))
        ):
            self._warned_of_bounds = True
            logger.warning("%s: %s", self.__name__, text)
        return verdicts

    def _columns(self, verdicts: Sequence[Verdict]) -> dict[str, list[Any]]:
        scored = [verdict.scored for verdict in verdicts]
        return {
            "raw": [one and one.reward for one in scored],
            "shaped": [verdict.reward for verdict in verdicts],
            "disagreement": [one and one.disagreement for one in scored],
            "truncated": [one and one.truncated for one in scored],
        }

    def _metrics(self, verdicts: Sequence[Verdict], state: Any) -> dict[str, float]:
        return summarise(verdicts)


def _column(columns: Mapping[str, Any], name: str, count: int) -> Sequence[Any]:
    if name not in columns:
        known = ", ".join(sorted(key for key, value in columns.items() if isinstance(value, list))) or "none"
        raise UsageError(
            f"the shaping needs the column {name!r}, and the dataset has no such column, but {known}; called by hand: "
            f"reward(prompts, completions, {name}=[...])"
        )
    if isinstance(columns[name], str) or len(columns[name]) != count:
        found = "one text" if isinstance(columns[name], str) else f"{len(columns[name])} entries"
        raise UsageError(f"the column {name!r} has {found} for {count} completions; there must be one for each")
    return columns[name]
