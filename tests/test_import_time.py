"""Asking for help does not wait for torch: the heavy libraries are imported when there is work for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pyarrow",
    "datasets",
    "scipy",
    "pandas",
    "sklearn",
    "safetensors",
    "tokenizers",
)
PROGRAM = f"""
import sys
sys.argv = ["rewardsmith", *sys.argv[1:]]
from rewardsmith.cli.main import run
try:
    run()
except SystemExit as end:
    code = end.code or 0
print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["--help"], "evaluate", 0),
        (["train", "--help"], "--ridge", 0),
        (["score", "--help"], "--skip-bad", 0),
        (["data", "check", "--help"], "--against", 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_imports_nothing_heavy(arguments, says, code) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
    assert says in done.stdout
    assert done.stderr.splitlines()[-1] == f"[] {code}"


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "rewardsmith", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("rewardsmith ")


MISTAKES = [
    "score rm {rows} --shaping clap",
    "score rm {rows} --aggregate max",
    "score rm {rows} --dtype float8",
    "score rm {rows} --device gpu:x",
    "score rm {rows} --attention fast",
    "score rm {rows} -o none/o.jsonl",
    "score rm {rows} --reference-field x",
    "score rm {rows} --cache none/c.db",
    "score rm none.jsonl",
    "score ./no-model {rows}",
    "best-of-n ./no-model {rows} -o o.jsonl",
    "best-of-n rm {rows} -o o.jsonl --gold scores --max-n 9",
    "best-of-n rm {rows} -o o.jsonl --shaping normalise",
    "best-of-n {rows} --reward none -o o.jsonl",
    "shape {rows} --steps normalize -o s.json",
    "explain ./no-model {rows}",
    "explain rm {rows} --dtype float8",
    "explain rm {rows} -o none/page.html",
]
REFUSED = """
import sys
from rewardsmith.cli.main import run
for line in sys.argv[1:]:
    sys.argv = ["rewardsmith", *line.split()]
    try:
        run()
    except SystemExit as end:
        print(end.code, "torch" in sys.modules, line)
"""


def test_mistakes_are_said_before_torch_is_imported(tmp_path) -> None:
    """In one process: what imports torch would be seen in all that follow."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}\n' * 3)
    lines = [line.format(rows=rows) for line in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *lines], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines() == [f"2 False {line}" for line in lines], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
