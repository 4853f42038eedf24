"""Scoring groups of responses to one prompt, as GRPO asks for: ours against TRL's padded forward.

TRL's reward path renders prompt and completion with the chat template, pads to the longest and puts the whole batch
through one forward pass. Each way runs in a process of its own (so that peak memory is its own), alternating, on the
same real prompts and responses of hh-harmless; tokenisation counts for both. Prompts of about 1,000 and of about 100
tokens; responses drawn at random from the file's.

    python benchmarks/score_groups.py --sizes 8 16 64 --rounds 2
    python benchmarks/score_groups.py --device cuda --dtype bfloat16 --prompts 4
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from _common import data_folder, last_line, machine
from rewardsmith import LoadOptions, RewardModel
from rewardsmith.data import load_comparisons
from rewardsmith.encoding.tree import build
from rewardsmith.model import response_scores
from rewardsmith.scoring.scorer import Scorer

LENGTHS = {"1k": (850, 1150), "100": (80, 120)}  # tokens of the rendered prompt
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


def main() -> None:
    """All cases, or in a child process one way of one case."""
    args = arguments()
    if args.worker:
        print(json.dumps(worker(args)))
        return
    if args.quick:
        args.sizes, args.rounds, args.layers = [8], 1, args.layers or 6
    print(machine(), flush=True)
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        model = make_model(args, Path(scratch) / "model")
        for name in args.lengths:
            for size in args.sizes:
                ratios += case(args, model, name, size, Path(scratch))
    last_line(ratios)


def case(args: argparse.Namespace, model: RewardModel, name: str, size: int, scratch: Path) -> list[float]:
    """One prompt length and group size: prints its line, returns the ratio of each round."""
    groups = draw(model, name, size, args.prompts)
    job = scratch / "job.json"
    job.write_text(json.dumps(groups))
    padded, ours = positions(model, groups)
    runs = [{way: child(args, way, scratch) for way in ("trl", "ours")} for _ in range(args.rounds)]
    ratios = [run["trl"]["seconds"] / run["ours"]["seconds"] for run in runs]
    gap = max(abs(a - b) for a, b in zip(runs[0]["trl"]["scores"], runs[0]["ours"]["scores"], strict=True))
    scale = 1 + max(map(abs, runs[0]["trl"]["scores"]))
    middle = statistics.median(ratios)
    seconds = {way: statistics.median(run[way]["seconds"] for run in runs) for way in ("trl", "ours")}
    memory = {way: statistics.median(run[way]["peak_gib"] for run in runs) for way in ("trl", "ours")}
    print(
        f"prompt {name:>4}, {size:2} responses: TRL {seconds['trl']:.2f} s, ours {seconds['ours']:.2f} s, ratio "
        f"{middle:.2f} [{min(ratios):.2f} to {max(ratios):.2f}], tokens {padded:,} / {ours:,} = {padded / ours:.2f}, "
        f"share {middle / (padded / ours):.0%}; peak {memory['trl']:.2f} / {memory['ours']:.2f} GiB; "
        f"scores apart at most {gap:.1e}",
        flush=True,
    )
    if gap > TOLERANCE[args.dtype] * scale:
        raise SystemExit(f"the scores differ by {gap:.2e}")
    return ratios


def make_model(args: argparse.Namespace, folder: Path) -> RewardModel:
    """The base with a head of the size that training gives, saved for the children."""
    from rewardsmith.model.cut import cut

    torch.manual_seed(0)
    model = RewardModel.from_base(args.base, LoadOptions(dtype="float32", device="cpu"))
    if args.layers:
        cut(model.backbone.network, args.layers)
    model.head.weight.data = torch.randn_like(model.head.weight) * 0.05
    model.save(folder)
    return model


def draw(model: RewardModel, name: str, size: int, prompts: int) -> list[dict]:
    """Groups of one real prompt of the wanted length and ``size`` real responses."""
    low, high = LENGTHS[name]
    rows = list(load_comparisons(data_folder() / "hh-harmless" / "train.jsonl"))
    chance = random.Random(0)
    chance.shuffle(rows)
    replies = [response for row in rows for response in row.responses if response[-1].content]
    fitting = (row.prompt for row in rows if low <= len(model.render(row.prompt, "x").ids) <= high)
    return [
        {
            "prompt": [message.as_dict() for message in prompt],
            "responses": [[message.as_dict() for message in reply] for reply in chance.sample(replies, size)],
        }
        for prompt, _ in zip(fitting, range(prompts), strict=False)
    ]


def positions(model: RewardModel, groups: list[dict]) -> tuple[int, int]:
    """Positions that a padded batch of each group has, and tokens of the groups' trees."""
    padded = ours = 0
    for group in groups:
        _, rendered = response_scores.render(model, [group["prompt"]] * len(group["responses"]), group["responses"])
        padded += len(rendered) * max(len(one.ids) for one in rendered)
        ours += len(build(rendered))
    return padded, ours


