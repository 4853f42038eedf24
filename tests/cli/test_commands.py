"""Each command does its work on a tiny model, and reports to people and to machines."""

from __future__ import annotations

import json
import shutil

import pytest

from rewardsmith.model.reward_model import RewardModel
from tests import tiny
from tests.cli.conftest import COMMAND, pairs, save
from tests.data.samples import SAMPLES

ESTIMATE = {"value", "low", "high", "n"}
COMMANDS = {
    **{(name,): command for name, command in COMMAND.commands.items() if name != "data"},  # type: ignore[attr-defined]
    **{("data", name): command for name, command in COMMAND.commands["data"].commands.items()},  # type: ignore[attr-defined]
}


def estimates(found: object, path: str = "") -> dict[str, dict]:
    """Every estimate in a report, by where it is."""
    if not isinstance(found, dict):
        return {}
    if found.keys() >= ESTIMATE:
        assert found["low"] - 1e-9 <= found["value"] <= found["high"] + 1e-9, (path, found)
        return {path: found}
    return {k: v for name, item in found.items() for k, v in estimates(item, f"{path}/{name}").items()}


# -- help


def test_the_commands_that_there_are(cli) -> None:
    assert {" ".join(names) for names in COMMANDS} == {
        *("demo", "plan", "train", "merge", "evaluate", "score", "compare", "info"),
        *("explain", "shape", "best-of-n", "score-steps"),
        *("data check", "data convert", "data split", "data synthesize"),
    }
    bare = cli("--help")
    assert bare.code == 0
    assert all(name[0] in bare.out for name in COMMANDS)
    nothing = cli()
    assert "rewardsmith [OPTIONS] COMMAND" in nothing.out + nothing.err
    assert cli("--version").out.startswith("rewardsmith ")


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help(cli, names) -> None:
    command = COMMANDS[names]
    assert command.help
    for option in command.params:
        assert getattr(option, "help", None), f"{' '.join(names)} {option.name} has no help"
    text = cli(*names, "-h")
    assert text.code == 0
    assert not text.err
    long = [name for option in command.params for name in option.opts if name.startswith("--") and len(name) < 24]
    assert [name for name in long if name not in text.out] == []


# -- train


def test_train_then_everything_else(cli, bases, data, tmp_path) -> None:
    out, cache = tmp_path / "new" / "rm", tmp_path / "cache"
    arguments = ["train", "--data", data["train"], "--eval-data", data["test"], "-o", out, "-b", bases["llama"]]
    first = cli(*arguments, "--cache", cache)
    assert first.code == 0
    assert "held-out accuracy" in first.out and "cross-validated accuracy" in first.out
    assert "features: " in first.err and "evaluating: " in first.err  # progress goes to standard error
    assert "tokens" not in first.out.replace("tokens, prompts once", "")
    shutil.rmtree(out)
    report = cli(*arguments, "--cache", cache, "--ridge", "0.5", "--json", "-q").json
    assert report["ridge"] == 0.5
    assert report["cross_validation"] is None
    assert report["seconds"]["features"] < 0.5  # all of them were cached
    assert report["model"] == str(out)
    assert report["comparisons"] == 40
    assert report["dropped"] == {}
    assert report["evaluation"]["accuracy"]["n"] == 20
    measured = cli("evaluate", out, "-d", data["test"], "--json", "-q").json
    assert {name: measured[name] for name in report["evaluation"]} == report["evaluation"]
    assert cli("info", out, "--verify", "--json").json["metrics"]["held-out accuracy"] == measured["accuracy"]
    assert f"{measured['accuracy']['value']:.3f} [" in (out / "README.md").read_text()
    again = cli(*arguments, "--cache", cache, "--normalise", "--layer", "2", "--pooling", "mean", "-q", "--json").json
    assert (again["layers"], again["pooling"]) == (2, "mean")  # an older model of ours is replaced
    assert again["cross_validation"]["accuracy"].keys() == ESTIMATE


def test_trap_20_every_accuracy_that_train_reports_has_an_interval(cli, bases, data, tmp_path) -> None:
    arguments = ["train", "-d", data["train"], "--eval-data", data["test"], "-b", bases["llama"], "-o", tmp_path / "rm"]
    done = cli(*arguments, "--cache", tmp_path / "c", "--layer", "auto", "--json")
    report = done.json
    found = estimates(report)
    assert {"/cross_validation/accuracy", "/evaluation/accuracy", "/evaluation/longer_wins"} <= found.keys()
    assert {"/evaluation/difference", "/evaluation/subsets/even", "/evaluation/subsets/odd"} <= found.keys()
    assert not bare_accuracies(report)
    assert not bare_accuracies(json.loads((tmp_path / "rm" / "reward_contract.json").read_text()))


