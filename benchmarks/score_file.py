"""Scoring a mixed-length file: ours against padded batches of 16 in file order, same model, same rows, same scores."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

import torch

from _common import data_folder, last_line, machine, seconds, spread
from rewardsmith import RewardModel
from rewardsmith.data import load_comparisons
from rewardsmith.encoding.tree import build
from rewardsmith.model.load import LoadOptions
from rewardsmith.types import Message, Text

BATCH = 16  # what people pass as per-device batch size
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128, help="rows timed, in contiguous pieces across the file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="32 rows, one repeat")
    arguments = parser.parse_args()
    rows, repeats = (32, 1) if arguments.quick else (arguments.rows, arguments.repeats)

    torch.manual_seed(0)
    model = RewardModel.from_base("smollm2", LoadOptions(dtype="float32"))
    # A head of the size that training gives; zero would make every score equal.
    model.head.weight.data = torch.randn_like(model.head.weight) * 0.05
    model.backbone.head.weight.data = model.head.weight.data
    every = list(read_rows())
    print(machine())
    whole = tokens(model, every)
    print(
        f"whole file, {len(every)} rows: padded positions {whole[0]:,}, "
        f"ours {whole[1]:,}, ratio {whole[0] / whole[1]:.2f}"
    )

    sample = pieces(every, rows)
    positions, ours = tokens(model, sample)
    print(f"timed, {len(sample)} rows: padded positions {positions:,}, ours {ours:,}, ratio {positions / ours:.2f}")
    scores: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {"padded": [], "ours": []}
    for _ in range(repeats):
        times["padded"].append(seconds(lambda: scores.__setitem__("padded", padded(model, sample))))
        times["ours"].append(seconds(lambda: scores.__setitem__("ours", packed(model, sample))))
    error = max(abs(a - b) for a, b in zip(scores["padded"], scores["ours"], strict=True))
    print("way       seconds, median and range")
    for name, values in times.items():
        print(f"{name:8}{spread(values)}")
    ratios = [a / b for a, b in zip(times["padded"], times["ours"], strict=True)]
    print(
        f"wall ratio{spread(ratios)}; "
        f"share of the ratio of tokens: {statistics.median(ratios) / (positions / ours):.0%}"
    )
    print(
        f"largest difference of scores {error:.1e} (limit {TOLERANCE:.0e}, scores of size {size(scores['ours']):.2f})"
    )
    if error > TOLERANCE * max(1.0, size(scores["ours"])):
        raise SystemExit("the scores differ")
    last_line(ratios)


def read_rows() -> Iterator[tuple[Text, Text]]:
    """Prompt and response, in file order: chosen, rejected, chosen, ..."""
    for item in load_comparisons(data_folder() / "hh-harmless" / "test.jsonl"):
        for response in item.responses:
            yield item.prompt, response


def pieces(rows: list, count: int) -> list:
    """``count`` rows as contiguous batches from all over the file, so that its lengths are fairly drawn."""
    starts = [int(k * len(rows) / (count / BATCH)) // 2 * 2 for k in range(count // BATCH)]
    return [row for start in starts for row in rows[start : start + BATCH]]


def padded(model: RewardModel, rows: list) -> list[float]:
    """The usual way: apply_chat_template, pad to the longest of 16, one forward."""
    tokenizer, network, found = model.template.tokenizer, model.backbone.network, []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            encoded = tokenizer.apply_chat_template(
                [conversation(*row) for row in rows[start : start + BATCH]],
                padding=True,
                return_tensors="pt",
                return_dict=True,
            )
            found += network(**encoded).logits[:, 0].tolist()
    return found


def packed(model: RewardModel, rows: list) -> list[float]:
    """Ours."""
    return model.score_batch([prompt for prompt, _ in rows], [response for _, response in rows])


def tokens(model: RewardModel, rows: list) -> tuple[int, int]:
    """Positions computed by the padded way and by ours, padding included in both."""
    lengths = [len(model.render(*row).ids) for row in rows]
    usual = sum(BATCH * max(lengths[k : k + BATCH]) for k in range(0, len(lengths) - BATCH + 1, BATCH))
    groups: dict[Text, list] = {}
    for prompt, response in rows:
        groups.setdefault(prompt, []).append(model.render(prompt, response))
    trees, batches = model.backbone.arrange([build(group) for group in groups.values()], model.budget)
    return usual, sum(model.backbone.collate(trees, batch, 0).input_ids.numel() for batch in batches)


def conversation(prompt: Text, response: Text) -> list[dict]:
    """Messages as transformers takes them."""
    assert isinstance(prompt, tuple) and isinstance(response, tuple)
    return [message.as_dict() for message in (*prompt, *response) if isinstance(message, Message)]


def size(scores: list[float]) -> float:
    """Root mean square."""
    return statistics.fmean(score * score for score in scores) ** 0.5


if __name__ == "__main__":
    main()
