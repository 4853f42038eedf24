"""Held-out accuracy of fine-tuning on hh-harmless: one line for each way of training.

Each run trains on the whole training file, then evaluates on the whole test file; it prints accuracy with its interval,
the loss of the fitted head before the first step, and wall times. Runs are long (tens of minutes on two cores), so one
call is one run:

    python benchmarks/finetune_hh.py --layers 15 --head-init probe --learning-rate 5e-5
    python benchmarks/finetune_hh.py --layers 15 --head-init random --learning-rate 1e-4
    python benchmarks/finetune_hh.py --layers 15 --epochs 0 --head-init probe      (the frozen head alone)

``--trainer trl`` trains with TRL's RewardTrainer instead (a random head, the same seed, order, batches and adapters),
and evaluates what it trained with our scoring, so that only the training differs. ``--save FILE`` appends the line.
Times are given twice, by the clock and in seconds of processor time, since other work may run beside.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer

from _common import data_folder, machine
from rewardsmith import RewardConfig, RewardModel, RewardTrainer
from rewardsmith.data import load_comparisons
from rewardsmith.evaluation.evaluate import evaluate_model
from rewardsmith.model.cut import cut


def main() -> None:
    """One run."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(machine(), flush=True)
    rows, test = (list(load_comparisons(data_folder() / "hh-harmless" / f"{part}.jsonl")) for part in ("train", "test"))
    rows, test = rows[: args.rows], test[: args.test_rows]
    with tempfile.TemporaryDirectory() as scratch:
        base = args.base if args.layers is None else str(shallow(args.base, args.layers, Path(scratch) / "base"))
        started = time.perf_counter()
        trainer = make_trainer(args, base, rows, scratch)
        prepared, busy = time.perf_counter(), time.process_time()
        before = None
        if args.epochs:
            start = getattr(trainer, "start", None)
            before = start and start.loss
            trainer.train()
        trained, busy = time.perf_counter(), time.process_time() - busy
        model = trained_by_trl(trainer, base) if args.trainer == "trl" else trainer.reward_model()
        found = evaluate_model(model, test).as_dict()
        if args.output:
            model.save(args.output)
    line = {
        **{name: value for name, value in vars(args).items() if value is not None},
        "accuracy": found["accuracy"],
        "longer_wins": found["longer_wins"],
        "frozen_head_train_loss": before,
        "prepare_seconds": round(prepared - started),
        "train_seconds": round(trained - prepared),
        "train_processor_seconds": round(busy),
        "log": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    print(json.dumps(line))
    if args.save:
        with Path(args.save).open("a") as file:
            file.write(json.dumps(line) + "\n")


def make_trainer(args: argparse.Namespace, base: str, rows: list, scratch: str) -> Trainer:
    """The trainer of one run: ours or TRL's."""
    common = {
        "output_dir": f"{scratch}/run",
        "num_train_epochs": args.epochs,
        "per_device_train_batch_size": args.micro or args.batch,
        "gradient_accumulation_steps": args.batch // (args.micro or args.batch),
        "learning_rate": args.learning_rate,
        "warmup_steps": args.warmup,
        "lr_scheduler_type": args.scheduler,
        "gradient_checkpointing": False,
        "max_length": 1024,
        "seed": args.seed,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
        "bf16": args.bf16,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    first = args.train_from or 0
    layers = list(range(first, args.layers or 30)) if first else None
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=args.rank,
        lora_alpha=2 * args.rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=layers,
    )
    data = Dataset.from_list([conversation(row) for row in rows])
    if args.trainer == "trl":
        import trl

        lora.modules_to_save = ["score"]
        return trl.RewardTrainer(base, trl.RewardConfig(**common), train_dataset=data, peft_config=lora)
    ours = {"head_learning_rate": args.head_learning_rate, "head_anchor": args.head_anchor, "head_init": args.head_init}
    return RewardTrainer(base, RewardConfig(**common, **ours), train_dataset=data, peft_config=lora)


def trained_by_trl(trainer: Trainer, base: str) -> RewardModel:
    """What TRL's trainer trained, as a model of ours: the adapters merged, the same template."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.model.merge_and_unload().save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        return RewardModel.load(folder, dtype="float32")  # as ours, whatever this machine multiplies natively


def conversation(row) -> dict:
    """A comparison in TRL's conversational format."""
    prompt = [message.as_dict() for message in row.prompt]
    chosen, rejected = ([message.as_dict() for message in response] for response in row.responses)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def shallow(base: str, layers: int, folder: Path) -> Path:
    """The first ``layers`` layers of a base model as a base model of its own."""
    model = RewardModel.from_base(base)
    cut(model.backbone.network, layers)
    body = model.backbone.body
    body.config.architectures = None
    body.save_pretrained(folder)
    model.template.tokenizer.save_pretrained(folder)
    return folder


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--trainer", choices=("ours", "trl"), default="ours")
    parser.add_argument("--layers", type=int, help="cut the base to its first layers")
    parser.add_argument("--train-from", type=int, help="adapters only on layers from this one (0-based)")
    parser.add_argument("--head-init", choices=("random", "probe"), default="probe")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--head-learning-rate", type=float)
    parser.add_argument("--head-anchor", type=float, default=0.0)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro", type=int, help="pairs of a forward pass, where a whole batch does not fit (TRL's)")
    parser.add_argument("--warmup", type=float, default=0)
    parser.add_argument("--scheduler", default="linear")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--rows", type=int, help="train on the first rows only")
    parser.add_argument("--test-rows", type=int, help="evaluate on the first rows only")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast (both trainers)")
    parser.add_argument("--output", help="folder for the trained model")
    parser.add_argument("--save", help="append the line to this file")
    parser.add_argument("--quick", action="store_true", help="two minutes: few rows, few layers")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.test_rows, args.layers = args.rows or 16, args.test_rows or 16, args.layers or 4
    return args


if __name__ == "__main__":
    main()