def bare_accuracies(found: object, path: str = "") -> list[str]:
    """Where a number is called an accuracy and has no interval."""
    if isinstance(found, dict) and not found.keys() >= ESTIMATE:
        return [bad for name, item in found.items() for bad in bare_accuracies(item, f"{path}/{name}")]
    return [path] if isinstance(found, (int, float)) and ("accuracy" in path or "wins" in path) else []


def test_train_skip_bad_writes_the_rejects(cli, bases, tmp_path) -> None:
    rows = save(tmp_path / "rows.jsonl", [*pairs(20), {"prompt": "p", "chosen": "", "rejected": "b"}])
    arguments = ["train", "-d", rows, "-b", bases["llama"], "--cache", tmp_path / "c", "--ridge", "1", "--json"]
    refused = cli(*arguments, "-o", tmp_path / "rm")
    assert refused.code == 2
    assert f"{rows}:21: chosen: is empty" in refused.err
    assert not (tmp_path / "rm").exists()
    assert not (tmp_path / "rm.rejects.jsonl").exists()
    done = cli(*arguments, "-o", tmp_path / "rm", "--skip-bad")
    assert done.json["comparisons"] == 20
    (reject,) = (json.loads(line) for line in (tmp_path / "rm.rejects.jsonl").read_text().splitlines())
    assert (reject["line"], reject["file"]) == (21, str(rows))
    own = cli(*arguments, "-o", tmp_path / "rm2", "-d", rows, "--skip-bad", "--rejects", tmp_path / "r.jsonl")
    assert own.json["comparisons"] == 40
    assert (tmp_path / "r.jsonl").is_file()
    assert (tmp_path / "r.jsonl.1").is_file()


def test_train_reports_what_it_dropped(cli, bases, tmp_path) -> None:
    rows = save(tmp_path / "rows.jsonl", [*pairs(20), {"prompt": "p", "chosen": "fox " * 90, "rejected": "b"}])
    arguments = ["train", "-d", rows, "-b", bases["llama"], "-o", tmp_path / "rm", "--cache", tmp_path / "c"]
    done = cli(*arguments, "--ridge", "1", "--max-length", "64", "--json").json
    assert done["dropped"] == {"longer than max_length": 1}
    assert done["comparisons"] == 20


def test_train_with_token_ids_held_out(cli, bases, data, tmp_path) -> None:
    """They have no length in characters, so there is no baseline of the longer one."""
    held_out = save(
        tmp_path / "ids.jsonl", [{"chosen_ids": [5, 6, i], "rejected_ids": [5, 7, i]} for i in range(9, 20)]
    )
    arguments = ["train", "-d", data["train"], "--eval-data", held_out, "-b", bases["llama"], "-o", tmp_path / "rm"]
    done = cli(*arguments, "--ridge", "1", "--cache", tmp_path / "c")
    assert done.code == 0
    assert "held-out accuracy" in done.out and "longer wins" not in done.out
    assert "longer wins" not in (tmp_path / "rm" / "README.md").read_text()
    assert cli("evaluate", tmp_path / "rm", "-d", held_out).code == 0


def test_an_encoder_trains_and_scores(cli, bases, data, tmp_path) -> None:
    arguments = ["train", "-d", data["train"], "-b", bases["bert"], "-o", tmp_path / "rm", "--cache", tmp_path / "c"]
    assert cli(*arguments, "--ridge", "1", "-q").code == 0
    assert (
        cli("compare", tmp_path / "rm", "-p", "q", "-a", "fox fox fox", "-b", "dog", "--json").json["probability"] > 0.5
    )


# -- evaluate


def test_evaluate(cli, model, data) -> None:
    done = cli("evaluate", model, "-d", data["test"], "--json")
    report = done.json
    assert "evaluating: " in done.err
    assert report["accuracy"].keys() == report["longer_wins"].keys() == ESTIMATE
    assert report["accuracy"]["n"] == report["pairs"] == 20
    assert report["subsets"].keys() == {"even", "odd"}
    shown = cli("evaluate", model, "-d", data["test"], "-d", data["train"], "-q")
    assert not shown.err
    assert "longer wins (baseline, in characters)" in shown.out and "subset even" in shown.out
    assert not bare_accuracies(report)


