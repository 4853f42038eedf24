"""``best-of-n``: the choice is the model's, whatever the shape of the rows; the curve is the gold's."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rewardsmith.evaluation.over_optimisation import curve
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import best_of_n as module
from rewardsmith.scoring.score_file import NEW_COLUMNS
from tests.cli.conftest import save

LISTS = [
    {"id": i, "prompt": f"question {i}", "responses": ["dog " * (1 + k) + "fox " * (i * k % 5) for k in range(4)]}
    for i in range(6)
]
SINGLES = [{"prompt": row["prompt"], "response": row["responses"][k]} for k in (2, 0, 3, 1) for row in LISTS]


@pytest.fixture(scope="module")
def rewards(model) -> list[list[float]]:
    """Of ``LISTS``, as the library gives them."""
    loaded = RewardModel.load(model)
    return [loaded.score_batch([row["prompt"]] * 4, row["responses"]) for row in LISTS]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_gold(name: str = "scores") -> list[dict]:
    """Longer is better, to the gold."""
    return [{**row, name: [len(text) for text in row["responses"]]} for row in LISTS]


def test_picks_among_the_responses_of_a_row(cli, model, rewards, tmp_path) -> None:
    source, out = save(tmp_path / "rows.jsonl", LISTS), tmp_path / "o.jsonl"
    done = cli("best-of-n", model, source, "-o", out)
    assert done.code == 0 and not done.out
    assert done.err.splitlines()[-1] == f"24 candidates of 6 prompts: 6 rows saved to {out}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "rows.jsonl"]
    for row, original, reward in zip(read(out), LISTS, rewards, strict=True):
        best = int(np.argmax(reward))
        assert list(row) == ["id", "prompt", "response", *NEW_COLUMNS, "choice", "candidates"]
        assert (row["response"], row["choice"], row["candidates"]) == (original["responses"][best], best, 4)
        assert row["reward"] == pytest.approx(reward[best], abs=1e-5)
        assert row["reward_se"] > 0 and row["truncated"] is False
    assert len({int(np.argmax(reward)) for reward in rewards}) > 1


def test_rows_of_one_response_are_grouped_by_prompt(cli, model, rewards, tmp_path) -> None:
    """Candidates need not stand together, and the same choice is made as from lists."""
    source, out = save(tmp_path / "rows.jsonl", SINGLES), tmp_path / "o.jsonl"
    report = cli("best-of-n", model, source, "-o", out, "--json").json
    assert (report["rows"], report["prompts"], report["candidates"], report["curve"]) == (6, 6, 24, None)
    found = {row["prompt"]: row for row in read(out)}
    for original, reward in zip(LISTS, rewards, strict=True):
        row = found[original["prompt"]]
        assert row["response"] == original["responses"][int(np.argmax(reward))]
        assert row["choice"] == (2, 0, 3, 1).index(int(np.argmax(reward)))
    places = [SINGLES.index({"prompt": row["prompt"], "response": row["response"]}) for row in read(out)]
    assert places == sorted(places)  # the order of the file


def test_equal_prompts_with_other_tools_are_other_prompts(cli, model, tmp_path) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [{"prompt": "p", "response": "fox"}, {"prompt": "p", "response": "dog", "tools": tools}]
    turns = [{"prompt": [{"role": "user", "content": "p"}], "response": text} for text in ("fox", "dog")]
    report = cli("best-of-n", model, save(tmp_path / "r.jsonl", rows + turns), "-o", tmp_path / "o.jsonl", "--json")
    assert report.json["prompts"] == 3


def test_rank_keeps_every_row(cli, model, rewards, tmp_path) -> None:
    rows = [*LISTS, *SINGLES]
    out = tmp_path / "o.jsonl"
    report = cli("best-of-n", model, save(tmp_path / "r.jsonl", rows), "-o", out, "--rank", "--json").json
    assert report["rows"] == len(rows)
    found = read(out)
    for row, original in zip(found, rows, strict=True):
        assert {key: row[key] for key in original} == original
    for row, reward in zip(found, rewards, strict=False):
        assert row["reward_rank"] == [sorted(reward, reverse=True).index(value) for value in reward]
    by_text = {
        (row["prompt"], text): rank
        for row in found[:6]
        for text, rank in zip(row["responses"], row["reward_rank"], strict=True)
    }
    assert all(row["reward_rank"] == by_text[row["prompt"], row["response"]] for row in found[6:])


def test_equal_rewards(cli, model, tmp_path) -> None:
    """The first of equals is picked; their ranks are equal."""
    source = save(tmp_path / "r.jsonl", [{"prompt": "p", "responses": ["dog", "fox fox fox", "fox fox fox"]}])
    cli("best-of-n", model, source, "-o", tmp_path / "o.jsonl")
    cli("best-of-n", model, source, "-o", tmp_path / "ranked.jsonl", "--rank")
    assert read(tmp_path / "ranked.jsonl")[0]["reward_rank"] == [1, 0, 0]
    assert read(tmp_path / "o.jsonl")[0]["choice"] == 1


@pytest.mark.parametrize("mode", [[], ["--rank"]], ids=["pick", "rank"])
@pytest.mark.parametrize("name", ["o.csv", "o.parquet"])
def test_tables(cli, model, rewards, tmp_path, name, mode) -> None:
    source, out = save(tmp_path / "r.jsonl", SINGLES if mode else [*SINGLES[:3], *LISTS[3:]]), tmp_path / name
    assert cli("best-of-n", model, source, "-o", out, *mode).code == 0
    if name.endswith(".csv"):
        with out.open(newline="") as file:
            found = list(csv.DictReader(file))
    else:
        import pyarrow.parquet as pq

        found = pq.read_table(out).to_pylist()
    assert len(found) == (len(SINGLES) if mode else 6)
    assert all(row["reward"] not in (None, "") for row in found)


def test_conversations_and_pairs(cli, model, tmp_path) -> None:
    turns = [{"role": "user", "content": "p"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("dog", "fox fox")]
    rows = [
        {"prompt": turns, "responses": answers, "ranks": [1, 0]},
        {"prompt": turns, "chosen": turns + answers[0], "rejected": turns + answers[1]},
    ]
    cli("best-of-n", model, save(tmp_path / "r.jsonl", rows), "-o", tmp_path / "o.jsonl")
    first, second = read(tmp_path / "o.jsonl")
    assert first["response"] == second["response"] == answers[1]
    assert "ranks" not in first and "chosen" not in second


# -- the curve


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_gold_may_be_true_or_false(cli, model, tmp_path, name) -> None:
    """Whether a unit test passed."""
    golds = [[k == i % 4 for k in range(4)] for i in range(6)]
    rows = [
        {"prompt": row["prompt"], "response": text, "passed": gold}
        for row, each in zip(LISTS, golds, strict=True)
        for text, gold in zip(row["responses"], each, strict=True)
    ]
    if name == "r.csv":
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        save(tmp_path / name, [{**row, "passed": each} for row, each in zip(LISTS, golds, strict=True)])
    report = cli("best-of-n", model, tmp_path / name, "-o", tmp_path / "o.jsonl", "--gold", "passed", "--json").json
    assert report["curve"]["points"][0]["gold"]["value"] == pytest.approx(0.25)
    for row, gold in zip(read(tmp_path / "o.jsonl"), golds, strict=True):
        assert row["gold"] == float(gold[row["choice"]])


def test_gold_column(cli, model, rewards, tmp_path) -> None:
    source, out = save(tmp_path / "r.jsonl", with_gold()), tmp_path / "o.jsonl"
    report = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "--json").json
    golds = [row["scores"] for row in with_gold()]
    expected = curve(rewards, golds).as_dict()
    assert report["curve"]["peak"] == expected["peak"]
    for found, true in zip(report["curve"]["points"], expected["points"], strict=True):
        assert (found["n"], found["kl"]) == (true["n"], true["kl"])
        for name in ("proxy", "gold", "proxy_gain", "gold_gain"):
            assert found[name] == pytest.approx(true[name], abs=1e-4)
    for row, gold in zip(read(out), golds, strict=True):
        assert row["gold"] == gold[row["choice"]] and "scores" not in row
    shown = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "--max-n", 3)
    assert "KL (nats)" in shown.out and "0.432" in shown.out and "0.636" not in shown.out
    assert "gold is highest at n = " in shown.err


def test_gold_of_single_rows_and_of_ranks(cli, model, tmp_path) -> None:
    """Ranks are better when lower, so gold is minus the rank; a single row has one number."""
    lists = [{**row, "ranks": [sorted(row["scores"])[::-1].index(s) for s in row["scores"]]} for row in with_gold()]
    singles = [
        {"prompt": row["prompt"], "response": text, "quality": -rank}
        for row in lists
        for text, rank in zip(row["responses"], row["ranks"], strict=True)
    ]
    reports = {}
    for column, rows in (("ranks", lists), ("quality", singles)):
        source = save(tmp_path / f"{column}.jsonl", rows)
        reports[column] = cli("best-of-n", model, source, "-o", tmp_path / "o.jsonl", "--gold", column, "--json").json
    points = [report["curve"]["points"] for report in reports.values()]
    for one, other in zip(*points, strict=True):
        assert one["gold"] == pytest.approx(other["gold"])
    assert all(row["gold"] == row["quality"] for row in read(tmp_path / "o.jsonl"))


def test_gold_model(cli, model, bases, data, tmp_path) -> None:
    """The choice is the first model's; the second one judges, and is scored once."""
    other = tmp_path / "other"
    arguments = ["train", "-d", data["test"], "-o", other, "-b", bases["qwen3"], "--ridge", "1", "-q"]
    assert cli(*arguments, "--cache", tmp_path / "c").code == 0
    source = save(tmp_path / "r.jsonl", LISTS)
    report = cli("best-of-n", model, source, "-o", tmp_path / "o.jsonl", "--gold-model", other, "--json").json
    loaded, plain = RewardModel.load(other), tmp_path / "plain.jsonl"
    cli("best-of-n", model, source, "-o", plain)
    for row, alone, original in zip(read(tmp_path / "o.jsonl"), read(plain), LISTS, strict=True):
        assert row["response"] == alone["response"]
        assert row["gold"] == pytest.approx(loaded.score(original["prompt"], row["response"]), abs=1e-4)
    mean = np.mean([loaded.score_batch([row["prompt"]] * 4, row["responses"]) for row in LISTS])
    assert report["curve"]["points"][0]["gold"]["value"] == pytest.approx(mean, abs=1e-4)
    assert not list(tmp_path.glob("*.partial"))
    cli("best-of-n", model, source, "-o", tmp_path / "k.jsonl", "--gold-model", other, "--rank")
    for row in read(tmp_path / "k.jsonl"):
        assert row["gold"] == pytest.approx(loaded.score_batch([row["prompt"]] * 4, row["responses"]), abs=1e-4)


