"""What a trained model gets on held-out data: measured before it is written, kept in its contract, shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.cli import console

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.types import Comparison

_KEPT = ("accuracy", "longer wins")  # in the model card


def evaluate_and_save(
    trained: RewardModel,
    comparisons: list[Comparison],
    held_out: list[Comparison],
    report: dict[str, Any],
    *,
    output: Path,
    budget: int | None,
    quiet: bool,
) -> None:
    """Measure on held-out data, write the model, and add both to the report."""
    if held_out:
        from rewardsmith.evaluation.evaluate import evaluate_model

        with console.progress("evaluating", "tokens", quiet=quiet) as bar:
            measured = evaluate_model(trained, held_out, budget=budget, report=bar)
        report["evaluation"] = measured.as_dict()
        label = _chose_the_step(report)
        names = {f"held-out {name}{label if name == 'accuracy' else ''}": name.replace(" ", "_") for name in _KEPT}
        metrics = {shown: report["evaluation"][name] for shown, name in names.items()}
        known = {name: value for name, value in metrics.items() if value}  # token ids have no length in characters
        report["leaked_prompts"] = _leaked(comparisons, held_out)
        trained.contract = trained.contract.with_metrics(known)
    trained.save(output)
    report["model"] = str(output)
    if leaked := report.get("leaked_prompts"):
        console.note(f"warning: {leaked} held-out comparisons have a prompt that is also in the training data")


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table for people; none where nothing was held out."""
    if not (measured := report.get("evaluation")):
        return []
    found = [(f"held-out accuracy{_chose_the_step(report)}", console.interval(measured["accuracy"]))]
    if measured["longer_wins"]:
        found.append(("  longer wins (in characters)", console.interval(measured["longer_wins"])))
    return found


def suggest(report: dict[str, Any]) -> None:
    """Where nothing was held out, say how to measure."""
    if "evaluation" not in report:
        print(f"next: rewardsmith evaluate {report['model']} --data HELD_OUT_FILE")


def _chose_the_step(report: dict[str, Any]) -> str:
    """What to add to a held-out measure's name when the same data chose a step: then it flatters the model."""
    chose = report.get("stopped") or any(one.get("stopped") for one in report.get("members", ()))
    return " (data that chose the step)" if chose else ""


def _leaked(training: list[Comparison], held_out: list[Comparison]) -> int:
    """How many held-out comparisons have a prompt of the training data: their accuracy is no evidence."""
    from rewardsmith.data.text import digest, prompt_text

    seen = {digest(prompt_text(item)) for item in training}
    return sum(digest(prompt_text(item)) in seen for item in held_out)
