"""Token rows into forward passes: trees, rows, splits, and the labels of the pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoModelForCausalLM

from rewardsmith.encoding import pack
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import losses
from rewardsmith.training.collator import TreeCollator, labels
from rewardsmith.training.forward import forget, teach
from rewardsmith.training.objective import Objective, scored
from tests import tiny

PAIR = {"chosen_ids": [5, 6, 7, 8, 9], "rejected_ids": [5, 6, 7, 3], "response_start": [2, 2]}
OTHER = {"chosen_ids": [11, 12, 14], "rejected_ids": [11, 12, 13, 15, 16], "response_start": [1, 1]}
LIST = {
    "ids": [[5, 6, 9], [5, 6, 7, 3], [5, 6, 8, 8, 2], [5, 6, 4]],
    "ranks": [1, 0, 0, 2],
    "response_start": [2, 2, 2, 2],
}
ROWS = [PAIR, LIST, OTHER, PAIR]
SYSTEM = list(range(21, 30))


def rooted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows behind a common system prompt."""
    found = []
    for row in rows:
        ids = {name: [*SYSTEM, *row[name]] for name in ("chosen_ids", "rejected_ids") if name in row}
        if "ids" in row:
            ids["ids"] = [[*SYSTEM, *one] for one in row["ids"]]
        found.append({**row, **ids, "response_start": [start + len(SYSTEM) for start in row["response_start"]]})
    return found


def only(made: dict[str, Any]) -> dict[str, Any]:
    (one,) = made["passes"]
    return one


def read(batch: pack.Batch) -> list[list[int]]:
    """The whole sequence of each response, found by the mask: what its last token may look at, in order."""
    found = []
    flat = batch.input_ids.flatten()
    for last in batch.last.tolist():
        row, at = divmod(last, batch.input_ids.shape[1])
        tree, branch, place = batch.tree[row], batch.branch[row], batch.position_ids[row]
        seen = pack.attends(tree[at], branch[at], place[at], tree, branch, place).nonzero().flatten()
        order = seen[place[seen].argsort()]
        assert place[order].tolist() == list(range(len(order)))
        found.append(flat[row * batch.input_ids.shape[1] + order].tolist())
    return found


def sequences(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [ids for row in rows for ids in (row.get("ids") or [row["chosen_ids"], row["rejected_ids"]])]


SHAPES = {
    "one row": {"one_row": True},
    "packed rows": {},
    "one sequence a row": {"share": False, "one_per_row": True},
    "sequences in one row": {"share": False, "one_row": True},
    "sequences packed": {"share": False},
    "multiples": {"multiple_of": 8},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("tokens", [None, 12, 1, 40])
@pytest.mark.parametrize("make", [list, rooted])
def test_responses_come_out_whole_and_in_the_order_of_the_rows(shape, tokens, make) -> None:
    rows = make(ROWS)
    made = TreeCollator(0, tokens=tokens, **shape)(rows)
    assert [ids for one in made["passes"] for ids in read(one["batch"])] == sequences(rows)
    assert made["count"].tolist() == [1] * 4
    assert [one["share"] for one in made["passes"]] == [4] * len(made["passes"])


def test_a_prompt_stands_once_for_its_responses() -> None:
    batch = only(TreeCollator(0, one_row=True)([PAIR, LIST]))["batch"]
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 3, 5, 6, 9, 7, 3, 8, 8, 2, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 2, 3, 2, 3, 4, 2]]
    assert batch.sizes == [(3, 2, 1), (2, 1, 2, 3, 1)]
    assert batch.last.tolist() == [4, 5, 8, 10, 13, 14]


def test_what_all_prompts_begin_with_stands_once() -> None:
    for shape in ({"one_row": True}, {}):
        batch = only(TreeCollator(0, **shape)(rooted(ROWS)))["batch"]
        assert batch.trunk == 9 and (batch.tree == pack.TRUNK).sum() == 9 * len(batch.input_ids)
    assert (batch.tree == pack.TRUNK).any(0).tolist() == [True] * 9 + [False] * (batch.input_ids.shape[1] - 9)
    one = only(TreeCollator(0, one_row=True)(rooted(ROWS)))["batch"]
    assert one.input_ids.shape == (1, 9 + 6 + 9 + 6 + 6)
    apart = only(TreeCollator(0, share=False, one_row=True)(rooted(ROWS)))["batch"]
    assert apart.trunk == 0 and not (apart.tree == pack.TRUNK).any()


