"""A user's mistake is one line on standard error and exit code 2: never a traceback, never half a result."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rewardsmith.cli.main import run
from tests import tiny
from tests.cli.conftest import pairs, save

ROWS = [{"prompt": "p", "response": "fox"}, {"prompt": "p", "response": "dog"}]


@pytest.fixture
def place(bases, data, model, tmp_path) -> dict[str, object]:
    """Names to put into the arguments below."""
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("years of work")
    (tmp_path / "a_file").write_text("x")
    return {
        "dir": tmp_path,
        "base": bases["llama"],
        "model": model,
        "train": data["train"],
        "rows": save(tmp_path / "rows.jsonl", ROWS),
        "no_dict": save(tmp_path / "no_dict.jsonl", [1]),
    }


TRAIN = "train -q -d {train} -b {base} -o {dir}/rm --cache {dir}/c"
SCORE = "score -q {model} {rows} -o {dir}/o.jsonl"
COMPARE = "compare {model} -p p -a a -b b"
EVALUATE = "evaluate -q {model} -d {train}"

MISTAKES: dict[str, tuple[str, str]] = {
    # files that are not there
    "train: no data": (TRAIN.replace("{train}", "{dir}/no.jsonl"), "no.jsonl: no such file"),
    "train: no eval data": (TRAIN + " --eval-data ./no.jsonl", "no.jsonl: no such file"),
    "score: no rows": (SCORE.replace("{rows}", "{dir}/no.jsonl"), "no.jsonl: no such file"),
    "score: no rows, bare name": (SCORE.replace("{rows}", "no.jsonl"), "no.jsonl: no such file"),
    "score: no rows, stdout": ("score {model} {dir}/no.jsonl", "no.jsonl: no such file"),
    "evaluate: no data": ("evaluate {model} -d {dir}/no.jsonl", "no.jsonl: no such file"),
    "compare: no file": ("compare {model} -p @{dir}/no.txt -a a -b b", "no.txt: cannot be read: No such file"),
    "compare: folder": ("compare {model} -p @{dir}/folder -a a -b b", "folder: cannot be read: Is a directory"),
    # models that are not there
    "train: no base": (TRAIN.replace("{base}", "{dir}/no"), "no: no such folder"),
    "score: no model": ("score {dir}/no {rows}", "no: no such folder"),
    "evaluate: no model": ("evaluate {dir}/no -d {train}", "no: no such folder"),
    "compare: no model": ("compare ./no -p p -a a -b b", "no: no such folder"),
    "info: no model": ("info {dir}/no", "no: no such folder"),
    "info: unknown name": ("info nobody-has-this", "nobody-has-this: no folder of this name here, and as an id of the"),
    "info: a file": ("info {rows}", "a file, not a model folder"),
    "info: empty folder": ("info {dir}/folder", "not a model folder: it has no config.json"),
    "info: a base": ("info {base}", "has no reward head (it is a LlamaForCausalLM); train one: rewardsmith train"),
    # outputs
    "train: folder of theirs": (TRAIN.replace("{dir}/rm", "{dir}/theirs"), "exists and is not a reward model of ours"),
    "train: output is a file": (TRAIN.replace("{dir}/rm", "{dir}/a_file"), "exists and is not a reward model of ours"),
    "train: below a file": (TRAIN.replace("{dir}/rm", "{dir}/a_file/rm"), "cannot be created: "),
    "score: no folder": (SCORE.replace("{dir}/o", "{dir}/no/o"), "no such folder"),
    "score: output is a folder": (
        "score {model} {rows} -o {dir}/folder.jsonl/../folder",
        "its name must end in one of",
    ),
    "score: unknown suffix": (SCORE.replace("o.jsonl", "o.xml"), "its name must end in one of .jsonl, .jsonl.gz, .csv"),
    "score: output is the input": ("score {model} {rows} -o {rows}", "would overwrite the rows being scored"),
    "score: input by another name": (
        "score {model} {dir}/folder/../rows.jsonl -o {rows}",
        "would overwrite the rows being scored",
    ),
    "score: json without output": ("score {model} {rows} --json", "add --output FILE"),
    "score: stdin with output": ("score {model} - -o {dir}/o.jsonl", "rows from standard input go to standard output"),
    # settings
    "train: ridge 0": (TRAIN + " --ridge 0", "--ridge 0: must be greater than 0"),
    "train: ridge -1": (TRAIN + " --ridge -1", "--ridge -1: must be greater than 0"),
    "train: ridge nan": (TRAIN + " --ridge nan", "--ridge nan: must be greater than 0"),
    "train: layer abc": (TRAIN + " --layer abc", "--layer abc: must be a layer number, or auto"),
    "train: layer -1": (TRAIN + " --layer -1", "--layer -1: must be a layer number, or auto"),
    "train: layer 1.5": (TRAIN + " --layer 1.5", "--layer 1.5: must be a layer number, or auto"),
    "train: layer superscript": (TRAIN + " --layer ²", "--layer ²: must be a layer number, or auto"),
    "train: layer 0": (TRAIN + " --layer 0", "layers 1 to 3"),
    "train: layer 99": (TRAIN + " --layer 99", "layers 1 to 3"),
    "train: max length": (TRAIN + " --max-length 2", "no comparison is left to train on: 40 longer than max_length"),
    "train: format": (TRAIN + " --format jason", "jason"),
    "train: rejects alone": (TRAIN + " --split test", "a file has no splits"),
    "score: field": (SCORE + " --prompt-field ask", "rows.jsonl:1: prompt: missing; the row has prompt, response;"),
    **{
        f"{command.split()[0]}: {option}": (f"{command} {option}", message)
        for command in (TRAIN, SCORE, COMPARE, EVALUATE)
        for option, message in (
            ("--dtype float31", "--dtype float31: use auto, float32, bfloat16, float16"),
            ("--device quantum", "--device quantum: not a device; use auto, cpu, cuda, cuda:0 or mps"),
            ("--device cuda:7", "there is none here; use --device cpu"),
        )
    },
    "train: attention": (TRAIN + " --attention best", "cannot be loaded for sequence classification"),
    "train: ridge inf": (TRAIN + " --ridge inf", "ridge must be finite and > 0"),
    "train: cache": (TRAIN + " --cache {dir}/a_file/c", "a_file/c/features/"),
    "train: device map": (TRAIN + " --device-map foo", "cannot be loaded for sequence classification"),
    # empty files, and files without what they should have
    "train: empty": (TRAIN.replace("{train}", "{dir}/empty.jsonl"), "empty.jsonl: holds no rows"),
    "score: empty": (SCORE.replace("{rows}", "{dir}/empty.jsonl"), "empty.jsonl: holds no rows"),
    "evaluate: empty": ("evaluate {model} -d {dir}/empty.jsonl", "empty.jsonl: holds no rows"),
    "train: empty folder": (TRAIN.replace("{train}", "{dir}/folder"), "the folder has no data files"),
    "score: empty folder": (SCORE.replace("{rows}", "{dir}/folder"), "the folder has no data files"),
    "score: unknown file": (SCORE.replace("{rows}", "{dir}/a_file"), "unknown file format"),
    "score: stdin": ("score {model} -", "holds no rows"),
    "score: no object": (SCORE.replace("{rows}", "{no_dict}"), "no_dict.jsonl:1: is 1, a row must be a JSON object"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(cli, place, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if "cuda" in name:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command, message = MISTAKES[name]
    before = everything(tmp_path)
    done = cli(*(part.format(**place) for part in command.split()))
    assert message in done.error
    assert len(done.error) < 500
    assert everything(tmp_path) == before


def everything(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, but for the features, which are kept on purpose."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if folder / "c" not in (path, *path.parents)
    }


@pytest.mark.parametrize(
    "option",
    [*("--folds 1", "--seed -1", "--max-length 1", "--batch-tokens 3", "--method lora", "--pooling max")],
)
def test_a_setting_out_of_its_range_is_refused_by_name(cli, place, option) -> None:
    done = cli(*(part.format(**place) for part in f"{TRAIN} {option}".split()))
    assert (done.code, done.out) == (2, "")
    assert option.split()[0] in done.err.splitlines()[-1]


def test_several_bad_rows_are_listed_one_a_line(cli, place, tmp_path) -> None:
    bad = [{**row, "chosen": ""} for row in pairs(3)]
    rows = save(tmp_path / "bad.jsonl", [*pairs(2), *bad])
    for command in (TRAIN.replace("{train}", "{bad}"), "evaluate {model} -d {bad}"):
        done = cli(*(part.format(**place, bad=rows) for part in command.split()))
        assert done.code == 2
        head, *listed = done.err.splitlines()
        assert head.startswith(f"error: {rows}: 3 bad rows; correct them, or leave them out with --skip-bad")
        assert [line.split(": ")[:2] for line in listed] == [[f"{rows}:{n}", "chosen"] for n in (3, 4, 5)]


def test_a_model_of_two_labels(cli, place, bases, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "two"
    shutil.copytree(bases["llama"], folder)
    AutoModelForSequenceClassification.from_pretrained(bases["llama"], num_labels=2).save_pretrained(folder)
    for command in ("info {two}", "score {two} {rows}", "evaluate {two} -d {train}", "compare {two} -p p -a a -b b"):
        done = cli(*(part.format(**place, two=folder) for part in command.split()))
        assert "two: its head score.weight has 2 outputs: a classifier, not a reward model" in done.error


def test_damaged_models(cli, model, tmp_path) -> None:
    for name, damage in {
        "config.json": lambda f: f.write_text("{"),
        "model.safetensors": lambda f: f.write_bytes(f.read_bytes()[:100]),
        "tokenizer.json": lambda f: f.write_text("{}"),
        "reward_posterior.safetensors": lambda f: f.write_bytes(b"x"),
        "missing weights": lambda f: _without_a_weight(f.parent / "model.safetensors"),
    }.items():
        folder = tmp_path / name
        shutil.copytree(model, folder)
        damage(folder / name)
        done = cli("info", folder)
        assert done.code in (2, 3), (name, done)
        (line,) = done.err.splitlines()
        assert line.startswith(f"error: {folder}"), name


def _without_a_weight(file: Path) -> None:
    weights = load_file(file)
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def test_a_damaged_contract_is_exit_code_3(cli, model, tmp_path) -> None:
    shutil.copytree(model, tmp_path / "rm")
    (tmp_path / "rm" / "reward_contract.json").write_text("{")
    done = cli("info", tmp_path / "rm")
    assert done.code == 3
    assert done.err.startswith("error: ") and done.err.count("\n") == 1


def test_data_that_say_nothing(cli, bases, model, tmp_path) -> None:
    ties = save(tmp_path / "ties.jsonl", [{**row, "probability": 0.5} for row in pairs(5)])
    assert "human ties" in cli("evaluate", "-q", model, "-d", ties).error
    same = save(tmp_path / "one.jsonl", pairs(1))
    arguments = ["train", "-q", "-d", same, "-b", bases["llama"], "-o", tmp_path / "rm", "--cache", tmp_path / "c"]
    assert "too few" in cli(*arguments).error
    assert not (tmp_path / "rm").exists()


def test_a_template_that_refuses_a_row(cli, data, tmp_path) -> None:
    strict = "{% if messages|length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + tiny.CHATML
    base = tiny.save_base("llama", tmp_path / "base", template=strict)
    assert (
        cli(*f"train -q -d {data['train']} -b {base} -o {tmp_path}/rm --cache {tmp_path}/c --ridge 1".split()).code == 0
    )
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = save(tmp_path / "rows.jsonl", [{"prompt": "p", "response": "r"}, {"prompt": turns, "response": "r"}])
    done = cli("score", "-q", tmp_path / "rm", rows, "-o", tmp_path / "o.jsonl")
    assert done.error.startswith(
        f"error: {rows}:2: the chat template refuses the turns [user assistant user assistant]"
    )
    held_out = save(tmp_path / "pairs.jsonl", [{"prompt": turns, "chosen": "x", "rejected": "y"}])
    assert f"{held_out}:1: the chat template refuses" in cli("evaluate", "-q", tmp_path / "rm", "-d", held_out).error


def test_ctrl_c_says_that_work_is_kept(cli, place, monkeypatch) -> None:
    from rewardsmith.scoring import score_file

    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(score_file, "score_chunk", interrupt)
    done = cli(*(part.format(**place) for part in SCORE.split()))
    assert (done.code, done.out, done.err) == (130, "", "interrupted; finished work is kept\n")


def test_a_reader_that_goes_away_is_no_error(model, tmp_path, monkeypatch) -> None:
    """``rewardsmith score ... | head -1``."""
    rows = save(tmp_path / "rows.jsonl", ROWS)
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "argv", ["rewardsmith", "score", str(model), str(rows)])
    # Unbuffered, and with errors when the flush at the end of the process would have them.
    stream = io.TextIOWrapper(io.FileIO(writing, "w", closefd=False), write_through=True)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as end:
        run()
    assert not end.value.code
    stream.detach()
    os.close(writing)


def test_what_the_system_refuses_is_one_line(cli, place, monkeypatch) -> None:
    from rewardsmith.scoring import score_file

    def full(*_args, **_more):
        raise OSError(28, "No space left on device", "/full/disk")

    monkeypatch.setattr(score_file, "score_chunk", full)
    done = cli(*(part.format(**place) for part in SCORE.split()))
    assert done.error == "error: /full/disk: No space left on device"


def test_an_output_that_cannot_be_written_is_refused_before_any_work(cli, place, tmp_path) -> None:
    for taken in ("theirs", "a_file", "a_file/rm"):
        done = cli(*(part.format(**place) for part in TRAIN.replace("{dir}/rm", f"{{dir}}/{taken}").split()))
        assert taken.split("/")[0] in done.error
        assert not (tmp_path / "c").exists()  # no feature was computed
    done = cli(
        *(
            part.format(**place)
            for part in SCORE.replace("{model} {rows}", "nobody-has-this {rows}").replace("o.jsonl", "o.xml").split()
        )
    )
    assert "its name must end in" in done.error  # before the model is looked for


def test_out_of_memory_says_what_to_do(cli, place, monkeypatch) -> None:
    from rewardsmith.scoring import score_file

    def full(*_args, **_more):
        raise MemoryError

    monkeypatch.setattr(score_file, "score_chunk", full)
    done = cli(*(part.format(**place) for part in SCORE.split()))
    assert "out of memory; use a smaller --batch-tokens" in done.error


def test_json_reports_have_no_nan(cli, place, tmp_path) -> None:
    """JSON has no NaN: what reads our reports must not fail on it."""

    def refuse(name: str):
        raise AssertionError(name)

    for command in (
        TRAIN + " --json",
        EVALUATE + " --json",
        SCORE + " --json",
        COMPARE + " --json",
        "info {model} --json",
    ):
        done = cli(*(part.format(**place) for part in command.split()))
        json.loads(done.out, parse_constant=refuse)
