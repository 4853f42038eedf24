"""LoRA training on preference pairs against TRL's RewardTrainer: same base, adapters, batches, steps and losses.

Each round runs TRL, then ours, in a process of its own, on other rows of the file, drawn at random with a fixed seed. A
step is timed from the end of the one before, collating and logging included, after one warm-up step. The losses of all
steps must agree: to 1e-4 in float32, to 0.05 in bfloat16, where TRL's head rounds rewards themselves to 8 bits.

Both compute at most ``--positions`` in a forward pass: TRL takes the largest per-device batch that stays below and
accumulates gradients, ours splits the batch by itself. FLOPs are 4 per position and weight outside the embeddings
(forward, and backward to the inputs: the base gets no gradients), and 12 per query, key and attention channel; adapters
are not counted, nor what checkpointing computes again.

    python benchmarks/train_pairs.py                                    the headline: hh-harmless, batch 8, float32
    python benchmarks/train_pairs.py --data pandalm                     short prompts
    python benchmarks/train_pairs.py --data kwise --kwise 8 --batch 1   eight responses a prompt
    python benchmarks/train_pairs.py --all                              the table
    python benchmarks/train_pairs.py --device cuda --shape qwen3-4b --prompt-tokens 2000 --batch 2

K-wise: the four solutions of a GSM8K question; for eight, also those of another question, as wrong answers. TRL has no
K-wise loss, so it gets all K(K-1)/2 pairs of each comparison spelled out. Its mean over pairs is our loss, in which the
pairs of a comparison share its weight, only because all comparisons of a case have equally many. Solutions are ranked
without ties (right before wrong, then as in the file), since TRL knows none; the time does not depend on that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import torch

from _common import data_folder, last_line, machine, matmul_peak, spread
from rewardsmith.data import load_comparisons
from rewardsmith.encoding.pack import PAD, Batch
from rewardsmith.encoding.template import Template, as_messages
from rewardsmith.encoding.tree import Tree
from rewardsmith.model.bases import resolve
from rewardsmith.model.hardware import pick_dtype
from rewardsmith.model.load import load_tokenizer
from rewardsmith.training.prepare import prepare
from rewardsmith.types import Comparison, Text

FILES = {"hh-harmless": "hh-harmless/train", "pandalm": "pandalm/human", "kwise": "gsm8k-solutions/train"}
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
# data, batch, responses; the headline first
ALL = [("hh-harmless", batch, 2) for batch in (8, 2, 32)]
ALL += [("pandalm", 8, 2), ("kwise", 2, 4), ("kwise", 1, 8)]
# hidden size, MLP, layers and heads of the public models, which all have 8 key-value heads of 128; tiny is for trying
SHAPES = {"qwen3-0.6b": (1024, 3072, 28, 16), "qwen3-4b": (2560, 9728, 36, 32), "qwen3-tiny": (32, 48, 2, 8)}
HH_RESPONSE = (3.48, 0.87)  # mean and deviation of the log of its tokens, by smollm2's tokenizer
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Case:
    """A row of the table. ``batch`` counts comparisons of ``responses`` each."""

    data: str
    batch: int
    responses: int
    dtype: str
    steps: int

    @property
    def pairs(self) -> int:
        """Of a step."""
        return self.batch * math.comb(self.responses, 2)

    def __str__(self) -> str:
        kind = f" K={self.responses}" if self.responses > 2 else ""
        return f"{self.data}{kind}, batch {self.batch}, {self.dtype}"


@dataclass(frozen=True)
class Item:
    """A comparison as our row and as TRL's rows, and the longest sequence of each of those, in tokens."""

    ours: dict
    trl: list[dict]
    lengths: list[int]


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(work(args.worker, json.loads(Path(args.job).read_text()))))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("skipped: torch finds no CUDA device here")
    print(machine(), *([torch.cuda.get_device_name()] if args.device == "cuda" else []), sep=", ", flush=True)
    template = Template(load_tokenizer(resolve(args.base)), "chat")
    done, failures = [], []
    for case in cases(args):
        try:
            done.append((case, *measure(case, template, args)))
        except RuntimeError as error:
            failures.append(f"{case}: {error}")
            print(f"  {error}", flush=True)
    if len(done) > 1:
        table([(str(case), *cells) for case, cells, _ in done])
    if failures:
        raise SystemExit("\n".join(failures))
    last_line(done[0][2])