def test_one_row_has_no_padding_and_rows_have_the_width_of_the_longest() -> None:
    assert only(TreeCollator(0, one_row=True)(ROWS))["batch"].input_ids.shape == (1, 6 + 9 + 6 + 6)
    several = only(TreeCollator(0)(ROWS))["batch"].input_ids
    assert several.shape[1] == 9
    assert several.shape[0] == 4  # none of the others fits beside another
    apart = only(TreeCollator(0, share=False, one_per_row=True)(ROWS))["batch"]
    assert apart.input_ids.shape == (10, 5)
    assert (apart.input_ids == 0).sum() == 50 - sum(map(len, sequences(ROWS)))


@pytest.mark.parametrize("shape", [{"one_row": True}, {}, {"share": False, "one_per_row": True}])
def test_rows_are_padded_to_a_multiple(shape) -> None:
    batch = only(TreeCollator(99, multiple_of=16, **shape)(ROWS))["batch"]
    assert batch.input_ids.shape[1] % 16 == 0
    assert (batch.input_ids == 99).sum() == (batch.tree == pack.PAD).sum() > 0


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [(None, [4]), (1000, [4]), (27, [4]), (26, [3, 1]), (15, [2, 2]), (14, [1, 1, 2]), (1, [1] * 4)],
)
def test_a_batch_is_split_between_comparisons_in_their_order(tokens, groups) -> None:
    """ROWS take 6, 9, 6 and 6 tokens."""
    made = TreeCollator(0, one_row=True, tokens=tokens)(ROWS)
    assert [int(one["labels"]["comparison"][-1]) + 1 for one in made["passes"]] == groups
    assert len(made["count"]) == 4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("tokens", [10, 18, 30, 60])
def test_no_pass_has_more_positions_than_it_may_but_a_comparison_alone(shape, tokens) -> None:
    rows, at = ROWS * 3, 0
    for one in TreeCollator(0, tokens=tokens, **shape)(rows)["passes"]:
        here = int(one["labels"]["comparison"][-1]) + 1
        assert one["batch"].input_ids.numel() <= tokens or here == 1
        more = only(TreeCollator(0, **shape)(rows[at : at + here + 1]))["batch"]
        assert more.input_ids.numel() > tokens or at + here == len(rows)  # the next would not have fitted
        at += here


@pytest.fixture(scope="module")
def network(bases) -> Any:
    """A tiny network in float64 with a random head in float32, taught to read trees."""
    model = RewardModel.from_base(bases["llama"])
    generator = torch.Generator().manual_seed(0)
    model.backbone.head.weight.data = torch.randn(model.backbone.head.weight.shape, generator=generator)
    teach(model.backbone)
    taught = model.backbone.network.double().train()
    model.backbone.head.float()
    yield taught
    forget(model.backbone.network)


LABELLED: list[dict[str, Any]] = [
    {**PAIR, "margin": 0.5, "weight": 2.0},
    LIST,
    {**OTHER, "probability": 0.8},
    {**PAIR, "probability": 0.5, "weight": 0.25},
]
SCORES = ([4.0, 1.5], [1.0, 2.0, float("nan"), 0.5], None, [3.0, float("nan")])
GRADED = [{**row, "scores": scores} for row, scores in zip(LABELLED, SCORES, strict=True)]


def loss_and_gradient(
    network: Any, made: dict[str, Any], loss: Any = losses.bradley_terry
) -> tuple[float, torch.Tensor]:
    network.zero_grad()
    total, objective = 0.0, Objective(loss, centering=0.1)
    for one in made["passes"]:
        loss = objective(scored(network(packed=one["batch"]).logits, one["labels"], one["share"]))
        loss.backward()
        total += loss.item()
    return total, torch.cat([one.grad.flatten().double() for one in network.parameters()])


SPLIT: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "bradley-terry": (losses.bradley_terry, LABELLED),
    "regression": (losses.regression, GRADED),
}


