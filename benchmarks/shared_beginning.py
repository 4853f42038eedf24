"""Training steps with what all prompts of a batch begin with (a system prompt) computed once, against once a prompt.

The same trainer takes the same batches both ways in turn, forward and backward. The last line is the median ratio.

    python benchmarks/shared_beginning.py --data hh-harmless/train
    python benchmarks/shared_beginning.py --data pandalm/human
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from peft import LoraConfig

from _common import data_folder, last_line, machine, spread
from _training import record
from rewardsmith import RewardConfig, RewardTrainer
from rewardsmith.data import load_comparisons
from rewardsmith.encoding.tree import trunk


def main() -> None:
    """One file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hh-harmless/train")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two steps")
    args = parser.parse_args()
    steps = 2 if args.quick else args.steps
    torch.set_num_threads(args.threads)
    print(machine())
    found = list(load_comparisons(data_folder() / f"{args.data}.jsonl", skip_bad=True))
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(args.base, [record(one) for one in found[: (steps + 1) * args.batch]], folder, args.batch)
        batches = [list(map(dict, made.train_dataset.skip(k * args.batch).take(args.batch))) for k in range(steps + 1)]
        step(made, batches[0], share=True)  # warm up
        ratios, positions = [], []
        for batch in batches[1:]:
            (usual, more), (ours, fewer) = (step(made, batch, share=share) for share in (False, True))
            ratios.append(usual / ours)
            positions.append(more / fewer)
            print(f"{usual:.2f} s, {ours:.2f} s: {ratios[-1]:.3f}, of positions {positions[-1]:.3f}", flush=True)
    print(f"of positions{spread(positions)}")
    print(f"of time{spread(ratios)}")
    last_line(ratios)


def trainer(base: str, rows: list[dict[str, Any]], folder: str, batch: int) -> RewardTrainer:
    """LoRA on all projections."""
    args = RewardConfig(folder, per_device_train_batch_size=batch, report_to=[], disable_tqdm=True, bf16=False)
    adapters = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    made = RewardTrainer(base, args, train_dataset=Dataset.from_list(rows), peft_config=adapters)
    made.current_gradient_accumulation_steps = 1  # transformers sets it where its own loop begins
    return made


def step(made: RewardTrainer, rows: list[dict[str, Any]], *, share: bool) -> tuple[float, int]:
    """Seconds of forward and backward, and positions computed."""
    with mock.patch("rewardsmith.training.collator.trunk", trunk if share else lambda trees: 0):
        batch = made.data_collator(rows)
    started = time.perf_counter()
    made.training_step(made.model, batch)
    seconds = time.perf_counter() - started
    made.model.zero_grad()
    return seconds, sum(one["batch"].input_ids.numel() for one in batch["passes"])


if __name__ == "__main__":
    main()
