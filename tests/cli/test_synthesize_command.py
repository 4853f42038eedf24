"""``rewardsmith data synthesize thinking``: files, tables, held-out families, own data, mistakes."""

from __future__ import annotations

import json

import pytest

from rewardsmith.data import check, load_comparisons
from rewardsmith.thinking.corruptions import CORRUPTIONS
from rewardsmith.thinking.phrases import FILLERS
from rewardsmith.thinking.problems import FAMILIES
from tests.cli.conftest import save

COMMAND = ("data", "synthesize", "thinking")
THOUGHT = "<think>\nI add {0} and 2.\nThat is {1}.\n</think>\n\n{1}"


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_are_written_and_counted(cli, tmp_path) -> None:
    out = tmp_path / "new" / "pairs.jsonl"
    done = cli(*COMMAND, "-o", out, "-n", 240)
    assert done.code == 0 and not done.err
    assert all(name in done.out for name in (*CORRUPTIONS, "all", "longer wins", "has-think-tag wins", "240"))
    rows = rows_of(out)
    assert len(rows) == 240
    assert {row["subset"] for row in rows} == set(CORRUPTIONS) and {row["family"] for row in rows} == set(FAMILIES)
    assert {row["difficulty"] for row in rows} == {1, 2, 3}
    wrong = [row for row in rows if row["subset"].startswith("wrong_step")]
    assert all(isinstance(row["corrupted_step"], int) for row in wrong)
    loaded = list(load_comparisons(out))
    assert [pair.subset for pair in loaded] == [row["subset"] for row in rows]
    assert check([str(out)]).ok
    again = tmp_path / "again.jsonl"
    assert cli(*COMMAND, "-o", again, "-n", 240, "-q").out == ""
    assert again.read_bytes() == out.read_bytes()
    cli(*COMMAND, "-o", again, "-n", 240, "-q", "--seed", 1)
    assert again.read_bytes() != out.read_bytes()


def test_json_has_an_interval_for_every_share(cli, tmp_path) -> None:
    report = cli(*COMMAND, "-o", tmp_path / "a.jsonl", "-n", 60, "--json").json
    assert report["pairs"] == 60 and report["families"] == sorted(FAMILIES)
    for found in (report, *report["subsets"].values()):
        for name in ("longer_wins", "tag_wins"):
            estimate = found[name]
            assert estimate["low"] <= estimate["value"] <= estimate["high"] and estimate["n"] == found["pairs"]
    assert report["subsets"]["no_thinking"]["tag_wins"]["value"] == 1


def test_families_corruptions_difficulty_and_tags_can_be_chosen(cli, tmp_path) -> None:
    out = tmp_path / "a.jsonl.gz"
    chosen = ("--families", "sets, logic", "--corruptions", "loop,wrong_step", "--difficulty", "4-5")
    report = cli(*COMMAND, "-o", out, "-n", 20, *chosen, "--think-tags", "[T]", "[/T]", "--json").json
    assert report["families"] == ["logic", "sets"]
    assert set(report["subsets"]) == {"loop", "wrong_step_wrong_answer"}
    for pair in load_comparisons(out):
        assert all(text.startswith("[T]\n") and "\n[/T]\n\n" in text for text in pair.responses)


@pytest.mark.parametrize("held", ["3", "sets,logic,dates"])
def test_held_out_families_go_to_the_test_file_alone(cli, tmp_path, held) -> None:
    out = tmp_path / "a.jsonl"
    report = cli(*COMMAND, "-o", out, "-n", 80, "--hold-out-families", held, "--json").json
    train, test = rows_of(out), rows_of(tmp_path / "a.test.jsonl")
    assert (len(train), len(test)) == (80, 20)
    seen, unseen = ({row["family"] for row in rows} for rows in (train, test))
    assert len(unseen) == 3 and not seen & unseen and seen | unseen == set(FAMILIES)
    assert report["test"]["output"] == str(tmp_path / "a.test.jsonl")
    assert report["test"]["families"] == sorted(unseen)
    said = [{phrase for phrase in FILLERS for row in rows if phrase in row["rejected"]} for rows in (train, test)]
    assert said[0] and said[1] and not said[0] & said[1]
    named = ("--test-output", tmp_path / "b.jsonl", "--test-pairs", 7)
    cli(*COMMAND, "-o", out, "-n", 80, "--hold-out-families", held, *named, "-q")
    assert len(rows_of(tmp_path / "b.jsonl")) == 7


