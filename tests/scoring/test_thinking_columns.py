"""``--thinking``: the same rewards, with what thinking and answer are worth beside them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from rewardsmith.errors import DataError, ModelError, UsageError
from rewardsmith.model.ensemble import Ensemble
from rewardsmith.model.process import ProcessHead
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.thinking_scores import score_thinking
from rewardsmith.scoring import thinking_columns
from rewardsmith.scoring.aggregates import AGGREGATES
from rewardsmith.scoring.score_file import ScoreOptions, score_file
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.scoring.thinking_columns import COLUMNS, PROCESS_COLUMNS, ThinkingRow, ThinkingScorer
from rewardsmith.thinking import custom_tags
from tests.scoring.conftest import read_back

TEXTS = ["42", "<think>fox\ndog</think>42", "fox dog\nfox", "<think></think>dog", "<think>fox fox", "fox</think>dog"]
ROWS = [{"prompt": f"what is {i % 3}", "response": text} for i, text in enumerate(TEXTS * 2)]


def score(model, source, output, scorer=None, **options) -> list[dict]:
    scorer = scorer or ThinkingScorer(model)
    score_file(scorer, str(source), output, ScoreOptions(**options), run={"model": scorer.identity()})
    return read_back(output)


def test_the_columns_are_the_scores_parts(trained, write, tmp_path) -> None:
    found = score(trained, write(ROWS), tmp_path / "o.jsonl")
    assert list(found[0])[2:7] == ["reward", "reward_se", "truncated", "response_tokens", "scored_by"]
    assert tuple(found[0])[7:] == COLUMNS
    assert (
        *("thinking_reward", "answer_given_thinking", "answer_alone", "contribution", "thinking_tokens"),
        "thinking_share",
        *("repetition", "closed", "prefilled", "min_step", "last_step", "mean_step", "step_rewards"),
    ) == COLUMNS
    plain = Scorer(trained).score([row["prompt"] for row in ROWS], [row["response"] for row in ROWS])
    scores = score_thinking(trained, [row["prompt"] for row in ROWS], [row["response"] for row in ROWS])
    for row, one, taken in zip(found, plain, scores, strict=True):
        assert row["reward"] == pytest.approx(one.reward, abs=1e-4)
        assert row["reward_se"] == pytest.approx(one.reward_se, rel=1e-3)
        assert row["response_tokens"] == one.response_tokens
        assert row["answer_alone"] + row["contribution"] == row["reward"]
        assert row["thinking_reward"] == pytest.approx(taken.thinking, abs=1e-4)
        assert row["step_rewards"] == pytest.approx(taken.curve.rewards, abs=1e-4)
        assert (row["closed"], row["thinking_tokens"]) == (taken.closed, taken.thinking_tokens)
        assert (row["thinking_share"], row["repetition"]) == (taken.share, taken.repetition)
        assert row["min_step"] == min(row["step_rewards"])
        assert (row["last_step"], row["prefilled"]) == (row["step_rewards"][-1], taken.prefilled)
        assert row["mean_step"] == pytest.approx(sum(row["step_rewards"]) / len(row["step_rewards"]))
        if taken.thinking is not None:
            assert row["thinking_reward"] + row["answer_given_thinking"] == row["reward"]
    assert [row["thinking_reward"] is None for row in found[:6]] == [True, False, True, False, False, False]


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet"])
def test_a_process_head_adds_what_score_steps_gives(trained, write, tmp_path, name) -> None:
    """A model that judges steps had `explain` show it, and no column of `score --thinking`."""
    weight = torch.randn(trained.head.weight.shape, generator=torch.Generator().manual_seed(5))
    contract = replace(trained.contract, process={"separator": "\n"})
    judge = replace(trained, process=ProcessHead(weight / 3, torch.zeros(1)), contract=contract)
    rows = [{"prompt": "p", "response": ""}, *ROWS]
    found = score(judge, write(rows), tmp_path / name)
    assert tuple(found[0])[-len(PROCESS_COLUMNS) :] == PROCESS_COLUMNS
    assert found[0]["step_scores"] == [] and found[0]["process_min"] is None and found[0]["first_error"] == -1
    for row in found[1:]:
        steps = judge.score_steps(row["prompt"], row["response"])
        assert row["step_scores"] == pytest.approx(steps.probabilities, abs=1e-5)
        assert row["first_error"] == steps.first_error and len(row["step_scores"]) == len(row["step_rewards"])
        for form in ("min", "last", "mean", "product"):
            wanted = getattr(steps, form)
            assert row[f"process_{form}"] == (None if wanted is None else pytest.approx(wanted, abs=1e-5))
    assert len({row["first_error"] for row in found}) > 1


@pytest.mark.parametrize("name", ["o.parquet", "o.csv"])
def test_tables_hold_them_even_when_the_first_rows_have_none(trained, write, tmp_path, name) -> None:
    rows = [{"prompt": "p", "response": ""}, *ROWS]
    found = score(trained, write(rows), tmp_path / name)
    assert found[0]["step_rewards"] in ([], "[]") and found[0]["thinking_reward"] in (None, "")
    only = score(trained, write([{"prompt": "p", "response": ""}], "one.jsonl"), tmp_path / f"one{name[1:]}")
    assert set(only[0]) == set(found[0])
    if name.endswith("parquet"):
        import pyarrow.parquet as pq

        schemas = [pq.read_schema(tmp_path / one) for one in (name, f"one{name[1:]}")]
        assert schemas[0].field("step_rewards").type == schemas[1].field("step_rewards").type
        for column in ("thinking_reward", "answer_given_thinking", "min_step", "last_step", "mean_step"):
            assert {schema.field(column).type for schema in schemas} == {"double"}
        assert schemas[1].field("prefilled").type == schemas[1].field("closed").type == "bool"


def test_lists_skipped_rows_and_other_tags(trained, write, tmp_path) -> None:
    rows = [{"prompt": "p", "responses": ["<plan>fox</plan>dog", "dog"]}, {"prompt": "p"}]
    scorer = ThinkingScorer(trained, tags=custom_tags("<plan>", "</plan>"))
    found = score(trained, write(rows), tmp_path / "o.jsonl", scorer, skip_bad=True)
    assert found[0]["closed"] == [True, False] and found[0]["thinking_reward"][1] is None
    assert [len(rewards) for rewards in found[0]["step_rewards"]] == [2, 1]
    assert found[1]["reward"] is None and found[1]["closed"] is None and "prompt" in found[1]
    assert scorer.identity() != ThinkingScorer(trained).identity() != Scorer(trained).identity()


def test_a_column_that_is_there_already_is_not_overwritten(trained, write, tmp_path) -> None:
    with pytest.raises(DataError, match="min_step: is there already"):
        score(trained, write([{"prompt": "p", "response": "r", "min_step": 1}]), tmp_path / "o.jsonl")


def test_shapes_see_the_same_responses(trained, write, tmp_path) -> None:
    from rewardsmith.shaping import parse

    pipeline = parse("length_penalty(per_token=0.5)")
    found = score(trained, write(ROWS), tmp_path / "o.jsonl", shaping=pipeline)
    for row in found:
        assert row["shaped"] == pytest.approx(row["reward"] - 0.5 * row["response_tokens"])


def test_a_row_is_json_and_an_encoder_is_refused(trained, models) -> None:
    (row,) = ThinkingScorer(trained).score(["p"], ["<think>fox</think>dog"])
    assert isinstance(row, ThinkingRow)
    assert json.loads(json.dumps([getattr(row, name) for name in COLUMNS]))
    with pytest.raises(ModelError, match="is an encoder"):
        ThinkingScorer(models["bert"])


def test_an_ensemble_votes_at_every_place(trained) -> None:
    """As if each member took the rewards apart, and the vote were taken place by place."""
    width = trained.head.weight.shape[1]
    heads = torch.randn(3, width, generator=torch.Generator().manual_seed(1))

    def with_head(head: torch.Tensor) -> RewardModel:
        linear = torch.nn.Linear(width, 1, bias=False)
        linear.weight.data = head[None]
        return RewardModel(trained.backbone, linear, trained.template, trained.contract)

    ensemble = Ensemble(heads, torch.zeros(3))
    model = RewardModel(trained.backbone, trained.head, trained.template, trained.contract, ensemble=ensemble)
    prompts, responses = [row["prompt"] for row in ROWS[:6]], TEXTS
    alone = [score_thinking(with_head(head), prompts, responses) for head in heads]
    for name, aggregate in AGGREGATES.items():
        found = ThinkingScorer(model, aggregate=name).score(prompts, responses)
        plain = Scorer(model, aggregate=name).score(prompts, responses)
        for place, row in enumerate(found):
            one = [member[place] for member in alone]
            assert (
                row.reward == pytest.approx(plain[place].reward, abs=0.1) and row.reward_se is None
            )  # bfloat16 rounds
            assert row.reward == pytest.approx(aggregate([each.overall for each in one]), abs=1e-4)
            assert row.answer_alone == pytest.approx(aggregate([each.answer_alone for each in one]), abs=1e-4)
            steps = zip(*(each.curve.rewards for each in one), strict=True)
            assert row.step_rewards == pytest.approx([aggregate(step) for step in steps], abs=1e-4)
            assert row.answer_alone + row.contribution == row.reward
    with pytest.raises(UsageError, match="aggregate 'min' needs members"):
        ThinkingScorer(trained, aggregate="min")


def test_memory_that_runs_out_halves_the_budget(trained, monkeypatch, caplog) -> None:
    budgets, original = [], thinking_columns.score_asked_thinking

    def scarce(model, asked, *, budget):
        budgets.append(budget)
        if budget > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, asked, budget=budget)

    monkeypatch.setattr(thinking_columns, "score_asked_thinking", scarce)
    scorer = ThinkingScorer(trained, budget=1000)
    found = scorer.score(["p"] * 6, TEXTS)
    assert budgets == [1000, 500, 250] and "going on with 500" in caplog.text
    monkeypatch.undo()
    assert found == ThinkingScorer(trained, budget=250).score(["p"] * 6, TEXTS)
