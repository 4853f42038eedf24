"""How sure the head is: its Laplace posterior, carried beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rewardsmith.errors import ModelError
from rewardsmith.model.fingerprint import sha256

FILE = "reward_posterior.safetensors"


@dataclass(frozen=True)
class Posterior:
    """Gaussian posterior of the head's weight.

    Args:
        center: [d] the average response's features. Preferences fix rewards only up to a constant, so a reward's
            standard error is that of its distance from the average response.
        factor: [d, d] F with covariance = F F^T.
    """

    center: torch.Tensor
    factor: torch.Tensor

    def standard_error(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] -> [R]: sqrt((x - c)^T F F^T (x - c))."""
        return ((features - self.center) @ self.factor).norm(dim=-1)

    def to(self, device: torch.device) -> Posterior:
        """The same on another device."""
        return Posterior(self.center.to(device), self.factor.to(device))

    def sha256(self) -> str:
        """Of the values."""
        return sha256(self.center, self.factor)

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint folder."""
        from safetensors.torch import save_file

        save_file({"center": self.center.cpu().contiguous(), "factor": self.factor.cpu().contiguous()}, folder / FILE)


def from_covariance(center: np.ndarray, covariance: np.ndarray) -> Posterior:
    """The posterior of a fit, by the symmetric eigendecomposition (a covariance may be singular to rounding)."""
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.clip(values, 0.0, None))
    return Posterior(torch.tensor(center, dtype=torch.float32), torch.tensor(factor, dtype=torch.float32))


def read(folder: Path) -> Posterior | None:
    """The posterior of a checkpoint folder, None when it has none."""
    if not (folder / FILE).is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / FILE)
        return Posterior(tensors["center"], tensors["factor"])
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(
            f"{folder / FILE}: damaged ({error}); restore it, or delete it to score without errors"
        ) from error