def solutions(count: int) -> list[dict]:
    """Rows as GSM8K model solutions have them."""
    return [
        {
            "question": f"What is {n} + 2?",
            "ground_truth": str(n + 2),
            "a": {"is_correct": True, "solution": f"I add.\n{n} + 2 = {n + 2}\nA: {n + 2}"},
            "b": {"is_correct": False, "solution": f"{n} + 2 = {n + 3}\nA: {n + 3}"},
            "c": {"is_correct": False, "solution": f"A: {n}"},
        }
        for n in range(count)
    ]


def test_labelled_solutions_become_pairs(cli, tmp_path) -> None:
    data, out = save(tmp_path / "solutions.jsonl", solutions(6)), tmp_path / "a.jsonl"
    report = cli(*COMMAND, "-o", out, "--from", data, "--answer-mark", "A:", "--json").json
    assert report["pairs"] == 12 and set(report["subsets"]) == {"labelled"} and report["families"] == []
    rows = rows_of(out)
    assert rows[0]["chosen"] == "<think>\nI add.\n0 + 2 = 2\n</think>\n\nA: 2"
    assert {row["rejected"] for row in rows[:2]} == {"<think>\n0 + 2 = 3\n</think>\n\nA: 3", "A: 0"}
    assert "family" not in rows[0]
    bare = cli(*COMMAND, "-o", out, "--from", data, "-n", 5, "-q")
    assert len(rows_of(out)) == 5 and "5 of 5 better responses have no thinking" in bare.err
    best = cli(*COMMAND, "-o", out, "--from", data, "--answer-mark", "A:", "--corrupt", "--json").json
    assert best["pairs"] == 6 and "labelled" not in best["subsets"]


def test_own_good_responses_are_corrupted(cli, tmp_path) -> None:
    given = [{"prompt": f"What is {n} + 2?", "response": THOUGHT.format(n, n + 2)} for n in range(8)]
    data, out = save(tmp_path / "good.jsonl", given), tmp_path / "a.jsonl"
    report = cli(
        *COMMAND, "-o", out, "--from", data, "-n", 20, "--corruptions", "loop,padding,truncated", "--json"
    ).json
    assert set(report["subsets"]) == {"loop", "padding", "truncated"}
    good = {row["response"] for row in given}
    assert all(row["chosen"] in good and row["rejected"] not in good for row in rows_of(out))


def test_mistakes_are_one_line(cli, tmp_path) -> None:
    out = tmp_path / "a.jsonl"
    data = save(tmp_path / "solutions.jsonl", solutions(3))
    broken = save(tmp_path / "broken.jsonl", [{"prompt": "q", "response": THOUGHT}, {"prompt": "q"}])
    for arguments, message in [
        (("--families", "sums"), "--families: unknown family 'sums'; known are arithmetic"),
        (("--corruptions", "noise"), "--corruptions: unknown corruption 'noise'; known are no_thinking"),
        (("--difficulty", "hard"), "--difficulty 'hard': give a number from 1 (short) to 5 (long), or a range"),
        (("--difficulty", "3-9"), "--difficulty '3-9': give a number from 1 (short) to 5"),
        (("--difficulty", "9"), "--difficulty '9': give a number from 1 (short) to 5"),
        (("--difficulty", "3-1"), "--difficulty '3-1': give"),
        (("--hold-out-families", "10"), "--hold-out-families 10: holds out 10 of 10 families; give 1 to 9"),
        (("--hold-out-families", "0"), "--hold-out-families 0: holds out 0 of 10 families; give 1 to 9"),
        (("--hold-out-families", "sums"), "--hold-out-families: unknown family 'sums'"),
        (("--hold-out-families", "1", "--families", "sets"), "--families names sets alone; name two or more"),
        (("--hold-out-families", "sets,logic", "--families", "sets,logic"), "holds out 2 of 2 families"),
        (("--test-pairs", "5"), "need --hold-out-families"),
        (("--think-tags", "a", "a"), "both think tags are 'a'"),
        (("--corrupt",), "for own data; name it with --from"),
        (("--from", data, "--families", "sets"), "leave them out with --from"),
        (("--from", data, "--difficulty", "2"), "leave them out with --from"),
        (("--from", data, "--corruptions", "loop"), "add --corrupt"),
        (("--from", data, "-n", 100), "-n 100: the data gives 6 pairs"),
        (("--from", data, "--answer-mark", "Answer:"), "none of the 9 responses of"),
        (("--from", data, "--answer-mark", "Answer:", "--corrupt"), "0 of 3 responses have thinking"),
        (("--families", ","), "--families ',': names no family"),
        (("--from", data, "--corrupt"), "0 of 3 responses have thinking between tags"),
        (("--from", broken), f"{broken}:2: response: is missing"),
        (("--from", "-"), "not from standard input"),
        (("--from", tmp_path / "nowhere.jsonl"), "no such file"),
    ]:
        assert message in cli(*COMMAND, "-o", out, *arguments).error
        assert not out.exists()
    assert "KIND is 'code'; known are thinking" in cli("data", "synthesize", "code", "-o", out).error
    assert "ends in .jsonl" in cli(*COMMAND, "-o", tmp_path / "a.csv").error
    same = ("--hold-out-families", "2", "--test-output", out)
    assert "the file of the other pairs" in cli(*COMMAND, "-o", out, *same).error


