"""Rows out, in the format the output's name asks for; whole files appear at once or not at all."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rewardsmith.errors import FileError, RewardsmithError, UsageError

FORMATS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")

# What cannot be told from values that happen to be null in the first rows of a table.
_TYPES = {"reward": "double", "reward_se": "double", "truncated": "bool", "closed": "bool", "thinking_tokens": "int64"}
_TYPES |= {"response_tokens": "int64", "prefilled": "bool", "answer_given_thinking": "double"}
_TYPES |= dict.fromkeys(("thinking_reward", "answer_alone", "contribution", "thinking_share"), "double")
_TYPES |= dict.fromkeys(("repetition", "min_step", "last_step", "mean_step", "step_rewards"), "double")
_TYPES |= dict.fromkeys(("step_scores", "process_min", "process_last", "process_mean", "process_product"), "double")
_TYPES |= {"first_error": "int64"}
_TYPES |= {"shaped": "double", "saturated": "bool", "scored_by": "string", "disagreement": "double"}
_PART = 4096  # rows of a parquet row group


def format_of(path: Path) -> str:
    """The suffix that decides the format.

    Raises:
        UsageError: an unknown one.
    """
    name = path.name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise UsageError(f"{path}: cannot write this kind of file; its name must end in one of {', '.join(FORMATS)}")


def write(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> int:
    """Write rows to ``path`` through a temporary file beside it; returns how many.

    Args:
        path: its name decides the format.
        rows: what to write.
        columns: of tables, in order: every name that any row has. JSON Lines rows keep their own.

    Raises:
        FileError: the file cannot be written, or the rows do not make a table with one type per column.
    """
    suffix = format_of(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    scratch = Path(name)
    try:
        count = _WRITERS[suffix](scratch, iter(rows), columns)
        scratch.chmod(0o644)
        os.replace(scratch, path)
        return count
    except RewardsmithError:
        raise  # of reading the rows
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def line(row: dict[str, Any]) -> str:
    """A row as one line of JSON. Bytes that were not UTF-8 stay JSON escapes, as in the rejects of a load."""
    return _valid(json.dumps(row, ensure_ascii=False, default=str))


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _jsonl(path: Path, rows: Iterator[dict[str, Any]], columns: Sequence[str]) -> int:
    with path.open("wb") as file:
        return _lines(file, rows)


def _jsonl_gz(path: Path, rows: Iterator[dict[str, Any]], columns: Sequence[str]) -> int:
    # No name and no time in the header: the same rows give the same bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        return _lines(packed, rows)


def _lines(file: Any, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    for row in rows:
        file.write((line(row) + "\n").encode())
        count += 1
    return count


def _csv(path: Path, rows: Iterator[dict[str, Any]], columns: Sequence[str], delimiter: str = ",") -> int:
    count = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
            count += 1
    return count


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict | bool) else value


def _parquet(path: Path, rows: Iterator[dict[str, Any]], columns: Sequence[str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, schema, writer = 0, None, None
    try:
        while part := list(islice(rows, _PART)):
            values = [{name: _unicode(row.get(name)) for name in columns} for row in part]
            found = pa.Table.from_pylist(values).schema
            schema = schema or pa.schema((field.name, _known(field.type, field.name)) for field in found)
            for field in found:
                if not _holds(schema.field(field.name).type, field.type):
                    # Arrow would cut 1.5 to 1 and drop the new keys of an object without a word.
                    raise pa.ArrowTypeError(f"{field.name}: {schema.field(field.name).type}, later {field.type}")
            writer = writer or pq.ParquetWriter(path, schema)
            writer.write_table(pa.Table.from_pylist(values, schema=schema))
            count += len(part)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:160]
        raise FileError(
            f"the rows do not fit in a parquet file, whose columns have one type each ({reason}); write .jsonl instead"
        ) from error
    finally:
        if writer is not None:
            writer.close()
    return count


def _unicode(value: Any) -> Any:
    return _valid(value) if isinstance(value, str) else value


def _known(kind: Any, column: str) -> Any:
    """``kind`` without nulls: what is null in the whole first part holds our own numbers later, or text."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        ours = "double" if column.startswith("attribute_") else "string"
        return pa.type_for_alias(_TYPES.get(column, ours))
    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type, column))
    if pa.types.is_struct(kind):
        return pa.struct([(item.name, _known(item.type, item.name)) for item in kind])
    return kind


def _holds(wide: Any, narrow: Any) -> bool:
    """Whether values of one type can be put into another without loss."""
    import pyarrow as pa

    if wide == narrow or pa.types.is_null(narrow):
        return True
    if pa.types.is_list(wide) and pa.types.is_list(narrow):
        return _holds(wide.value_type, narrow.value_type)
    if pa.types.is_struct(wide) and pa.types.is_struct(narrow):
        known = {item.name: item.type for item in wide}
        return all(item.name in known and _holds(known[item.name], item.type) for item in narrow)
    return pa.types.is_floating(wide) and pa.types.is_integer(narrow)


_WRITERS = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl_gz,
    ".csv": _csv,
    ".tsv": lambda path, rows, columns: _csv(path, rows, columns, "\t"),
    ".parquet": _parquet,
}
