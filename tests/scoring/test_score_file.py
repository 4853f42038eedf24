"""Files and streams: the model's rewards, in order, in constant memory, the same bytes after an interruption."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import ClassVar

import pytest

from rewardsmith.data.readers import Row
from rewardsmith.data.sources import read_rows
from rewardsmith.errors import DataError, FileError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import score_file as module
from rewardsmith.scoring.score_file import ScoreOptions, score_file, score_stream
from rewardsmith.types import Source
from tests.data.samples import chat
from tests.scoring.conftest import read_back, some_rows

RUN = {"model": "rm"}
SMALL = ScoreOptions(chunk=8)


def score(model: RewardModel, source: Path, output: Path, options: ScoreOptions = SMALL, **more) -> dict[str, int]:
    return score_file(model, str(source), output, options, run=RUN, **more)


def numbers(cell: object) -> object:
    """A cell of CSV as the value it stands for."""
    return json.loads(cell) if isinstance(cell, str) and cell else cell


@pytest.mark.parametrize("output", ["o.jsonl", "o.jsonl.gz", "o.csv", "o.tsv", "o.parquet"])
@pytest.mark.parametrize(
    "source", ["rows.jsonl", "rows.csv.gz", "rows.tsv", "rows.parquet", "rows.jsonl.gz", "rows.json"]
)
def test_every_format_in_and_out(trained, write, tmp_path, source, output) -> None:
    rows = some_rows(20)
    if source == "rows.json":
        path = tmp_path / source
        path.write_text(json.dumps(rows))
    elif source == "rows.csv.gz":
        import gzip

        path = tmp_path / source
        path.write_bytes(gzip.compress(write(rows, "plain.csv").read_bytes()))
    else:
        path = write(rows, source)
    counts = score(trained, path, tmp_path / output, ScoreOptions())
    assert counts == {"rows": 20, "resumed": 0, "bad": 0, "truncated": 0}
    assert not (tmp_path / f"{output}.partial").exists()
    found = read_back(tmp_path / output)
    assert [{key: row[key] for key in ("id", "prompt", "response")} for row in found] == rows
    assert list(found[0]) == [
        "id",
        "prompt",
        "response",
        "reward",
        "reward_se",
        "truncated",
        "response_tokens",
        "scored_by",
    ]
    scored = trained.score_responses([row["prompt"] for row in rows], [row["response"] for row in rows])
    assert [numbers(row["reward"]) for row in found] == [item.reward for item in scored]
    assert [numbers(row["reward_se"]) for row in found] == [item.reward_se for item in scored]
    assert [numbers(row["truncated"]) for row in found] == [False] * 20
    assert len({item.reward for item in scored}) > 10


def test_file_stream_and_model_agree(trained, write, tmp_path) -> None:
    rows = some_rows(40)
    path = write(rows)
    score(trained, path, tmp_path / "o.jsonl")
    found = read_back(tmp_path / "o.jsonl")
    assert list(score_stream(trained, read_rows(path), SMALL)) == found  # the same chunks, the same bits
    direct = trained.score_batch([row["prompt"] for row in rows], [row["response"] for row in rows])
    assert [row["reward"] for row in found] == pytest.approx(direct, abs=1e-5)  # other neighbours


LISTS = [
    {"prompt": "p", "responses": ["fox", "dog dog", "fox"]},
    {"prompt": chat("p"), "chosen": "fox fox", "rejected": "dog"},
    {"messages": chat("p", "a", "b", "fox")},
    {"question": "q", "answer": "fox"},
]


@pytest.mark.parametrize("output", ["o.jsonl", "o.csv"])
def test_rows_of_several_responses_get_lists(trained, write, tmp_path, output) -> None:
    score(trained, write(LISTS), tmp_path / output)
    found = read_back(tmp_path / output)
    assert [isinstance(numbers(row["reward"]), list) for row in found] == [True, True, False, False]
    for row, key, texts in ((0, "p", LISTS[0]["responses"]), (1, chat("p"), ["fox fox", "dog"])):
        direct = trained.score_responses([key] * len(texts), texts)
        assert numbers(found[row]["reward"]) == pytest.approx([item.reward for item in direct], abs=1e-5)
        assert numbers(found[row]["reward_se"]) == pytest.approx([item.reward_se for item in direct], abs=1e-5)
        assert numbers(found[row]["truncated"]) == [False] * len(texts)
    expected = trained.score_batch([chat("p", "a", "b"), "q"], ["fox", "fox"])
    assert [numbers(row["reward"]) for row in found[2:]] == pytest.approx(expected, abs=1e-5)


def test_lists_in_parquet(models, trained, write, tmp_path) -> None:
    for model, errors in ((trained, True), (models["llama"], False)):
        score(model, write([LISTS[0], {**LISTS[0], "responses": ["x"]}]), tmp_path / "o.parquet")
        first, second = read_back(tmp_path / "o.parquet")
        assert [len(first["reward"]), len(second["reward"])] == [3, 1]
        assert all((value is not None) == errors for value in first["reward_se"])


def test_long_rows_are_flagged_and_counted(trained, write, tmp_path) -> None:
    turns = [*chat("old " * 300, "answer", "new"), {"role": "assistant", "content": "fox"}]
    counts = score(
        trained, write([{"messages": turns}, {"prompt": "new", "responses": ["fox", "y" * 2000]}]), tmp_path / "o.jsonl"
    )
    first, second = read_back(tmp_path / "o.jsonl")
    assert (first["truncated"], second["truncated"]) == (True, [False, True])
    assert counts["truncated"] == 2
    assert first["reward"] == pytest.approx(second["reward"][0], abs=1e-5)  # what was left is the last exchange


def test_tools_of_a_row_are_seen_by_the_template(models, write, tmp_path) -> None:
    model = models["llama"]
    tokenizer = model.template.tokenizer
    kept = tokenizer.chat_template
    tokenizer.chat_template = "{{ tools | length if tools else '' }}" + kept
    try:
        tool = {"type": "function", "function": {"name": "add"}}
        rows = [{"prompt": "p", "response": "r"}, {"prompt": "p", "response": "r", "tools": [tool]}]
        score(model, write(rows), tmp_path / "o.jsonl")
        expected = [model.score_rendered(["k"], [model.render("p", "r", tools=t)])[0].reward for t in (None, [tool])]
    finally:
        tokenizer.chat_template = kept
    assert [row["reward"] for row in read_back(tmp_path / "o.jsonl")] == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


# -- bad rows

BAD_FILE = [
    json.dumps({"prompt": "p", "response": "one"}),
    '{"prompt": "p", "respon',
    json.dumps({"prompt": "p", "response": 5}),
    json.dumps({"prompt": "p", "responses": ["two", "three"], "extra": 1}),
]


@pytest.fixture
def bad_file(tmp_path) -> Path:
    path = tmp_path / "bad.jsonl"
    path.write_bytes("\n".join(BAD_FILE).encode() + b'\n{"prompt": "p", "response": "M\xff"}\n')
    return path


def test_skip_bad_keeps_every_row(trained, bad_file, tmp_path) -> None:
    counts = score(trained, bad_file, tmp_path / "o.jsonl", ScoreOptions(skip_bad=True))
    assert counts == {"rows": 5, "resumed": 0, "bad": 3, "truncated": 0}
    one, cut, number, two, encoding = read_back(tmp_path / "o.jsonl")
    expected = trained.score_batch(["p"] * 3, ["one", "two", "three"])
    assert (one["reward"], one["reward_error"]) == (expected[0], None)
    assert (two["reward"], two["extra"], two["reward_error"]) == (expected[1:], 1, None)
    assert cut["raw"] == BAD_FILE[1]
    assert encoding["raw"].encode("utf-8", "surrogateescape") == b'{"prompt": "p", "response": "M\xff"}'
    assert number["response"] == 5
    for row, line in ((cut, 2), (number, 3), (encoding, 5)):
        assert row["reward"] is row["reward_se"] is row["truncated"] is None
        assert row["reward_error"].startswith(f"{bad_file}:{line}: ")
    assert number["reward_error"].startswith(f"{bad_file}:3: response: ")


def test_skip_bad_in_a_table_keeps_every_column(trained, tmp_path) -> None:
    """The first row decides nothing: an unreadable one does not have the columns of the others."""
    path = tmp_path / "bad.jsonl"
    path.write_text("{\n" + json.dumps({"prompt": "p", "response": "one"}) + "\n")
    for name in ("o.csv", "o.parquet"):
        score(trained, path, tmp_path / name, ScoreOptions(skip_bad=True))
        first, second = read_back(tmp_path / name)
        assert first["raw"] == "{"
        assert (second["prompt"], second["response"]) == ("p", "one")
        assert float(second["reward"]) == trained.score("p", "one")


def test_without_skip_bad_there_is_no_error_column(trained, write, tmp_path) -> None:
    score(trained, write(some_rows(2)), tmp_path / "o.jsonl")
    assert "reward_error" not in read_back(tmp_path / "o.jsonl")[0]


def test_the_first_bad_row_stops_and_finished_chunks_are_kept(trained, write, tmp_path, monkeypatch) -> None:
    rows = some_rows(30)
    bad = [*rows[:19], {"prompt": "p"}, *rows[20:]]
    path, output = write(bad), tmp_path / "o.jsonl"
    output.write_text("the old output")
    with pytest.raises(DataError, match=rf"^{path}:20: response: missing; the row has prompt; "):
        score(trained, path, output)
    assert output.read_text() == "the old output"
    partial = tmp_path / "o.jsonl.partial"
    assert partial.read_bytes().count(b"\n") == 3  # what it is, and two chunks of eight
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.jsonl", "o.jsonl.partial", "rows.jsonl"]


def test_a_bad_row_in_the_first_chunk_leaves_nothing(trained, write, tmp_path) -> None:
    path = write([{"prompt": "p"}])
    with pytest.raises(DataError):
        score(trained, path, tmp_path / "o.jsonl")
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_the_template_refuses_is_located(models, write, tmp_path) -> None:
    tokenizer = models["llama"].template.tokenizer
    kept = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('never') if messages[0]['content'] == 'bad' }}" + kept
    try:
        path = write([*some_rows(3), {"prompt": "bad", "response": "r"}])
        with pytest.raises(DataError, match=rf"^{path}:4: the chat template refuses .*never$"):
            score(models["llama"], path, tmp_path / "o.jsonl")
    finally:
        tokenizer.chat_template = kept


@pytest.mark.parametrize(("content", "message"), [(b"", "holds no rows"), (b"\xff\xfe{\x00", ":1: is UTF-16")])
def test_a_file_that_cannot_be_read_leaves_nothing(trained, tmp_path, content, message) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        score(trained, path, tmp_path / "o.jsonl")
    assert list(tmp_path.iterdir()) == [path]


# -- interruptions


class StopError(Exception):
    """What an interruption raises here."""


def stop_after(chunks: int):
    seen = 0

    def report(_rows: int) -> None:
        nonlocal seen
        seen += 1
        if seen == chunks:
            raise StopError

    return report


@pytest.mark.parametrize("output", ["o.jsonl", "o.jsonl.gz", "o.csv", "o.parquet"])
def test_an_interrupted_run_ends_in_the_same_bytes(trained, write, tmp_path, output, monkeypatch) -> None:
    path, whole = write(some_rows(45)), tmp_path / "whole"
    whole.mkdir()
    score(trained, path, whole / output)
    again: list[int] = []
    original = module.score_chunk
    monkeypatch.setattr(module, "score_chunk", lambda m, c, o: again.append(len(c)) or original(m, c, o))
    for chunks in (1, 3, 5):
        with pytest.raises(StopError):
            score(trained, path, tmp_path / output, report=stop_after(chunks))
        assert not (tmp_path / output).exists()
        with (tmp_path / f"{output}.partial").open("ab") as file:
            file.write(b'[{"reward": 0.')  # the kill came in the middle of a line
        again.clear()
        counts = score(trained, path, tmp_path / output)
        assert counts == {"rows": 45, "resumed": 8 * chunks, "bad": 0, "truncated": 0}
        assert again == [8, 8, 8, 8, 8, 5][chunks:]  # the same chunks as in a run without interruption
        assert (tmp_path / output).read_bytes() == (whole / output).read_bytes()
        assert not (tmp_path / f"{output}.partial").exists()
        (tmp_path / output).unlink()


def test_interrupted_while_the_output_is_written(trained, write, tmp_path, monkeypatch) -> None:
    path = write(some_rows(20))
    score(trained, path, tmp_path / "whole.jsonl")

    def fail(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.writers, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        score(trained, path, tmp_path / "o.jsonl")
    monkeypatch.undo()
    assert score(trained, path, tmp_path / "o.jsonl")["resumed"] == 20
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    "change",
    ["rows", "model", "chunk", "budget", "field", "folder"],
)
def test_another_run_does_not_take_up_an_old_journal(trained, write, tmp_path, change) -> None:
    rows = some_rows(20)
    folder = tmp_path / "in"
    folder.mkdir()
    source = write(rows, "in/rows.jsonl")
    given = folder if change == "folder" else source
    output, options, run = tmp_path / "o.jsonl", SMALL, RUN
    with pytest.raises(StopError):
        score_file(trained, str(given), output, options, run=run, report=stop_after(2))
    if change in ("rows", "folder"):
        rows[0]["response"] = rows[0]["response"].replace("fox", "dog")  # the same size
        write(rows, "in/rows.jsonl")
    run = {"model": "other"} if change == "model" else run
    options = {
        "chunk": ScoreOptions(chunk=4),
        "budget": ScoreOptions(chunk=8, budget=64),
        "field": ScoreOptions(chunk=8, response_field="id"),
    }.get(change, options)
    counts = score_file(trained, str(given), output, options, run=run)
    assert counts["resumed"] == 0
    answer = rows[0]["id" if change == "field" else "response"]
    assert read_back(output)[0]["reward"] == pytest.approx(trained.score(rows[0]["prompt"], answer), abs=1e-5)


def test_a_source_that_changes_meanwhile_is_an_error(trained, write, tmp_path) -> None:
    for count in (15, 25):
        path = write(some_rows(20))

        def change(_rows: int, path: Path = path, count: int = count) -> None:
            path.unlink()
            write(some_rows(count))

        with pytest.raises(DataError, match=rf"^{path}: changed while it was being scored"):
            # The open file still has the old rows; those that the rewards are joined to are the new ones.
            score(trained, path, tmp_path / "o.jsonl", report=change)
        assert not (tmp_path / "o.jsonl").exists()


def test_a_journal_that_cannot_be_written(trained, write, tmp_path) -> None:
    (tmp_path / "o.jsonl.partial").mkdir()
    with pytest.raises(FileError, match=r"o\.jsonl\.partial: cannot be written"):
        score(trained, write(some_rows(2)), tmp_path / "o.jsonl")


# -- memory


class Tracked(dict):
    """A row that can be counted while it lives."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    most: ClassVar[int] = 0

    def __init__(self, *args):
        super().__init__(*args)
        Tracked.alive.add(self)
        Tracked.most = max(Tracked.most, len(Tracked.alive))

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_rows_are_streamed(trained, tmp_path, monkeypatch) -> None:
    def rows(*_args, **_more):
        for number, row in enumerate(some_rows(120)):
            yield Row(Source("rows", number + 1), Tracked(row))

    monkeypatch.setattr(module, "read_rows", rows)
    monkeypatch.setattr(Tracked, "most", 0)
    score(trained, Path("rows"), tmp_path / "o.jsonl")
    assert len(read_back(tmp_path / "o.jsonl")) == 120
    assert 8 <= Tracked.most <= 2 * 8 + 2
    monkeypatch.setattr(Tracked, "most", 0)
    assert sum(1 for _ in score_stream(trained, rows(), SMALL)) == 120
    assert 8 <= Tracked.most <= 2 * 8 + 2


def test_a_stream_gives_rows_before_it_has_read_all(trained) -> None:
    asked = 0

    def rows():
        nonlocal asked
        for number, row in enumerate(some_rows(100)):
            asked += 1
            yield Row(Source("rows", number + 1), row)

    next(score_stream(trained, rows(), SMALL))
    assert asked == 8


def test_a_reward_that_is_there_already_is_not_overwritten(models, tmp_path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"prompt": "p", "response": "r", "reward": 7}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: reward: is there already"):
        score_file(models["llama"], str(source), tmp_path / "out.jsonl", ScoreOptions(), run={})