def test_responses_without_the_answer_mark_are_left_out_and_counted(cli, tmp_path) -> None:
    """They kept no tags beside others that got them, silently, so that the tags alone told which was better."""
    rows, out = solutions(6), tmp_path / "a.jsonl"
    rows[0]["b"]["solution"] = "0 + 2 = 3\nSo 3."
    rows[1]["a"]["solution"] = "<think>1 and 2</think>3"  # tags of its own need no mark
    data = save(tmp_path / "solutions.jsonl", rows)
    done = cli(*COMMAND, "-o", out, "--from", data, "--answer-mark", "A:", "--json")
    assert done.json["pairs"] == 11 and done.json["responses_left_out"] == 1
    assert f"{data}: 1 of 18 responses are left out" in done.err and "'A:'" in done.err
    assert not any("So 3." in row["rejected"] for row in rows_of(out))
    assert any(row["chosen"] == "<think>1 and 2</think>3" for row in rows_of(out))
    rows[2]["a"]["solution"] = "<think>2 and 2</think>"  # no answer
    rows[3]["a"]["solution"] = "It is 5."
    best = cli(*COMMAND, "-o", out, "--from", save(data, rows), "--answer-mark", "A:", "--corrupt", "--json")
    assert best.json["pairs"] == 4 and best.json["responses_left_out"] == 2
    assert "1 of 6 responses are left out: they have no think tags" in best.err
    assert "1 of 6 responses are left out: they do not have one closed" in best.err
    assert "responses_left_out" not in cli(*COMMAND, "-o", out, "-n", 5, "--json").json


def test_one_think_tag_does_not_swallow_the_next_option(cli, tmp_path) -> None:
    """The user saw that --output was missing, which stood there."""
    for swallowed in ("-o", f"--output={tmp_path / 'a.jsonl'}", "--json"):
        wrong = cli(*COMMAND, "-n", 5, "--think-tags", "<plan>", swallowed, tmp_path / "a.jsonl").error
        assert "--think-tags takes two values" in wrong and repr(swallowed) in wrong
    assert "takes two values" in cli("score", "m", "r.jsonl", "--thinking", "--think-tags", "<plan>", "-o", "o").error
    assert "takes two values" in cli("explain", "m", "--think-tags", "-p", "p", "-r", "r").error


def test_bad_rows_of_own_data_can_be_left_out(cli, tmp_path) -> None:
    data, out = tmp_path / "own.jsonl", tmp_path / "out.jsonl"
    good = [{"prompt": f"{n}?", "response": f"<think>\nIt is {n}.\nSo {n}.\n</think>\n\n{n}"} for n in range(4)]
    data.write_text("\n".join(map(json.dumps, good)) + "\n[1, 2]\n", encoding="utf-8")
    assert f"{data}:5" in cli(*COMMAND, "-o", out, "--from", data).error
    found = cli(*COMMAND, "-o", out, "--from", data, "--skip-bad", "--corruptions", "no_thinking")
    assert found.code == 0 and "1 bad row left out" in found.err
    assert len(out.read_text().splitlines()) == 4
    ranked = tmp_path / "ranked.jsonl"
    rows = [{"prompt": row["prompt"], "chosen": row["response"], "rejected": "no"} for row in good]
    ranked.write_text("\n".join(map(json.dumps, rows)) + "\n[1, 2]\n", encoding="utf-8")
    assert "--skip-bad" in cli(*COMMAND, "-o", out, "--from", ranked).err
    assert cli(*COMMAND, "-o", out, "--from", ranked, "--skip-bad").code == 0
