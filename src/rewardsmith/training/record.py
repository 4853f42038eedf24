"""What the contract and the card of a fine-tuned model say of its run: settings, data, and where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rewardsmith.training.config import RewardConfig
from rewardsmith.training.rows import RowCount
from rewardsmith.training.settings import LoraSettings, RunSettings, without_secrets

# Of every run, given or not: whoever wants to repeat it needs them.
_ALWAYS = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "head_init")
# In the contract under the same name, or said in any case.
_ELSEWHERE = ("seed", "loss", "max_length", "max_steps", "num_train_epochs")


def settings_facts(settings: RunSettings, config: RewardConfig) -> dict[str, Any]:
    """Settings by the names that a config file has for them: those that matter always, and what was given.

    Args:
        settings: as they were given.
        config: the same over the defaults of a run.
    """
    length = "max_steps" if config.max_steps > 0 else "num_train_epochs"
    facts = {name: getattr(config, name) for name in (*_ALWAYS, length)}
    if settings.method != "full":
        facts |= _adapters(settings.lora)
    facts |= {name: value for name, value in settings.training.items() if name not in (*_ELSEWHERE, *facts)}
    return json.loads(json.dumps(without_secrets(facts), default=str))


def data_facts(settings: RunSettings, rows: Mapping[str, RowCount], sha256: str, held_out: int) -> dict[str, Any]:
    """Files, counts, and the hash of the token rows.

    Args:
        settings: of the run.
        rows: what became of the data sets, by name.
        sha256: see :func:`run_folder.fingerprint`.
        held_out: number of held-out comparisons.
    """
    counted = rows["train"]
    facts: dict[str, Any] = {"files": list(settings.data), "comparisons": counted.kept, "dropped": counted.dropped}
    if held_out:
        facts |= {"held-out files": list(settings.eval_data), "held-out comparisons": held_out}
    return {**facts, "sha256": sha256}


def stopping(state: Any, config: RewardConfig) -> str | None:
    """Where a run stopped and which step it kept, when held-out data decided that; else None.

    Args:
        state: ``TrainerState`` after training.
        config: of the run.
    """
    patience = config.early_stopping_patience
    if not (config.load_best_model_at_end or patience):
        return None
    name = (config.metric_for_best_model or "loss").removeprefix("eval_")
    text = f"step {state.global_step:,} of {state.max_steps:,}"
    if patience and state.global_step < state.max_steps:
        better = "rise" if config.greater_is_better else "fall"
        text += f", held-out {name} did not {better} {patience} time{'s' if patience > 1 else ''}"
    if config.load_best_model_at_end and state.best_global_step:
        text += f"; kept step {state.best_global_step:,} ({state.best_metric:.4f})"
    return text


def _adapters(lora: LoraSettings) -> dict[str, Any]:
    given, default = asdict(lora), asdict(LoraSettings())
    shown = {name: value for name, value in given.items() if name in ("r", "target_modules") or value != default[name]}
    shown["alpha"] = 2 * lora.r if lora.alpha is None else lora.alpha
    return {f"lora.{name}": value for name, value in shown.items()}