@pytest.mark.parametrize("name", ["c.png", "c.svg", "c.json", "c.csv"])
def test_curve_files(cli, model, tmp_path, name) -> None:
    if name.endswith(("png", "svg")):
        pytest.importorskip("matplotlib")
    source, path = save(tmp_path / "r.jsonl", with_gold()), tmp_path / name
    arguments = ["best-of-n", model, source, "-o", tmp_path / "o.jsonl", "--gold", "scores", "--curve", path, "--json"]
    points = cli(*arguments).json["curve"]["points"]
    if name == "c.png":
        assert path.read_bytes().startswith(b"\x89PNG")
    elif name == "c.svg":
        assert "<svg" in path.read_text()
        before = path.read_bytes()
        cli(*arguments)
        assert path.read_bytes() == before
    elif name == "c.json":
        assert json.loads(path.read_text())["points"] == points
    else:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [float(row["gold_high"]) for row in rows] == [point["gold"]["high"] for point in points]


# -- interruptions and bad rows


def test_goes_on_where_it_was_killed(cli, model, tmp_path, monkeypatch) -> None:
    source, out, scored = save(tmp_path / "r.jsonl", SINGLES), tmp_path / "o.jsonl", []
    original = module.score_chunk
    monkeypatch.setattr(module.ScoreOptions, "chunk", 6)
    asked = module.ScoreOptions(chunk=6)
    monkeypatch.setattr("rewardsmith.scoring.score_file.ScoreOptions", lambda *a, **k: asked)

    def killed_in_the_third(model, chunk, options):
        scored.append(len(chunk))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return original(model, chunk, options)

    monkeypatch.setattr(module, "score_chunk", killed_in_the_third)
    assert cli("best-of-n", model, source, "-o", out).code == 130
    assert not out.exists() and (tmp_path / "o.jsonl.partial").is_file()
    assert cli("best-of-n", model, source, "-o", out).code == 0
    assert scored == [6, 6, 6, 6, 6]  # two, the one cut short, and the two that were left
    whole = tmp_path / "whole.jsonl"
    assert cli("best-of-n", model, source, "-o", whole).code == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_scores_outlive_a_curve_that_cannot_be_made(cli, model, tmp_path, monkeypatch) -> None:
    source, out = save(tmp_path / "r.jsonl", with_gold()[:1]), tmp_path / "o.jsonl"
    monkeypatch.setattr(module, "score_chunk", None)  # never called
    error = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "-q").error
    assert "two or more prompts" in error and "for the choice alone leave out --gold" in error and not out.exists()
    source = save(tmp_path / "r.jsonl", with_gold())
    error = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "--max-n", 9).error
    assert "--max-n 9" in error and "use --max-n 4 or less" in error and not out.exists()


