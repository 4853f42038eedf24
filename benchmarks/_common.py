"""What the benchmarks share: where data is, the machine's peak, medians and the last line."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rewardsmith.model.hardware import pick_dtype


def data_folder() -> Path:
    """The real preference data: $REWARDSMITH_DATA, else shared/data beside the checkout."""
    folder = Path(os.environ.get("REWARDSMITH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"skipped: no real preference data at {folder} (set REWARDSMITH_DATA)")
    return folder


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matmul_peak(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """FLOP/s of a large matrix product on this machine, now: the best of five in each layout."""
    size = 2048 if device == "cpu" else 8192
    if device == "cpu" and dtype not in (torch.float32, pick_dtype("auto", torch.device("cpu"))):
        size = 256  # emulated: a large product would take minutes
    a = torch.randn(size, size, device=device).to(dtype)

    def product(b: torch.Tensor) -> None:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    best = min(seconds(lambda b=b: product(b)) for b in (a, a.T) for _ in range(5))
    return 2 * size**3 / best


def machine() -> str:
    """One line about the machine."""
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, matmul peak {matmul_peak() / 1e9:.0f} GFLOP/s (float32)"
    )


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):8.2f}  [{min(values):.2f} to {max(values):.2f}]"


def last_line(ratios: list[float]) -> None:
    """The line that machines read."""
    print(f"ratio {statistics.median(ratios):.2f}")