@pytest.mark.parametrize(("cost", "rows"), SPLIT.values(), ids=SPLIT.keys())
@pytest.mark.parametrize("tokens", [1, 14, 20])
@pytest.mark.parametrize("make", [list, rooted])
def test_the_passes_of_a_batch_add_up_to_it(network, tokens, cost, rows, make) -> None:
    """Behind a system prompt the whole batch has a trunk, to whose tokens all comparisons add their gradients."""
    rows = make(rows)
    whole = TreeCollator(0, one_row=True)(rows)
    parts = TreeCollator(0, one_row=True, tokens=tokens)(rows)
    assert len(parts["passes"]) > len(whole["passes"]) == 1
    loss, gradient = loss_and_gradient(network, parts, cost)
    expected, wanted = loss_and_gradient(network, whole, cost)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item())
    assert wanted.abs().max() > 0.01


def test_the_loss_of_a_batch_is_what_one_writes_down_for_it(network) -> None:
    loss, _ = loss_and_gradient(network, TreeCollator(0, one_row=True)(LABELLED))
    with torch.no_grad():
        states = [network.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences(LABELLED)]
        r = [network.score(state.float()).item() for state in states]

    def cost(a: float, b: float) -> float:
        return -logsigmoid(torch.tensor(a - b, dtype=torch.float64)).item()

    pairs = [  # weight, cost, sum of the two rewards
        (2.0, cost(r[0] - 0.5, r[1]), r[0] + r[1]),
        (1 / 6, cost(r[3], r[2]), r[3] + r[2]),
        (1 / 6, cost(r[4], r[2]), r[4] + r[2]),
        (1 / 6, cost(r[2], r[5]), r[2] + r[5]),
        (1 / 6, (cost(r[3], r[4]) + cost(r[4], r[3])) / 2, r[3] + r[4]),
        (1 / 6, cost(r[3], r[5]), r[3] + r[5]),
        (1 / 6, cost(r[4], r[5]), r[4] + r[5]),
        (1.0, 0.8 * cost(r[6], r[7]) + 0.2 * cost(r[7], r[6]), r[6] + r[7]),
        (0.25, (cost(r[8], r[9]) + cost(r[9], r[8])) / 2, r[8] + r[9]),
    ]
    assert loss == pytest.approx(sum(w * (c + 0.1 * s**2) for w, c, s in pairs) / 4, rel=1e-6)


# -- what a language model would have to predict


def test_the_tokens_to_predict_are_those_of_the_best_responses() -> None:
    one = only(TreeCollator(0, one_row=True, language=True)([PAIR, LIST]))
    # PAIR is 5 6 7 | 8 9 | 3 and its response begins with 7; LIST is 5 6 | 9 | 7 3 | ... and 7 3 is its best.
    assert one["language"].tolist() == [[1, 2, 3, 7, 9], [7, 8, 9, 7, 3]]
    assert one["language_share"] == 5


def test_a_response_without_a_prompt_has_nothing_to_predict_its_first_token_from() -> None:
    row = {"chosen_ids": [4, 5, 6], "rejected_ids": [3, 5], "response_start": [0, 0]}
    one = only(TreeCollator(0, one_row=True, language=True)([row]))
    assert one["language"].tolist() == [[0, 1], [5, 6]]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("tokens", [None, 12])
@pytest.mark.parametrize("make", [list, rooted])
def test_every_place_predicts_what_follows_in_the_response_alone(bases, shape, tokens, make) -> None:
    """The log probabilities at those places, sequence by sequence, are those of the sequences as they are read."""
    model = AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.float64).eval()
    pair, several, other, _ = rows = make(ROWS)
    made = TreeCollator(0, tokens=tokens, language=True, **shape)(rows)
    best = [
        *((row["chosen_ids"], row["response_start"][0]) for row in (pair, other, pair)),
        (several["ids"][1], several["response_start"][1]),
    ]
    wanted = sum(_log_probability(model, ids, start) for ids, start in best)
    found, targets = torch.zeros((), dtype=torch.float64), []
    for one in made["passes"]:
        batch, (places, tokens_) = one["batch"], one["language"]
        mask = pack.dense_mask(batch, torch.float64)
        logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=mask).logits
        chances = log_softmax(logits.flatten(0, 1)[places], -1)
        found = found + chances.gather(1, tokens_[:, None]).sum()
        targets += tokens_.tolist()
        assert one["language_share"] == 3 + 2 + 2 + 3
    assert targets == [7, 8, 9, 7, 3, 12, 14, 7, 8, 9]
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)