def test_evaluate_min_accuracy_is_an_exit_code_for_ci(cli, model, data) -> None:
    low = cli("evaluate", model, "-d", data["train"], "--json", "-q").json["accuracy"]["low"]
    assert 0 < low < 1
    passed = cli("evaluate", model, "-d", data["train"], "--min-accuracy", low - 1e-6, "--json", "-q")
    failed = cli("evaluate", model, "-d", data["train"], "--min-accuracy", low + 1e-6, "--json", "-q")
    assert (passed.code, failed.code) == (0, 1)
    assert failed.json == passed.json  # the report is there all the same
    assert "is below --min-accuracy" in failed.err and not passed.err


def test_evaluate_skip_bad(cli, model, tmp_path) -> None:
    rows = save(tmp_path / "rows.jsonl", [*pairs(20), {"prompt": "p", "chosen": "", "rejected": "b"}])
    refused = cli("evaluate", model, "-d", rows)
    assert refused.code == 2 and f"{rows}:21: chosen: is empty" in refused.err
    assert cli("evaluate", model, "-d", rows, "--skip-bad", "--json").json["comparisons"] == 20


# -- score


ROWS = [{"prompt": f"q{i % 4}", "response": "fox " * (i % 5)} for i in range(12)]


def test_score_to_a_file_and_to_standard_output(cli, model, tmp_path) -> None:
    rows = save(tmp_path / "rows.jsonl", ROWS)
    done = cli("score", model, rows, "-o", tmp_path / "o.jsonl", "--json")
    assert done.json == {"output": str(tmp_path / "o.jsonl"), "rows": 12, "resumed": 0, "bad": 0, "truncated": 0}
    streamed = cli("score", model, rows)
    assert streamed.out == (tmp_path / "o.jsonl").read_text()
    assert not streamed.err
    piped = cli("score", model, "-", stdin=rows.read_bytes())
    assert piped.out == streamed.out
    loaded = RewardModel.load(model)
    found = [json.loads(line) for line in piped.out.splitlines()]
    assert [row["reward"] for row in found] == loaded.score_batch(
        [r["prompt"] for r in ROWS], [r["response"] for r in ROWS]
    )
    assert all(row["reward_se"] > 0 for row in found)
    noted = cli("score", model, rows, "-o", tmp_path / "o.csv")
    assert not noted.out
    assert noted.err.splitlines()[-1] == f"12 rows saved to {tmp_path / 'o.csv'}"
    assert not cli("score", model, rows, "-o", tmp_path / "o.csv", "-q").err


def test_score_named_fields_and_skip_bad(cli, model, tmp_path) -> None:
    rows = save(tmp_path / "rows.jsonl", [{"ask": "p", "say": "fox"}, {"ask": "p", "say": 3}])
    arguments = ["score", model, rows, "--prompt-field", "ask", "--response-field", "say"]
    done = cli(*arguments, "-o", tmp_path / "o.jsonl", "--skip-bad", "--json")
    assert (done.json["rows"], done.json["bad"]) == (2, 1)
    found = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert found[0]["reward"] == RewardModel.load(model).score("p", "fox")
    assert found[1]["reward"] is None and f"{rows}:2: say: is 3" in found[1]["reward_error"]
    noted = cli(*arguments, "-o", tmp_path / "o.jsonl", "--skip-bad")
    assert noted.err.endswith("(1 bad)\n")


def test_score_goes_on_where_it_was(cli, model, tmp_path, monkeypatch) -> None:
    from rewardsmith.scoring import score_file

    monkeypatch.setattr(score_file, "CHUNK", 4)
    rows = save(tmp_path / "rows.jsonl", [*ROWS[:10], {"prompt": "p"}, ROWS[11]])
    assert cli("score", model, rows, "-o", tmp_path / "o.jsonl").code == 2
    assert (tmp_path / "o.jsonl.partial").is_file()
    assert cli("score", model, rows, "-o", tmp_path / "o.jsonl").code == 2
    assert not (tmp_path / "o.jsonl").exists()
    again = cli("score", model, rows, "-o", tmp_path / "o.jsonl", "--skip-bad", "--json").json
    assert again["resumed"] == 0  # another question
    assert not (tmp_path / "o.jsonl.partial").exists()


