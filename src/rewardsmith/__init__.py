"""rewardsmith: reward models for RLHF that can be trusted. See README.md."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardsmith.model.load import LoadOptions
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.training.config import RewardConfig
    from rewardsmith.training.trainer import RewardTrainer

__all__ = ["LoadOptions", "RewardConfig", "RewardModel", "RewardTrainer", "__version__"]

_LAZY = {
    "RewardModel": "rewardsmith.model.reward_model",
    "LoadOptions": "rewardsmith.model.load",
    "RewardConfig": "rewardsmith.training.config",
    "RewardTrainer": "rewardsmith.training.trainer",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for: ``rewardsmith --help`` stays fast."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