def _log_probability(model: Any, ids: list[int], start: int) -> torch.Tensor:
    chances = log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
    return sum(chances[at - 1, ids[at]] for at in range(start, len(ids)))  # type: ignore[return-value]


# -- labels


def test_pairs_of_a_list_come_from_its_ranks() -> None:
    found = labels([PAIR, LIST])
    pairs = list(zip(found["first"].tolist(), found["second"].tolist(), strict=True))
    assert pairs == [(0, 1), (3, 2), (4, 2), (2, 5), (3, 4), (3, 5), (4, 5)]
    assert found["comparison"].tolist() == [0, 0, 1, 1, 1, 1]
    assert found["rank"].tolist() == [0, 1, 1, 0, 0, 2]
    assert found["tokens"].tolist() == [5, 4, 3, 4, 5, 3]
    assert found["weight"].tolist() == pytest.approx([1.0] + [1 / 6] * 6)
    assert found["probability"].tolist() == [1, 1, 1, 1, 0.5, 1, 1]


def test_a_column_that_no_row_has_is_left_out() -> None:
    found = labels([PAIR, {**OTHER, "margin": None, "weight": None, "probability": None}])
    assert set(found) == {"first", "second", "comparison", "rank", "tokens"}


def test_columns_stand_beside_their_pairs() -> None:
    rows = [{**PAIR, "margin": 0.5}, {**OTHER, "probability": 0.2, "weight": 3.0}, {**PAIR, "probability": 0.5}]
    found = labels(rows)
    assert found["margin"].tolist() == [0.5, 0.0, 0.0]
    assert found["weight"].tolist() == [1.0, 3.0, 1.0]
    assert found["probability"].tolist() == pytest.approx([1.0, 0.2, 0.5])
    assert found["rank"].tolist() == [0, 1, 0, 1, 0, 0]
    assert all(value.dtype == torch.float32 for name, value in found.items() if name in ("margin", "weight"))
    assert {found[name].shape for name in ("margin", "weight", "probability", "first", "second")} == {(3,)}


def test_scores_are_unknown_where_a_row_has_none() -> None:
    found = labels([{**PAIR, "scores": [4.0, 1.5]}, OTHER])["scores"]
    torch.testing.assert_close(found, torch.tensor([4.0, 1.5, torch.nan, torch.nan]), equal_nan=True)
    none = labels([{**PAIR, "scores": None}, OTHER])["scores"]  # others of the data have some: the column is there
    torch.testing.assert_close(none, torch.full((4,), torch.nan), equal_nan=True)
    several = labels([OTHER, {**PAIR, "scores": [[4.0, None], [1.5, 2.0]]}])["scores"]
    wanted = torch.tensor([[torch.nan] * 2, [torch.nan] * 2, [4.0, torch.nan], [1.5, 2.0]])
    torch.testing.assert_close(several, wanted, equal_nan=True)


def test_token_rows_that_do_not_say_where_the_response_begins_differ_from_their_first_difference_on() -> None:
    row = {"chosen_ids": [5, 6, 7, 8], "rejected_ids": [5, 6, 9]}
    one = only(TreeCollator(0, one_row=True, language=True)([row]))
    assert one["language"].tolist() == [[1, 2], [7, 8]]
    prefix = {"chosen_ids": [5, 6, 7, 8], "rejected_ids": [5, 6]}  # one is the beginning of the other
    one = only(TreeCollator(0, one_row=True)([prefix]))
    assert read(one["batch"]) == [[5, 6, 7, 8], [5, 6]]


@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_one_row_and_several_rows_have_the_same_rewards(bases, family) -> None:
    reader = RewardModel.from_base(bases[family]).backbone
    assert reader.by_tree
    in_one = TreeCollator(0, one_row=True)(ROWS)
    teach(reader)
    with torch.no_grad():
        tree = reader.network(packed=only(in_one)["batch"]).logits
        reader.network.set_attn_implementation("sdpa")
        dense = [reader.network(packed=only(made)["batch"]).logits for made in (in_one, TreeCollator(0)(ROWS))]
    assert tree.shape == (10, 1)
    for other in dense:
        torch.testing.assert_close(other, tree, rtol=0, atol=1e-4)
