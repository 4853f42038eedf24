"""What this machine computes well: device, dtype, attention."""

from __future__ import annotations

import math
from typing import Any

import psutil
import torch

from rewardsmith.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA, then Apple's MPS, then the CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:0 or mps") from error
        try:
            torch.empty(1, device=device).cpu()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise UsageError(f"--device {name}: there is none here; use --device cpu") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the device multiplies it natively, else float32.

    On a CPU without AMX or AVX512-BF16, bfloat16 is emulated and several times slower than float32.
    """
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"--dtype {name}: use auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32


def trained_dtype(trained: str, device: torch.device) -> str:
    """What ``auto`` is for a model whose contract says what it was trained in: that, or float32 where it is emulated.

    A reward must not change with the machine: bfloat16 moves rewards by a hundredth of their spread and more, so a
    model trained in float32 is not scored in bfloat16 unless somebody asks for it.
    """
    native = {"float32": True, "bfloat16": _multiplies_bfloat16(device), "float16": device.type == "cuda"}
    return trained if native.get(trained) else "float32"


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("amx_bf16") or can.get("avx512_bf16"))
    return False


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device can still give; None where it does not say (MPS)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available if device.type == "cpu" else None


def fitting_positions(free: int, config: Any, itemsize: int, *, dense_mask: bool) -> int:
    """How many positions one forward pass without gradients may hold in half of ``free`` bytes.

    A layer holds about eight vectors of the hidden size and three of the feed-forward size for each position; a dense
    mask over one row of all P positions holds P * P numbers more.

    Args:
        free: bytes.
        config: the network's text config.
        itemsize: bytes of a number.
        dense_mask: whether attention sees a mask of its own over whole rows.
    """
    hidden = config.hidden_size
    width = 8 * hidden + 3 * (getattr(config, "intermediate_size", None) or 4 * hidden)
    half = free / 2 / itemsize  # numbers
    if not dense_mask:
        return int(half / width)
    return int((math.sqrt(width * width + 4 * half) - width) / 2)  # P * P + P * width = half


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``float32``."""
    return str(dtype).removeprefix("torch.")
