"""Columns ``shaped`` and ``disagreement``: what the pipeline gives for a row, in files, streams and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.cli.main import run
from rewardsmith.data.sources import read_rows
from rewardsmith.errors import DataError, UsageError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring.score_file import ScoreOptions, score_file, score_stream
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.scoring.shaped import resolve_shaping
from rewardsmith.scoring.thinking_columns import ThinkingScorer
from rewardsmith.shaping import Context, Pipeline, parse
from rewardsmith.training.head import HeadConfig, train_head
from rewardsmith.types import Comparison
from tests.scoring.conftest import read_back, some_rows

GROUPS = [{"prompt": f"question {i}", "responses": ["fox " * (1 + i), f"dog {i}", "fox dog", "lazy"]} for i in range(6)]
PLAIN = ["reward", "reward_se", "truncated", "response_tokens", "scored_by"]


@pytest.fixture(scope="module")
def voting(bases, tmp_path_factory) -> RewardModel:
    """A model with an ensemble of three heads. Do not change it."""
    data = [Comparison(f"question {i}", ("fox " * (2 + i % 3), f"dog {i}")) for i in range(12)]
    config = HeadConfig(ridge=1.0, ensemble=3, cache=tmp_path_factory.mktemp("cache"))
    return train_head(RewardModel.from_base(bases["llama"]), data, config).model


def score(model: Any, source: Path, output: Path, shaping: str | Pipeline | None, **options: Any) -> list[dict]:
    """The rows of the output; stream and file agree."""
    pipeline = parse(shaping) if isinstance(shaping, str) else shaping
    asked = ScoreOptions(chunk=4, shaping=pipeline, **options)
    score_file(model, str(source), output, asked, run={"model": "rm"})
    found = read_back(output)
    if output.suffix == ".jsonl":
        assert list(score_stream(model, read_rows(source), asked)) == found
    return found


# -- the columns


def test_a_shaping_in_words_may_be_longer_than_a_file_name(models) -> None:
    weights = {f"another reward, number {number}": 0.5 for number in range(20)}
    text = f"weighted_sum(weights={weights})"
    assert str(resolve_shaping(text, [models["llama"]])) == str(parse(text))


def test_without_shaping_and_members_there_are_no_such_columns(trained, write, tmp_path) -> None:
    (row, *_) = score(trained, write(some_rows(3)), tmp_path / "o.jsonl", None)
    assert list(row) == ["id", "prompt", "response", *PLAIN]


@pytest.mark.parametrize("output", ["o.jsonl", "o.csv", "o.parquet"])
def test_one_response_a_row(trained, write, tmp_path, output) -> None:
    pipeline = parse("normalise, clip(low=-1, high=1)").fit([-0.5, 0.0, 0.25])
    rows = score(trained, write(some_rows(10)), tmp_path / output, pipeline)
    assert list(rows[0]) == ["id", "prompt", "response", *PLAIN, "shaped", "saturated"]
    rewards = [float(row["reward"]) for row in rows]
    assert [float(row["shaped"]) for row in rows] == pipeline(rewards)
    assert [float(row["shaped"]) for row in rows] != rewards


def test_several_responses_a_row_are_a_group(trained, write, tmp_path) -> None:
    for row in score(trained, write(GROUPS), tmp_path / "o.jsonl", "group_zscore"):
        rewards = np.array(row["reward"])
        z = (rewards - rewards.mean()) / rewards.std()
        np.testing.assert_allclose(row["shaped"], z, rtol=2e-3)  # up to the step's own epsilon and ddof
        assert row["shaped"] == parse("group_zscore")(row["reward"], Context(groups=[0] * 4))
    pair = [{"prompt": "p", "chosen": "fox", "rejected": "dog dog"}]
    (row,) = score(trained, write(pair, "pair.jsonl"), tmp_path / "p.jsonl", "center(by='group')")
    assert sum(row["shaped"]) == pytest.approx(0, abs=1e-12) and row["shaped"][0] != 0


def test_lengths_and_texts_are_those_of_the_response(trained, write, tmp_path) -> None:
    shaping = "length_penalty(per_token=0.25), repetition_penalty(ngram=1)"
    rows = [*some_rows(6), {"id": "m", "prompt": "p", "response": [{"role": "assistant", "content": "a fox a fox"}]}]
    for row in score(trained, write(rows), tmp_path / "o.jsonl", shaping):
        text = row["response"] if isinstance(row["response"], str) else row["response"][0]["content"]
        context = Context(lengths=[row["response_tokens"]], texts=[text])
        assert row["shaped"] == parse(shaping)([row["reward"]], context)[0]
        assert row["shaped"] < row["reward"]
        assert row["response_tokens"] == trained.score_responses([row["prompt"]], [row["response"]])[0].response_tokens


def test_disagreement_of_heads_and_of_models(voting, models, write, tmp_path) -> None:
    path = write([*some_rows(4), {"id": "g", **GROUPS[3]}])
    for name, scorer in {
        "heads": Scorer(voting, aggregate="uncertainty"),
        "models": Scorer([models["llama"], models["bert"]]),
    }.items():
        rows = score(scorer, path, tmp_path / f"{name}.jsonl", "uncertainty_penalty(k=2)")
        assert list(rows[0])[-8:] == [*PLAIN, "disagreement", "shaped", "saturated"]
        for row in rows[:4]:
            (alone,) = scorer.score([row["prompt"]], [row["response"]])
            assert row["disagreement"] == pytest.approx(np.std(alone.members), abs=2e-5)
            assert row["shaped"] == pytest.approx(row["reward"] - 2 * row["disagreement"], abs=1e-9)
        assert len(rows[4]["disagreement"]) == len(rows[4]["shaped"]) == 4
        assert all(row["disagreement"] > 0 for row in rows[:4])


def test_the_members_mean_is_what_their_disagreement_is_taken_off(voting, write, tmp_path, caplog) -> None:
    """``auto`` would give the main head, and "mean - k std" would not be what runs."""
    path = write(some_rows(4))
    mean = Scorer(voting, aggregate="mean").score(*zip(*_texts(some_rows(4)), strict=True))
    for name, scorer in {"model": voting, "scorer": Scorer(voting), "thinking": ThinkingScorer(voting)}.items():
        rows = score(scorer, path, tmp_path / f"{name}.jsonl.gz", "uncertainty_penalty(k=2)")
        for row, one in zip(rows, mean, strict=True):
            assert row["reward"] == pytest.approx(one.reward, abs=1e-4)
            assert row["shaped"] == pytest.approx(one.reward - 2 * one.disagreement, abs=1e-4)
            assert row["scored_by"].endswith(" mean") and row["reward_se"] is None
    main = Scorer(voting)
    (row, *_) = score(main, path, tmp_path / "o.jsonl", "clip(low=-9)")
    assert row["reward"] == pytest.approx(voting.score(row["prompt"], row["response"]), abs=1e-4)
    assert main.aggregate is None and not caplog.text  # the scorer that was given is as it was
    score(Scorer(voting, aggregate="uncertainty"), path, tmp_path / "o.jsonl", "uncertainty_penalty")
    assert "the disagreement is subtracted twice" in caplog.text


def test_rows_that_cannot_be_scored_have_neither(voting, write, tmp_path) -> None:
    rows = score(voting, write([{"prompt": "p"}, *some_rows(1)]), tmp_path / "o.jsonl", "clip(high=1)", skip_bad=True)
    assert rows[0]["shaped"] is rows[0]["disagreement"] is rows[0]["reward"] is None
    assert rows[0]["reward_error"] and rows[1]["reward_error"] is None
    assert rows[1]["shaped"] == min(rows[1]["reward"], 1.0)


def test_a_column_that_is_there_is_not_overwritten(voting, write, tmp_path) -> None:
    for name in ("shaped", "disagreement"):
        path = write([{"prompt": "p", "response": "r", name: 1}])
        with pytest.raises(DataError, match=rf"{name}: is there already and would be overwritten"):
            score(voting, path, tmp_path / "o.jsonl", "clip(high=1)")


# -- what cannot be


@pytest.mark.parametrize(
    ("shaping", "message"),
    [
        ("zscore", r"zscore: depends on the other rows of its batch.*use a step that is fitted once"),
        ("running", r"running: depends on the other rows of its stream.*or freeze it"),
        ("center(by='batch')", r"center: depends on the other rows of its batch"),
        ("clip(high=1), normalise", r"normalise: is not fitted; fit it with: rewardsmith shape"),
        ("uncertainty_penalty", r"needs the disagreement of an ensemble: give several models"),
    ],
)
def test_what_would_give_a_row_another_value_in_another_file(trained, write, tmp_path, shaping, message) -> None:
    with pytest.raises(UsageError, match=message):
        score(trained, write(some_rows(3)), tmp_path / "o.jsonl", shaping)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_frozen_normaliser_may_be_used(trained, write, tmp_path) -> None:
    pipeline = parse("running")
    pipeline([0.0, 1.0, 2.0])
    rows = score(trained, write(some_rows(9)), tmp_path / "o.jsonl", pipeline.freeze())
    assert [row["shaped"] for row in rows] == pipeline([row["reward"] for row in rows])
    assert pipeline.steps[0].count_ == 3


def test_a_group_must_be_in_one_row(trained, write, tmp_path) -> None:
    path = write([*GROUPS[:1], {"prompt": "p", "response": "r"}])
    with pytest.raises(DataError, match=rf"^{path}:2: response: .* must be in one row, as responses: \[\.\.\.\]"):
        score(trained, path, tmp_path / "o.jsonl", "group_zscore")


# -- references and other rewards


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_the_reference_is_a_column(trained, write, tmp_path, name) -> None:
    rows = [{**row, "base": (i - 5) / 4} for i, row in enumerate(some_rows(10))]
    found = score(trained, write(rows, name), tmp_path / "o.jsonl", "par", reference_field="base")
    for row, given in zip(found, rows, strict=True):
        assert row["shaped"] == pytest.approx(1 / (1 + np.exp(given["base"] - row["reward"])))
        assert row["shaped"] == parse("par")([row["reward"]], Context(reference=[given["base"]]))[0]


def test_a_list_is_of_several_references_of_the_prompt(trained, write, tmp_path) -> None:
    """As for reward functions and for ``rewardsmith shape``: not one for each response."""
    rows = [{**row, "reference": [-1, 0.5, 0, 1.5]} for row in GROUPS]
    for row in score(trained, write(rows), tmp_path / "o.jsonl", "par"):
        context = Context(reference=[row["reference"]] * 4)
        assert row["shaped"] == parse("par")(row["reward"], context)
        expected = [np.mean(1 / (1 + np.exp(np.array(row["reference"]) - reward))) for reward in row["reward"]]
        assert row["shaped"] == pytest.approx(expected)


@pytest.mark.parametrize("value", [None, " ", [], True, [0.5, None]])
def test_a_reference_that_is_none(trained, write, tmp_path, value) -> None:
    path = write([{**GROUPS[0], "reference": 0}, {**GROUPS[0], "reference": value}])
    with pytest.raises(DataError, match=rf"^{path}:2: reference: is .*"):
        score(trained, path, tmp_path / "o.jsonl", "par")
    rows = score(trained, path, tmp_path / "o.jsonl", "par", skip_bad=True)
    assert rows[0]["shaped"] and rows[1]["reward"] is rows[1]["shaped"] is None


def test_a_reference_that_is_not_there(trained, write, tmp_path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: reference: is missing.*par compares with .*--reference-field"):
        score(trained, write(GROUPS), tmp_path / "o.jsonl", "par")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_reference_may_be_a_response(trained, write, tmp_path, name) -> None:
    """Scored by the same model behind the same prompt; text in quotes is text, also when it reads as a number."""
    rows = [
        {**row, "gold": "7" if i == 3 and name != "rows.csv" else f"fox {i} dog"} for i, row in enumerate(some_rows(6))
    ]
    found = score(trained, write(rows, name), tmp_path / "o.jsonl", "par", reference_field="gold")
    for row in found:
        reference = trained.score(row["prompt"], row["gold"])
        assert row["shaped"] == pytest.approx(1 / (1 + np.exp(reference - row["reward"])), abs=1e-4)
    turns = [
        {**GROUPS[1], "reference": [{"role": "assistant", "content": "fox"}]},
        {**GROUPS[1], "reference": ["fox", 0.5]},
    ]
    if name == "rows.jsonl":
        one, two = score(trained, write(turns), tmp_path / "o.jsonl", "par")
        alone = trained.score(GROUPS[1]["prompt"], "fox")
        for row, given in ((one, [alone]), (two, [alone, 0.5])):
            assert row["shaped"] == pytest.approx(parse("par")(row["reward"], Context(reference=[given] * 4)), abs=1e-4)


@pytest.mark.parametrize(("correct", "parts"), [([1, 0, 0, 1], [1, 0, 0, 1]), (0.5, [0.5] * 4)])
def test_other_rewards_are_columns(trained, write, tmp_path, correct, parts) -> None:
    rows = [{**row, "correct": correct} for row in GROUPS]
    for row in score(trained, write(rows), tmp_path / "o.jsonl", "weighted_sum(weights={'correct': 2.0})"):
        assert row["shaped"] == pytest.approx([r + 2 * part for r, part in zip(row["reward"], parts, strict=True)])
    path = write([{**GROUPS[0], "correct": [1, 0]}], "bad.jsonl")
    with pytest.raises(DataError, match="correct: needs a number, or one for each of the 4 responses"):
        score(trained, path, tmp_path / "o.jsonl", "weighted_sum(weights={'correct': 2.0})")


# -- journals


class StopError(Exception):
    """What an interruption raises here."""


def stop_after(chunks: int) -> Callable[[int], None]:
    left = [chunks]

    def report(_rows: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise StopError

    return report


def test_an_interrupted_run_goes_on_with_the_same_shaping_only(voting, write, tmp_path) -> None:
    path, output = write(some_rows(20)), tmp_path / "o.jsonl"

    def options(text: str | None, fitted: list[float]) -> ScoreOptions:
        return ScoreOptions(chunk=4, shaping=parse(text).fit(fitted) if text else None)

    def counts(asked: ScoreOptions, **more: Any) -> dict[str, int]:
        return score_file(voting, str(path), output, asked, run={"model": "rm"}, **more)

    same = options("normalise, clip(high=1)", [0.0, 1.0])
    counts(same)
    whole = output.read_bytes()
    output.unlink()
    with pytest.raises(StopError):
        counts(same, report=stop_after(3))
    kept = (tmp_path / "o.jsonl.partial").read_bytes()
    assert counts(options("normalise, clip(high=1)", [0.0, 1.0]))["resumed"] == 12
    assert output.read_bytes() == whole
    for other in (
        options("normalise, clip(high=2)", [0.0, 1.0]),  # another parameter
        options("normalise, clip(high=1)", [0.0, 2.0]),  # another fit
        options(None, []),
    ):
        (tmp_path / "o.jsonl.partial").write_bytes(kept)
        assert counts(other)["resumed"] == 0
        assert all(("shaped" in row) == (other.shaping is not None) for row in read_back(output))


# -- what it was fitted to


def test_a_shaping_fitted_to_another_vote_or_model_is_warned_of(voting, trained, write, tmp_path, caplog) -> None:
    path, output = write(some_rows(6)), tmp_path / "o.jsonl"
    lowest = Scorer(voting, aggregate="min")
    pipeline = parse("normalise").fit([0.0, 1.0], scored_by=lowest.provenance())
    again = Pipeline.from_json(pipeline.to_json())
    assert again.fitted_on == pipeline.fitted_on and again.fitted_on.rewards == 2 and again.fitted_on.std == 0.5
    rows = score(lowest, path, output, again)
    assert not caplog.text and {row["scored_by"] for row in rows} == {lowest.provenance()}
    score(Scorer(voting, aggregate="uncertainty"), path, output, again)
    assert "fitted to rewards of aggregate min, and these are of uncertainty" in caplog.text
    caplog.clear()
    score(trained, path, output, again)
    assert "fitted to the rewards of another model" in caplog.text
    caplog.clear()
    score(trained, path, output, parse("normalise").fit([0.0, 1.0]))  # nobody knows
    score(trained, path, output, parse("clip(high=1)").fit([0.0], scored_by="another"))  # nothing was learned
    assert not caplog.text


def test_the_mark_of_a_model_outlives_saving_and_another_dtype(trained, models, tmp_path) -> None:
    loaded = RewardModel.load(trained.save(tmp_path / "rm"), dtype="float32")
    assert Scorer(loaded).provenance() == Scorer(trained).provenance() != Scorer(models["llama"]).provenance()
    both = [trained, models["qwen3"]]
    assert Scorer(both).provenance() == Scorer(both[::-1]).provenance() != Scorer(both, aggregate="min").provenance()


def test_saturated_rewards_are_marked_and_counted(trained, write, tmp_path) -> None:
    shaping = parse("clip(low=0, high=0.001)")
    asked = ScoreOptions(shaping=shaping)
    path = write([*some_rows(6), GROUPS[2]])
    counts = score_file(trained, str(path), tmp_path / "o.jsonl", asked, run={"model": "rm"})
    marks = [mark for row in read_back(tmp_path / "o.jsonl") for mark in np.ravel(row["saturated"])]
    values = [value for row in read_back(tmp_path / "o.jsonl") for value in np.ravel(row["shaped"])]
    assert marks == [value in (0, 0.001) for value in values]
    assert (counts["shaped"], counts["saturated"]) == (10, sum(marks)) and sum(marks) > 5


# -- the pipeline that a model carries


def test_a_shaping_is_saved_with_the_model_and_does_not_change_its_rewards(trained, tmp_path) -> None:
    pipeline = parse("normalise, clip(low=-3, high=3)").fit([0.1, 0.2, 0.7])
    folder = replace(trained, shaping=pipeline).save(tmp_path / "rm")
    loaded = RewardModel.load(folder)
    assert loaded.shaping == pipeline
    assert loaded.shaping.to_json() == pipeline.to_json()
    assert loaded.score("p", "fox") == trained.score("p", "fox")
    assert RewardModel.load(loaded.save(tmp_path / "again")).shaping == pipeline
    assert RewardModel.load(trained.save(tmp_path / "plain")).shaping is None


def test_which_shaping_is_meant(trained, models, tmp_path) -> None:
    pipeline = parse("normalise").fit([0.0, 2.0])
    carrying = replace(trained, shaping=pipeline)
    assert resolve_shaping(None, [carrying]) is pipeline
    assert resolve_shaping(False, [carrying]) is None
    assert resolve_shaping(None, [trained]) is None
    assert resolve_shaping("clip(high=1)", [carrying]) == parse("clip(high=1)")
    assert resolve_shaping(parse("clip(high=1)").steps[0], [trained]) == parse("clip(high=1)")
    assert resolve_shaping(str(pipeline.save(tmp_path / "s.json")), [trained]) == pipeline
    pipeline.save(tmp_path)
    assert resolve_shaping(tmp_path, [trained]) == pipeline == resolve_shaping(str(tmp_path), [trained])
    with pytest.raises(UsageError, match="one of several models brings its own shaping"):
        resolve_shaping(None, [carrying, models["bert"]])
    with pytest.raises(UsageError, match="normalise: not fitted"):
        resolve_shaping("normalise", [trained])
    with pytest.raises(UsageError, match="needs the disagreement of an ensemble"):
        resolve_shaping("uncertainty_penalty", [trained])


# -- the command line


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs ``rewardsmith score ARGUMENTS`` in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rewardsmith", "score", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        streams = capsys.readouterr()
        return end.value.code or 0, streams.out, streams.err

    return call


@pytest.fixture(scope="module")
def folders(voting, models, tmp_path_factory) -> dict[str, Path]:
    """``heads`` carries an ensemble and a shaping, ``plain`` neither."""
    root = tmp_path_factory.mktemp("models")
    pipeline = parse("normalise, clip(low=-3, high=3)").fit([0.0, 1.0])
    return {
        "heads": replace(voting, shaping=pipeline).save(root / "heads"),
        "plain": models["qwen3"].save(root / "plain"),
    }


def test_command_with_the_models_own_shaping(folders, write, tmp_path, command) -> None:
    path, output = write(some_rows(6)), tmp_path / "o.jsonl"
    code, _, err = command(folders["heads"], path, "-o", output, "--shaping", "model", "--aggregate", "uncertainty")
    said, warning = err.splitlines()  # fitted to 0 and 1, it clips all that this model gives
    assert (code, said) == (0, f"6 rows saved to {output}") and warning.startswith("warning: 100% of 6 shaped"), err
    scorer = Scorer(RewardModel.load(folders["heads"]), aggregate="uncertainty")
    pipeline = scorer.models[0].shaping
    rows = read_back(output)
    expected = scorer.score([row["prompt"] for row in rows], [row["response"] for row in rows])
    assert [row["reward"] for row in rows] == pytest.approx([one.reward for one in expected], abs=2e-5)
    assert [row["disagreement"] for row in rows] == pytest.approx([one.disagreement for one in expected], abs=2e-5)
    assert [row["shaped"] for row in rows] == pipeline([row["reward"] for row in rows])
    given = command(folders["heads"], path, "--shaping", folders["heads"], "--aggregate", "uncertainty")[1]
    assert [json.loads(line)["shaped"] for line in given.splitlines()] == [row["shaped"] for row in rows]


def test_command_with_another_model_and_a_cache(folders, write, tmp_path, command) -> None:
    path, cache = write(some_rows(6)), tmp_path / "scores.db"
    arguments = [folders["plain"], path, "--with", folders["heads"], "--aggregate", "min", "--cache", cache]
    arguments += ["--shaping", "par, uncertainty_penalty(k=0)", "--reference-field", "id"]
    code, out, err = command(*arguments)
    assert code == 2 and not out
    assert "uncertainty_penalty: must come before par" in err
    arguments[-3:] = ["uncertainty_penalty(k=1), clip(low=-1)"]
    first = command(*arguments)
    assert first[0] == 0, first[2]
    rows = [json.loads(line) for line in first[1].splitlines()]
    scorer = Scorer([RewardModel.load(folders["plain"]), RewardModel.load(folders["heads"])], aggregate="min")
    for row, one in zip(rows, scorer.score(*zip(*_texts(rows), strict=True)), strict=True):
        assert row["reward"] == pytest.approx(min(one.members), abs=2e-5)
        assert row["shaped"] == pytest.approx(max(-1, row["reward"] - row["disagreement"]))
    assert cache.is_file()
    assert command(*arguments) == first


def _texts(rows: list[dict]) -> list[tuple[str, str]]:
    return [(row["prompt"], row["response"]) for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shaping", "clap(high=1)"], "unknown step 'clap', did you mean clip?; known: normalise"),
        (["--shaping", "normalise"], "normalise: not fitted"),
        (["--shaping", "zscore"], "zscore: depends on the other rows of its batch"),
        (["--shaping", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--aggregate", "max"], "aggregate 'max': use auto, mean, median, min, uncertainty"),
    ],
)
def test_command_refuses_before_it_loads_a_model(write, command, monkeypatch, options, message) -> None:
    monkeypatch.setattr(RewardModel, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    code, out, err = command("nowhere/rm", write(some_rows(2)), *options)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shaping", "model"], "was saved without one; make one with: rewardsmith shape"),
        (["--aggregate", "min"], "aggregate 'min' needs members"),
        (["--shaping", "uncertainty_penalty"], "needs the disagreement of an ensemble"),
        (["--cache", "."], "cannot be used as a score cache"),
        (["--cache", "ROWS"], "cannot be used as a score cache (is no database)"),
    ],
)
def test_command_refuses_what_the_model_cannot_do(folders, write, command, monkeypatch, options, message) -> None:
    """Before it is loaded, as its folder tells."""
    monkeypatch.setattr(RewardModel, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    rows = write(some_rows(2))
    code, out, err = command(folders["plain"], rows, *[str(rows) if one == "ROWS" else one for one in options])
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_command_refuses_the_shaping_of_another_when_two_models_vote(folders, write, command) -> None:
    """One of them brings its own, which may be another's: that is said as ever."""
    code, _, err = command(folders["plain"], write(some_rows(2)), "--with", folders["heads"], "--shaping", "model")
    assert code == 2 and "one of several models brings its own shaping" in err


def test_a_cache_that_is_there_may_be_empty_or_one_of_ours(folders, write, tmp_path, command) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    for _ in range(2):
        assert command(folders["plain"], write(some_rows(2)), "--cache", empty)[0] == 0
