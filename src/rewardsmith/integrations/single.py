"""What OpenRLHF, verl and slime have in common: they ask for one reward at a time, from a file that they load by name.

Their configuration names a file or function but gives it no arguments, so the environment says what to load:

    REWARDSMITH_MODEL        folder of the reward model; several, separated by commas, vote
    REWARDSMITH_SHAPING      shaping, as text or path; unset for what the model was saved with, ``none`` for raw rewards
    REWARDSMITH_POLICY       folder of the policy, whose template rendered the prompts; unset for the reward model's own
    REWARDSMITH_DEVICE       ``cpu``, ``cuda:1`` ...; unset for the best there is
    REWARDSMITH_UNSCORABLE   reward of what cannot be scored; unset for an error
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewardsmith.errors import DataError, UsageError
from rewardsmith.integrations.combiner import Combiner
from rewardsmith.integrations.judge import Judge, Models, Shaping, Verdict
from rewardsmith.integrations.policy_text import PolicyText
from rewardsmith.model.bases import resolve
from rewardsmith.model.load import LoadOptions, load_tokenizer

_lock = threading.Lock()
_from_environment: list[OneByOne] = []


class OneByOne:
    """Judges single rows; calls from many threads share forward passes.

    Args:
        models, shaping: see :class:`Judge`.
        policy: folder (or tokenizer) of the policy that rendered the prompts; None for the reward model's tokenizer.
        chat_template_kwargs: what the trainer gives the policy's template.
        unscorable: the reward of what cannot be scored; None to raise.
        grouped: the trainer hands over whole groups, to :meth:`many`; then shapes may compare responses of a group.
        other: further arguments of :class:`Judge`.

    Raises:
        UsageError: a shaping that needs a whole group or batch, or a reference: there is one response at a time; or one
            that goes on learning, since responses come in the order of the trainer's threads.
    """

    def __init__(
        self,
        models: Models,
        *,
        shaping: Shaping = None,
        policy: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        unscorable: float | None = None,
        grouped: bool = False,
        **other: Any,
    ):
        self.judge = Judge(models, shaping=shaping, **other)
        pipeline = self.judge.shaping
        for scope in ("batch", *(() if grouped else ("group",))):
            if pipeline and scope in pipeline.scopes:
                raise UsageError(
                    f"the shaping works on a {scope}, which this trainer does not hand over; keep to shapes that need "
                    "no more than the response, and let the trainer normalise its groups"
                )
        if pipeline and "stream" in pipeline.scopes:
            raise UsageError(
                "the shaping's running normaliser depends on the order in which responses arrive, and each of the "
                "trainer's workers has its own; fit one beforehand: rewardsmith shape --freeze"
            )
        if pipeline and pipeline.needs & {"reference", "rewards"}:
            raise UsageError("the shaping compares with a reference or other rewards; this trainer hands over neither")
        if policy is None:
            policy = self.judge.scorer.models[0].template.tokenizer
        elif isinstance(policy, str | os.PathLike):
            policy = load_tokenizer(resolve(str(policy)))
        self.text = PolicyText(policy, chat_template_kwargs)
        self.unscorable = unscorable
        self._busy = threading.Lock()
        self._ask: Combiner[Mapping[str, Any], Verdict] = Combiner(self._judged)

    @classmethod
    def from_environment(cls, **more: Any) -> OneByOne:
        """As the variables at the top of this module say; ``more`` are further arguments."""
        names = [name.strip() for name in os.environ.get("REWARDSMITH_MODEL", "").split(",") if name.strip()]
        if not names:
            raise UsageError("REWARDSMITH_MODEL is not set; it names the folder of the reward model")
        shaping = os.environ.get("REWARDSMITH_SHAPING")
        unscorable = os.environ.get("REWARDSMITH_UNSCORABLE")
        return cls(
            names,
            shaping=False if shaping == "none" else shaping or None,
            policy=os.environ.get("REWARDSMITH_POLICY") or None,
            load=replace(LoadOptions(), device=os.environ.get("REWARDSMITH_DEVICE") or "auto"),
            unscorable=None if not unscorable else _number("REWARDSMITH_UNSCORABLE", unscorable),
            **more,
        )

    def one(self, prompt: Any, response: str, **row: Any) -> dict[str, float]:
        """The reward of one response and what to log of it. Safe in any number of threads.

        Args:
            prompt: messages, or text: what a template rendered is turned back into messages.
            response: text as generated; special tokens at its end are left out.
            row: ``tools`` and ``chat_template_kwargs`` for the reward model's template.

        Returns:
            ``score`` (shaped), ``raw``, ``truncated`` (0 or 1), ``disagreement`` of an ensemble: the same names for
            every row, since trainers make columns of them. Without a score ``raw`` is the score, the others are 0.

        Raises:
            TemplateError: a rendered prompt that cannot be turned back.
            DataError: it cannot be scored, and ``unscorable`` is not given.
        """
        return self._logged(self._ask(self._ready(prompt, response, **row)))

    def many(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """The same for rows with ``prompt`` and ``response``, in one pass."""
        return [self._logged(verdict) for verdict in self._judged([self._ready(**row) for row in rows])]

    def _judged(self, rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        with self._busy:  # one pass at a time, be it of single rows or of a group
            return self.judge(rows)

    def _ready(self, prompt: Any, response: str, **row: Any) -> dict[str, Any]:
        prompt = self.text.prompt(prompt) if isinstance(prompt, str) else plain_lists(prompt)
        return {"prompt": prompt, "response": self.text.response(response), **row}

    def _logged(self, verdict: Verdict) -> dict[str, float]:
        if verdict.reward is None and self.unscorable is None:
            raise DataError(f"{verdict.problem}; to go on with a fixed reward instead, set REWARDSMITH_UNSCORABLE")
        score = self.unscorable if verdict.reward is None else verdict.reward
        assert score is not None
        scored = verdict.scored
        found = {"score": score, "raw": scored.reward if scored else score}
        found["truncated"] = float(scored is not None and scored.truncated)
        if self.judge.scorer.votes:
            found["disagreement"] = (scored and scored.disagreement) or 0.0
        return found


def shared_from_environment() -> OneByOne:
    """The one of this process, made at the first call: trainers call from many threads, and it is loaded once."""
    with _lock:
        if not _from_environment:
            _from_environment.append(OneByOne.from_environment())
        return _from_environment[0]


def plain_lists(value: Any) -> Any:
    """Rows of Parquet files arrive with numpy arrays in the place of lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name} is {value!r}; it must be a finite number")
    return number
