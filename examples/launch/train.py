"""Train a reward model on one process or on many.

    python train.py --model Qwen/Qwen3-0.6B --data pairs.jsonl --output_dir out
    accelerate launch --config_file ddp.yaml train.py --model Qwen/Qwen3-0.6B --data pairs.jsonl --output_dir out

Every field of RewardConfig is an option: --learning_rate 2e-5 --per_device_train_batch_size 4 --loss hinge ...
"""

from dataclasses import dataclass
from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from transformers import HfArgumentParser

from rewardsmith import RewardConfig, RewardTrainer


@dataclass
class Script:
    """What is trained on what."""

    model: str
    data: str
    eval_data: str | None = None
    lora_rank: int = 0  # 0 trains all weights


def main() -> None:
    script, config = HfArgumentParser((Script, RewardConfig)).parse_args_into_dataclasses()
    files = {"train": script.data} | ({"eval": script.eval_data} if script.eval_data else {})
    data = load_dataset("json", data_files=files)
    trainer = RewardTrainer(
        model=script.model,
        args=config,
        train_dataset=data["train"],
        eval_dataset=data.get("eval"),
        peft_config=LoraConfig(r=script.lora_rank, task_type="SEQ_CLS") if script.lora_rank else None,
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    model = trainer.reward_model()  # all processes call it: with FSDP each has a part of the weights
    if trainer.is_world_process_zero():
        model.save(Path(config.output_dir) / "reward_model")


if __name__ == "__main__":
    main()
