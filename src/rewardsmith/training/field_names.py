"""What to say of a setting that does not exist: the nearest that does, or where one of another library has gone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Fields that scripts for transformers or TRL may still have, older versions included.
ELSEWHERE = {
    "evaluation_strategy": "transformers calls it eval_strategy now",
    "no_cuda": "transformers calls it use_cpu now",
    "overwrite_output_dir": "transformers has dropped it; leave it out",
    "per_gpu_train_batch_size": "transformers calls it per_device_train_batch_size now",
    "per_gpu_eval_batch_size": "transformers calls it per_device_eval_batch_size now",
    "max_prompt_length": "prompts are not cut here; max_length drops comparisons that are too long",
    "max_completion_length": "responses are not cut here; max_length drops comparisons that are too long",
    "truncation_mode": "nothing is cut in training; max_length drops comparisons that are too long",
    "packing": "needs no setting: prompts are shared and rows packed by themselves (share_prompts)",
    "padding_free": "needs no setting: rows are packed by themselves (share_prompts)",
    "dataset_kwargs": "is of TRL's SFTConfig, and rewardsmith has none of it",
    "warmup_ratio": "transformers takes a share of the steps as warmup_steps now, e.g. 0.1",
    "group_by_length": "transformers calls it train_sampling_strategy=group_by_length now",
    "beta": "is of TRL's DPOConfig; a reward model is trained without it",
    "loss_type": "the setting is loss here",
}


def no_such_setting(name: str, known: Iterable[str]) -> str:
    """One line for a name that is not among ``known``."""
    if name in ELSEWHERE:
        return f"{name}: not supported: {ELSEWHERE[name]}"
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
