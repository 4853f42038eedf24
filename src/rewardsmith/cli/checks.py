"""What can be said of a command's options before the heavy libraries are imported: a typing mistake costs no wait."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rewardsmith.errors import FileError, UsageError

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_ATTENTIONS = ("tree", "sdpa", "eager", "flex_attention")
_DATABASE = b"SQLite format 3\0"
_DEVICE = re.compile(r"auto|cpu|mps|[a-z]+(:\d+)?")


def rows_source(source: str, split: str | None = None) -> None:
    """Rows that are to be read: the first one is. A data set of the Hub is left alone, and so is standard input.

    Raises:
        FileError, DataError, UsageError: there is no such file, or it cannot be read.
    """
    from rewardsmith.data.sources import read_rows

    path = Path(source).expanduser()
    if source != "-" and (path.exists() or path.suffix or source.startswith((".", "/", "~"))):
        next(iter(read_rows(source, split=split)), None)


def output_file(output: Path, source: str | None = None) -> None:
    """A file that is to be written.

    Args:
        source: what is read, which must not be overwritten.

    Raises:
        FileError: it cannot be written.
        UsageError: it is the source.
    """
    if not output.parent.is_dir():
        raise FileError(f"{output}: no such folder: {output.parent}")
    if output.is_dir():
        raise FileError(f"{output}: is a folder; give a file name")
    if not os.access(output.parent, os.W_OK):
        raise FileError(f"{output}: cannot be written: no permission in {output.parent}")
    path = Path(source).expanduser() if source else None
    if path and path.exists() and output.exists() and path.samefile(output):
        raise UsageError(f"{output}: would overwrite the rows being scored; choose another --output")


def running(dtype: str, device: str, attention: str | None) -> None:
    """The options of how a model is run, as far as they do not depend on the machine.

    Raises:
        UsageError: an unknown value.
    """
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype {dtype}: use {', '.join(_DTYPES)}")
    if attention is not None and attention not in _ATTENTIONS:
        raise UsageError(f"--attention {attention}: use {', '.join(_ATTENTIONS)}")
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"--device {device}: not a device; use auto, cpu, cuda, cuda:0 or mps")


def model_folders(names: Sequence[str]) -> None:
    """That each model is a folder of one, or can be had; comes last, since it may have to be fetched.

    Raises:
        FileError, ModelError: there is none.
    """
    from rewardsmith.model.bases import resolve

    for name in names:
        resolve(name, adapters=True)


def cache_file(cache: Path | None) -> None:
    """A file of known scores.

    Raises:
        FileError: it cannot be opened.
    """
    if cache is not None and cache.is_dir():
        raise FileError(f"{cache}: cannot be used as a score cache (is a folder); give another file")
    if cache is not None and not cache.parent.is_dir():
        raise FileError(f"{cache}: no such folder: {cache.parent}")
    if cache is not None and cache.is_file():
        with cache.open("rb") as file:
            if file.read(len(_DATABASE)) not in (b"", _DATABASE):
                raise FileError(f"{cache}: cannot be used as a score cache (is no database); give another file")
