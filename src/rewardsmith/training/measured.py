"""Metrics of comparisons, exact whatever the batches and processes were."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import Trainer

from rewardsmith.training import objective
from rewardsmith.training.passes import passes
from rewardsmith.training.running_metrics import RunningMetrics


class MeasuresComparisons(Trainer):
    """A trainer whose ``compute_loss`` leaves what each comparison says (:func:`objective.measure`) in ``_tables``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._metrics = {"train": RunningMetrics(), "eval": RunningMetrics()}
        self._tables: list[Tensor] = []

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
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        counts = torch.cat([torch.bincount(one["labels"]["comparison"]) for one in passes(inputs)]).tolist()
        self._flush("eval")
        if prediction_loss_only:
            return loss, None, None
        groups = outputs["logits"].mean(-1).split(counts)
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
        if self.model.training:
            found = self._metrics["train"].result()
            for name in ("loss", "tokens"):
                found.pop(name, None)
            if found:
                logs.update({**found, "num_tokens": float(self.state.num_input_tokens_seen)})
        super().log(logs, start_time)
