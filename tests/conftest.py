"""Fixtures that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # tests never reach a network

from rewardsmith.model.reward_model import RewardModel
from tests import tiny

torch.set_num_threads(1)  # tests run in parallel processes


@pytest.fixture(scope="session", autouse=True)
def in_float32() -> Iterator[None]:
    """Tests compare to 1e-5, so nothing is bfloat16 by itself, on a machine that multiplies it either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewardsmith.model.hardware._multiplies_bfloat16", lambda device: False)
        yield


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a tiny base model per family."""
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny.save_base(family, root / family) for family in tiny.FAMILIES}


@pytest.fixture(scope="session")
def models(bases: dict[str, Path]) -> dict[str, RewardModel]:
    """A sealed reward model with a random head per family. Do not change them."""
    return {family: with_random_head(RewardModel.from_base(folder)) for family, folder in bases.items()}


def with_random_head(model: RewardModel, seed: int = 0) -> RewardModel:
    """Give a model a head that is not zero, and seal it."""
    generator = torch.Generator().manual_seed(seed)
    model.head.weight.data = torch.randn(model.head.weight.shape, generator=generator)
    return model.sealed()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real preference data; skips when it is not there."""
    folder = Path(os.environ.get("REWARDSMITH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real preference data is not at {folder} (set REWARDSMITH_DATA)")
    return folder
