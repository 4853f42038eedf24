"""The process head: the log-odds that a step is right, read at its end from the reward head's backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from rewardsmith.errors import ModelError
from rewardsmith.model.fingerprint import sha256

FILE = "process_head.safetensors"


@dataclass(frozen=True)
class ProcessHead:
    """P(the step is right) = sigma(weight . x + bias), x the backbone's state at the step's last token.

    Args:
        weight: [1, d] float32.
        bias: [1] float32.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] features -> [R] log-odds."""
        return torch.nn.functional.linear(features, self.weight, self.bias)[:, 0]

    def to(self, device: torch.device) -> ProcessHead:
        """The same on another device."""
        return ProcessHead(self.weight.to(device), self.bias.to(device))

    def sha256(self) -> str:
        """Of the values, for the contract."""
        return sha256(self.weight, self.bias)

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint folder."""
        from safetensors.torch import save_file

        save_file({"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}, folder / FILE)


def read(folder: Path, width: int) -> ProcessHead | None:
    """The process head of a checkpoint folder, None when it has none.

    Args:
        width: number of features that the backbone gives, d.

    Raises:
        ModelError: the file is damaged, or for another backbone.
    """
    if not (folder / FILE).is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / FILE)
        head = ProcessHead(tensors["weight"].float(), tensors["bias"].float())
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{folder / FILE}: damaged ({error}); restore it, or train the steps again") from error
    if head.weight.shape != (1, width) or head.bias.shape != (1,):
        found = f"{list(head.weight.shape)} and {list(head.bias.shape)}"
        raise ModelError(f"{folder / FILE}: its shapes are {found}, this backbone needs [1, {width}] and [1]")
    return head
