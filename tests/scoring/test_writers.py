"""Each output format holds every row and every column, appears whole or not at all, and has the same bytes again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rewardsmith.errors import DataError, FileError, UsageError
from rewardsmith.scoring import writers
from tests.scoring.conftest import read_back

ROWS = [
    {"id": "a", "prompt": 'p, "q"\n\té\u2028', "n": 3, "tags": ["x", "y"], "ok": True, "none": None},
    {"id": "b", "prompt": "", "n": -1, "tags": [], "ok": False, "none": None},
]
COLUMNS = list(ROWS[0])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.jsonl", ".jsonl"),
        ("a.JSONL.GZ", ".jsonl.gz"),
        ("a.b.csv", ".csv"),
        ("a.tsv", ".tsv"),
        ("x.parquet", ".parquet"),
    ],
)
def test_the_name_decides(name, suffix) -> None:
    assert writers.format_of(Path(name)) == suffix


@pytest.mark.parametrize("name", ["out", "out.json", "out.csv.gz", "out.txt", "jsonl", "out.jsonl.bz2"])
def test_other_names_are_refused_with_those_that_work(name) -> None:
    with pytest.raises(UsageError, match=rf"{name}: cannot write.*\.jsonl, \.jsonl\.gz, \.csv, \.tsv, \.parquet"):
        writers.format_of(Path(name))


@pytest.mark.parametrize("name", ["o.jsonl", "o.jsonl.gz", "o.parquet"])
def test_typed_formats_give_back_what_was_written(tmp_path, name) -> None:
    path = tmp_path / name
    assert writers.write(path, ROWS, COLUMNS) == 2
    assert read_back(path) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["o.csv", "o.tsv"])
def test_tables_of_text_keep_lists_as_json(tmp_path, name) -> None:
    path = tmp_path / name
    writers.write(path, ROWS, COLUMNS)
    first, second = read_back(path)
    assert list(first) == COLUMNS
    assert first["prompt"] == ROWS[0]["prompt"]
    assert (json.loads(first["tags"]), first["ok"], first["none"], first["n"]) == (["x", "y"], "true", "", "3")
    assert second["prompt"] == ""


@pytest.mark.parametrize("name", ["o.jsonl", "o.jsonl.gz", "o.csv", "o.tsv", "o.parquet"])
def test_the_same_rows_give_the_same_bytes(tmp_path, monkeypatch, name) -> None:
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        writers.write(folder / name, ROWS, COLUMNS)
        monkeypatch.setattr("time.time", lambda: 2e9)  # later, the second time
    assert (tmp_path / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("name", ["o.csv", "o.parquet"])
def test_columns_that_only_later_rows_have(tmp_path, name) -> None:
    path = tmp_path / name
    writers.write(path, [{"a": "1"}, {"b": "2", "a": "3"}, {"c": "4"}], ["a", "b", "c"])
    assert [{k: v for k, v in row.items() if v} for row in read_back(path)] == [
        {"a": "1"},
        {"b": "2", "a": "3"},
        {"c": "4"},
    ]


def test_parquet_columns_that_are_null_at_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(writers, "_PART", 2)
    rows = [{"reward": None, "truncated": None, "reward_error": None, "note": None}] * 2
    rows += [{"reward": 0.5, "truncated": True, "reward_error": "o.jsonl:3: bad", "note": "text"}]
    writers.write(tmp_path / "o.parquet", rows, list(rows[0]))
    assert read_back(tmp_path / "o.parquet") == rows


def test_every_column_that_scoring_adds_has_a_type(tmp_path, monkeypatch) -> None:
    """Bad rows at the head of a file are null in all of them."""
    monkeypatch.setattr(writers, "_PART", 1)
    ours = ("reward", "reward_se", "truncated", "response_tokens", "scored_by", "disagreement", "shaped", "saturated")
    found = {"truncated": True, "saturated": False, "scored_by": "abc", "response_tokens": 7}
    rows = [dict.fromkeys(ours), {name: found.get(name, 0.5) for name in ours}]
    writers.write(tmp_path / "o.parquet", rows, list(ours))
    assert read_back(tmp_path / "o.parquet") == rows


TWO_TYPES = [(3, "x"), (3, {"a": 1}), (3, [1.0]), (1, 1.5), (True, 2), ({"a": 1}, {"a": 1, "b": 2}), ([1], [1.5])]


@pytest.mark.parametrize(("first", "later"), TWO_TYPES)
def test_parquet_never_changes_a_value_to_make_it_fit(tmp_path, monkeypatch, first, later) -> None:
    """A row after the first part of the file has another type: all its values are there, or there is no file."""
    monkeypatch.setattr(writers, "_PART", 1)
    with pytest.raises(FileError, match=r"columns have one type each \(a: .*\); write \.jsonl instead"):
        writers.write(tmp_path / "o.parquet", [{"a": first}, {"a": later}], ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("later", ["x", {"a": 1}, [1.0], 2**70])
def test_parquet_with_two_types_in_one_part(tmp_path, later) -> None:
    with pytest.raises(FileError, match=r"columns have one type each .*; write \.jsonl instead"):
        writers.write(tmp_path / "o.parquet", [{"a": 3}, {"a": later}], ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values",
    [(1.5, 2, None), ([], [None], ["x"]), ({"a": 1, "b": "x"}, {"a": None, "b": None}, None), ([1.5], [], [2])],
)
def test_parquet_takes_what_fits(tmp_path, monkeypatch, values) -> None:
    monkeypatch.setattr(writers, "_PART", 1)
    rows = [{"a": value} for value in values]
    writers.write(tmp_path / "o.parquet", rows, ["a"])
    assert read_back(tmp_path / "o.parquet") == rows


@pytest.mark.parametrize("name", ["o.jsonl", "o.jsonl.gz", "o.csv", "o.parquet"])
def test_bytes_that_were_not_utf_8_are_not_lost(tmp_path, name) -> None:
    raw = b"{caf\xe9".decode("utf-8", "surrogateescape")
    writers.write(tmp_path / name, [{"raw": raw}], ["raw"])
    (row,) = read_back(tmp_path / name)
    if "jsonl" in name:
        assert row["raw"].encode("utf-8", "surrogateescape") == b"{caf\xe9"
    else:
        assert row["raw"] == "{caf\\udce9"


@pytest.mark.parametrize("name", ["o.jsonl", "o.jsonl.gz", "o.csv", "o.parquet"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_half_way_leaves_what_was_there(tmp_path, name, old) -> None:
    path = tmp_path / name
    if old:
        path.write_bytes(old)

    def rows():
        yield ROWS[0]
        raise DataError("is damaged", file="rows.jsonl", line=2)

    with pytest.raises(DataError, match=r"^rows\.jsonl:2: is damaged$"):
        writers.write(path, rows(), COLUMNS)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(FileError, match=r"o\.jsonl: cannot be written"):
        writers.write(tmp_path / "no" / "o.jsonl", ROWS, COLUMNS)


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writers._WRITERS, ".jsonl", full)
    with pytest.raises(FileError, match=r"o\.jsonl: cannot be written: No space left on device"):
        writers.write(tmp_path / "o.jsonl", ROWS, COLUMNS)
    assert not list(tmp_path.iterdir())


def test_numbers_keep_all_their_digits(tmp_path) -> None:
    reward = math.pi / 7e9
    for name in ("o.jsonl", "o.csv", "o.parquet"):
        writers.write(tmp_path / name, [{"reward": reward}], ["reward"])
        assert float(read_back(tmp_path / name)[0]["reward"]) == reward
