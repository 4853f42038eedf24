"""``--attributes``: the same rewards, with a column for each attribute."""

from __future__ import annotations

import pytest
import torch

from rewardsmith.errors import DataError, ModelError
from rewardsmith.model.attributes import AttributeHeads
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring.attribute_columns import AttributeScorer
from rewardsmith.scoring.score_file import ScoreOptions, score_file
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.training.attribute_heads import with_heads
from tests.scoring.conftest import read_back

ROWS = [{"prompt": "p", "responses": ["fox", "dog"]}, {"prompt": "q", "responses": ["a dog", "a fox", "no"]}]
COLUMNS = ["attribute_helpfulness", "attribute_verbosity"]


@pytest.fixture(scope="module")
def rated(bases) -> RewardModel:
    torch.manual_seed(1)
    heads = AttributeHeads(("helpfulness", "verbosity"), torch.randn(2, 32), torch.tensor([1.0, -0.5]))
    return with_heads(RewardModel.from_base(bases["llama"]), heads).sealed()


def score(model, source, output, **options) -> list[dict]:
    scorer = AttributeScorer(model)
    score_file(scorer, str(source), output, ScoreOptions(**options), run={"model": scorer.identity()})
    return read_back(output)


@pytest.mark.parametrize("name", ["o.jsonl", "o.parquet"])
def test_every_attribute_has_a_column(rated, write, tmp_path, name) -> None:
    found = score(rated, write(ROWS), tmp_path / name)
    plain = Scorer(rated).score(["p", "p", "q", "q", "q"], ["fox", "dog", "a dog", "a fox", "no"])
    for column, attribute in zip(COLUMNS, ("helpfulness", "verbosity"), strict=True):
        values = [value for row in found for value in row[column]]
        assert values == pytest.approx([one.attributes[attribute] for one in plain], abs=1e-5)  # type: ignore[index]
    for row in found:
        parts = [a - 0.5 * b for a, b in zip(*(row[column] for column in COLUMNS), strict=True)]
        assert row["reward"] == pytest.approx(parts, abs=1e-5)


def test_bad_rows_and_single_responses(rated, write, tmp_path) -> None:
    rows = [{"prompt": "p"}, {"prompt": "p", "response": "fox"}]
    found = score(rated, write(rows), tmp_path / "o.parquet", skip_bad=True)
    assert found[0]["attribute_verbosity"] is None and isinstance(found[1]["attribute_verbosity"], float)
    only = score(rated, write(rows[:1], "one.jsonl"), tmp_path / "one.parquet", skip_bad=True)
    import pyarrow.parquet as pq

    assert pq.read_schema(tmp_path / "one.parquet").field("attribute_verbosity").type == "double" and only
    taken = [{"prompt": "p", "response": "fox", "attribute_verbosity": 1, "verbosity": 3}]
    with pytest.raises(DataError, match="attribute_verbosity: is there already"):
        score(rated, write(taken, "taken.jsonl"), tmp_path / "t.jsonl")


def test_a_model_without_them_is_refused_and_a_vote_has_none(rated, trained) -> None:
    with pytest.raises(ModelError, match="no attribute heads"):
        AttributeScorer(trained)
    assert AttributeScorer(rated).identity() != Scorer(rated).identity()
    (one,) = Scorer([rated, trained]).score(["p"], ["fox"])
    assert one.attributes is None
