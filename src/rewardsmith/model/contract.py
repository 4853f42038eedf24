"""The scoring contract: what must hold for a checkpoint to give the rewards it was trained to give.

It lies beside the weights as ``reward_contract.json`` and is checked on every load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rewardsmith.errors import ContractError

FILE = "reward_contract.json"
VERSION = 1
TRUNCATION = "drop oldest turns, then oldest tokens; never the end of the response"

# Fixed texts, so that no training data leaks into a checkpoint. They cover what breaks: special characters, several
# turns, code, thinking, an empty line at the end.
GOLDEN_TEXTS: tuple[tuple[str, str], ...] = (
    ("What is 15 + 27?", "15 + 27 = 42."),
    ("What is 15 + 27?", "<think>\n15 + 20 = 35, and 35 + 7 = 42.\n</think>\n\n42"),
    ("Name three colours.", "Red, green and blue.\n"),
    ("Übersetze „naïve café“ ins Japanische. 🙂", "ナイーブなカフェ"),
    ("Write a function that adds two numbers.", "def add(a, b):\n    return a + b  # both numbers\n"),
    ("Explain recursion in programming.", "A function that calls itself on a smaller input until a base case."),
)


@dataclass(frozen=True)
class Golden:
    """A prompt and response with the tokens and the score they must have.

    Args:
        score: the reward; None without a reward head.
        process: the mean of the step ends' log-odds; None without a process head.
        attributes: the reward of each attribute by name; None without attribute heads.
    """

    prompt: str
    response: str
    tokens_sha256: str
    score: float | None
    process: float | None = None
    attributes: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Contract:
    """Everything that decides a score beside the weights.

    Args:
        mode: how text becomes tokens (see ``encoding.template``): ``chat``, ``text`` or ``pair``.
        template_sha256, tokenizer_sha256: fingerprints of the two.
        template_kwargs: variables of the chat template.
        max_length: tokens; longer inputs lose their oldest turns (``truncation``) and are flagged.
        pooling: ``last``, ``mean`` or ``model``.
        layers: number of transformer layers in the saved backbone.
        dtype: that the model was trained and its goldens scored in.
        mean, std: the reward is (head output - mean) / std.
        temperature: P(a over b) = sigmoid((head output of a - of b) / temperature).
        head_sha256: of the head's weight as float32 bytes.
        members_sha256: of the ensemble's heads, None without one.
        process_head_sha256: of the process head, None without one.
        attribute_heads_sha256: of the attribute heads, None without any.
        attributes: the weight of each attribute in the reward, by name.
        reward_head: whether the head was trained. False for a folder that has a process head alone; its head is zero.
        base_model: what it was trained from.
        training: method and settings; ``data`` below holds what it was trained on; ``metrics`` what was measured.
        process: settings, data and measurements of the process head.
        goldens: cases that must come out the same.
    """

    mode: str
    template_sha256: str
    tokenizer_sha256: str
    max_length: int
    pooling: str
    layers: int
    dtype: str
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    truncation: str = TRUNCATION
    mean: float = 0.0
    std: float = 1.0
    temperature: float = 1.0
    head_sha256: str = ""
    members_sha256: str | None = None
    process_head_sha256: str | None = None
    attribute_heads_sha256: str | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)
    reward_head: bool = True
    base_model: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    process: Mapping[str, Any] = field(default_factory=dict)
    goldens: Sequence[Golden] = ()
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def with_metrics(self, metrics: Mapping[str, Any]) -> Contract:
        """The same contract with more measurements."""
        return replace(self, metrics={**self.metrics, **metrics})

    def with_process(self, facts: Mapping[str, Any]) -> Contract:
        """The same contract with more facts of the process head."""
        return replace(self, process={**self.process, **facts})


def read(folder: Path) -> Contract | None:
    """The contract of a checkpoint folder; None when it has none (a plain checkpoint that others trained).

    Raises:
        ContractError: the file is there but cannot be understood.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.get("version") != VERSION:
            raise ContractError(f"{path}: version: {raw.get('version')!r}; this rewardsmith reads version {VERSION}")
        known = {item.name for item in fields(Contract)}
        goldens = tuple(Golden(**golden) for golden in raw.pop("goldens", ()))
        return Contract(**{key: value for key, value in raw.items() if key in known}, goldens=goldens)
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{path}: damaged ({error}); restore it from the checkpoint's source") from error


def check(contract: Contract, folder: Path, actual: Mapping[str, Any]) -> None:
    """Compare fingerprints with what was loaded; all differences in one message.

    Raises:
        ContractError: naming each fingerprint that differs.
    """
    changed = [name for name, value in actual.items() if getattr(contract, name) != value]
    if changed:
        what = ", ".join(name.removesuffix("_sha256") for name in changed)
        raise ContractError(
            f"{folder}: the {what} no longer matches {FILE}: this checkpoint would not give the rewards it was trained "
            "to give; restore the original files, or retrain"
        )


def tokens_sha256(ids: Sequence[int]) -> str:
    """Hash of a token list."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
