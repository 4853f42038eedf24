"""A training script as a user writes it. The tests call it in their own process, and launch it on two:

    torchrun --nproc-per-node 2 distributed_script.py runs.json
    accelerate launch --config_file fsdp2.yaml distributed_script.py runs.json

``runs.json`` holds a list of runs, each of them the arguments of :func:`train`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import DistributedType
from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback

from rewardsmith import RewardConfig, RewardTrainer

DEFAULTS = {
    "use_cpu": True,
    "bf16": False,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "per_device_eval_batch_size": 4,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


class Steps(TrainerCallback):
    """Notes the steps that this process took itself."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken.append(state.global_step)


def train(
    folder: str,
    model: str,
    train_file: str,
    eval_file: str | None = None,
    *,
    adapter: dict[str, Any] | None = None,
    resume: str | None = None,
    stream: bool = False,
    sharded: bool = False,
    reward_model: bool = False,
    config: dict[str, Any],
) -> RewardTrainer:
    """Train, evaluate and save. What was logged, predicted and learnt is left in ``folder``, for each process."""
    data = load_dataset("json", data_files=train_file, split="train", streaming=stream)
    eval_data = load_dataset("json", data_files=eval_file, split="train") if eval_file else None
    args = RewardConfig(folder, **{**DEFAULTS, **config})
    if sharded and args.world_size > 1:
        # accelerate has FSDP for accelerators only, and takes DDP on a CPU without a word: no user should need this.
        args.distributed_state.distributed_type = DistributedType.MULTI_GPU
    predictions: list[Any] = []

    def keep(found: Any) -> dict[str, float]:
        predictions.append(found.predictions.tolist())
        return {"rows": float(len(found.label_ids))}

    steps = Steps()
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=eval_data,
        compute_metrics=keep,
        callbacks=[steps],
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **adapter) if adapter is not None else None,
    )
    trainer.train(resume_from_checkpoint=resume)
    if eval_data is not None:
        trainer.evaluate()
    trainer.save_model(f"{folder}/saved")
    if reward_model:
        made = trainer.reward_model()  # every process, as each may hold a part of the weights
        if trainer.is_world_process_zero():
            made.save(f"{folder}/reward_model")
    found = {
        "logs": trainer.state.log_history,
        "steps": steps.taken,
        "predictions": predictions[-1] if predictions else None,
        "processes": args.world_size,
        "kind": trainer.accelerator.distributed_type.value,
    }
    Path(folder, f"{args.process_index}.json").write_text(json.dumps(found))
    torch.save(trainer.accelerator.get_state_dict(trainer.model), Path(folder, f"{args.process_index}.pt"))
    return trainer


if __name__ == "__main__":
    datasets.logging.set_verbosity_info()  # says what is rendered, and what was already
    for run in json.loads(Path(sys.argv[1]).read_text()):
        train(**run)
