"""What to change when a plan does not fit: settings that were tried and do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rewardsmith.training.method import MethodName
from rewardsmith.training.plan import Plan, need
from rewardsmith.training.workload import Settings, Sizes, depth

_SHORTER = (8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256)  # maximum lengths that advice tries

# What frees memory at no cost to the result first, then what changes it little, then another method.
_LIGHTER: tuple[MethodName, ...] = ("lora", "qlora", "head")


def advise(found: Plan, available: int) -> list[str]:
    """What to do about the methods that do not fit. Every remedy was computed and fits ``available`` bytes.

    Best first: what leaves the result as it is (recomputing, smaller passes with more accumulation); what changes it a
    little (frozen weights in 16 bits, 8-bit moments, dropping long comparisons); another method. When nothing fits, how
    much memory would do.
    """
    tight: list[MethodName] = [name for name, method in found.methods.items() if method.memory.total > available]
    search = _Search(found, available)
    lines = [line for name in tight for line in search.remedies(name)]
    if tight and not lines and len(tight) == len(found.methods):
        lines = [search.least()]
    return lines


@dataclass(frozen=True)
class _Search:
    """Tries settings against the memory there is."""

    found: Plan
    available: int

    def remedies(self, name: MethodName) -> list[str]:
        """Lines for a method that does not fit; other methods only when it was the only one asked for."""
        settings, alone = self.found.settings, len(self.found.methods) == 1
        trees = self.found.workload.within(settings.max_length)
        if name == "head":
            lines = self.first(name, _split_batches(settings, trees))
        else:
            lines = [
                *self.first(name, _recomputing(settings)),
                *self.first(name, _smaller_batches(settings)),
                *self.first(name, _split_batches(settings, trees)),
            ]
            lines = lines or self.first(name, _sparing(settings))
            for change in (_frozen_in_16_bits, _eight_bit):
                lines += self.first(name, change(settings) if lines else _and_sparing(change, settings))
        lines += self.shorter(name, trees)
        if not alone:
            return [f"--method {name} {line}" for line in lines]
        for other in _LIGHTER:
            if other != name:
                named = ((f"--method {other} {label}".rstrip(), changed) for label, changed in _all_of(other, settings))
                lines += self.first(other, named)
        return lines

    def first(self, name: MethodName, options: Iterable[tuple[str, Settings]]) -> list[str]:
        """The first of the options that fits, as a line; nothing when none does."""
        for label, changed in options:
            total = self.total(name, changed)
            if total <= self.available:
                return [f"{label} needs {gib(total)}: fits"]
        return []

    def total(self, name: MethodName, settings: Settings) -> int:
        """Bytes that a method needs with other settings."""
        trees = self.found.workload.within(settings.max_length)
        return need(self.found.shape, trees, settings, name)[0].total

    def shorter(self, name: MethodName, trees: Sequence[Sizes]) -> list[str]:
        """The largest shorter maximum length that fits, and what it drops; only for lengths that were measured."""
        if self.found.workload.assumption is not None:
            return []
        for length in _SHORTER:
            kept = sum(depth(tree) <= length for tree in trees)
            if 0 < kept < len(trees):
                total = self.total(name, replace(self.found.settings, max_length=length))
                if total <= self.available:
                    share = 100 * (1 - kept / len(trees))
                    return [f"--max-length {length} drops {share:.1f}% of the comparisons and needs {gib(total)}: fits"]
        return []

    def least(self) -> str:
        """The smallest need of any method, with every saving."""
        settings = self.found.settings
        names: list[MethodName] = [*_LIGHTER, *self.found.methods]
        options = [
            (self.total(name, changed), f"--method {name} {label}".rstrip())
            for name in names
            for label, changed in _all_of(name, settings)
        ]
        total, label = min(options)
        return f"nothing fits {gib(self.available)}: the least, {label}, needs {gib(total)}"


Options = Iterator[tuple[str, Settings]]


def _recomputing(settings: Settings) -> Options:
    if not settings.checkpointing:
        yield "--gradient-checkpointing", replace(settings, checkpointing=True)


def _frozen_in_16_bits(settings: Settings) -> Options:
    if settings.stored == "float32" and settings.dtype != "float32":
        yield f"--frozen-dtype {settings.dtype}", replace(settings, stored=settings.dtype)


def _eight_bit(settings: Settings) -> Options:
    if settings.optimizer != "adamw_8bit":
        yield "--optim adamw_8bit", replace(settings, optimizer="adamw_8bit")


def _smaller_batches(settings: Settings) -> Options:
    """The same optimiser step in more forward passes, largest first."""
    whole = settings.batch_size
    for size in range(whole - 1, 0, -1):
        if whole % size == 0:
            steps = settings.accumulation * whole // size
            label = f"--batch-size {size} --accumulation {steps}"
            yield label, replace(settings, batch_size=size, accumulation=steps)


def _split_batches(settings: Settings, trees: Sequence[Sizes]) -> Options:
    """Only the batches that are large in more forward passes, by powers of two down to the longest comparison."""
    longest = max(map(sum, trees))
    limit = settings.batch_tokens or 2 * settings.batch_size * longest
    tokens = 1 << limit.bit_length()
    while (tokens := tokens // 2) >= max(longest, 16):
        if tokens < limit:
            yield f"--batch-tokens {tokens}", replace(settings, batch_tokens=tokens)


def _sparing(settings: Settings) -> Options:
    """Everything that leaves the result as it is, by how much it saves."""
    yield from _recomputing(settings)
    yield from _smaller_batches(settings)
    for label, changed in _recomputing(settings):
        for more, further in _smaller_batches(changed):
            yield f"{label} {more}", further


def _and_sparing(change: Callable[[Settings], Options], settings: Settings) -> Options:
    for label, changed in change(settings):
        yield label, changed
        for more, further in _sparing(changed):
            yield f"{label} {more}", further


def _all_of(name: MethodName, settings: Settings) -> Options:
    """The settings as they are, and all that would make fine-tuning need less."""
    yield "", settings
    if name != "head":
        yield from _sparing(settings)
        yield from _and_sparing(_frozen_in_16_bits, settings)


def gib(size: float) -> str:
    """Bytes as GiB, or MiB below one tenth."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"
