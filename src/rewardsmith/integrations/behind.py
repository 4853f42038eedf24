"""What a reward function sees of the trainer that calls it: TRL hands over a bound method of it, ``log_metric``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rewardsmith.errors import UsageError


def trainer_of(log_metric: Any) -> Any:
    """The trainer, None when the function is called by hand."""
    return getattr(log_metric, "__self__", None)


def check_name(name: str, trainer: Any) -> None:
    """TRL logs by name: of two functions with one name it would log neither's mean.

    Raises:
        UsageError: the trainer has another function of this name.
    """
    if list(getattr(trainer, "reward_func_names", [])).count(name) > 1:
        raise UsageError(f"two reward functions are called {name!r}; tell them apart by name=")


def check_groups(name: str, groups: Iterable[int], trainer: Any) -> None:
    """TRL wants whole groups of all processes together; a shape over groups wants them whole in each.

    Args:
        groups: of each completion of this process the number of its prompt.

    Raises:
        UsageError: a prompt has no multiple of the trainer's ``num_generations`` completions here.
    """
    training = getattr(getattr(trainer, "model", None), "training", True)
    setting = "num_generations" if training else "num_generations_eval"
    size = getattr(trainer, setting, None)
    part = next((count for count in Counter(groups).values() if size and count % size), None)
    if part is not None:
        batch = "per_device_train_batch_size x steps_per_generation" if training else "per_device_eval_batch_size"
        raise UsageError(
            f"{name}: a step of the shaping compares the {size} completions of a prompt ({setting}), and this process "
            f"has {part} of them: make {batch} a multiple of {size}, or leave that step to the trainer, which compares "
            "groups across processes"
        )


def template_variables(columns: Mapping[str, Any], trainer: Any, count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """``tools`` and ``chat_template_kwargs`` of each completion: the data set's columns, else what the trainer has.

    With environments each prompt has tools of its own, which the trainer does not tell.
    """
    tools = None if getattr(trainer, "environment_factories", None) else getattr(trainer, "tools", None)
    own = {"tools": tools or None, "chat_template_kwargs": getattr(trainer, "chat_template_kwargs", None) or None}
    found = [columns.get(name) or [value] * count for name, value in own.items()]
    return found[0], found[1]
