"""How often a model's worst step is the one that was made wrong, in synthetic thinking of held-out families.

The reward head's choice is the step at which the reward falls most (``score_thinking(...).curve.worst``), the process
head's the step least likely to be right. Beside them: a step drawn at random, and the last step of the thinking.
Intervals are 95% over prompts. The last line is the better head's share over that of a random step.

    python benchmarks/found_step.py --model out/prm
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from _common import machine
from rewardsmith import RewardModel
from rewardsmith.intervals import cluster_bootstrap
from rewardsmith.model.process_scores import score_steps
from rewardsmith.model.steps import split_steps
from rewardsmith.model.thinking_scores import score_thinking
from rewardsmith.thinking.pairs import ThinkingPair, held_out_families, synthesize
from rewardsmith.thinking.parse import split_thinking
from rewardsmith.thinking.phrases import halves
from rewardsmith.thinking.stepwise import CORRUPTIONS

CHUNK = 100
"""Pairs scored between two lines of progress."""


def main() -> None:
    """One model, one table."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    families = held_out_families(args.hold_out, args.split_seed)[1]
    pairs = synthesize(args.pairs, 1, families, CORRUPTIONS, phrases=halves()[1])
    print(machine())
    print(f"{args.model} on {len(pairs)} pairs of {', '.join(families)}", flush=True)
    model = RewardModel.load(args.model)
    found: dict[str, list[float]] = {}
    for start in range(0, len(pairs), CHUNK):
        for name, hits in chosen(model, pairs[start : start + CHUNK]).items():
            found.setdefault(name, []).extend(hits)
        print(f"{min(start + CHUNK, len(pairs))} of {len(pairs)} pairs", file=sys.stderr, flush=True)
    best = table(pairs, {name: np.array(hits) for name, hits in found.items()})
    print(f"ratio {best:.2f}")


def chosen(model: RewardModel, pairs: list[ThinkingPair]) -> dict[str, list[float]]:
    """By name 1 or 0 for each pair, whether the step chosen is the false one; for a random step the chance of it."""
    prompts, worse = [pair.comparison.prompt for pair in pairs], [str(pair.comparison.responses[1]) for pair in pairs]
    truth = [pair.corrupted_step for pair in pairs]
    steps = [split_steps(split_thinking(text)) for text in worse]
    picks: dict[str, list[int | None]] = {}
    if model.contract.reward_head:
        starts = ([start for start, *_ in each] for each in steps)
        picks["largest fall of the reward"] = [  # by place: what max_length cut off is no step of the curve
            None if one.curve.worst is None else places.index(one.steps[one.curve.worst].start)
            for one, places in zip(score_thinking(model, prompts, worse), starts, strict=True)
        ]
    if model.process is not None:
        # The head may have been trained with another separator; here steps are lines.
        judged = [one.probabilities for one in score_steps(model, prompts, worse, separator="\n")]
        picks["lowest of the process head"] = [
            min((k for k, p in enumerate(right) if p is not None), key=right.__getitem__, default=None)
            for right in judged
        ]
    picks["last step of the thinking"] = [sum(part == "thinking" for *_, part in each) - 1 for each in steps]
    found = {name: [float(a == b) for a, b in zip(each, truth, strict=True)] for name, each in picks.items()}
    return found | {"random step": [1 / len(each) for each in steps]}


def table(pairs: list[ThinkingPair], found: dict[str, np.ndarray]) -> float:
    """Prints the shares; returns the best head's over the random step's."""
    subset = np.array([pair.comparison.subset for pair in pairs])
    _, prompt = np.unique([str(pair.comparison.prompt) for pair in pairs], return_inverse=True)
    parts = {name: subset == name for name in CORRUPTIONS} | {"all": np.ones(len(pairs), dtype=bool)}
    print(f"| false step found by | {' | '.join(f'{name}, n {where.sum()}' for name, where in parts.items())} |")
    print(f"|---|{'---|' * len(parts)}")
    for name, hits in found.items():
        shares = [cluster_bootstrap(hits[where], prompt[where]) for where in parts.values()]
        print(f"| {name} | {' | '.join(f'{one.value:.3f} [{one.low:.3f} to {one.high:.3f}]' for one in shares)} |")
    heads = [hits.mean() for name, hits in found.items() if name not in ("last step of the thinking", "random step")]
    return float(max(heads) / found["random step"].mean())


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a causal reward model, with or without process head")
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--hold-out", type=int, default=3, help="families")
    parser.add_argument("--split-seed", type=int, default=0, help="which families are held out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="two minutes")
    args = parser.parse_args()
    if args.quick:
        args.pairs = min(args.pairs, 60)
    return args


if __name__ == "__main__":
    main()
