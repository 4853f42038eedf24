"""Held-out accuracy on synthetic thinking pairs of families that training never showed, for each corruption.

Three families are held out, and half of the phrases of which corruptions are made. Beside the model stand the
baselines: the longer response wins, the one with a think tag wins, the one with the better words wins (a logistic
regression on one- and two-word counts, trained on the same pairs: form alone), and the one that says the true answer
wins (which is cheating: nobody knows it in use). Where a baseline cannot tell, it counts one half. ``reasoning`` is
the four corruptions that keep the form of good thinking. Intervals are 95% over prompts, of which some have several
pairs.

    python benchmarks/thinking_families.py --method head --layers 20
    python benchmarks/thinking_families.py --method lora --bf16
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

import _training
from _common import machine
from rewardsmith import RewardModel
from rewardsmith.intervals import cluster_bootstrap
from rewardsmith.thinking.corruptions import NEEDS_TRUTH
from rewardsmith.thinking.pairs import ThinkingPair, held_out_families, synthesize
from rewardsmith.thinking.parse import split_thinking
from rewardsmith.thinking.phrases import halves
from rewardsmith.types import Comparison

REASONING = (*NEEDS_TRUTH, "unrelated")
CHUNK = 240
"""Pairs scored between two lines of progress."""


def main() -> None:
    """One training, one table."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    train_families, test_families = held_out_families(args.hold_out, args.split_seed)
    own, other = halves()
    rows = [pair.comparison for pair in synthesize(args.pairs, 0, train_families, phrases=own)]
    test = synthesize(args.test_pairs, 1, test_families, phrases=other)
    print(machine())
    print(
        f"trained on {len(rows)} pairs of {', '.join(train_families)}; tested on {', '.join(test_families)}", flush=True
    )
    wins = {name: np.array([rule(pair) for pair in test]) for name, rule in BASELINES.items()}
    wins["words"] = words(rows, [pair.comparison for pair in test])
    progress("training")
    model, seconds = _training.trained(args, rows)
    progress(f"trained in {seconds:.0f} s; scoring {len(test)} pairs")
    wins = {"model": scored(model, test)} | wins
    line = {**vars(args), "train": train_families, "test": test_families, "seconds": round(seconds)}
    line["table"] = table(test, wins)
    if args.save:
        with Path(args.save).open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(f"training {seconds:.0f} s; model {' '.join(shown(line['table']['all']['model']).split())}")


def scored(model: RewardModel, test: Sequence[ThinkingPair]) -> np.ndarray:
    """1, 1/2 or 0 a pair: whether the model prefers the good response."""
    differences: list[float] = []
    for start in range(0, len(test), CHUNK):
        part = test[start : start + CHUNK]
        prompts = [pair.comparison.prompt for pair in part for _ in range(2)]
        rewards = model.score_batch(prompts, [text for pair in part for text in pair.comparison.responses])
        differences += list(np.subtract(rewards[::2], rewards[1::2]))
        progress(f"scored {len(differences)} of {len(test)} pairs")
    return np.sign(differences) / 2 + 0.5


def words(train: Sequence[Comparison], test: Sequence[Comparison]) -> np.ndarray:
    """1, 1/2 or 0 a pair: what a logistic regression on counts of words and pairs of words prefers."""
    counts = CountVectorizer(ngram_range=(1, 2)).fit(str(text) for pair in train for text in pair.responses)
    seen, unseen = (
        counts.transform(str(pair.responses[0]) for pair in pairs)
        - counts.transform(str(pair.responses[1]) for pair in pairs)
        for pairs in (train, test)
    )
    sides = np.where(np.arange(len(train)) % 2, 1, -1)  # a pair is as often the one way round as the other
    fitted = LogisticRegression(fit_intercept=False, max_iter=2000).fit(seen.multiply(sides[:, None]).tocsr(), sides)
    return np.sign(fitted.decision_function(unseen)) / 2 + 0.5


def table(test: list[ThinkingPair], wins: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """Prints and returns the share of pairs won by each, for each corruption, each family and in all."""
    corruption = np.array([pair.comparison.subset for pair in test])
    family = np.array([pair.family for pair in test])
    _, prompt = np.unique([str(pair.comparison.prompt) for pair in test], return_inverse=True)
    parts = {name: corruption == name for name in sorted(set(corruption))}
    parts |= {"subtotal reasoning": np.isin(corruption, REASONING), "subtotal form": ~np.isin(corruption, REASONING)}
    parts |= {f"family {name}": family == name for name in sorted(set(family))}
    parts["all"] = np.ones(len(test), dtype=bool)
    found = {}
    print(f"| pairs | n | {' | '.join(TITLES[name] for name in wins)} |\n|---|---|{'---|' * len(wins)}")
    for part, where in parts.items():
        found[part] = {name: cluster_bootstrap(won[where], prompt[where]).as_dict() for name, won in wins.items()}
        print(f"| {part} | {where.sum()} | {' | '.join(shown(estimate) for estimate in found[part].values())} |")
    return found


def shown(estimate: dict[str, float]) -> str:
    """0.93 [0.90 to 0.95]"""
    return f"{estimate['value']:.3f} [{estimate['low']:.3f} to {estimate['high']:.3f}]"


def progress(what: str) -> None:
    """A line on standard error, with the time since the start."""
    print(f"{time.perf_counter() - STARTED:6.0f} s  {what}", file=sys.stderr, flush=True)


def longer(pair: ThinkingPair) -> float:
    """The longer response in characters wins."""
    good, bad = map(str, pair.comparison.responses)
    return (float(np.sign(len(good) - len(bad))) + 1) / 2


def think_tag(pair: ThinkingPair) -> float:
    """The response with a think tag wins."""
    good, bad = ("<think>" in str(response) for response in pair.comparison.responses)
    return (good - bad + 1) / 2


def true_answer(pair: ThinkingPair) -> float:
    """The response that ends in the good one's answer wins."""
    good, bad = ((split_thinking(str(text)).answer or "").strip() for text in pair.comparison.responses)
    return (1 - bad.endswith(good) + 1) / 2


BASELINES: dict[str, Callable[[ThinkingPair], float]] = {"longer": longer, "tag": think_tag, "answer": true_answer}
TITLES = {"model": "model", "longer": "longer wins", "tag": "think tag", "words": "words"}
TITLES["answer"] = "true answer (cheating)"
STARTED = time.perf_counter()


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
