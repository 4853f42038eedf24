"""The model card: what it was trained on, what was measured, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

_USAGE = """## Use

```python
from rewardsmith import RewardModel

model = RewardModel.load("PATH")
model.score("What is 15 + 27?", "15 + 27 = 42.")
model.compare("What is 15 + 27?", "15 + 27 = 42.", "About 40.")
```
"""

_STEPS = """## Steps

```python
from rewardsmith import RewardModel

model = RewardModel.load("PATH")
scores = model.score_steps("What is 15 + 27?", ["15 + 20 = 35.", "35 + 7 = 42."])
scores.probabilities, scores.min
```
"""

_ATTRIBUTES = """The reward is their weighted sum:

```python
from rewardsmith import RewardModel

model = RewardModel.load("PATH")
model.score_attributes("What is 15 + 27?", "15 + 27 = 42.")
```
"""

_NO_REWARD = """
It has no reward head: its `score.weight` is zero, so that other tools give 0 for every response.
"""

_PORTABLE = """
It is a standard sequence-classification checkpoint, so transformers gives the same number (raw, no sigmoid):

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
network = AutoModelForSequenceClassification.from_pretrained("PATH")
turns = [{"role": "user", "content": "What is 15 + 27?"}, {"role": "assistant", "content": "15 + 27 = 42."}]
network(**tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)).logits
```
"""

_NOT_PORTABLE = """
It pools the mean over the response's tokens, which transformers' own heads do not: load it with rewardsmith only.
"""


def card(model: RewardModel) -> str:
    """README.md of the checkpoint, Markdown with the hub's YAML header."""
    contract = model.contract
    head = (
        "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags: [reward-model, rewardsmith]\n---\n\n"
    )
    facts = {
        "base model": contract.base_model,
        "layers": contract.layers,
        "pooling": contract.pooling,
        "max length": f"{contract.max_length} tokens ({contract.truncation})",
        "dtype": contract.dtype,
        **contract.training,
    }
    if not contract.reward_head:
        what = (
            "# Process reward model\n\nThe probability that each step of a response is right. Made with rewardsmith.\n"
        )
        facts = {name: value for name, value in facts.items() if name not in contract.training}
        parts = [head + what + _NO_REWARD, "## Made from\n\n" + _table({**facts, **contract.process}), _STEPS]
        return "\n".join(parts)
    parts = [
        head + "# Reward model\n\nOne number for a prompt and a response; higher is better. Made with rewardsmith.\n",
        "## Made from\n\n" + _table(facts),
        "## Data\n\n" + (_table(contract.data) if contract.data else "Not recorded.\n"),
        "## Measured\n\n"
        + (_table(contract.metrics) if contract.metrics else "Nothing yet: run `rewardsmith evaluate`.\n"),
        _USAGE + (_PORTABLE if contract.pooling == "last" and contract.mode == "chat" else ""),
    ]
    if contract.pooling == "mean":
        parts.append(_NOT_PORTABLE)
    if contract.attributes:
        parts.append("## Attributes and their weights\n\n" + _table(contract.attributes) + "\n" + _ATTRIBUTES)
    if contract.process_head_sha256:
        parts += ["## Process head\n\n" + _table(contract.process), _STEPS]
    return "\n".join(parts)


def _table(rows: Any) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, dict) and {"value", "low", "high", "n"} <= value.keys():
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}], n = {value['n']}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {_cell(one)}" for key, one in value.items()) or "none"
    elif isinstance(value, (list, tuple)):
        # Of several runs each has its own line.
        value = ("<br>" if any(isinstance(one, Mapping) for one in value) else ", ").join(map(_cell, value)) or "none"
    return str(value).replace("|", "\\|").replace("\n", " ")