def cases(args: argparse.Namespace) -> list[Case]:
    """Those asked for, the headline first."""
    if not args.all:
        responses = args.kwise if args.data == "kwise" else 2
        return [Case(args.data, args.batch, responses, args.dtype or "float32", args.steps)]
    dtypes = [args.dtype] if args.dtype else list(TOLERANCE)
    if not args.dtype and pick_dtype("auto", torch.device(args.device)) != torch.bfloat16:
        print("bfloat16 is left out: this machine emulates it, many times slower (--dtype bfloat16 insists)")
        dtypes = ["float32"]
    every = [Case(*row, dtype, args.steps) for dtype in dtypes for row in ALL]
    # Large steps are fewer: each is a mean over many pairs already.
    return [replace(case, steps=max(1, min(args.steps, 8 * args.steps // case.pairs))) for case in every]


# -- rows


def sample(case: Case, template: Template, args: argparse.Namespace) -> list[Item]:
    """Comparisons for all rounds, a warm-up step each."""
    count, draw = args.rounds * (case.steps + 1) * case.batch, random.Random(args.seed)
    if args.prompt_tokens:
        return [synthetic(draw, args.prompt_tokens, len(template.tokenizer)) for _ in range(count)]
    rows = read(case)
    draw.shuffle(rows)
    kept = ((row, prepare(template, [row], args.max_length).trees) for row in rows)
    found = list(islice((item(row, *trees) for row, trees in kept if trees), count))
    if len(found) < count:
        raise RuntimeError(f"{len(found)} comparisons fit, {count} are needed: take fewer rounds or steps")
    return found


def read(case: Case) -> list[Comparison]:
    """Comparisons with one clear order, best first: TRL knows neither ties nor probabilities."""
    file = data_folder() / f"{FILES[case.data]}.jsonl"
    every = load_comparisons(file, skip_bad=True, on_problem=lambda problem: None)
    if case.data != "kwise":
        return [row for row in every if row.ranks == (0, 1) and row.probability is None]
    ranked = [ordered(row) for row in every if len(set(row.responses)) == len(row.responses) == 4]
    if case.responses == 4:
        return ranked
    return [ordered(row, other.responses) for row, other in pairwise([*ranked, ranked[0]])]


def ordered(row: Comparison, worse: Sequence[Text] = ()) -> Comparison:
    """Best first, ties as they stand, and worse ones behind."""
    places = sorted(range(len(row.responses)), key=lambda place: row.ranks[place])
    responses = (*(row.responses[place] for place in places), *worse)
    return replace(row, responses=responses, ranks=tuple(range(len(responses))))


def item(row: Comparison, tree: Tree) -> Item:
    """Messages in TRL's format; in ours where there are more than two responses."""
    prompt = [message.as_dict() for message in as_messages(row.prompt, "user")]
    responses = [[message.as_dict() for message in as_messages(one, "assistant")] for one in row.responses]
    pairs = list(combinations(range(len(responses)), 2))
    trl = [{"prompt": prompt, "chosen": responses[a], "rejected": responses[b]} for a, b in pairs]
    ours = {"prompt": prompt, "responses": responses, "ranks": list(row.ranks)} if len(pairs) > 1 else trl[0]
    lengths = [len(tree.sequence(k)) for k in range(len(responses))]
    return Item(ours, trl, [max(lengths[a], lengths[b]) for a, b in pairs])


def synthetic(draw: random.Random, prompt_tokens: int, vocabulary: int) -> Item:
    """A pair of random tokens, its responses about as long as those of hh-harmless."""
    lengths = [prompt_tokens, *(max(4, round(draw.lognormvariate(*HH_RESPONSE))) for _ in range(2))]
    prompt, chosen, rejected = ([draw.randrange(100, vocabulary) for _ in range(length)] for length in lengths)
    row = {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
    return Item(row, [row], [prompt_tokens + max(lengths[1:])])


def passes(lengths: Sequence[int], pairs: int, limit: int | None) -> int:
    """Forward passes of TRL's steps: the fewest of equally many pairs with all within the limit."""
    for count in (n for n in range(1, pairs) if pairs % n == 0):
        size = pairs // count
        if not limit or max(2 * size * max(lengths[k : k + size]) for k in range(0, len(lengths), size)) <= limit:
            return count
    return pairs


# -- rounds


def measure(case: Case, template: Template, args: argparse.Namespace) -> tuple[list[str], list[float]]:
    """All rounds of a case, printed as they come: cells of the table, and ratios."""
    print(f"\n{case}: {args.rounds} rounds of {case.steps} steps of {case.pairs} pairs", flush=True)
    items, size = sample(case, template, args), (case.steps + 1) * case.batch
    runs = []
    for start in range(0, len(items), size):
        piece = items[start : start + size]
        split = passes([length for one in piece for length in one.lengths], case.pairs, args.positions)
        job = {**vars(args), "base": str(resolve(args.base)), "dtype": case.dtype, "steps": case.steps}
        job |= {"pairs": case.pairs * case.steps, "batch": case.pairs // split, "passes": split}
        trl = child("trl", {**job, "rows": [row for one in piece for row in one.trl]})
        ours = child("ours", {**job, "rows": [one.ours for one in piece], "batch": case.batch, "passes": 1})
        runs.append((trl, ours))
        speeds = f"TRL {trl['speed']:.3g} pairs/s in {split} passes a step, ours {ours['speed']:.3g}"
        print(f"  round {len(runs)}: {speeds}, ratio {ours['speed'] / trl['speed']:.2f}", flush=True)
    return report(case, runs)


def child(way: str, job: dict[str, Any]) -> dict[str, Any]:
    """One trainer in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps({**job, "folder": folder}))
        command = [sys.executable, "-W", "ignore", __file__, "--worker", way, "--job", str(path)]
        done = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True)
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{way} ended with {done.returncode} (-9 is out of memory, mostly)\n{reason}")
    return json.loads(done.stdout.splitlines()[-1])


def report(case: Case, runs: list[tuple[dict, dict]]) -> tuple[list[str], list[float]]:
    """What the rounds say, printed; RuntimeError when the losses differ."""

    def both(key: str) -> tuple[list, list]:
        trl, ours = zip(*((one[key], other[key]) for one, other in runs), strict=True)
        return list(trl), list(ours)

    speeds, memory, tokens = both("speed"), [max(way) for way in both("memory")], sum(both("tokens")[0])
    ratios = [ours / trl for trl, ours in zip(*speeds, strict=True)]
    steps = [a / b for trl, ours in zip(*both("seconds"), strict=True) for a, b in zip(trl, ours, strict=True)]
    gaps = [abs(a - b) for trl, ours in zip(*both("losses"), strict=True) for a, b in zip(trl, ours, strict=True)]
    error, limit = max(math.inf if math.isnan(gap) else gap for gap in gaps), TOLERANCE[case.dtype]
    positions, median = [sum(way) for way in both("positions")], statistics.median(ratios)
    pace = [tokens / len(runs) / case.steps / case.pairs * statistics.median(way) for way in speeds]
    alone, share = positions[0] / positions[1], [statistics.median(way) for way in both("share")]
    print(f"  pairs a second   {spread(speeds[0])} TRL")
    print(f"                   {spread(speeds[1])} ours")
    print(f"  ratio            {spread(ratios)}; median over steps {statistics.median(steps):.2f}")
    print(f"  of positions     {alone:8.2f}  ({positions[0]:,} to {positions[1]:,}); gained {median / alone:.0%} of it")
    print(f"  tokens a second  {pace[0]:8,.0f}  TRL, {pace[1]:,.0f} ours, every sequence counted whole")
    print(f"  of matmul peak   {share[0]:8.0%}  TRL, padding included, {share[1]:.0%} ours; ", end="")
    print(f"peak {statistics.median(both('peak')[1]) / 1e9:,.1f} GFLOP/s")
    print(f"  peak memory      {memory[0]:8.2f}  GiB TRL, {memory[1]:.2f} GiB ours")
    print(f"  losses           {error:8.0e}  apart at most, limit {limit:.0e}, {len(gaps)} steps", flush=True)
    if error > limit:
        raise RuntimeError(f"the losses are {error:.1e} apart, the limit is {limit:.0e}")
    cells = [f"{statistics.median(way):.3g}" for way in speeds]
    cells += [f"{median:.2f} [{min(ratios):.2f}-{max(ratios):.2f}]", f"{alone:.2f}"]
    return [*cells, *(f"{one:.2f}" for one in memory), f"{share[1]:.0%}", f"{error:.0e}"], ratios


def table(lines: list[tuple[str, ...]]) -> None:
    """All cases, a line each."""
    head = ("case", "TRL pairs/s", "ours", "ratio", "positions", "TRL GiB", "ours", "of peak", "losses apart")
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    print()
    for line in (head, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


# -- one trainer, in the child


class Counting:
    """A trainer's own collator, which notes of every batch: positions, tokens, and the sum of keys over queries."""

    def __init__(self, collate: Any):
        self.collate, self.seen = collate, []

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        batch = self.collate(rows)
        if "passes" in batch:
            packed = [one["batch"] for one in batch["passes"]]
            tokens = sum(int((one.tree != PAD).sum()) for one in packed)
            self.seen.append((sum(one.input_ids.numel() for one in packed), tokens, sum(map(keys_of, packed))))
        else:
            count, width = batch["input_ids"].shape
            self.seen.append((count * width, int(batch["attention_mask"].sum()), count * width * (width + 1) / 2))
        return batch


def keys_of(batch: Batch) -> float:
    """The sum over queries of the keys they see."""
    keys = batch.trunk * (batch.trunk + 1) / 2
    for (prefix, *branches), known in zip(batch.sizes, batch.known, strict=True):
        keys += prefix * (prefix + 1) / 2 - known * (known + 1) / 2
        keys += sum(n * prefix + n * (n + 1) / 2 for n in branches)
    return keys


def work(way: str, job: dict[str, Any]) -> dict[str, Any]:
    """Train one way: losses of all steps, and what the timed ones took. TRL's padding counts as work, ours does not."""
    from transformers import PrinterCallback, TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            if job["device"] == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer = make(way, job)
    trainer.data_collator = counting = Counting(trainer.data_collator)
    trainer.remove_callback(PrinterCallback)  # standard output is for the parent
    trainer.add_callback(Clock())
    trainer.train()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = torch.cuda.max_memory_allocated() if job["device"] == "cuda" else kilobytes * 1024
    timed = counting.seen[job["passes"] : (job["steps"] + 1) * job["passes"]]
    positions, tokens, keys = (sum(column) for column in zip(*timed, strict=True))
    config, other = trainer.model.config, ("embed", "lora_", "score")
    channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    channels *= config.num_attention_heads * config.num_hidden_layers
    weights = sum(p.numel() for name, p in trainer.model.named_parameters() if not any(part in name for part in other))
    flops = 4 * weights * (positions if way == "trl" else tokens) + 12 * channels * keys
    peak, total = matmul_peak(getattr(torch, job["dtype"]), job["device"]), ends[-1] - ends[0]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = {"positions": positions, "tokens": tokens, "memory": memory / 2**30, "losses": losses, "peak": peak}
    seconds = [after - before for before, after in pairwise(ends)]
    return {**found, "seconds": seconds, "speed": job["pairs"] / total, "share": flops / total / peak}


def make(way: str, job: dict[str, Any]) -> Any:
    """The trainer, on the rows of the job in their order."""
    from datasets import Dataset
    from peft import LoraConfig

    if way == "trl":
        from trl import RewardConfig, RewardTrainer
    else:
        from rewardsmith import RewardConfig, RewardTrainer
    batch = {"per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": job["passes"]}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    on_cpu = job["device"] == "cpu"
    own = {"tokens_per_forward": job["positions"] or None} if way == "ours" else {}
    config = RewardConfig(
        job["folder"],
        max_steps=job["steps"] + 1,
        gradient_checkpointing=job["checkpointing"],
        bf16=job["dtype"] == "bfloat16",
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        max_length=None,  # the parent has left long rows out
        seed=job["seed"],
        train_sampling_strategy="sequential",
        **(batch | quiet | own),
    )
    projections = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    lora = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules=projections)
    data, model, tokenizer = Dataset.from_list(job["rows"]), job["base"], None
    if job["shape"]:
        tokenizer = load_tokenizer(Path(job["base"]))
        model = shaped(job, tokenizer, job["attention"] if way == "ours" else "sdpa")
    return RewardTrainer(model, config, train_dataset=data, processing_class=tokenizer, peft_config=lora)


def shaped(job: dict[str, Any], tokenizer: Any, attention: str) -> Any:
    """A reward model of random weights, the same ones for both trainers, its head in float32."""
    from transformers import AutoModelForSequenceClassification, Qwen3Config

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = dict(zip(names, SHAPES[job["shape"]], strict=True), num_key_value_heads=8, head_dim=128)
    rope = {"max_position_embeddings": 40960, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(**sizes, **rope, **words, num_labels=1)
    torch.manual_seed(job["seed"])
    options = {"dtype": getattr(torch, job["dtype"]), "attn_implementation": attention}
    with torch.device(job["device"]):
        model = AutoModelForSequenceClassification.from_config(config, **options)
    model.score.float()
    return model


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", choices=tuple(FILES), default="hh-harmless")
    add("--kwise", type=int, choices=(4, 8), default=4, help="responses of a comparison, with --data kwise")
    add("--batch", type=int, default=8, help="comparisons of an update step")
    add("--dtype", choices=tuple(TOLERANCE), help="bfloat16 is autocast, and the default with --shape")
    add("--steps", type=int, default=4, help="timed steps of a round")
    add("--rounds", type=int, default=3)
    add("--all", action="store_true", help="every case, in fewer steps where they are large")
    add("--quick", action="store_true", help="one round of two steps, hh-harmless, batch 2")
    add("--base", default="smollm2", help="the model; with --shape, only its tokenizer")
    add("--max-length", type=int, default=1024, help="comparisons with a longer response are left out")
    add("--positions", type=int, help="in a forward pass, 0: any; 8000 on a CPU, about 16 GiB for smollm2 in float32")
    add("--checkpointing", action="store_true", help="gradient checkpointing in both")
    add("--seed", type=int, default=1, help="of rows, head and adapters")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--shape", choices=tuple(SHAPES), help="a model of random weights instead of the base")
    add("--prompt-tokens", type=int, help="random prompts of this many tokens instead of data")
    add("--attention", default="sdpa", help="of ours, with --shape; TRL's is sdpa")
    add("--worker", choices=("trl", "ours"), help=argparse.SUPPRESS)
    add("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.data, args.batch, args.steps, args.rounds, args.all = "hh-harmless", 2, 2, 1, False
    if args.prompt_tokens and (args.all or args.data == "kwise"):
        parser.error("--prompt-tokens makes pairs: leave --all and --data kwise out")
    if args.prompt_tokens:
        args.data = f"prompts of {args.prompt_tokens} tokens"
    if args.shape and not args.dtype:
        args.dtype = "bfloat16"
    if args.positions is None and args.device == "cpu":
        args.positions = 8000
    return args


if __name__ == "__main__":
    main()
