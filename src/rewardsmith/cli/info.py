"""``rewardsmith info``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from rewardsmith.cli import console, options


def info(
    model: Annotated[str, typer.Argument(help="Reward model: folder or Hugging Face id.")],
    verify: Annotated[bool, typer.Option("--verify", help="Rescore the contract's golden cases.")] = False,
    trust_remote_code: options.TrustRemote = False,
    as_json: options.Json = False,
) -> None:
    """Show what a reward model is: architecture, contract, data, measurements. Loading it checks its fingerprints.

    Exits with 3 when the contract does not hold.
    """
    from rewardsmith.model.load import LoadOptions
    from rewardsmith.model.reward_model import RewardModel

    loaded = RewardModel.load(model, LoadOptions(trust_remote_code=trust_remote_code))
    goldens = loaded.verify() if verify else []
    report = _report(loaded, model)
    if verify:
        report["goldens_verified"] = len(goldens)
    if as_json:
        console.print_json(report)
        return
    rows = [(name, _cell(value)) for name, value in report.items() if value not in (None, {}, [])]
    console.table(model, ("", ""), rows)
    if goldens:
        print(f"the contract holds: {len(goldens)} of {len(goldens)} golden scores came out the same")
    if verify and not goldens:
        console.note("no golden cases: this checkpoint was not made with rewardsmith")


def _report(loaded: Any, name: str) -> dict[str, Any]:
    network, contract = loaded.backbone.network, asdict(loaded.contract)
    goldens = contract.pop("goldens")
    return {
        "model": name,
        "architecture": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "shares_prompts": loaded.backbone.shares,
        "judges_steps": loaded.process is not None,
        "standard_errors": loaded.posterior is not None,
        "pad_token": loaded.template.tokenizer.pad_token,
        **contract,
        "goldens": len(goldens),
    }


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_inline(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _inline(value: Any) -> str:
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        return f"{console.interval(value)}, n = {value['n']}"
    return str(value)
