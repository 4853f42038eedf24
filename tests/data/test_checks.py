"""Each check finds what it is for, and leaves good data alone."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from rewardsmith.data import check
from rewardsmith.data.near_duplicates import NearDuplicates
from rewardsmith.data.statistics import wilson
from rewardsmith.data.tables import _MEANING
from tests.data.samples import SAMPLES, chat, turn

WORDS = [f"word{i}" for i in range(500)]


def text(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def pair(prompt: object = "p", chosen: object = "good", rejected: object = "bad", **rest) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **rest}


GOOD = pair("another prompt", "another good text", "another bad text")


def rules(rows: list, **options) -> dict[str, int]:
    return dict(check(rows, **options).counts)


def test_good_data_has_no_findings():
    report = check([pair(text(i), text(1000 + i), text(2000 + i)) for i in range(200)])
    assert report.ok and not report.counts and report.comparisons == 200 and report.distinct_prompts == 200


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_every_format_are_clean(name):
    report = check(SAMPLES[name])
    assert report.ok, report.problems
    assert list(report.formats) == [name]


@pytest.mark.parametrize(
    ("row", "rule", "field"),
    [
        (pair(chosen=None), "missing-field", "chosen"),
        (pair(prompt=" \n"), "empty-field", "prompt"),
        (pair(rejected=""), "empty-field", "rejected"),
        (pair(chosen=[]), "empty-field", "chosen"),
        (pair(chosen=7), "wrong-type", "chosen"),
        (pair(chosen="same ", rejected=" same"), "identical-responses", "rejected"),
        (
            pair(chosen=[turn("assistant", "same")], rejected=[turn("assistant", "same\n")]),
            "identical-responses",
            "rejected",
        ),
        (pair(margin=-1), "out-of-range", "margin"),
        (pair(weight=0), "out-of-range", "weight"),
        (pair(weight=-2), "out-of-range", "weight"),
        (pair(probability=1.5), "out-of-range", "probability"),
        (pair(probability=1e999), "out-of-range", "probability"),
        (pair(probability="0.5"), "wrong-type", "probability"),
        (pair(probability=0.5, margin=1), "out-of-range", "margin"),
        (pair(prompt=[turn("human", "Hi")]), "unknown-role", "prompt[0].role"),
        (pair(prompt=[turn("user", "Hi"), turn("system", "x"), turn("user", "y")]), "role-order", "prompt"),
        (pair(prompt=[turn("user", "Hi"), turn("user", "y")]), "role-order", "prompt"),
        (pair(prompt=chat("Hi", "Hello")), "role-order", "prompt"),
        (pair(prompt=[turn("system", "Hi")]), "role-order", "prompt"),
        (pair(prompt=[turn("tool", "5"), turn("user", "y")]), "role-order", "prompt"),
        (pair(prompt=[turn("user", " ")]), "empty-field", "prompt"),
        (pair(chosen=[turn("user", "Hi"), turn("assistant", "x")]), "role-order", "chosen"),
        (pair(chosen=chat("Hi", "x", "y")[1:], rejected=chat("Hi", "z")[1:]), "role-order", "chosen"),
        (pair(chosen=[turn("assistant", "a"), turn("assistant", "b")]), "role-order", "chosen"),
        (pair(chosen=[{"role": "assistant", "content": [{"type": "image"}]}]), "wrong-type", "chosen[0].content"),
        (pair(tools="{"), "wrong-type", "tools"),
        (pair(tools=[1]), "wrong-type", "tools[0]"),
        ({"prompt": "p", "responses": ["a"], "ranks": [0]}, "empty-field", "responses"),
        ({"prompt": "p", "responses": ["a", "b"]}, "missing-field", "ranks"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [0]}, "wrong-length", "ranks"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [0, 0.5]}, "wrong-type", "ranks[1]"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1], "probability": 0.2}, "out-of-range", "probability"),
        ({"prompt": "p", "responses": ["a", "b", "c"], "ranks": [0, 1, 1], "margin": 1}, "out-of-range", "margin"),
        ({"prompt": "p", "responses": ["a", "a", "c"], "ranks": [0, 1, 1]}, "identical-responses", "responses[1]"),
    ],
)
def test_row_errors(row, rule, field):
    report = check([GOOD, row])
    assert [(p.rule, p.field, p.line, p.severity) for p in report.problems] == [(rule, field, 2, "error")]
    assert not report.ok and report.bad_rows == 1 and report.comparisons == 1
    assert check([GOOD, row], skip_bad=True).ok


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (pair(chosen="a b", rejected="a  b"), "identical-responses"),
        (pair(chosen="same", rejected="same", probability=0.5), "identical-responses"),
        (pair(prompt=[turn("assistant", "Hi"), turn("user", "y")]), "first-turn"),
        (pair(prompt=chat("", "Hello", "Bye")), "empty-turn"),
        (pair(score_chosen=1, score_rejected=2), "score-order"),
        (pair(probabilty=0.7), "unknown-field"),
        ({"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 1, 1]}, "no-preference"),
    ],
)
def test_row_warnings(row, rule):
    report = check([GOOD, row])
    assert report.ok and dict(report.counts) == {rule: 1} and report.problems[0].severity == "warning"


def test_tool_turns_are_fine():
    prompt = [turn("system", "s"), turn("user", "u"), turn("assistant", "a"), turn("tool", "t"), turn("tool", "t2")]
    assert not rules([pair(prompt=prompt)])


def test_duplicate_rows_name_the_first():
    report = check([GOOD, pair(), GOOD, GOOD])
    assert report.ok and dict(report.counts) == {"duplicate-row": 2}
    assert str(report.problems[1]) == "<rows>:4: repeats the row at <rows>:1; keep one of them (duplicate-row)"


def test_contradictory_labels_are_errors():
    report = check([pair("P  q", "a", "b"), GOOD, pair("p Q", "B", "a"), pair("other", "b", "a")])
    assert dict(report.counts) == {"contradictory-label": 1} and not report.ok
    assert report.problems[0].line == 3 and "<rows>:1" in report.problems[0].message
    assert not check([pair("p", "a", "b"), pair("p", "b", "a")], skip_bad=True).ok
    assert check([pair("p", "a", "b"), pair("p", "a", "b", probability=0.5)]).ok


def test_leakage_is_found_whatever_the_roles_and_case(write):
    test = write([pair([turn("user", "What  IS it?")])], "test.jsonl")
    report = check([GOOD, pair("what is it?", "x", "y")], against=[test])
    assert dict(report.counts) == {"prompt-leakage": 1} and not report.ok
    assert report.problems[0].line == 2 and f"{test}:1" in report.problems[0].message
    assert check([GOOD], against=[test]).ok


def test_leakage_counts_rows_without_preference_and_says_what_it_could_not_read(write):
    wrong = {**SAMPLES["gsm8k"][0], "large": {"is_correct": False, "solution": "It is 4."}}
    report = check([pair("what is 2 + 3?")], against=[write([wrong])])
    assert dict(report.counts) == {"prompt-leakage": 1}
    report = check([GOOD], against=[write([pair(), pair(chosen="")])])
    assert dict(report.counts) == {"unread-prompts": 1} and report.ok


def test_near_duplicates_are_found_and_distinct_texts_are_not():
    rows = [pair(text(i), text(1000 + i), text(2000 + i)) for i in range(300)]
    rows.append(pair(text(5), text(1005) + " extra", text(2005)))
    rows.append(pair(text(9999), text(1006), text(2006)))  # same responses, another prompt
    report = check(rows)
    assert dict(report.counts) == {"near-duplicate": 1}
    assert report.problems[0].line == 301 and "<rows>:6" in report.problems[0].message


def test_near_duplicate_memory_is_bounded_and_said():
    report = check([pair(text(i), text(1000 + i), text(2000 + i)) for i in range(20)], near_duplicate_limit=10)
    assert not report.near_duplicates_complete and not report.as_dict()["near_duplicates_complete"]


def test_minhash_estimates_the_share_of_common_shingles():
    near = NearDuplicates(10_000)
    words = text(1, 400).split()
    for step in range(40):  # ever more words replaced
        changed = [f"new{step}x{i}" if i < 10 * step else word for i, word in enumerate(words)]
        near.add(step, "p", " ".join(changed))
    found = {later: earlier for earlier, later in near.pairs()}
    assert 1 in found and 39 not in found


def test_too_long_is_an_estimate_for_text_and_exact_for_tokens():
    report = check([pair("x" * 396, "y" * 8, "z" * 4)], max_length=100)
    assert dict(report.counts) == {"too-long": 1} and "about 101 tokens" in report.problems[0].message
    assert not rules([pair("x" * 392, "y" * 8, "z" * 4)], max_length=100)
    assert rules(SAMPLES["tokenized"], max_length=4) == {"too-long": 1}


def test_length_bias_ties_and_subsets():
    rows = [pair(text(i, 5), text(i, 9), text(i + 500, 4), subset="ab"[i % 2]) for i in range(80)]
    rows += [pair("t" + text(i, 5), text(i, 9), text(i + 500, 4), probability=0.5) for i in range(20)]
    report = check(rows)
    total = report.statistics.total
    assert total.ties == 20 and total.length_bias.value == 1.0 and total.length_bias.n == 80
    assert report.counts["length-bias"] == 1 and report.ok
    assert report.statistics.subsets["a"].comparisons == 40


def test_position_balance_of_judged_data():
    rows = [{"input": text(i), "output_1": text(i, 9), "output_2": text(i + 99, 9), "label": 1} for i in range(60)]
    report = check(rows)
    assert report.statistics.total.position_bias.value == 1.0 and report.counts["position-bias"] == 1
    assert check(SAMPLES["canonical"]).statistics.total.position_bias is None


def test_wilson_interval():
    estimate = wilson(8, 10)
    assert (estimate.low, estimate.high) == (pytest.approx(0.4901625), pytest.approx(0.9433178))
    assert wilson(0, 10).low == 0.0 and wilson(10, 10).high == 1.0 and wilson(0, 0) is None


def test_several_files_are_one_data_set(write):
    first, second = write([GOOD], "a.jsonl"), write([GOOD, pair()], "b.jsonl")
    report = check([first, second])
    assert report.rows == 3 and report.problems[0].file == str(second) and report.files == [str(first), str(second)]


def test_lists_are_capped_but_counts_are_complete():
    report = check([GOOD, *[pair(chosen="") for _ in range(120)]])
    assert report.counts["empty-field"] == 120 and len(report.problems) == 50


def test_every_rule_has_a_meaning_for_people():
    root = Path(check.__code__.co_filename).parent
    source = "".join(path.read_text() for path in root.rglob("*.py"))
    rules_used = set(re.findall(r'rule="([a-z-]+)"', source)) | set(
        re.findall(r'"([a-z]+-[a-z]+)", (?:ERROR|WARNING|message)', source)
    )
    assert rules_used - {"no-preference"} <= set(_MEANING) and len(rules_used) > 20


def test_report_is_json(write):
    report = check([GOOD, pair(chosen=""), GOOD])
    assert json.loads(json.dumps(report.as_dict()))["counts"] == {"empty-field": 1, "duplicate-row": 1}


def test_what_longer_is_counted_in_is_said(cli, write) -> None:
    """`data check`, `data synthesize` and `evaluate` all say "longer wins": in characters, or else it is named."""
    pairs = write([{"prompt": f"p {i}", "chosen": "long enough " * 3, "rejected": f"no {i}"} for i in range(40)])
    assert "longer is better (characters)" in cli("check", pairs).out
    report = json.loads(cli("check", pairs, "--json").out)
    assert report["statistics"]["length_unit"] == "characters"
    assert "the longer response, in characters, is the better one" in cli("check", pairs).out
    ids = write([{"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4]}], "ids.jsonl")
    assert "longer is better (tokens)" in cli("check", ids).out


def test_responses_that_differ_in_parsed_thinking_alone_are_not_alike():
    answer = {"role": "assistant", "content": "42"}
    row = pair("What is 15 + 27?", [{**answer, "reasoning_content": "15 + 20 = 35"}], [answer])
    assert "identical-responses" not in rules([row])
