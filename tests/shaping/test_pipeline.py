"""Steps in order, their text form, and files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from rewardsmith.errors import DataError, FileError, UsageError
from rewardsmith.shaping import PAR, SHAPES, Clip, Context, Normalise, Pipeline, ZScore, parse
from tests.shaping.samples import TEXTS, all_fitted, training

REWARDS = [1.0, 2.0, 6.0]


def test_each_step_is_fitted_on_what_the_one_before_gives() -> None:
    pipeline = parse("clip(high=3), normalise").fit(REWARDS)
    assert pipeline.steps[1] == Normalise().fit([1.0, 2.0, 3.0])
    assert pipeline([100.0, None]) == [pytest.approx(1 / math.sqrt(2 / 3)), None]


def test_fitting_calls_no_step_from_the_last_that_learns_on() -> None:
    """So that a normaliser can be fitted where there is no reference yet."""
    pipeline = parse("normalise, par, clip(high=1), center(by='batch')").fit(REWARDS)
    assert pipeline.fitted and pipeline.steps[0] == Normalise().fit(REWARDS)
    rewards, context = training()
    assert parse("platt(relative=True)").fit(rewards, replace(context, reference=None)).fitted
    with pytest.raises(UsageError, match="needs the reward of a reference"):
        parse("normalise, par, normalise").fit(REWARDS)


def test_a_running_step_counts_what_it_is_fitted_on_once() -> None:
    pipeline = parse("clip(high=3), running").fit(REWARDS)
    running = pipeline.steps[1]
    assert running.count_ == 3 and running.mean_ == 2.0
    pipeline([9.0])
    assert running.count_ == 4 and pipeline.scope == "stream"
    assert pipeline.freeze().scope == "row"


def test_the_reference_goes_through_the_same_steps() -> None:
    """sigma of the lead in normalised units: not of a normalised reward less a raw reference."""
    pipeline = parse("normalise, clip(low=-1, high=1), par").fit(REWARDS, Context(reference=REWARDS))
    mean, std = np.mean(REWARDS), np.std(REWARDS)
    lead = np.clip((2.5 - mean) / std, -1, 1) - np.clip((60 - mean) / std, -1, 1)
    assert pipeline([2.5], Context(reference=[60.0])) == pytest.approx([1 / (1 + math.exp(-lead))])
    several = pipeline([2.5], Context(reference=[[60.0, 60.0]]))
    assert several == pipeline([2.5], Context(reference=[60.0]))


@pytest.mark.parametrize("text", ["running", "unit_margin", "temperature", "center"])
def test_steps_that_scale_keep_a_reward_at_its_reference_at_one_half(text) -> None:
    rewards, context = training()
    pipeline = parse(f"{text}, par").fit(rewards, context)
    assert pipeline([3.0], Context(reference=[3.0])) == [0.5]


def test_penalties_leave_the_reference_as_it_is() -> None:
    pipeline = parse("length_penalty(per_token=0.5), par")
    assert pipeline([2.0], Context(reference=[0.0], lengths=[4])) == [0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zscore, par", "par: must come before zscore, after which the reference"),
        ("clip(low=0), group_zscore, normalise, lsc", "lsc: must come before group_zscore"),
        ("center(by='batch'), par", "par: must come before center"),
        ("par, par", "par: must come before par"),
        ("normalise, uncertainty_penalty", "uncertainty_penalty: must come before normalise, after which the disag"),
        ("weighted_sum(weights={'a': 1}), platt(relative=True)", "platt: must come before weighted_sum"),
    ],
)
def test_orders_that_mix_units_are_refused(text, message) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_scope_and_needs_are_those_of_all_steps() -> None:
    combined = "minimum(names=['a', 'b']), weighted_sum(weights={'b': 1})"
    pipeline = parse(f"uncertainty_penalty, length_penalty, {combined}, group_zscore")
    assert pipeline.needs == {"disagreement", "lengths", "rewards", "groups"} and pipeline.others == ("a", "b")
    assert pipeline.scope == "group" and pipeline.fitted and not parse("clip(low=0), normalise").fitted
    assert parse("zscore, running").scope == "stream" and parse("zscore, group_zscore").scope == "batch"
    assert parse("center(by='batch')").scope == "batch" and parse("center").scope == "row"


def test_text_gives_the_shapes_with_their_parameters() -> None:
    pipeline = parse(" par,clip(low=-3,high=None),\n zscore( ddof=1 ) ")
    assert pipeline == Pipeline([PAR(), Clip(low=-3), ZScore(ddof=1)])
    assert str(pipeline) == "par, clip(low=-3.0), zscore(ddof=1)"
    assert set(SHAPES) == {text.partition("(")[0] for text in TEXTS.values()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normalize", r"unknown step 'normalize', did you mean normalise\?; known: normalise, zscore"),
        ("clip(low=-3, hihg=3)", r"clip: unknown parameter 'hihg', did you mean high\?; it takes low, high"),
        ("zscore(1)", r"zscore: name the parameter of 1"),
        ("clip(low=1, low=2)", "clip: low is given twice"),
        ("clip(low=", "cannot be read"),
        ("clip(**{'low': 1})", "unknown parameter"),
        ("", "names no step"),
        ("1, 2", "is no step"),
        ("clip(low=1), length-penalty(per_token=1)", r"'length-penalty\(.*\)': is no step; did you mean length_p"),
        ("length_penalty(per-token=1)", "cannot be read; did you mean per_token"),
        ("a.b(1)", "is no step"),
        ("clip(low=open('x'))", "is no plain value"),
        ("] + [normalise", "cannot be read|names no step"),
        ("clip", "give low, high or both"),
        ("clip(low=3, high=-3)", "low must be less than high"),
        ("clip(low='a')", "low must be a finite number, not 'a'"),
        ("clip(low=1e999)", "low must be a finite number"),
        ("zscore(ddof=2)", "ddof must be 0 or 1"),
        ("zscore(epsilon=-1)", "epsilon must be a finite number >= 0"),
        ("center(by='row')", "by must be fit, batch or group"),
        ("lsc(quantile=2)", r"quantile must be in \[0, 1\]"),
        ("platt(relative=1)", "relative must be True or False"),
        ("debias_length(fraction=2)", r"fraction must be in \(0, 1\]"),
        ("length_penalty(per_token=0)", "per_token must be a finite number > 0"),
        ("repetition_penalty(ngram=0)", "ngram must be an integer >= 1"),
        ("repetition_penalty(unit='token')", "unit must be word or character"),
        ("weighted_sum", "weights must name other rewards"),
        ("weighted_sum(weights={'a': 1}, own=-1)", "own must be a finite number >= 0"),
        ("minimum(names='safety')", "names must list other rewards"),
        ("all_above(thresholds={'a': 1}, passed=0, failed=1)", "passing would cost"),
        ("all_above(thresholds={'a': 1}, own=-1, passed=None)", "passing would cost"),
        ("all_above(thresholds={'a': 1}, passed=None)", "may pass with a reward below that of one that fails.*own"),
        ("uncertainty_penalty(k=True)", "k must be a finite number"),
    ],
)
def test_mistakes_in_the_text_are_named(text, message) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_a_pipeline_needs_shapes() -> None:
    for steps in ([], ["normalise"]):
        with pytest.raises(UsageError, match="one or more shapes"):
            Pipeline(steps)  # type: ignore[arg-type]


def test_saved_and_loaded_in_a_file_or_a_folder(tmp_path) -> None:
    pipeline = all_fitted()
    assert pipeline.save(tmp_path) == tmp_path / "shaping.json"
    assert pipeline.save(tmp_path / "other.json") == tmp_path / "other.json"
    assert Pipeline.load(tmp_path) == Pipeline.load(str(tmp_path / "other.json")) == pipeline
    parse("par").save(tmp_path)
    assert str(Pipeline.load(tmp_path)) == "par"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.json", "shaping.json"]


def test_files_that_cannot_be(tmp_path) -> None:
    with pytest.raises(FileError, match="cannot be read: No such file"):
        Pipeline.load(tmp_path)
    with pytest.raises(FileError, match="cannot be written: No such file"):
        parse("par").save(tmp_path / "none" / "shaping.json")
    with pytest.raises(UsageError, match=r"must be a \.json file, or an existing folder"):
        parse("par").save(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def _changed(**change) -> dict:
    found = parse("normalise").fit(REWARDS).to_dict()
    found["steps"][0] |= change
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a shaping pipeline"),
        ({"format": "rewardsmith shaping 2", "steps": []}, 'needs "format": "rewardsmith shaping 1"'),
        ({"format": "rewardsmith shaping 1", "steps": []}, "one or more shapes"),
        ({"format": "rewardsmith shaping 1", "steps": [3]}, "a step must be an object"),
        (_changed(name="norm"), "unknown step 'norm'"),
        (_changed(parameters=None), "its parameters must be an object"),
        (_changed(parameters={"low": 1}), "unknown parameter 'low'"),
        (_changed(state={"mean_": 1.0}), "its state is mean_, std_"),
        (_changed(state={"mean_": 1.0, "std_": "1"}), "std_ must be numbers"),
        (_changed(state={"mean_": 1.0, "std_": []}), "std_ must be numbers"),
        (
            _changed(name="isotonic", state={"rewards_": [1, 2], "probabilities_": [0.5]}),
            "rewards_ and probabilities_ must be equally long",
        ),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path, content, message) -> None:
    file = tmp_path / "shaping.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        Pipeline.load(tmp_path)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
