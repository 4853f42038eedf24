"""Memory back while a notebook goes on: ``del model`` is not enough when ``Out[3]`` still holds the model."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rewardsmith.errors import UsageError
from rewardsmith.notebook.kernel import shell

# Packages whose objects are looked into for tensors. Not torch's own: a loader holds the caller's data.
_OURS = {"rewardsmith", "transformers", "trl", "peft", "accelerate", "bitsandbytes"}
_DATA = {"train_dataset", "eval_dataset", "processing_class", "data_collator", "tokenizer"}


@dataclass(frozen=True, repr=False)
class Freed:
    """What ``release_memory`` found and what the memory was before and after, in bytes.

    Args:
        tensors: how many were dropped.
        dropped: bytes they took, on all devices.
        process: resident memory of this process, before and after.
        device: memory taken by tensors on the GPUs, before and after; None without a GPU.
    """

    tensors: int
    dropped: int
    process: tuple[int, int]
    device: tuple[int, int] | None

    def __repr__(self) -> str:
        parts = [f"dropped {self.tensors:,} tensors of {_megabytes(self.dropped)}"]
        for name, pair in (("process memory", self.process), ("GPU memory", self.device)):
            if pair:
                parts.append(f"{name} {_megabytes(pair[0])} -> {_megabytes(pair[1])}")
        return "; ".join(parts)


def release_memory(*objects: Any, keep: Iterable[Any] = ()) -> Freed:
    """Drop the weights of models and trainers, and give the memory back to the GPU and to the system.

    Variables and ``Out[...]`` may still refer to them: the weights are taken out of the objects, which cannot be used
    any more and say so. In IPython the cached outputs and the last traceback, which hold objects too, are cleared.

    Args:
        objects: reward models, scorers, trainers (rewardsmith's, TRL's, transformers'), networks, optimizers, or lists
            of them. A trainer's network, optimizer, reference model and reward models all go. None: only what
            nothing refers to any more is freed.
        keep: what shares weights with them and is to stay usable, e.g. the reward model of a GRPO trainer.

    Returns:
        What was freed; its text says it.

    Raises:
        UsageError: an object that can hold no weights, such as the name of a model.

    Example:
        >>> release_memory(trainer, keep=[reward_model])  # doctest: +SKIP
        dropped 412 tensors of 1,614 MB; process memory 2,871 MB -> 1,240 MB
    """
    for item in objects:
        _check(item)
    _collect()
    before = _process_memory(), _device_memory()
    kept = {tensor.untyped_storage().data_ptr() for tensor in _tensors(keep)}
    found = [t for t in _tensors(objects) if t.untyped_storage().data_ptr() not in kept]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    gone = {id(tensor) for tensor in found}
    for item in _reachable(objects):
        if isinstance(item, torch.nn.Module) and any(id(p) in gone for p in item.parameters(recurse=False)):
            item.register_forward_pre_hook(_refuse)
    for tensor in found:
        tensor.grad = None
        with torch.inference_mode(tensor.is_inference()):
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    count = len(found)
    del found
    _forget_outputs()
    _collect()
    process, device = _process_memory(), _device_memory()
    both = None if before[1] is None or device is None else (before[1], device)
    return Freed(count, sum(storages.values()), (before[0], process), both)


def _check(item: Any) -> None:
    """Refuse what is neither a model or trainer nor a list of them: nothing would be freed, and nobody told."""
    if item is None:
        return  # a variable that was emptied already
    inside = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple, set)) else None
    if inside is not None:
        for one in inside:
            _check(one)
    elif not isinstance(item, torch.Tensor | torch.nn.Module | torch.optim.Optimizer) and not _is_ours(item):
        raise UsageError(
            f"release_memory: {item!r:.40} is a {type(item).__name__}, which holds no weights; give a model, a scorer, "
            "a trainer, a network or an optimizer (or a list of them)"
        )


def _refuse(module: Any, _inputs: Any) -> None:
    raise UsageError("the weights of this model were dropped by release_memory(); load it again")


def _tensors(objects: Iterable[Any]) -> list[torch.Tensor]:
    """Tensors that hold memory, each once, gradients included."""
    return [
        item for item in _reachable(objects) if isinstance(item, torch.Tensor) and item.numel() and not item.is_meta
    ]


def _reachable(objects: Iterable[Any]) -> Iterator[Any]:
    """The objects and all that they hold, as far as it is theirs."""
    seen: dict[int, Any] = {}  # with the objects, or an id may be given away while we look
    todo = list(objects)
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (type, str, bytes)):
            continue
        seen[id(item)] = item
        yield item
        if isinstance(item, Mapping):
            todo += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            todo += item
        elif isinstance(item, torch.Tensor):
            todo += [item.grad] if item.grad is not None and not item.is_inference() else []
            todo += vars(item).values()  # 4-bit weights carry their scales there
        elif isinstance(item, torch.nn.Module | torch.optim.Optimizer) or _is_ours(item):
            todo += (value for name, value in _attributes(item) if name not in _DATA)


def _is_ours(item: Any) -> bool:
    return any(kind.__module__.partition(".")[0] in _OURS for kind in type(item).__mro__)  # also a subclass of theirs


def _attributes(item: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(item, name):
                yield name, getattr(item, name)


def _forget_outputs() -> None:
    """IPython's ``Out``, ``_`` and ``_3``, and the last error, whose frames hold every local variable on the way."""
    for name in ("last_exc", "last_value", "last_traceback"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    interactive = shell()
    if interactive is not None and interactive.displayhook.do_full_cache:
        interactive.displayhook.flush()


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    # The C library keeps freed memory for itself unless told otherwise; other systems have no such call.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _process_memory() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _device_memory() -> int | None:
    if torch.cuda.is_available():
        return sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))
    return torch.mps.current_allocated_memory() if torch.backends.mps.is_available() else None


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
