"""Held-out accuracy on synthetic thinking pairs of families that training never showed, for each corruption.

Three families are held out. Beside the model stand the baselines: the longer response wins, the one with a think tag
wins, and the one that says the true answer wins (which is cheating: nobody knows it in use). Where a baseline cannot
tell, it counts one half. Intervals are 95%; every held-out prompt has one pair.

    python benchmarks/thinking_families.py --method head --layers 20
    python benchmarks/thinking_families.py --method lora --bf16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import _training
from _common import machine
from rewardsmith.intervals import cluster_bootstrap
from rewardsmith.thinking.pairs import ThinkingPair, held_out_families, synthesize
from rewardsmith.thinking.parse import split_thinking
from rewardsmith.types import Estimate


def main() -> None:
    """One training, one table."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    train_families, test_families = held_out_families(args.hold_out, args.split_seed)
    rows = [pair.comparison for pair in synthesize(args.pairs, 0, train_families)]
    test = synthesize(args.test_pairs, 1, test_families)
    print(machine())
    print(f"trained on {len(rows)} pairs of {', '.join(train_families)}; tested on {', '.join(test_families)}", flush=True)
    model, seconds = _training.trained(args, rows)
    prompts = [pair.comparison.prompt for pair in test for _ in range(2)]
    responses = [response for pair in test for response in pair.comparison.responses]
    rewards = np.array(model.score_batch(prompts, responses)).reshape(-1, 2)
    wins = {"model": np.sign(rewards[:, 0] - rewards[:, 1]) / 2 + 0.5}
    wins |= {name: np.array([rule(pair) for pair in test]) for name, rule in BASELINES.items()}
    line = {**vars(args), "train": train_families, "test": test_families, "seconds": round(seconds)}
    line["table"] = table(test, wins)
    if args.save:
        with Path(args.save).open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(f"training {seconds:.0f} s; model {' '.join(shown(line['table']['all']['model']).split())}")


def table(test: list[ThinkingPair], wins: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """Prints and returns the share of pairs won by each, for each corruption, each family and in all."""
    corruption = np.array([pair.comparison.subset for pair in test])
    family = np.array([pair.family for pair in test])
    parts = {name: corruption == name for name in sorted(set(corruption))}
    parts |= {f"family {name}": family == name for name in sorted(set(family))}
    parts["all"] = np.ones(len(test), dtype=bool)
    found = {}
    print("| pairs | n | model | longer wins | think tag | true answer (cheating) |\n|---|---|---|---|---|---|")
    for part, where in parts.items():
        found[part] = {name: share(won[where]).as_dict() for name, won in wins.items()}
        baselines = " | ".join(f"{found[part][name]['value']:.2f}" for name in BASELINES)
        print(f"| {part} | {where.sum()} | {shown(found[part]['model'])} | {baselines} |")
    return found


def share(won: np.ndarray) -> Estimate:
    """Share won, with its interval."""
    return cluster_bootstrap(won, np.arange(len(won)))


def shown(estimate: dict[str, float]) -> str:
    """0.93 [0.90 to 0.95]"""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f} to {estimate['high']:.3f}]"


def longer(pair: ThinkingPair) -> float:
    """The longer response in characters wins."""
    good, bad = map(str, pair.comparison.responses)
    return (float(np.sign(len(good) - len(bad))) + 1) / 2


def think_tag(pair: ThinkingPair) -> float:
    """The response with a think tag wins."""
    good, bad = ("<think>" in str(response) for response in pair.comparison.responses)
    return (good - bad + 1) / 2


def true_answer(pair: ThinkingPair) -> float:
    """The response whose shown answer holds the good one's answer wins."""
    truth = (split_thinking(str(pair.comparison.responses[0])).answer or "").strip()
    good, bad = (truth in (split_thinking(str(text)).answer or "") for text in pair.comparison.responses)
    return (good - bad + 1) / 2


BASELINES: dict[str, Callable[[ThinkingPair], float]] = {"longer": longer, "tag": think_tag, "answer": true_answer}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _training.options(parser)
    parser.add_argument("--pairs", type=int, default=2400, help="to train on")
    parser.add_argument("--test-pairs", type=int, default=1440)
    parser.add_argument("--hold-out", type=int, default=3, help="families")
    parser.add_argument("--split-seed", type=int, default=0, help="which families are held out")
    parser.add_argument("--save", help="append the line to this file")
    parser.add_argument("--quick", action="store_true", help="two minutes")
    args = parser.parse_args()
    if args.quick:
        args.pairs, args.test_pairs, args.layers = 84, 36, args.layers or 4
    return args


if __name__ == "__main__":
    main()
