"""What the head reads, beside weights that have no contract: a trainer's checkpoints, and what ``save_model`` writes.

Without it the last token is read, as everybody does; so only another pooling leaves a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardsmith.errors import ModelError
from rewardsmith.model import contract as contracts

FILE = "reward_pooling.json"


def write(folder: Path, pooling: str) -> None:
    """Leave the file, or remove one that is no longer true."""
    if pooling == "mean":
        (folder / FILE).write_text(json.dumps({"pooling": pooling}) + "\n", encoding="utf-8")
    else:
        (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Any:
    """The pooling of a model's folder, by its contract or by the file; None when neither says.

    Raises:
        ModelError: the file is damaged.
    """
    contract = contracts.read(folder)
    if contract is not None:
        return contract.pooling
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        pooling = json.loads(file.read_text(encoding="utf-8"))["pooling"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: cannot be read ({type(error).__name__}); save the model again") from error
    if pooling not in ("last", "mean"):
        raise ModelError(f"{file}: pooling {pooling!r}: must be last or mean")
    return pooling
