"""``rewardsmith demo``: the whole path in a few minutes, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import console, options

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.types import Comparison

# Half of SmolLM2's 30 layers: twice as fast, and in this data enough.
_LAYER = 15

_QUESTION = "Pens cost 3 dollars each. Tom buys 7 pens and pays with a 50 dollar note. How much change does he get?"
_STEPS = "<think>\n7 pens at 3 dollars each cost 7 × 3 = 21 dollars.\n50 − 21 = 29.\n</think>\n\n"
_THINKS, _CONTRADICTS, _BARE = f"{_STEPS}Tom gets 29 dollars.", f"{_STEPS}Tom gets 34 dollars.", "29 dollars."


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the data and the model.")] = Path(
        "out/demo"
    ),
    pairs: Annotated[int, typer.Option(min=40, help="Training pairs.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Of the problems.")] = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build preference pairs about thinking, train a reward model on them, measure it, score with it.

    The pairs come from problems whose solutions are computed; the worse response of each is a corrupted one. The test
    is on kinds of problems the model never saw. Needs no network.
    """
    from rewardsmith.model.save import check_target
    from rewardsmith.thinking import held_out_families, length_baseline, thinking_pairs

    say = (lambda _: None) if quiet or as_json else print
    check_target(output / "model")
    seen, unseen = held_out_families()
    training = thinking_pairs(pairs, seed=seed, families=seen)
    testing = thinking_pairs(max(20, pairs // 3), seed=seed + 1, families=unseen)
    for name, items in (("train", training), ("test", testing)):
        _write(output / "data" / f"{name}.jsonl", items)
    longer = length_baseline(training)["all"]
    say(
        f"1. {len(training)} training pairs of {len(seen)} kinds of problem, "
        f"{len(testing)} test pairs of {len(unseen)} others"
    )
    say(f"   ({output}/data/train.jsonl, test.jsonl). Picking the longer response is right in {longer:.0%} of them.")

    from rewardsmith.evaluation.evaluate import evaluate_model
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.training.head import HeadConfig, train_head

    say(f"2. Training a head on the first {_LAYER} layers of SmolLM2-135M-Instruct, frozen.")
    model = RewardModel.from_base("smollm2")
    with console.progress("features", "tokens", quiet=quiet) as bar:
        result = train_head(model, training, HeadConfig(layer=_LAYER, seed=seed), report=bar)
    with console.progress("evaluating", "tokens", quiet=quiet) as bar:
        measured = evaluate_model(result.model, testing, report=bar).as_dict()
    trained = result.model
    trained.contract = trained.contract.with_metrics({"demo test accuracy": measured["accuracy"]})
    trained.save(output / "model")
    examples = _examples(trained)
    if as_json:
        facts = {"model": str(output / "model"), "pairs": len(training), "tokens": result.tokens}
        console.print_json({**facts, **measured, "examples": examples, "seconds": result.seconds})
        return
    _show(output, measured, examples)


def _write(path: Path, items: list[Comparison]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {
            "prompt": item.prompt,
            "chosen": item.responses[0],
            "rejected": item.responses[1],
            "subset": item.subset,
            "id": item.id,
        }
        for item in items
    )
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _examples(model: RewardModel) -> list[dict[str, Any]]:
    responses = {
        "reasons, right answer": _THINKS,
        "reasons, contradicts itself": _CONTRADICTS,
        "right answer, no reasons": _BARE,
    }
    scored = model.score_responses([_QUESTION] * 3, list(responses.values()))
    return [
        {"response": name, "reward": s.reward, "reward_se": s.reward_se, "preferred_to": _chance(model, text)}
        for (name, text), s in zip(responses.items(), scored, strict=True)
    ]


def _chance(model: RewardModel, text: str) -> float | None:
    """P(the good response is preferred to this one); None for itself."""
    return None if text == _THINKS else model.compare(_QUESTION, _THINKS, text)


def _show(output: Path, measured: dict[str, Any], examples: list[dict[str, Any]]) -> None:
    rows = [
        ("accuracy", console.interval(measured["accuracy"])),
        ("longer wins (in characters)", console.interval(measured["longer_wins"])),
        *((f"  {name}", console.interval(value)) for name, value in measured["subsets"].items()),
    ]
    console.table("3. On kinds of problems it never saw, 95% intervals", ("", "right"), rows)
    shown = [
        (
            item["response"],
            f"{item['reward']:+.2f} ± {item['reward_se']:.2f}",
            "" if item["preferred_to"] is None else f"{item['preferred_to']:.2f}",
        )
        for item in examples
    ]
    print(f"\n4. {_QUESTION}")
    console.table("", ("response", "reward ± standard error", "P(the first is preferred)"), shown)
    print(
        "A reward is a log-odds: one more unit is e times the odds of being preferred. What lies within the standard "
        "errors\nis not told apart: this is a small model on little data, and the table says where it is weak.\n\n"
        "Next:\n"
        f'  rewardsmith compare {output}/model -p "What is 15 + 27?" -a "15 + 27 = 42." -b "About 40."\n'
        "  rewardsmith data check YOUR_PAIRS.jsonl\n"
        "  rewardsmith train --data YOUR_PAIRS.jsonl -o out/mine\n"
        "  rewardsmith evaluate out/mine --data YOUR_HELD_OUT.jsonl"
    )
