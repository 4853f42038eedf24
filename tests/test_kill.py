"""A process that is killed (SIGKILL, as by a scheduler or an empty battery) goes on to the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from rewardsmith.cli.main import run
from rewardsmith.scoring.score_file import CHUNK
from rewardsmith.training.run_folder import RunFolder
from tests.cli.conftest import pairs, save

SCRIPT = [sys.executable, "-c", "from rewardsmith.cli.main import run; run()"]


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., str]:
    """Runs a command in this process and returns what it said on standard error."""
    assert torch.get_num_threads() == 1  # as in the processes that are killed: the same arithmetic

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["rewardsmith", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        said = capsys.readouterr().err
        assert not end.value.code, said
        return said

    return call


def kill_when(ready: Callable[[], bool], *arguments: object) -> None:
    """Start ``rewardsmith ARGUMENTS``, wait until ``ready()`` and kill it; fails when it ends before."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [*SCRIPT, *map(str, arguments)],
        env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        limit = time.monotonic() + 120
        while not ready():
            assert process.poll() is None, f"ended before it could be killed: {process.communicate()[0]}"
            assert time.monotonic() < limit, "nothing to kill after two minutes"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def to_compute(said: str) -> int:
    """The total of the progress lines of ``train``."""
    totals = {int(total.replace(",", "")) for total in re.findall(r"features: [\d,]+/([\d,]+) tokens", said)}
    (total,) = totals
    return total


def test_training_killed_while_features_are_computed(bases, tmp_path, command) -> None:
    data = save(tmp_path / "pairs.jsonl", pairs(200))
    shards = tmp_path / "killed"
    arguments = ["train", "-d", data, "-b", bases["gemma3"], "--batch-tokens", 64, "--ridge", 3]

    def begun() -> bool:
        return len(list(shards.glob("features/*/*.safetensors"))) >= 2

    kill_when(begun, *arguments, "-o", tmp_path / "rm", "--cache", shards)
    kept = len(list(shards.glob("features/*/*.safetensors")))
    assert not (tmp_path / "rm").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "pairs.jsonl"]

    again = command(*arguments, "-o", tmp_path / "rm", "--cache", shards)
    whole = command(*arguments, "-o", tmp_path / "whole", "--cache", tmp_path / "other")
    assert kept >= 2
    assert to_compute(again) < to_compute(whole)  # what was computed before the kill was not computed again
    for name in ("reward_contract.json", "model.safetensors", "reward_posterior.safetensors", "config.json"):
        assert (tmp_path / "rm" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert sorted(path.name for path in (tmp_path / "rm").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_scoring_killed_between_chunks(models, tmp_path, command) -> None:
    model = models["llama"].save(tmp_path / "rm")
    rows = [{"prompt": f"q{i % 50}", "response": "fox dog " * (i * 7 % 9) + str(i)} for i in range(3000)]
    source, output = save(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"

    def begun() -> bool:
        return partial.exists() and partial.read_bytes().count(b"\n") >= 3  # what the run is, and two chunks

    arguments = ["score", model, source, "--batch-tokens", 1024, "-o"]
    kill_when(begun, *arguments, output)
    kept = partial.read_bytes().count(b"\n") - 1
    assert 2 <= kept < len(rows) / CHUNK
    assert not output.exists()

    again = command(*arguments, output)
    command(*arguments, tmp_path / "whole.jsonl")
    assert f"3,000 rows saved to {output} ({CHUNK * kept:,} resumed)" in again
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rm", "rows.jsonl", "whole.jsonl"]


def at_random(run: Path, checkpoints: Sequence[int]) -> Callable[[], bool]:
    """True from a random moment on, at most 0.1 s after a random one of ``checkpoints`` was begun; 0 is the start."""
    step, wait, since = random.choice([0, *checkpoints]), random.uniform(0, 0.1), 0.0
    print(f"killed {wait:.3f} s after step {step}")  # shown when the test fails
    mark = run / f"checkpoint-{step}" if step else run / "run.json"

    def ready() -> bool:
        nonlocal since
        if not since and mark.exists():
            since = time.monotonic()
        return bool(since) and time.monotonic() - since >= wait

    return ready


@pytest.mark.parametrize("method", ["lora", "full"])
def test_trap_04_finetuning_killed_at_any_step_resumes_to_the_same_curve(bases, tmp_path, command, method) -> None:
    """The losses, and the weights at the end, are those of the run that nobody killed, bit for bit."""
    data = save(tmp_path / "pairs.jsonl", pairs(60))
    options = ["--set", "save_steps=3", "--set", "logging_steps=1", "--set", "lr_scheduler_type=cosine"]
    arguments = ["train", "--method", method, "-b", bases["llama"], "-d", data, "--batch-size", 2, *options]
    command(*arguments, "-o", tmp_path / "whole", "--epochs", 1)
    folder = tmp_path / "killed.run"
    kill_when(at_random(folder, range(3, 25, 3)), *arguments, "-o", tmp_path / "killed", "--epochs", 1)

    assert not (tmp_path / "killed").exists()
    whole = RunFolder(folder).last_checkpoint()  # the one being written may be half there
    said = command(*arguments, "-o", tmp_path / "killed", "--epochs", 1, "--resume")
    assert ("going on from checkpoint-" in said) == (whole is not None)
    curves = [_curve(tmp_path / f"{name}.run") for name in ("whole", "killed")]
    assert len(curves[0]) == 30
    assert curves[0] == curves[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def _curve(folder: Path) -> list[dict[str, float]]:
    """What was logged at each step, but for times."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if "runtime" not in k} for entry in history if "loss" in entry]
