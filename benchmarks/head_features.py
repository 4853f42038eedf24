"""Frozen features of pairs: packed trees against padded batches of 8 pairs, and against the peak."""

from __future__ import annotations

import argparse
import statistics

import torch

from _common import data_folder, last_line, machine, matmul_peak, seconds, spread
from rewardsmith import RewardModel
from rewardsmith.data import load_comparisons
from rewardsmith.encoding.pack import PAD
from rewardsmith.model.load import LoadOptions
from rewardsmith.training.prepare import Prepared, prepare

PAIRS = 8  # a usual per-device batch of a pairwise trainer: 16 sequences, padded to the longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pieces of the file measured both ways")
    parser.add_argument("--pairs", type=int, default=16, help="pairs per piece")
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds

    model = RewardModel.from_base("smollm2", LoadOptions(dtype="float32"))
    data = list(load_comparisons(data_folder() / "hh-harmless" / "train.jsonl"))
    whole = prepare(model.template, data, 2048)
    print(machine())
    every = computed(model, whole)
    print(
        f"whole file: {len(data)} pairs, padded {padded_positions(whole):,}, unshared {whole.tokens_unshared:,}, "
        f"prompts once {whole.tokens:,}, their common beginning once a batch too {every:,} tokens"
    )
    ratios, speeds = [], []
    for k in range(rounds):
        start = k * len(data) // rounds
        piece = prepare(model.template, data[start : start + arguments.pairs], 2048)
        usual = seconds(lambda piece=piece: padded(model, piece))
        ours = seconds(lambda piece=piece: packed(model, piece))
        ratios.append(usual / ours)
        speeds.append(computed(model, piece) / ours)
    body = sum(p.numel() for name, p in model.backbone.body.named_parameters() if "embed" not in name)
    share = 2 * body * statistics.median(speeds) / matmul_peak()
    print(f"tokens a second{spread(speeds)}; matrix products at {share:.0%} of the measured peak")
    print(f"the whole file would take {every / statistics.median(speeds) / 60:.1f} minutes")
    floor = 2 * body * every / matmul_peak() / 60
    print(f"at 100% of the peak its matrix products alone would take {floor:.1f} minutes")
    print(f"padded / ours{spread(ratios)}")
    last_line(ratios)


def padded_positions(prepared: Prepared) -> int:
    """Positions that padded batches of 8 pairs compute."""
    lengths = [tree.depth for tree in prepared.trees]
    return sum(2 * len(lengths[k : k + PAIRS]) * max(lengths[k : k + PAIRS]) for k in range(0, len(lengths), PAIRS))


def computed(model: RewardModel, prepared: Prepared) -> int:
    """Tokens that ours computes."""
    trees, batches = model.backbone.arrange(prepared.trees, model.budget)
    return sum(int((model.backbone.collate(trees, rows, 0).tree != PAD).sum()) for rows in batches)


def padded(model: RewardModel, prepared: Prepared) -> None:
    """Every sequence whole, right-padded to the longest of its batch."""
    sequences = [list(tree.sequence(k)) for tree in prepared.trees for k in range(2)]
    tokenizer, body = model.template.tokenizer, model.backbone.body
    with torch.inference_mode():
        for start in range(0, len(sequences), 2 * PAIRS):
            batch = tokenizer.pad({"input_ids": sequences[start : start + 2 * PAIRS]}, return_tensors="pt")
            body(**batch, use_cache=False)


def packed(model: RewardModel, prepared: Prepared) -> None:
    """Ours."""
    with torch.inference_mode():
        for _ in model.read(prepared.trees):
            pass


if __name__ == "__main__":
    main()
