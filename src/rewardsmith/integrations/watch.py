"""Watch a GRPO or RLOO run: is the reward still worth what it says?

A policy that is optimised against a reward model finds, sooner or later, what the model gets wrong. The reward goes on
rising; what it stands for falls (Gao et al. 2023, arXiv 2210.10760). Only a reward that is not optimised can tell.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from rewardsmith.errors import UsageError
from rewardsmith.integrations.held_out import HeldOut
from rewardsmith.integrations.history import Record, draw, gap_of, read_history, write_history
from rewardsmith.integrations.trend import Trend, trend

logger = logging.getLogger("rewardsmith")

START = 5  # records whose mean is what the run began with


@dataclass(frozen=True, slots=True)
class Alarm:
    """A warning, with the numbers it rests on.

    Args:
        step: optimiser step.
        kind: ``hacking`` or ``length``.
        message: what was seen, in words and numbers.
        trends: by series.
    """

    step: int
    kind: str
    message: str
    trends: dict[str, Trend]


class RewardWatch(TrainerCallback):
    """Follows reward, KL, length, disagreement and the gap to a held-out reward; warns when they part.

    The rule. Over the last ``window`` records a line is fitted to each series, with a standard error that allows for
    neighbouring values being alike (:func:`trend`). *Rises* and *falls* mean: by more than ``threshold`` of them.

    - ``hacking``: the proxy reward rises while the held-out reward falls.
    - ``length``: the mean length rises and has come to ``growth`` times what it was in the first five records.

    Each is said at most once in ``window`` records.

    The gap is how far proxy and held-out reward have moved apart since the first record, each in standard deviations of
    its own responses then: 0 at the start, positive when the proxy promises more than the held-out reward sees.

    Args:
        proxy: name of the reward function that is optimised, or the function itself (its ``__name__``). Its raw mean is
            taken where a :class:`RewardFunction` logs it: a shaped mean may be 0 in every batch.
        held_out: name of another reward function of the same trainer, with weight 0 in ``reward_weights``; or a
            :class:`HeldOut`, which generates for prompts of its own; None to watch KL and length alone.
        evaluation: take the trainer's evaluation records (``eval_dataset``, ``eval_strategy="steps"``) in the place of
            its training records: held-out prompts, and it works on any number of processes.
        window: records that a trend is taken over, at least 5.
        threshold: standard errors.
        growth: factor of the length, > 1.
        path: file to which each record is appended as a line of JSON, None for none. Every run begins it anew; a
            resumed one keeps its records up to the checkpoint.
        stop: end training at a ``hacking`` alarm.

    Attributes:
        history: one dict per record: ``step``, ``proxy``, ``proxy_std``, ``held_out``, ``held_out_std``, ``gap``,
            ``kl``, ``length``, ``disagreement``, those that are known.
        alarms: what was warned of.

    Raises:
        UsageError: a value out of range, or (at the first record) no reward function of that name.

    Example:
        >>> watch = RewardWatch("helpful", held_out="gold", path="watch.jsonl")  # doctest: +SKIP
        >>> GRPOTrainer(..., reward_funcs=[helpful, gold], callbacks=[watch])  # doctest: +SKIP
    """

    def __init__(
        self,
        proxy: Any,
        held_out: Any = None,
        *,
        evaluation: bool = False,
        window: int = 20,
        threshold: float = 4.0,
        growth: float = 1.5,
        path: str | Path | None = None,
        stop: bool = False,
    ):
        if window < 5:
            raise UsageError(f"window {window}: a trend needs at least 5 records")
        if not threshold > 0 or not growth > 1:
            raise UsageError(f"threshold {threshold} must be above 0 and growth {growth} above 1")
        self.proxy = _name(proxy)
        self.generate = held_out if isinstance(held_out, HeldOut) else None
        self.held_out = None if held_out is None or self.generate else _name(held_out)
        self.prefix = "eval_" if evaluation else ""
        self.window, self.threshold, self.growth, self.stop = window, threshold, growth, stop
        self.path = None if path is None else Path(path)
        self.history: list[Record] = []
        self.alarms: list[Alarm] = []
        self._said: dict[str, int] = {}  # kind of alarm -> number of records when it was last said
        self._judged: list[Record] = []  # what was generated and judged since the last record

    # -- what the trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, or take up what a resumed run has logged."""
        if self.generate and _is_split(args):
            raise UsageError("the policy is split over processes and cannot generate here; use evaluation=True instead")
        self.history, self.alarms, self._said, self._judged = [], [], {}, []
        for logs in state.log_history:
            self._take(logs, int(logs.get("step", 0)))
        if self.path and state.global_step:
            # What was generated for held-out prompts is in no log of the trainer's, but in the file.
            kept = [_kept(self.path, state.global_step) if state.is_world_process_zero else []]
            by_step = {record["step"]: record for record in [*self.history, *broadcast_object_list(kept)[0]]}
            self.history = [by_step[step] for step in sorted(by_step)]
        if self.path and state.is_world_process_zero:
            self.save(self.path)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Generate and judge, when that was asked for and it is time; the next record will have it."""
        if not self.generate or state.global_step % self.generate.every:
            return
        asked = (kwargs["model"], kwargs["processing_class"], getattr(args, "chat_template_kwargs", None))
        found = [self.generate(*asked) if state.is_world_process_zero else {}]
        # All processes must come to the same decision.
        self._judged.append({"step": state.global_step, **broadcast_object_list(found)[0]})

    def on_log(self, args: Any, state: Any, control: Any, logs: Record | None = None, **kwargs: Any) -> None:
        """Take a record of the trainer's logs, and say what is wrong."""
        known = len(self.history)
        if not self._take(logs or {}, state.global_step):
            return
        if self.path and state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in self.history[known:])
        for alarm in self._new_alarms(state.global_step):
            self.alarms.append(alarm)
            if state.is_world_process_zero:
                logger.warning("step %d: %s", alarm.step, alarm.message)
            if self.stop and alarm.kind == "hacking":
                control.should_training_stop = True

    # -- records

    def _take(self, logs: Record, step: int) -> bool:
        """Add what the logs say; False when they are not of the kind that is watched."""
        if self.prefix + "reward" not in logs:
            return False
        names = [name for name in (self.proxy, self.held_out) if name]
        if missing := [name for name in names if f"{self.prefix}rewards/{name}/mean" not in logs]:
            known = ", ".join(sorted({key.split("/")[1] for key in logs if key.startswith(f"{self.prefix}rewards/")}))
            raise UsageError(f"no reward function is called {missing[0]!r}; the trainer has {known}")

        def logged(*names: str) -> float | None:
            return next((logs[key] for name in names if logs.get(key := self.prefix + name) is not None), None)

        record = {
            "step": step,
            "kl": logged("kl"),
            "length": logged("completions/mean_length"),
            "disagreement": logged(f"rewards/{self.proxy}/disagreement"),
        }
        if self.generate:
            for judged in self._judged[:-1]:
                self._add(judged)
            record |= {name: value for judged in self._judged[-1:] for name, value in judged.items() if name != "step"}
            self._judged = []
        else:
            for what, name in (("proxy", self.proxy), ("held_out", self.held_out)):
                record[what] = logged(f"rewards/{name}/raw_mean", f"rewards/{name}/mean")
                record[f"{what}_std"] = logged(f"rewards/{name}/raw_std", f"rewards/{name}/std")
        self._add(record)
        return True

    def _add(self, record: Mapping[str, float | None]) -> None:
        known_values = {name: value for name, value in record.items() if value is not None and math.isfinite(value)}
        self.history.append(known_values)
        if (gap := gap_of(self.history)) is not None:
            known_values["gap"] = gap

    # -- alarms

    def _new_alarms(self, step: int) -> list[Alarm]:
        found = [alarm for alarm in (self._hacking(step), self._length(step)) if alarm]
        new = [one for one in found if len(self.history) - self._said.get(one.kind, -self.window) >= self.window]
        self._said |= {alarm.kind: len(self.history) for alarm in new}
        return new

    def _hacking(self, step: int) -> Alarm | None:
        rows = [row for row in self.history if "proxy" in row and "held_out" in row][-self.window :]
        proxy, held_out = _trend(rows, "proxy"), _trend(rows, "held_out")
        if len(rows) < self.window or not proxy or not held_out:
            return None
        if not (proxy.rises(self.threshold) and held_out.falls(self.threshold)):
            return None
        gap = f"; gap {rows[-1]['gap']:.2f} standard deviations" if "gap" in rows[-1] else ""
        message = (
            f"reward hacking? from step {proxy.first:g} to {proxy.last:g} the reward {self.proxy!r} rises, {proxy}, "
            f"while the held-out reward falls, {held_out}{gap}; stop here, or raise beta, or shape the reward"
        )
        return Alarm(step, "hacking", message, {"proxy": proxy, "held_out": held_out})

    def _length(self, step: int) -> Alarm | None:
        rows = [row for row in self.history if "length" in row]
        if len(rows) < START + self.window:
            return None
        start = sum(row["length"] for row in rows[:START]) / START
        length = _trend(rows[-self.window :], "length")
        if not length or not length.rises(self.threshold) or length.end < self.growth * start:
            return None
        message = (
            f"length runs away: from step {length.first:g} to {length.last:g} the mean length rises, {length}, and is "
            f"{length.end / start:.1f} times the {start:.3g} tokens of the start; penalise or debias length"
        )
        return Alarm(step, "length", message, {"length": length})

    # -- what to keep

    def save(self, path: str | Path) -> Path:
        """Write the history as JSON lines.

        Raises:
            FileError: it cannot be written.
        """
        return write_history(path, self.history)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the history: rewards, gap, KL, length, disagreement over steps; alarms are dashed lines.

        Args:
            path: image to write, None for none.

        Returns:
            The matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw(self.history, [alarm.step for alarm in self.alarms], path)


def _kept(path: Path, step: int) -> list[Record]:
    """The records of a file up to a step; none when it is not there."""
    found = read_history(path) if path.is_file() else []
    return [{**record, "step": int(record["step"])} for record in found if record.get("step", math.inf) <= step]


def _name(reward: Any) -> str:
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", None)
    if not name:
        raise UsageError(f"{reward!r:.60} is neither the name of a reward function nor one with a __name__")
    return name


def _trend(rows: Sequence[Record], name: str) -> Trend | None:
    return trend([row["step"] for row in rows], [row[name] for row in rows])


def _is_split(args: Any) -> bool:
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    fsdp = bool(getattr(args, "fsdp", None)) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return fsdp or is_deepspeed_zero3_enabled()
