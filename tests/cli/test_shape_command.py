"""``rewardsmith shape``: from scored rows to a saved pipeline."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from rewardsmith.encoding.template import plain
from rewardsmith.scoring import row as rows_
from rewardsmith.shaping import Context, Pipeline, parse
from tests.cli.conftest import save

PAIRS = np.random.default_rng(0).normal(size=(60, 2)).round(3)
ROWS = [
    {
        "prompt": f"question {i}",
        "chosen": "a b c",
        "rejected": "a b a b",
        "reward": [max(pair) if i % 4 else min(pair), min(pair) if i % 4 else max(pair)],
        "response_tokens": [10 + i, 70 - i],
        "disagreement": [0.25, 0.5],
        "safety": [1, 0],
        "initial": -0.5,
        "several": [0.0, 1.0],
    }
    for i, pair in enumerate(PAIRS.tolist())
]
REWARDS = [reward for row in ROWS for reward in row["reward"]]


@pytest.fixture
def scored(tmp_path):
    return save(tmp_path / "scored.jsonl", ROWS)


def test_fits_and_saves_in_a_folder(cli, scored, tmp_path) -> None:
    folder = tmp_path / "rm"
    folder.mkdir()
    report = cli("shape", scored, "--steps", "normalise, clip(low=-1, high=1)", "-o", folder, "--json").json
    assert report["output"] == str(folder / "shaping.json") and report["scope"] == "row" and report["needs"] == []
    assert (report["rows"], report["responses"]) == (60, 120)
    pipeline = Pipeline.load(folder)
    assert pipeline == parse("normalise, clip(low=-1, high=1)").fit(REWARDS)
    shaped = np.array(pipeline(REWARDS))
    for side, values in (("before", np.array(REWARDS)), ("after", shaped)):
        assert report[side]["p25"] == pytest.approx(np.percentile(values, 25))
        assert report[side]["max"] == values.max() and report[side]["not scored"] == 0
        assert report[side]["std"] == pytest.approx(values.std())
    assert report["fitted"][0] == {"name": "normalise", **pipeline.steps[0].to_dict()["state"]}


def test_what_a_person_sees(cli, scored, tmp_path) -> None:
    outcome = cli("shape", scored, "--steps", "debias_length, normalise", "-o", tmp_path / "s.json")
    assert outcome.code == 0, outcome.err
    for text in ("120 rewards of 60 rows", "before", "after", "p95", "normalise: mean ", "debias_length: lengths ("):
        assert text in outcome.out, outcome.out
    assert "a value depends on: row; a call needs: lengths" in outcome.out and f"saved to {tmp_path}" in outcome.out


def test_pairs_lengths_disagreement_and_others_are_read(cli, scored, tmp_path) -> None:
    steps = (
        "uncertainty_penalty, debias_length, repetition_penalty(ngram=2), temperature, "
        "weighted_sum(weights={'safety': 0.5}), group_zscore"
    )
    report = cli("shape", scored, "--steps", steps, "-o", tmp_path / "s.json", "--json").json
    assert report["needs"] == ["disagreement", "groups", "lengths", "rewards", "texts"] and report["scope"] == "group"
    context = Context(
        groups=[i for i in range(60) for _ in range(2)],
        lengths=[value for row in ROWS for value in row["response_tokens"]],
        texts=["a b c", "a b a b"] * 60,
        disagreement=[0.25, 0.5] * 60,
        rewards={"safety": [1.0, 0.0] * 60},
        preferred=[True, False] * 60,
    )
    expected = parse(steps).fit(REWARDS, context)
    assert Pipeline.load(tmp_path / "s.json") == expected
    assert report["after"]["p75"] == pytest.approx(np.percentile(expected(REWARDS, context), 75))


@pytest.mark.parametrize(("column", "references"), [("initial", -0.5), ("several", [0.0, 1.0])])
def test_reference_rewards(cli, scored, tmp_path, column, references) -> None:
    report = cli("shape", scored, "--steps", "par", "--reference", column, "-o", tmp_path / "s.json", "--json").json
    expected = parse("par")(REWARDS, Context(reference=[references] * 120))
    assert report["after"]["mean"] == pytest.approx(np.mean(expected))


def test_the_reference_column_is_called_reference_unless_named(cli, tmp_path) -> None:
    file = save(tmp_path / "scored.jsonl", [{"reward": [1.0, 2.0], "reference": 1.5}])
    report = cli("shape", file, "--steps", "par", "-o", tmp_path / "s.json", "--json").json
    assert report["after"]["mean"] == pytest.approx(0.5)
    text = save(tmp_path / "text.jsonl", [{"reward": [1.0, 2.0], "reference": "the right answer"}])
    assert "reference: must be a number" in cli("shape", text, "--steps", "par", "-o", tmp_path / "s.json").error
    assert cli("shape", text, "--steps", "zscore", "-o", tmp_path / "s.json", "-q").code == 0
    arguments = ["--steps", "zscore", "--reference", "reference", "-o", tmp_path / "s.json"]
    assert "no step compares with a reference" in cli("shape", text, *arguments).error


def test_rows_of_one_response_are_grouped_by_their_prompt(cli, tmp_path) -> None:
    rewards = {"a": [1.0, 2.0, 6.0], "b": [5.0, None, 9.0]}
    rows = [{"prompt": p, "response": "x", "reward": rewards[p][i]} for i in range(3) for p in "ab"]
    file = save(tmp_path / "scored.jsonl", rows)
    arguments = ["--steps", "center(by='group')", "-o", tmp_path / "s.json", "--json"]
    report = cli("shape", file, *arguments).json
    assert (report["after"]["min"], report["after"]["max"], report["after"]["mean"]) == (-2.0, 3.0, 0.0)
    assert (report["rows"], report["responses"], report["before"]["not scored"]) == (6, 5, 0)
    stdin = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert cli("shape", "-", *arguments, stdin=stdin).json == report


def test_tables_are_read_like_lines(cli, scored, tmp_path) -> None:
    import csv

    with (tmp_path / "scored.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in ROWS)
    with gzip.open(tmp_path / "scored.jsonl.gz", "wt") as file:
        file.write(scored.read_text())
    made = []
    for name in ("scored.jsonl", "scored.csv", "scored.jsonl.gz"):
        steps = ["--steps", "debias_length, normalise, par", "--reference", "initial", "-o", tmp_path / "s.json"]
        made.append(cli("shape", tmp_path / name, *steps, "--json").json)
    assert made[0] == made[1] == made[2]


def test_a_running_normaliser_counts_the_rows_once(cli, scored, tmp_path) -> None:
    report = cli("shape", scored, "--steps", "running", "-o", tmp_path / "s.json", "--json").json
    (step,) = Pipeline.load(tmp_path / "s.json").steps
    assert step.count_ == 120 and report["scope"] == "stream" and report["fitted"][0]["count_"] == 120
    report = cli("shape", scored, "--steps", "running", "-o", tmp_path / "s.json", "--freeze", "--json").json
    assert report["scope"] == "row" and Pipeline.load(tmp_path / "s.json").scope == "row"


def without(*columns: str) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in columns} for row in ROWS]


@pytest.mark.parametrize(
    ("rows", "steps", "message"),
    [
        (ROWS, "normalize", "unknown step 'normalize', did you mean normalise?; known: normalise"),
        (ROWS, "clip(hihg=3)", "clip: unknown parameter 'hihg', did you mean high?; it takes low, high"),
        (
            without("response_tokens"),
            "debias_length",
            "no column response_tokens, which debias_length needs",
        ),
        (without("disagreement"), "uncertainty_penalty", "no column disagreement, which uncertainty_penalty needs"),
        (ROWS, "par", "no reference, which par needs; name the column"),
        (ROWS, "minimum(names=['code'])", "no column code, which the steps name as another reward"),
        (without("chosen"), "clip(low=0), temperature", "no preference pairs, which temperature is fitted on"),
        (without("reward"), "normalise", "scored.jsonl:1: reward: missing; the row has chosen, disagreement"),
        ([*ROWS, {"reward": "good"}], "normalise", "scored.jsonl:61: reward: must be a number"),
        (
            [{"reward": [1, 2], "safety": [1]}],
            "minimum(names=['safety'])",
            ":1: safety: needs a number, or one for each of the 2 responses, not [1]",
        ),
        ([{"reward": 1.0}], "group_zscore", "scored.jsonl:1: prompt: missing"),
        ([{"reward": 1.0}], "normalise", "normalise: all rewards are 1, their standard deviation is 0"),
        ([{"reward": None}], "normalise", "needs at least a finite reward"),
    ],
)
def test_mistakes_end_in_one_line(cli, tmp_path, rows, steps, message) -> None:
    file = save(tmp_path / "scored.jsonl", rows)
    error = cli("shape", file, "--steps", steps, "-o", tmp_path / "s.json", "-q").error
    assert message in error, error
    assert not (tmp_path / "s.json").exists()


def test_a_missing_reference_column_is_named_with_its_line(cli, scored, tmp_path) -> None:
    error = cli("shape", scored, "--steps", "par", "--reference", "ref", "-o", tmp_path / "s.json").error
    assert "scored.jsonl:1: ref: missing; --reference names a column" in error


def test_outputs_that_cannot_be(cli, scored, tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for output, message in (
        ("config.json", "is there and is no shaping"),
        ("none/s.json", "no such folder"),
        ("s.jsonl", "must be a .json file, or an existing folder"),
    ):
        assert message in cli("shape", scored, "--steps", "zscore", "-o", tmp_path / output).error
    as_json = tmp_path / "rows.json"
    as_json.write_text(json.dumps(ROWS))
    assert "would overwrite the rows" in cli("shape", as_json, "--steps", "zscore", "-o", as_json).error
    assert (tmp_path / "config.json").read_text() == "{}"
    assert cli("shape", scored, "--steps", "zscore", "-o", tmp_path / "s.json", "-q").code == 0
    assert cli("shape", scored, "--steps", "par, clip(low=0.1)", "-o", tmp_path / "s.json", "-q").code == 2
    assert str(Pipeline.load(tmp_path / "s.json")) == "zscore"


def test_the_help_shows_an_example_and_all_steps(cli) -> None:
    from rewardsmith.shaping import SHAPES

    shown = " ".join(cli("shape", "--help").out.split())
    assert "Example: rewardsmith shape scored.jsonl --steps" in shown
    assert all(name in shown for name in SHAPES)


def test_what_it_was_fitted_on_is_kept_and_said(cli, tmp_path) -> None:
    few = [{"reward": float(i), "scored_by": "abc min"} for i in range(20)]
    file, out = save(tmp_path / "few.jsonl", few), tmp_path / "s.json"
    done = cli("shape", file, "--steps", "normalise", "-o", out)
    assert "note: normalise: fitted on 20 rewards; with fewer than 100 the mean is rough" in done.err
    assert not cli("shape", file, "--steps", "normalise", "-o", out, "-q").err
    kept = Pipeline.load(out).fitted_on
    assert (kept.rewards, kept.mean, kept.scored_by, kept.pairs) == (20, 9.5, "abc min", False)
    assert kept.std == pytest.approx(np.std(range(20)))
    many = save(tmp_path / "many.jsonl", few * 5)
    assert not cli("shape", many, "--steps", "normalise", "-o", out).err
    assert not cli("shape", file, "--steps", "clip(high=100)", "-o", out).err
    assert Pipeline.load(out).fitted_on is None


def test_a_normaliser_fitted_on_pairs_is_noted(cli, scored, tmp_path) -> None:
    report = cli("shape", scored, "--steps", "normalise", "-o", tmp_path / "s.json", "--json").json
    assert ["chosen and rejected responses" in note for note in report["notes"]] == [True]
    assert report["fitted_on"]["pairs"] and report["fitted_on"]["scored_by"] is None
    assert not cli("shape", scored, "--steps", "temperature", "-o", tmp_path / "s.json", "--json").json["notes"]


def test_rewards_of_several_models_or_of_another_are_refused(cli, model, tmp_path) -> None:
    rows = [{"reward": 1.0, "scored_by": "abc"}, {"reward": 2.0, "scored_by": "abc mean"}]
    file = save(tmp_path / "rows.jsonl", rows)
    error = cli("shape", file, "--steps", "normalise", "-o", tmp_path / "s.json").error
    assert "given by several models or votes (abc, abc mean)" in error
    other = save(tmp_path / "other.jsonl", [{"reward": float(i), "scored_by": "abc"} for i in range(3)])
    assert "this model" in (error := cli("shape", other, "--steps", "normalise", "-o", model).error)
    assert "did not give these rewards (abc)" in error and not (model / "shaping.json").exists()


def test_rows_are_read_as_score_reads_them(cli, tmp_path) -> None:
    """Turns as their text, one number of another reward for all responses, and other tools are another prompt."""
    turns = [{"role": "assistant", "content": "a b a b"}, {"role": "user", "content": "a b"}]
    turns.append({"role": "assistant", "content": "a b"})
    lists = [{"prompt": "p", "responses": [turns, "a"], "reward": [1.0, 2.0], "safety": 0.5}]
    steps = "repetition_penalty(ngram=1), weighted_sum(weights={'safety': 2})"
    arguments = ["--steps", steps, "-o", tmp_path / "s.json", "--json"]
    found = cli("shape", save(tmp_path / "lists.jsonl", lists), *arguments).json
    text = plain(rows_.read(lists[0]).responses[0])
    context = Context(texts=[text, "a"], rewards={"safety": [0.5, 0.5]})
    assert found["after"]["min"] == pytest.approx(min(parse(steps)([1.0, 2.0], context)))
    tools = [{"type": "function", "function": {"name": "add"}}]
    singles = [{"prompt": "p", "response": "x", "reward": 1.0 + i, "tools": tools if i else None} for i in range(2)]
    arguments[1] = "center(by='group')"
    found = cli("shape", save(tmp_path / "singles.jsonl", singles), *arguments).json
    assert (found["after"]["min"], found["after"]["max"]) == (0, 0)


@pytest.mark.parametrize(("vote", "says"), [("", "main head"), (" uncertainty", "subtracted twice"), (" mean", "")])
def test_a_penalty_fitted_on_rewards_that_are_no_mean_is_warned_of(cli, tmp_path, vote, says) -> None:
    rows = [{"reward": float(i), "disagreement": 0.1, "scored_by": f"abc{vote}"} for i in range(9)]
    file, out = save(tmp_path / "rows.jsonl", rows), tmp_path / "s.json"
    done = cli("shape", file, "--steps", "uncertainty_penalty, normalise", "-o", out, "-q")
    assert (says in done.err) if says else not done.err
    assert not cli("shape", file, "--steps", "normalise", "-o", out, "-q").err


def test_most_values_at_a_bound_is_a_warning(cli, scored, tmp_path) -> None:
    done = cli("shape", scored, "--steps", "clip(low=-0.01, high=0.01)", "-o", tmp_path / "s.json", "-q")
    assert "of 120 shaped rewards lie at a bound of the shaping" in done.err
    assert not cli("shape", scored, "--steps", "clip(low=-3, high=3)", "-o", tmp_path / "s.json", "-q").err


def test_rounding_of_zero_is_zero(cli, scored, tmp_path) -> None:
    shown = cli("shape", scored, "--steps", "normalise", "-o", tmp_path / "s.json", "-q").out
    assert "e-1" not in shown
