"""One function per file format. Each yields `Row`s in file order and holds one row (or one small batch) at a time."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rewardsmith.data.json_stream import iterate_json
from rewardsmith.data.problems import RowError, shown
from rewardsmith.data.strict_json import parse_object
from rewardsmith.errors import DataError
from rewardsmith.types import Source

MAX_ROW_BYTES = 64 << 20
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data source, before anything is known about its shape.

    Args:
        source: file and line.
        data: the row's fields, or None when it could not be read.
        error: why it could not be read, on one line; None for a readable row.
        raw: the line without its line feed, for line-based files. Bytes that are not UTF-8 are kept as surrogate
            escapes, so ``raw.encode("utf-8", "surrogateescape")`` gives back the file's bytes.
        rule: short name of the rule that ``error`` breaks.
    """

    source: Source
    data: dict[str, Any] | None
    error: str | None = None
    raw: str | None = None
    rule: str = "bad-json"


def read_jsonl(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Rows of a JSON Lines stream; blank lines are skipped but counted, a byte order mark is accepted."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if number == 1:
            if line.startswith(_UTF16_MARKS):
                raise DataError("is UTF-16, text files must be UTF-8; save the file as UTF-8", file=name, line=1)
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) >= MAX_ROW_BYTES:
            raise DataError("is longer than 64 MiB, one line must be one row", file=name, line=number)
        line = line.removesuffix(b"\n")
        if line and not line.isspace():
            yield _jsonl_row(line, Source(name, number))


def _jsonl_row(line: bytes, source: Source) -> Row:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raw = line.decode("utf-8", "surrogateescape")
        what = f"is not UTF-8 at byte {error.start + 1} ({error.reason}), text files must be UTF-8; save it as UTF-8"
        return Row(source, None, what, raw, "bad-encoding")
    try:
        return Row(source, parse_object(text), None, text)
    except RowError as error:
        what = f"{error.field}: {error.message}" if error.field else error.message
        return Row(source, None, what, text, error.rule)


def read_json(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Rows of a JSON array, ``{"data": [...]}`` or objects one after another; the line is the row's number."""
    for number, value in iterate_json(stream, name):
        source = Source(name, number)
        if isinstance(value, dict):
            yield Row(source, value)
        else:
            what = f"is {shown(value)}, a row must be a JSON object {{...}}"
            yield Row(source, None, what, json.dumps(value), "not-object")


# CSV has no types. These columns are numbers in every format that has them; all others stay text.
_NUMERIC = re.compile(
    r"margin|weight|probability|score_chosen|score_rejected|chosen_score|rejected_score|helpfulness|correctness"
    r"|coherence|complexity|verbosity|preference_strength|overall_preference|annotator\d+|label|num_correct"
)
_OPTIONAL = frozenset({"id", "subset", "tools", "chat_template_kwargs", "scores", "ranks", "attributes"})


def read_csv(stream: BinaryIO, name: str, delimiter: str = ",") -> Iterator[Row]:
    """Rows of a CSV or TSV file with a header. Cells that start with ``[`` or ``{`` are read as JSON when they are."""
    csv.field_size_limit(MAX_ROW_BYTES)  # the default of 128 KiB is shorter than a long conversation
    reader = csv.reader(_decoded_lines(stream, name), delimiter=delimiter, strict=True)
    start = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        _check_header(header, name)
        start = reader.line_num + 1
        for cells in reader:
            source = Source(name, start)
            start = reader.line_num + 1
            if not cells:
                continue
            if len(cells) == len(header):
                yield _csv_row(source, header, cells)
            else:
                what = f"has {len(cells)} cells, the header has {len(header)}; quote cells that hold the delimiter"
                yield Row(source, None, what, json.dumps(cells), "ragged-csv")
    except csv.Error as error:
        message = f"is not valid CSV: {error}; a quoted cell is not closed or a quote is not doubled"
        raise DataError(message, file=name, line=start) from error


def read_tsv(stream: BinaryIO, name: str) -> Iterator[Row]:
    """`read_csv` with tabs."""
    return read_csv(stream, name, delimiter="\t")


def _decoded_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) >= MAX_ROW_BYTES:
            raise DataError("is longer than 64 MiB, the file is not rows of CSV", file=name, line=number)
        if b"\x00" in line:
            raise DataError("holds a NUL byte, the file is binary or UTF-16; save as UTF-8", file=name, line=number)
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 at byte {error.start + 1} ({error.reason}); save the file as UTF-8"
            raise DataError(message, file=name, line=number) from error


def _check_header(header: list[str], name: str) -> None:
    for column in header:
        if not column.strip():
            raise DataError("has a column without a name, the first line must name every column", file=name, line=1)
        if header.count(column) > 1:
            raise DataError("names two columns, column names must differ", file=name, line=1, field=column)


def _csv_row(source: Source, header: list[str], cells: list[str]) -> Row:
    try:
        data = {column: _cell(column, cell) for column, cell in zip(header, cells, strict=True)}
    except RowError as error:
        return Row(source, None, f"{error.field}: {error.message}", json.dumps(cells), error.rule)
    return Row(source, data)


def _cell(column: str, cell: str) -> Any:
    if not cell and (column in _OPTIONAL or _NUMERIC.fullmatch(column)):
        return None
    if cell[:1] in ("[", "{"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell  # text may start with a bracket
    if _NUMERIC.fullmatch(column):
        for kind in (int, float):
            try:
                return kind(cell)
            except ValueError:
                continue
    return cell


def read_parquet(path: Path, name: str, tick: Callable[[int], None] | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, a thousand at a time; the line is the row's number.

    Args:
        tick: called with the number of file bytes that each batch stands for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            bytes_per_row = path.stat().st_size / max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=1000):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(Source(name, number), data)
                if tick:
                    tick(int(batch.num_rows * bytes_per_row))
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Arrow says OSError for damaged pages
        reason = " ".join(str(error).split())[:160]
        message = f"is not a readable Parquet file ({reason}); write or download it again"
        raise DataError(message, file=name, line=number + 1) from error
