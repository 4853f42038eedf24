"""Running normalisers that outlive a run that is stopped and resumed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rewardsmith.errors import UsageError
from rewardsmith.integrations.trainer_function import TrainerFunction
from rewardsmith.shaping import Pipeline

logger = logging.getLogger("rewardsmith")


class KeepShaping(TrainerCallback):
    """Writes the shaping of reward functions into every checkpoint, and takes it up when training resumes.

    The file is ``NAME.shaping.json``. With several processes it holds the main one's statistics, and all of them go on
    from those.

    Args:
        rewards: :class:`RewardFunction` or :class:`ThinkingReward`, the ones that the trainer has.
        resume_from: the checkpoint that is resumed, where it is neither ``args.resume_from_checkpoint`` nor
            ``checkpoint-STEP`` in the output folder.

    Example:
        >>> reward = RewardFunction("out/rm", shaping="running")  # doctest: +SKIP
        >>> GRPOTrainer(..., reward_funcs=[reward], callbacks=[KeepShaping(reward)])  # doctest: +SKIP
    """

    def __init__(self, *rewards: TrainerFunction, resume_from: str | Path | None = None):
        if not rewards or not all(isinstance(one, TrainerFunction) for one in rewards):
            raise UsageError("KeepShaping(reward, ...): give one or more reward functions of rewardsmith")
        self.rewards, self.resume_from = rewards, resume_from

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write into the checkpoint that was saved."""
        if state.is_world_process_zero:
            for file, pipeline in self._files(Path(args.output_dir) / f"checkpoint-{state.global_step}"):
                pipeline.save(file)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up what a checkpoint holds, when it is resumed from."""
        if not state.global_step:
            return
        usual = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        given = self.resume_from or getattr(args, "resume_from_checkpoint", None)
        folder = Path(given) if isinstance(given, str | Path) and Path(given).is_dir() else usual
        for file, pipeline in self._files(folder):
            if file.is_file():
                pipeline.restore(Pipeline.load(file))
            else:
                logger.warning("%s: not there, so this shaping is as it was made", file)
        for reward in self.rewards:
            reward.restored = True  # or it was said that it is not

    def _files(self, folder: Path) -> list[tuple[Path, Pipeline]]:
        shapings = [item for reward in self.rewards for item in reward.shapings.items()]
        return [(folder / f"{name.replace('/', '_')}.shaping.json", pipeline) for name, pipeline in shapings]
