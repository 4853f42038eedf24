"""Real GRPO and RLOO runs with a reward model of ours: does the reward on held-out prompts rise?

The task: a small instruct model answers the opening messages of hh-harmless in a few words, and a reward model trained
on those preferences judges the answers. Before and after, the policy answers the openings of the test file, which
neither the reward model nor the policy was trained on, with the same random numbers; the difference of the raw reward
is paired by prompt, its standard error is over prompts.

    rewardsmith train --method head --base smollm2 --layer 15 --ensemble 8 --data hh-harmless/train.jsonl -o out/rm
    python benchmarks/rl_runs.py --model out/rm --trainer grpo --setting plain --save runs.jsonl
    python benchmarks/rl_runs.py --plot runs.jsonl docs/rl-runs.svg

Settings: ``plain`` (the raw reward), ``two`` (with a second, hand-written reward, weights 1 and 0.5), ``cautious`` (an
ensemble's mean minus its standard deviation).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from _common import data_folder, last_line, machine
from rewardsmith import RewardModel
from rewardsmith.data import load_comparisons
from rewardsmith.model.bases import resolve
from rewardsmith.scoring.scorer import Scorer

SHAPINGS = {"plain": False, "two": False, "cautious": "uncertainty_penalty(k=1)"}


def main() -> None:
    """One run, or the plot of several."""
    args = arguments()
    if args.plot:
        plot(*map(Path, args.plot))
        return
    print(machine(), flush=True)
    started = time.perf_counter()
    line = run(args)
    line |= {name: getattr(args, name) for name in ("trainer", "setting", "steps", "seed", "learning_rate")}
    line["minutes"] = round((time.perf_counter() - started) / 60, 1)
    print(json.dumps({name: value for name, value in line.items() if name != "log"}))
    if args.save:
        with Path(args.save).open("a") as file:
            file.write(json.dumps(line) + "\n")
    last_line([line["rise"] / line["standard_error"]])


def run(args: argparse.Namespace) -> dict:
    """Train the policy; its log and the rise on held-out prompts."""
    held_out = openings("test")[: args.held_out]
    train = [prompt for prompt in openings("train") if prompt not in held_out][: args.prompts]
    reward_model = RewardModel.load(args.model, dtype="float32")
    folder = resolve(args.policy)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(args, reward_model, folder, train, scratch)
        scorer = Scorer(reward_model)
        before = answers(trainer.model, tokenizer, held_out, args)
        trainer.train()
        after = answers(trainer.model, tokenizer, held_out, args)
    rewards = [[one.reward for one in scorer.score(held_out, texts)] for texts in (before, after)]
    differences = [b - a for a, b in zip(*rewards, strict=True)]
    return {
        "before": statistics.fmean(rewards[0]),
        "after": statistics.fmean(rewards[1]),
        "rise": statistics.fmean(differences),
        "standard_error": statistics.stdev(differences) / len(differences) ** 0.5,
        "held_out_prompts": len(held_out),
        "examples": [list(one) for one in zip([p[0]["content"] for p in held_out], before, after, strict=True)][:5],
        "log": [entry for entry in trainer.state.log_history if "reward" in entry],
    }


def make_trainer(args: argparse.Namespace, model: RewardModel, policy: Path, prompts: list, scratch: str):
    """TRL's trainer with our reward function."""
    import trl

    config, trainer = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}[
        args.trainer
    ]
    functions = [model.as_reward_func(shaping=SHAPINGS[args.setting], name="harmless")]
    weights = None
    if args.setting == "two":
        functions, weights = [*functions, finished], [1.0, 0.5]
    settings = config(
        output_dir=scratch,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        num_generations=args.generations,
        max_completion_length=args.tokens,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        beta=args.beta,
        reward_weights=weights,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=args.seed,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    return trainer(
        model=AutoModelForCausalLM.from_pretrained(policy, dtype="float32"),
        reward_funcs=functions,
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(policy, padding_side="left"),
        peft_config=lora,
    )


def finished(prompts, completions, **_) -> list[float]:
    """1 for an answer of one to three whole sentences, else 0."""
    texts = [completion[-1]["content"].strip() for completion in completions]
    return [float(bool(re.fullmatch(r"(?:[^.!?]+[.!?]+){1,3}", text))) for text in texts]


def openings(part: str) -> list:
    """Conversations of one short user message, each once, in the file's order."""
    found = {}
    for row in load_comparisons(data_folder() / "hh-harmless" / f"{part}.jsonl"):
        first = row.prompt[0].content
        if 20 <= len(first) <= 200:
            found.setdefault(first, [{"role": "user", "content": first}])
    return list(found.values())


@torch.inference_mode()
def answers(policy, tokenizer, prompts: list, args: argparse.Namespace) -> list[str]:
    """One sampled answer to each prompt, with the same random numbers in every call."""
    policy.eval()
    set_seed(args.seed)
    tokenizer.padding_side, texts = "left", []
    for start in range(0, len(prompts), 16):
        inputs = tokenizer.apply_chat_template(
            prompts[start : start + 16], add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(policy.device)
        ids = policy.generate(
            **inputs,
            **{"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0},  # the policy's own distribution
            max_new_tokens=args.tokens,
            pad_token_id=tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def plot(source: Path, target: Path) -> None:
    """Reward by step of every run in a file, the held-out rise in the title of each panel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    runs = [json.loads(line) for line in source.read_text().splitlines()]
    _, panels = plt.subplots(1, len(runs), figsize=(3.6 * len(runs), 3.2), squeeze=False, layout="constrained")
    for panel, run in zip(panels[0], runs, strict=True):
        rewards = [entry["rewards/harmless/mean"] for entry in run["log"]]
        smooth = [statistics.fmean(rewards[max(0, k - 4) : k + 1]) for k in range(len(rewards))]
        steps = range(1, len(rewards) + 1)
        panel.plot(steps, rewards, color="#9ab", linewidth=0.8)
        panel.plot(steps, smooth, color="#0a5", linewidth=2)
        rise = f"rise {run['rise']:.2f}, s.e. {run['standard_error']:.2f}"
        held_out = f"held-out {run['before']:.2f} to {run['after']:.2f} ({rise})"
        panel.set_title(f"{run['trainer'].upper()}, {run['setting']}\n{held_out}", fontsize=8)
        panel.set_xlabel("step")
    panels[0][0].set_ylabel("mean reward of the step (line: mean of 5)")
    plt.savefig(target)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="folder of the reward model")
    add("--trainer", choices=("grpo", "rloo"), default="grpo")
    add("--setting", choices=tuple(SHAPINGS), default="plain")
    add("--policy", default="smollm2")
    add("--steps", type=int, default=32)
    add("--batch", type=int, default=8, help="answers a step")
    add("--generations", type=int, default=4, help="answers a prompt")
    add("--tokens", type=int, default=16, help="of an answer, at most")
    add("--learning-rate", type=float, default=5e-4)
    add("--beta", type=float, default=0.0, help="weight of the KL penalty")
    add("--prompts", type=int, default=256)
    add("--held-out", type=int, default=64)
    add("--seed", type=int, default=1)
    add("--save", help="append the run to this file")
    add("--plot", nargs=2, metavar=("RUNS", "IMAGE"))
    add("--quick", action="store_true", help="two minutes: three steps, few prompts")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.held_out, args.prompts, args.tokens = 3, 16, 32, 12
    return args


if __name__ == "__main__":
    main()
