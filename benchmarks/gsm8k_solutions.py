"""Right over wrong model solutions of GSM8K questions: trained on the training file, measured on the test file.

Each question has four solutions of different models. Only test questions with right and wrong ones count. Pairs: every
right solution against every wrong one of its question, interval by bootstrap over questions. Best of four: how often
the solution with the highest reward is right, against one drawn at random, and against the majority: the commonest
final answer (a tie between answers counts its expected share). "Weighted vote" adds up exp(reward) over equal answers.
The difference to the majority is paired, question by question.

    python benchmarks/gsm8k_solutions.py --method head --pooling mean --layers 20
    python benchmarks/gsm8k_solutions.py --method lora --bf16 --layers 20
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import _training
from _common import data_folder, machine
from rewardsmith.data import load_comparisons
from rewardsmith.intervals import cluster_bootstrap
from rewardsmith.types import Comparison, Estimate

MARK = "A:"


def main() -> None:
    """One training, one line a measure."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = data_folder() / "gsm8k-solutions"
    rows, test = (list(load_comparisons(folder / f"{part}.jsonl")) for part in ("train", "test"))
    rows, test = rows[: args.rows], [row for row in test if len(set(row.ranks)) > 1][: args.test_rows]
    print(machine(), flush=True)
    model, seconds = _training.trained(args, rows)
    prompts = [row.prompt for row in test for _ in row.responses]
    flat = model.score_batch(prompts, [response for row in test for response in row.responses])
    ends = np.cumsum([len(row.responses) for row in test])[:-1]
    rewards = np.split(np.array(flat), ends)
    found = {name: estimate.as_dict() for name, estimate in measures(test, rewards).items()}
    for name, estimate in found.items():
        low, high = estimate["low"], estimate["high"]
        print(f"{name:32s} {estimate['value']:.3f} [{low:.3f} to {high:.3f}], n {estimate['n']}", flush=True)
    print(f"training {seconds:.0f} s")
    if args.save:
        with Path(args.save).open("a") as file:
            file.write(json.dumps({**vars(args), "seconds": round(seconds), **found}) + "\n")


def measures(test: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> dict[str, Estimate]:
    """All measures by name. ``rewards``: one array a question."""
    right = [np.array(row.ranks) == min(row.ranks) for row in test]
    pairs, longer, groups = [], [], []
    for number, (row, good, reward) in enumerate(zip(test, right, rewards, strict=True)):
        length = np.array([len(written(response)) for response in row.responses])
        for values, wins in ((reward, pairs), (length, longer)):
            wins += list((np.sign(values[good][:, None] - values[~good][None, :]) / 2 + 0.5).ravel())
        groups += [number] * int(good.sum() * (~good).sum())
    best = np.array([good[reward == reward.max()].mean() for good, reward in zip(right, rewards, strict=True)])
    votes = np.array([vote(row, good, np.ones(len(good))) for row, good in zip(test, right, strict=True)])
    weighted = [vote(*each) for each in zip(test, right, (np.exp(r - r.max()) for r in rewards), strict=True)]
    shares = {
        "best of four": best,
        "random choice": np.array([good.mean() for good in right]),
        "majority": votes,
        "best of four - majority": best - votes,
        "weighted vote": np.array(weighted),
        "weighted vote - majority": np.array(weighted) - votes,
    }
    found = {"pair accuracy": cluster_bootstrap(np.array(pairs), np.array(groups))}
    found["longer wins"] = cluster_bootstrap(np.array(longer), np.array(groups))
    return found | {name: cluster_bootstrap(values, np.arange(len(values))) for name, values in shares.items()}


def vote(row: Comparison, right: np.ndarray, weights: np.ndarray) -> float:
    """Share of right ones among the answers with the largest total weight."""
    totals: dict[str, float] = defaultdict(float)
    of = [answer(written(response)) for response in row.responses]
    for name, weight in zip(of, weights, strict=True):
        totals[name] += weight
    top = [name for name, total in totals.items() if np.isclose(total, max(totals.values()))]
    return float(np.mean([right[of.index(name)] for name in top]))


def answer(solution: str) -> str:
    """What stands behind the mark; the whole solution where there is none (no two then agree)."""
    return solution.rpartition(MARK)[2].strip().replace(",", "")


def written(response) -> str:
    """A response as text."""
    return response if isinstance(response, str) else "\n".join(message.content for message in response)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _training.options(parser)
    parser.add_argument("--rows", type=int, help="train on the first questions only")
    parser.add_argument("--test-rows", type=int)
    parser.add_argument("--save", help="append the line to this file")
    parser.add_argument("--quick", action="store_true", help="two minutes")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.test_rows, args.layers = 40, 20, args.layers or 4
    return args


if __name__ == "__main__":
    main()
