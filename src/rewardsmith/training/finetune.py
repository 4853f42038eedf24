"""A whole fine-tuning run: settings in, trained model out, taken up again where it was killed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from rewardsmith.errors import ModelError, RewardsmithError, UsageError, out_of_memory
from rewardsmith.model.hardware import dtype_name, pick_device
from rewardsmith.model.quantise import nf4_config
from rewardsmith.model.quiet import quiet_transformers
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import guards
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.features import Report as TokenReport
from rewardsmith.training.record import data_facts, settings_facts, stopping
from rewardsmith.training.run_folder import RunFolder, fingerprint
from rewardsmith.training.settings import RunSettings
from rewardsmith.training.trainer import RewardTrainer
from rewardsmith.types import Comparison

logger = logging.getLogger("rewardsmith")

# Steps done, steps in all, and the latest logged numbers; "eval_step" is the step of the latest evaluation.
Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Finetuned:
    """What a run made.

    Args:
        model: sealed, its adapters merged.
        trainer: as it stands after training.
        log: of losses and metrics, by step.
        adapter: folder of the adapter, None for ``full``.
        run: its folder; call ``run.finish()`` when the model is saved: until then a new run does not replace it.
        train_loss: the mean over all steps; None when the run was resumed and its first steps are not known.
        stopped: where it stopped and which step it kept, when held-out data chose that.
    """

    model: RewardModel
    trainer: RewardTrainer
    log: list[dict[str, Any]]
    adapter: Path | None
    run: RunFolder
    train_loss: float | None = None
    stopped: str | None = None


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
    features: TokenReport | None = None,
    folder: Path | None = None,
    ready: Callable[[], None] | None = None,
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
        features: is told of the tokens read to fit the head before the first step.
        folder: of the run, instead of ``OUTPUT.run``.
        ready: is called in the main process when the trainer stands, before anything is written or removed.
        draw: chooses the rows to train on, from those of ``trainer.train_dataset``. The head starts at the optimum on
            all of them.

    Raises:
        RewardsmithError: a setting, a row or a model that cannot work; see the trainer.
    """
    run = RunFolder(folder) if folder else RunFolder.beside(Path(settings.output))
    config = reward_config(settings, run.path, device, trust_remote_code, evaluates=bool(held_out))
    guards.check_length(config)
    if resume and config.save_only_model:
        raise UsageError("--resume: with save_only_model checkpoints hold no optimizer, so a run cannot go on from one")
    main = config.process_index == 0
    checkpoint = run.check(settings.as_dict(), resume=resume) if main else run.last_checkpoint()
    checkpoint = checkpoint if resume else None
    with _named_mistakes():
        trainer = RewardTrainer(
            settings.base,
            config,
            train_dataset=list(comparisons),
            eval_dataset=list(held_out) if held_out and config.eval_strategy != "no" else None,
            quantization_config=nf4_config(_compute_dtype(config)) if settings.method == "qlora" else None,
            peft_config=None if settings.method == "full" else settings.lora.config(),
            probe_report=features if main else None,
        )
    sha256 = ""
    if main:
        if ready:
            ready()
        sha256 = fingerprint(trainer.train_dataset, trainer.eval_dataset)  # type: ignore[arg-type]
        run.begin(settings.as_dict(), resume=resume, data=sha256, computed=_computed(trainer))
    if draw:
        trainer.train_dataset = draw(trainer)
    trainer.remove_callback(PrinterCallback)
    if report and main:
        trainer.add_callback(_Reporter(report))
    if "logging_steps" not in settings.training:
        trainer.add_callback(_LogShortRuns())
    begun = _Begun()
    trainer.add_callback(begun)
    if main:
        if checkpoint:
            say(f"going on from {checkpoint.name}")
        say(str(trainer.summary()))
    with quiet_transformers(), _named_mistakes(begun):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except _TrainedBefore:
            if trainer.state.best_model_checkpoint is not None and config.load_best_model_at_end:
                trainer._load_best_model()
    log = [{k: v for k, v in entry.items() if isinstance(v, (int, float))} for entry in trainer.state.log_history]
    if not all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters() if parameter.requires_grad):
        raise ModelError("training ended with weights that are not finite numbers; lower learning_rate, or use bf16")
    adapter = None if settings.method == "full" else run.path / "adapter"
    if adapter:
        trainer.save_adapter(adapter)  # before the merge, which needs the most memory
    trainer.release()
    model, stopped = trainer.reward_model(), stopping(trainer.state, config)
    if main:
        facts = {**model.contract.training, **settings_facts(settings, config)}
        facts |= {"stopped": stopped} if stopped else {}
        data = data_facts(settings, trainer.rows, sha256, len(held_out))
        model.contract = replace(model.contract, training=facts, data=data)
    if adapter:
        trainer.describe_adapter(adapter, model)
    mean = None if checkpoint or not log else log[-1].get("train_loss")
    return Finetuned(model, trainer, log, adapter, run, mean, stopped)


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
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has waited
        "logging_steps": 10,
        "gradient_checkpointing": place.type == "cuda",
        "learning_rate": 1e-5 if settings.method == "full" else 5e-5,
        "dataloader_pin_memory": place.type == "cuda",
        "trust_remote_code": trust_remote_code,
    }
    given = dict(settings.training)
    given.pop("push_to_hub", None)  # what is uploaded is the saved model, when it is there; see the command
    stops = given.get("early_stopping_patience") is not None
    if evaluates and (stops or given.get("load_best_model_at_end")):
        # The best can only be kept if it was saved when it was evaluated.
        when = given.get("eval_strategy", given.get("save_strategy", "steps"))
        every = given.get("eval_steps", given.get("save_steps", defaults["save_steps"]))
        defaults |= {"eval_strategy": when, "save_strategy": when, "eval_steps": every, "save_steps": every}
        defaults["load_best_model_at_end"] = stops
    if place.type == "cpu":
        defaults["use_cpu"] = True
    with _named_mistakes():
        config = RewardConfig(str(folder), **{**defaults, **given})
    if settings.method != "full" and place.type == "cuda" and config.bf16 and not _shards(config):
        options: Any = config.model_init_kwargs or {}
        if not {"dtype", "torch_dtype"} & set(options):
            # Frozen weights are only read: in float32 they would take twice the memory and be cast in every product.
            config.model_init_kwargs = {**options, "dtype": "bfloat16"}
    return config


