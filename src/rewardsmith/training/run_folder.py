"""The folder of a run: its settings, its checkpoints, and which of them are whole."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardsmith.data.atomic import atomic_writer
from rewardsmith.errors import FileError, UsageError
from rewardsmith.training.settings import without_secrets

logger = logging.getLogger("rewardsmith")

_FILE = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """``OUTPUT.run``: run.json, checkpoint-N, and at the end the adapter.

    Args:
        path: of the folder.
    """

    path: Path

    @classmethod
    def beside(cls, output: Path) -> RunFolder:
        """The run folder of a trained model's folder."""
        output = output.resolve()
        return cls(output.with_name(output.name + ".run"))

    def check(self, settings: Mapping[str, Any], *, resume: bool) -> Path | None:
        """The checkpoint to go on from when resuming. Nothing is changed yet.

        Raises:
            UsageError: an unfinished run is there and neither resumed nor removed; or the settings changed since.
            FileError: the folder is somebody else's.
        """
        state = self._state()
        if state is None and any(not path.is_dir() for path in self.path.rglob("*")):
            raise FileError(f"{self.path}: exists and is not a run of ours; choose another output folder")
        checkpoint = self.last_checkpoint()
        if resume:
            if state is None:
                raise UsageError(f"--resume: there is no run at {self.path}; leave --resume out to start one")
            self._check_same(state["settings"], settings)
            return checkpoint
        work = checkpoint or next(self.path.glob("adapter"), None)
        if state is not None and not state["finished"] and work is not None:
            raise UsageError(
                f"{self.path}: holds an unfinished run ({work.name}); go on with --resume, or remove the folder"
            )
        return None

    def begin(
        self,
        settings: Mapping[str, Any],
        *,
        resume: bool,
        data: str | None = None,
        computed: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the folder ready: what an earlier run left there is removed, unless it is resumed.

        Args:
            settings: of the run.
            resume: go on with the run that is there.
            data: stands for the data; see :func:`fingerprint`.
            computed: how the run computes, where the settings leave that to the machine: ``device``, ``processes``,
                precision. A resumed run may compute otherwise, with a warning, but not with more or fewer processes.

        Raises:
            UsageError, FileError: see :meth:`check`; also data or processes that changed since.
        """
        self.check(settings, resume=resume)
        state = self._state()
        if resume:
            known = state and state.get("data")
            if known and known != data:
                raise UsageError(
                    "--resume: the data are not those of the run, though their files have the same names; resume with "
                    "the same data, read in the same way, or start a new run in another folder"
                )
            _check_computed((state and state.get("computed")) or {}, computed or {})
            return
        if state is not None:
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._write({"settings": settings, "data": data, "computed": computed, "finished": False})

    def finish(self) -> None:
        """Say that the run is complete: its model is saved."""
        self._write({**(self._state() or {}), "finished": True})

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole: a kill while writing leaves one without its last file."""
        found = []
        for folder in self.path.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            if number.isdecimal() and _readable(folder / "trainer_state.json"):
                found.append((int(number), folder))
        return max(found)[1] if found else None

    def _state(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / _FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, state: Mapping[str, Any]) -> None:
        text = json.dumps(state, indent=2, default=str)
        with atomic_writer(self.path / _FILE) as file:
            file.write((text + "\n").encode())

    def _check_same(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(now, default=str))
        if changed := _differences(without_secrets(before), now):
            raise UsageError(
                f"--resume: {'; '.join(changed)}; resume with the settings of the run, or start a new one in another "
                "folder; a finished run cannot be made longer"
            )


def _check_computed(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = _differences(before, {name: now.get(name) for name in before})
    if before.get("processes") != now.get("processes") and before:
        raise UsageError(
            f"--resume: {'; '.join(changed)}; a checkpoint counts the batches of all processes: start as many of them"
        )
    if changed:
        logger.warning("--resume: %s; the run goes on, but not to the same numbers", "; ".join(changed))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """``["max_steps was 2, is now 4"]``, by the names that a config file has for the settings."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, "" if name == "training" else f"{within}{name}.")
        elif old != new:
            found.append(f"{within}{name} was {_said(old)}, is now {_said(new)}")
    return found


def _said(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value)) or "empty"
    return "not set" if value is None else json.dumps(value) if isinstance(value, (bool, dict)) else str(value)


def fingerprint(*datasets: Iterable[Mapping[str, Any]] | None) -> str:
    """64 hexadecimal digits that stand for the rows of data sets, in order."""
    digest = hashlib.sha256()
    for dataset in datasets:
        for row in dataset or ():
            digest.update(json.dumps(row, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _readable(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