def test_a_curve_that_turns_out_to_be_impossible_is_no_failure(cli, model, tmp_path, monkeypatch) -> None:
    """Rows that only the scoring finds to be bad may leave too few: the choices are written, and a line says it."""
    original = module.score_chunk

    def bad(scorer, chunk, options):
        found = original(scorer, chunk, options)
        return [found[0], *({**dict.fromkeys(row), "reward_error": "refused"} for row in found[1:])]

    monkeypatch.setattr(module, "score_chunk", bad)
    source, out = save(tmp_path / "r.jsonl", with_gold()), tmp_path / "o.jsonl"
    done = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "--skip-bad", "-q")
    assert done.code == 0 and len(read(out)) == 1
    assert (
        done.err
        == "warning: no curve: fewer than two prompts have 4 candidates with a reward; give a smaller --max-n\n"
    )


def test_few_prompts_and_files_are_said(cli, model, tmp_path) -> None:
    source, out, drawn = save(tmp_path / "r.jsonl", with_gold()), tmp_path / "o.jsonl", tmp_path / "c.json"
    done = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "--curve", drawn)
    assert "warning: the curve rests on 6 prompts: with fewer than 20" in done.err
    assert f"curve saved to {drawn}" in done.err


# -- the options of score


def test_a_vote_a_shaping_and_a_cache(cli, model, tmp_path) -> None:
    """The shaped reward decides, and the same rewards come out as of score."""
    source, out, cache = save(tmp_path / "r.jsonl", LISTS), tmp_path / "o.jsonl", tmp_path / "scores.db"
    options = ["--shaping", "length_penalty(per_token=5)", "--cache", cache, "--with", model, "--aggregate", "min"]
    assert cli("best-of-n", model, source, "-o", out, *options).code == 0 and cache.is_file()
    scored = [json.loads(line) for line in cli("score", model, source, *options).out.splitlines()]
    for row, whole in zip(read(out), scored, strict=True):
        assert row["choice"] == int(np.argmax(whole["shaped"]))
        for name in ("reward", "shaped", "disagreement", "response_tokens"):
            assert row[name] == whole[name][row["choice"]]
    assert [row["choice"] for row in read(out)] != [int(np.argmax(row["reward"])) for row in scored]