def _shards(config: RewardConfig) -> bool:
    """Under FSDP and DeepSpeed, which want adapters and frozen weights of one dtype."""
    asked = (os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    return bool(config.fsdp or config.deepspeed) or any(asked)


class _TrainedBefore(Exception):
    """The checkpoint is that of the last step; transformers would take one more."""


class _Begun(TrainerCallback):
    """Knows when training begins: optimizer, scheduler and data loader were made, and a checkpoint loaded, by then."""

    yes = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.yes = True
        stopped = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop")
        if state.global_step > 0 and (state.global_step >= state.max_steps or stopped):
            raise _TrainedBefore


class _LogShortRuns(TrainerCallback):
    """Logs at least ten times: a run of few steps has something to show too."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.logging_steps = max(1, min(state.logging_steps, state.max_steps // 10))


@contextlib.contextmanager
def _named_mistakes(begun: _Begun | None = None) -> Iterator[None]:
    """A setting that transformers, PEFT or a tracker refuses is the user's to mend, like those that we refuse.

    Raises:
        UsageError: instead of theirs, on one line.
    """
    try:
        yield
    except RewardsmithError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if (begun and begun.yes) or out_of_memory(error):
            raise
        raise UsageError(" ".join(str(error).split())[:500]) from error


def _compute_dtype(config: RewardConfig) -> torch.dtype:
    return torch.bfloat16 if config.bf16 else torch.float16 if config.fp16 else torch.float32


def _computed(trainer: RewardTrainer) -> dict[str, Any]:
    """What the machine, not the settings, may have decided: see :meth:`RunFolder.begin`."""
    args, kind = trainer.args, trainer.network.get_input_embeddings().weight.dtype
    found = {"device": args.device.type, "processes": args.world_size, "bf16": bool(args.bf16), "fp16": args.fp16}
    return {**found, "weights": dtype_name(kind)}


class _Reporter(TrainerCallback):
    """Tells of each step."""

    def __init__(self, report: Report) -> None:
        self.report, self.latest = report, {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.latest = {**self.latest, **(logs or {})}
        if "eval_loss" in (logs or {}):
            self.latest["eval_step"] = state.global_step
        self.report(state.global_step, state.max_steps, self.latest)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_log:  # else on_log comes next, with the loss of this very step
            self.report(state.global_step, state.max_steps, self.latest)
