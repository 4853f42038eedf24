"""A whole fine-tuning run: settings in, trained model out, taken up again where it was killed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from rewardsmith.errors import ModelError
from rewardsmith.model.hardware import pick_device, pick_dtype
from rewardsmith.model.quantise import nf4_config
from rewardsmith.model.quiet import quiet_transformers
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.run_folder import RunFolder
from rewardsmith.training.settings import RunSettings
from rewardsmith.training.trainer import RewardTrainer
from rewardsmith.types import Comparison

logger = logging.getLogger("rewardsmith")

Report = Callable[[int, int, dict[str, float]], None]  # steps done, steps in all, the latest logged numbers


@dataclass(frozen=True)
class Finetuned:
    """What a run made.

    Args:
        model: sealed, its adapters merged.
        trainer: as it stands after training.
        log: of losses and metrics, by step.
        adapter: folder of the adapter, None for ``full``.
    """

    model: RewardModel
    trainer: RewardTrainer
    log: list[dict[str, Any]]
    adapter: Path | None


def finetune(
    settings: RunSettings,
    comparisons: Sequence[Comparison],
    held_out: Sequence[Comparison] = (),
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = logger.info,
    report: Report | None = None,
    folder: Path | None = None,
    draw: Callable[[RewardTrainer], Any] | None = None,
) -> Finetuned:
    """Train, and leave checkpoints and the adapter in ``OUTPUT.run``. The model itself is not saved here.

    Args:
        settings: checked by :func:`settings.build`.
        comparisons: the training data.
        held_out: for early stopping, and for the log if ``eval_strategy`` says so.
        device: ``auto``, ``cpu``, ``cuda`` ...
        trust_remote_code: run code that comes with a checkpoint.
        resume: go on from the last whole checkpoint.
        say: is told the summary before the first step.
        report: is told of every step.
        folder: of the run, instead of ``OUTPUT.run``.
        draw: chooses the rows to train on, from those of ``trainer.train_dataset``. The head starts at the optimum on
            all of them.

    Raises:
        RewardsmithError: a setting, a row or a model that cannot work; see the trainer.
    """
    run = RunFolder(folder) if folder else RunFolder.beside(Path(settings.output))
    config = reward_config(settings, run.path, device, trust_remote_code, evaluates=bool(held_out))
    main = config.process_index == 0
    with config.main_process_first(desc="run folder"):
        checkpoint = run.begin(settings.as_dict(), resume=resume) if main else run.last_checkpoint()
        checkpoint = checkpoint if resume else None
    trainer = RewardTrainer(
        settings.base,
        config,
        train_dataset=list(comparisons),
        eval_dataset=list(held_out) if held_out and config.eval_strategy != "no" else None,
        quantization_config=nf4_config(_compute_dtype(config)) if settings.method == "qlora" else None,
        peft_config=None if settings.method == "full" else settings.lora.config(),
    )
    if draw:
        trainer.train_dataset = draw(trainer)
    trainer.remove_callback(PrinterCallback)
    if report and main:
        trainer.add_callback(_Reporter(report))
    if main:
        if checkpoint:
            say(f"going on from {checkpoint.name}")
        say(str(trainer.summary()))
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    log = [{k: v for k, v in entry.items() if isinstance(v, (int, float))} for entry in trainer.state.log_history]
    if not all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters() if parameter.requires_grad):
        raise ModelError("training ended with weights that are not finite numbers; lower learning_rate, or use bf16")
    model = trainer.reward_model()
    adapter = None
    if settings.method != "full":
        adapter = run.path / "adapter"
        trainer.save_adapter(adapter, model)
    if main:
        run.finish(settings.as_dict())
    return Finetuned(model, trainer, log, adapter)


def reward_config(
    settings: RunSettings, folder: Path, device: str, trust_remote_code: bool, *, evaluates: bool
) -> RewardConfig:
    """The trainer's configuration: what was asked for over the defaults of a run of ours."""
    place = pick_device(device)
    defaults: dict[str, Any] = {
        "head_init": "probe",
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": 2,
        "logging_steps": 10,
        "gradient_checkpointing": place.type == "cuda",
        "learning_rate": 1e-5 if settings.method == "full" else 5e-5,
        "dataloader_pin_memory": place.type == "cuda",
        "trust_remote_code": trust_remote_code,
    }
    given = dict(settings.training)
    if given.get("early_stopping_patience") is not None and evaluates:
        every = {"eval_strategy": "steps", "eval_steps": given.get("save_steps", 50), "load_best_model_at_end": True}
        defaults |= every
    if place.type == "cpu":
        defaults["use_cpu"] = True
    return RewardConfig(str(folder), **{**defaults, **given})


def _compute_dtype(config: RewardConfig) -> torch.dtype:
    return torch.bfloat16 if config.bf16 else pick_dtype("auto", config.device)


class _Reporter(TrainerCallback):
    """Tells of each step."""

    def __init__(self, report: Report) -> None:
        self.report, self.latest = report, {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.latest = {**self.latest, **(logs or {})}
        self.report(state.global_step, state.max_steps, self.latest)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps, self.latest)
