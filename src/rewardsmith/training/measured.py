"""Metrics of comparisons, exact whatever the batches and processes were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from rewardsmith.data.atomic import atomic_writer
from rewardsmith.training import objective
from rewardsmith.training.passes import passes
from rewardsmith.training.running_metrics import RunningMetrics

_UNLOGGED = "log_state.json"  # in a checkpoint: what was measured since the last log


class MeasuresComparisons(Trainer):
    """A trainer whose ``compute_loss`` leaves what each comparison says (:func:`objective.measure`) in ``_tables``.

    ``_mix`` holds the weights [A] with which attributes make one reward; None where they are not known (yet).
    """

    _mix: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._metrics = {"train": RunningMetrics(), "eval": RunningMetrics()}
        self._tables: list[Tensor] = []
        self._checkpoint: str | None = None
        self.add_callback(_GoesOnLogging(self))

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; the log goes on as if the run had not stopped."""
        given = resume_from_checkpoint
        self._checkpoint = get_last_checkpoint(str(self.args.output_dir)) if given is True else given or None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As ``Trainer._save_checkpoint``, with what is not logged yet, which transformers forgets."""
        pending: Any = self._tr_loss
        loss: Any = self.accelerator.reduce(pending.detach().clone(), "mean")
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=None)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            state = {"loss": float(loss), "last_logged": self._globalstep_last_logged}
            with atomic_writer(folder / _UNLOGGED) as file:
                file.write(json.dumps({**state, "metrics": self._metrics["train"].state()}).encode())
        super()._save_checkpoint(*args, **kwargs)

    def _go_on_logging(self) -> None:
        """Take up what the checkpoint had not logged; nothing, if the run begins."""
        self._metrics["train"] = RunningMetrics()
        file = Path(self._checkpoint or "") / _UNLOGGED
        if self._checkpoint is None or not file.is_file():
            return
        state = json.loads(file.read_text(encoding="utf-8"))
        self._metrics["train"] = RunningMetrics.from_state(state["metrics"])
        self._tr_loss += state["loss"]
        self._total_loss_scalar -= state["loss"]  # the mean at the end is over the steps since
        self._globalstep_last_logged = state["last_logged"]

    def _flush(self, mode: str) -> None:
        """Bring the measures of all processes together; ``eval`` leaves out what a sampler repeats at the end."""
        rows: Any = [row for table in self._tables for row in table.cpu()]
        self._tables.clear()
        if mode == "eval":
            rows = self.accelerator.gather_for_metrics(rows, use_gather_object=True)
        elif self.accelerator.num_processes > 1:
            rows = gather_object(rows)
        table = torch.stack(rows)
        self._metrics[mode].add(table)
        if mode == "train":
            self.state.num_input_tokens_seen += int(table[:, objective.MEASURES.index("tokens")].sum())

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss of a batch, rewards [N, K] with -100 for responses a comparison lacks, and labels [N] of zeros."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            both: Any = self.compute_loss(model, inputs, return_outputs=True)
        loss, outputs = both
        counts = torch.cat([torch.bincount(one["labels"]["comparison"]) for one in passes(inputs)]).tolist()
        self._flush("eval")
        if prediction_loss_only:
            return loss, None, None
        groups = objective.combined(outputs["logits"], self._mix).split(counts)
        rewards = torch.nn.utils.rnn.pad_sequence(list(groups), batch_first=True, padding_value=-100)
        return loss, rewards, torch.zeros(len(rewards), dtype=torch.int64, device=rewards.device)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As ``Trainer.evaluation_loop``, with our metrics, exact whatever the batches and processes were."""
        self._metrics["eval"] = RunningMetrics()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        found = self._metrics["eval"].result()
        found["num_tokens"] = float(self.state.num_input_tokens_seen)
        found.pop("tokens", None)
        assert output.metrics is not None
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the metrics since the last log when training."""
        if self.model.training:  # type: ignore[union-attr]
            found = self._metrics["train"].result()
            for name in ("loss", "tokens"):
                found.pop(name, None)
            if found:
                logs.update({**found, "num_tokens": float(self.state.num_input_tokens_seen)})
        super().log(logs, start_time)


class _GoesOnLogging(TrainerCallback):
    """Restores what was not logged: transformers sets it to 0 right before training begins."""

    def __init__(self, trainer: MeasuresComparisons) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._go_on_logging()
