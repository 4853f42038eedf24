"""Several heads on one backbone: how far they disagree says how much the data left open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from rewardsmith.errors import ModelError
from rewardsmith.model.fingerprint import sha256

FILE = "ensemble.safetensors"


@dataclass(frozen=True)
class Ensemble:
    """K linear heads that read the same features.

    Args:
        members: [K, d] float32.
        offset: [K] float32, added to each member's outputs. Preferences fix a reward only up to a constant, and every
            fit leaves another one; with it all members give the average response the main head's reward, so that
            their rewards can be compared (Eisenstein et al. 2023, arXiv 2312.09244, section 5).
    """

    members: torch.Tensor
    offset: torch.Tensor

    def rewards(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] features -> [R, K] rewards, not normalised."""
        return torch.nn.functional.linear(features, self.members, self.offset)

    def to(self, device: torch.device) -> Ensemble:
        """The same on another device."""
        return Ensemble(self.members.to(device), self.offset.to(device))

    def sha256(self) -> str:
        """Of the values, for the contract."""
        return sha256(self.members, self.offset)

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint folder."""
        from safetensors.torch import save_file

        save_file({"members": self.members.cpu().contiguous(), "offset": self.offset.cpu().contiguous()}, folder / FILE)


def read(folder: Path) -> Ensemble | None:
    """The ensemble of a checkpoint folder, None when it has none.

    Raises:
        ModelError: the file is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / FILE)
        return Ensemble(tensors["members"].float(), tensors["offset"].float())
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{folder / FILE}: damaged ({error}); restore it from the checkpoint's source") from error