@pytest.mark.parametrize("mode", [[], ["--rank"]], ids=["pick", "rank"])
def test_rewards_that_are_there(cli, model, tmp_path, mode) -> None:
    """No model is needed, and the choice is the one that the model makes."""
    source, scored = save(tmp_path / "r.jsonl", with_gold()), tmp_path / "scored.jsonl"
    assert cli("score", model, source, "-o", scored).code == 0
    now, then = tmp_path / "now.jsonl", tmp_path / "then.jsonl"
    assert cli("best-of-n", model, source, "-o", now, "--gold", "scores", *mode).code == 0
    done = cli("best-of-n", scored, "-o", then, "--reward", "reward", "--gold", "scores", *mode)
    assert done.code == 0, done.err
    assert read(now) == read(then)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rm", "r.jsonl", "--reward", "scores"], "leave out the model rm"),
        (["r.jsonl", "--reward", "scores", "--aggregate", "min"], "nothing is scored; leave out --with"),
        (["r.jsonl", "--reward", "none"], "none: missing for 4 responses"),
        (["r.jsonl"], "give a model and a file of candidates"),
    ],
)
def test_rewards_that_are_there_and_mistakes(cli, tmp_path, monkeypatch, arguments, says) -> None:
    save(tmp_path / "r.jsonl", with_gold())
    monkeypatch.chdir(tmp_path)
    assert says in cli("best-of-n", *arguments, "-o", "o.jsonl").error