def child(args: argparse.Namespace, way: str, scratch: Path) -> dict:
    """One way in a process of its own."""
    command = [sys.executable, __file__, "--worker", way, "--folder", str(scratch)]
    command += ["--device", args.device, "--dtype", args.dtype, "--repeats", str(args.repeats)]
    if args.attention:
        command += ["--attention", args.attention]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed ({done.returncode}): {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def worker(args: argparse.Namespace) -> dict:
    """Seconds per pass over all groups (median of the repeats), the scores and the peak memory."""
    folder = Path(args.folder)
    groups = json.loads((folder / "job.json").read_text())
    score = (trl_way if args.worker == "trl" else our_way)(folder / "model", args)
    score(warm(groups))
    seconds, scores = [], []
    for _ in range(args.repeats):
        started = time.perf_counter()
        scores = [value for group in groups for value in score(group)]
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": statistics.median(seconds), "scores": scores, "peak_gib": peak}


def warm(groups: list[dict]) -> dict:
    """A small group, so that the first timed one pays for no initialisation."""
    return {"prompt": groups[0]["prompt"][:1], "responses": groups[0]["responses"][:2]}


def trl_way(folder: Path, args: argparse.Namespace):
    """What TRL 1.16's GRPOTrainer does with a model as reward: template, pad right, one forward for the batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    dtype = getattr(torch, args.dtype)
    network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype).to(args.device)
    network.config.pad_token_id = tokenizer.pad_token_id
    network.eval()

    def score(group: dict) -> list[float]:
        chats = [{"messages": group["prompt"] + reply} for reply in group["responses"]]
        texts = [tokenizer.apply_chat_template(chat["messages"], tokenize=False) for chat in chats]
        inputs = tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(args.device)
        with torch.inference_mode():
            return network(**inputs).logits[:, 0].float().tolist()

    return score


def our_way(folder: Path, args: argparse.Namespace):
    """A Scorer."""
    scorer = Scorer(RewardModel.load(folder, dtype=args.dtype, device=args.device, attention=args.attention))

    def score(group: dict) -> list[float]:
        results = scorer.score([group["prompt"]] * len(group["responses"]), group["responses"])
        return [result.reward for result in results]

    return score


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[8, 16, 64], help="responses a prompt")
    add("--lengths", nargs="+", choices=tuple(LENGTHS), default=list(LENGTHS), help="tokens of the prompt")
    add("--prompts", type=int, default=1, help="groups a pass")
    add("--rounds", type=int, default=2, help="times each way is started")
    add("--repeats", type=int, default=2, help="passes timed in each process")
    add("--base", default="smollm2")
    add("--layers", type=int, help="cut the base to its first layers")
    add("--device", default="cpu")
    add("--dtype", default="float32")
    add("--attention", help="ours: tree, sdpa, flex_attention")
    add("--quick", action="store_true", help="under two minutes: groups of 8, 6 layers")
    add("--worker", choices=("trl", "ours"), help=argparse.SUPPRESS)
    add("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