# -- compare and info


def test_compare(cli, model, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("fox fox")
    done = cli("compare", model, "-p", "question", "-a", f"@{tmp_path / 'a.txt'}", "-b", "dog", "--json")
    loaded = RewardModel.load(model)
    assert done.json["probability"] == loaded.compare("question", "fox fox", "dog")
    assert done.json["a"]["reward"] - done.json["b"]["reward"] == pytest.approx(
        loaded.score("question", "fox fox") - loaded.score("question", "dog"), abs=1e-5
    )
    assert not done.err
    shown = cli("compare", model, "-p", "question", "-a", "fox fox", "-b", "dog")
    assert f"P(a preferred to b) = {done.json['probability']:.3f}" in shown.out and "std. error" in shown.out


def test_compare_shows_responses_as_they_are(cli, model) -> None:
    """Square brackets are common in prompts ([INST], [/THINK]) and are no markup; :x: is no picture."""
    done = cli("compare", model, "-p", "q", "-a", "[/INST] [red]fox", "-b", ":fox:")
    assert done.code == 0
    assert "[/INST] [red]fox" in done.out and ":fox:" in done.out


def test_info(cli, model) -> None:
    done = cli("info", model, "--verify", "--json")
    report = done.json
    assert not done.err
    assert (report["architecture"], report["goldens"], report["goldens_verified"]) == (
        "LlamaForSequenceClassification",
        6,
        6,
    )
    assert report["standard_errors"] is True and report["shares_prompts"] is True
    shown = cli("info", model)
    assert shown.code == 0 and "LlamaForSequenceClassification" in shown.out


@pytest.mark.parametrize("command", [["info"], ["compare", "-p", "q", "-a", "x", "-b", "y"], ["score"], ["evaluate"]])
def test_a_contract_that_does_not_hold_is_exit_code_3(cli, model, data, tmp_path, command) -> None:
    shutil.copytree(model, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text(tiny.CHATML + "{{ '\n' }}")
    rows = save(tmp_path / "rows.jsonl", ROWS)
    rest = {"score": [rows, "-o", tmp_path / "o.jsonl"], "evaluate": ["-d", data["test"]]}.get(command[0], [])
    done = cli(command[0], tmp_path / "rm", *command[1:], *rest)
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'rm'}: the template no longer matches reward_contract.json")
    assert not done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rm", "rows.jsonl"]


def test_other_shapes_of_data_train_too(cli, bases, tmp_path) -> None:
    rows = save(tmp_path / "hh.jsonl", SAMPLES["hh"] * 3)
    arguments = ["train", "-d", rows, "-b", bases["llama"], "-o", tmp_path / "rm", "--cache", tmp_path / "c"]
    assert cli(*arguments, "--ridge", "1", "--format", "hh", "--json").json["comparisons"] == 3
    wrong = cli(*arguments, "--ridge", "1", "--format", "nonsense", "-q")
    assert "nonsense" in wrong.error


def test_names_with_brackets(cli, bases, tmp_path) -> None:
    folder = tmp_path / "a [/b] :fox:"
    folder.mkdir(parents=True)
    rows = save(folder / "[red].jsonl", pairs(20))
    out = folder / "rm"
    arguments = ["train", "-d", rows, "--eval-data", rows, "-b", bases["llama"], "-o", out, "--cache", tmp_path / "c"]
    assert cli(*arguments, "--ridge", "1").code == 0
    assert cli("evaluate", out, "-d", rows).code == 0
    assert cli("info", out).code == 0
    assert cli("score", out, rows, "-o", folder / "o.jsonl").code == 0


def test_train_warns_of_leaked_prompts_and_of_a_head_that_knows_nothing(cli, bases, tmp_path) -> None:
    rows = [{"prompt": f"q {k}", "chosen": f"a {k % 3}", "rejected": f"b {k % 5}"} for k in range(6)]
    data = tmp_path / "few.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli(
        "train",
        "--base",
        str(bases["llama"]),
        "--data",
        str(data),
        "--eval-data",
        str(data),
        "-o",
        str(tmp_path / "x"),
        "--json",
    )
    assert json.loads(done.out)["leaked_prompts"] == 6
    assert "warning: 6 held-out comparisons have a prompt that is also in the training data" in done.err