def test_bad_rows(cli, model, tmp_path) -> None:
    rows = [*with_gold()[:3], {"prompt": "p", "responses": []}, {**LISTS[3], "scores": [1, 2]}, with_gold()[4]]
    source, out = save(tmp_path / "r.jsonl", rows), tmp_path / "o.jsonl"
    assert f"{source}:4: responses: must be a list" in cli("best-of-n", model, source, "-o", out, "-q").error
    wrong = cli("best-of-n", model, source, "-o", out, "--gold", "scores")
    assert f"{source}:5: scores: 2 numbers for 4 responses" in wrong.error  # before anything is scored
    report = cli("best-of-n", model, source, "-o", out, "--gold", "scores", "--skip-bad", "--json").json
    assert (report["rows"], report["bad"], report["curve"]["prompts"], report["curve"]["left_out"]) == (5, 1, 4, 1)
    found = read(out)
    assert found[3]["gold"] is None and found[3]["reward_error"] is None
    ranked = cli("best-of-n", model, source, "-o", out, "--rank", "--skip-bad", "--json").json
    assert ranked["rows"] == 6
    assert read(out)[3]["reward_rank"] is None and "responses" in read(out)[3]["reward_error"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--gold scores --gold-model x", "leave one out"),
        ("--curve c.png", "--curve needs a gold reward"),
        ("--max-n 3", "--max-n needs a gold reward"),
        ("--gold scores --curve c.pdf", "c.pdf: cannot write this kind of curve"),
        ("--gold quality", "quality: missing for 4 responses; it needs one for each"),
        ("-o o.txt", "o.txt: cannot write this kind of file"),
        ("-o r.jsonl", "would overwrite the rows being scored"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(cli, tmp_path, monkeypatch, arguments, says) -> None:
    save(tmp_path / "r.jsonl", with_gold())
    monkeypatch.chdir(tmp_path)
    given = arguments.split() if "-o" in arguments else ["-o", "o.jsonl", *arguments.split()]
    assert says in cli("best-of-n", "./no-model", "r.jsonl", *given).error
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_standard_input_is_refused(cli) -> None:
    assert "give a file" in cli("best-of-n", "./no-model", "-", "-o", "o.jsonl").error


def test_a_picture_without_matplotlib(cli, tmp_path, monkeypatch) -> None:
    source = save(tmp_path / "r.jsonl", with_gold())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("best-of-n", "./no-model", source, "-o", tmp_path / "o.jsonl", "--gold", "scores", "--curve", "c.png")
    assert done.error.endswith("drawing c.png needs an optional package: pip install 'rewardsmith[plot]'")


def test_a_column_that_is_there_is_not_overwritten(cli, model, tmp_path) -> None:
    for name, mode in (("choice", []), ("reward_rank", ["--rank"]), ("response", [])):
        source = save(tmp_path / f"{name}.jsonl", [{**LISTS[0], name: "mine"}])
        done = cli("best-of-n", model, source, "-o", tmp_path / "o.jsonl", "-q", *mode)
        assert f"{name}.jsonl:1: {name}: is there already" in done.error
