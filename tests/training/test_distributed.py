"""Two processes against one: the same script, the same numbers. On a CPU, with gloo.

A step of two processes with two comparisons each is a step of one with four. What is compared: every number that is
logged at a step or an evaluation, the predictions and the final weights, to 1e-5 in float32 (1e-4 with FSDP2, which
reduces gradients in another order).
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rewardsmith import RewardModel
from tests.training import distributed_script
from tests.training.conftest import chats, texts

LAUNCH = Path(__file__).resolve().parents[2] / "examples" / "launch"
SCRIPT = Path(distributed_script.__file__)
TORCHRUN = "torch.distributed.run"
ACCELERATE = ("accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0")
CLOCKS = ("runtime", "per_second", "preparation_time")
# Means over batches of a batch's extreme: they depend on what a batch is, and two processes have larger ones.
EXTREMES = ("eval_min_reward", "eval_max_reward")

Runs = dict[str, dict[str, Any]]

DDP: Runs = {
    "full": {"config": {"max_steps": 4}},
    "lora": {"adapter": {}, "config": {"max_steps": 4}},
    "full accumulated": {"config": {"gradient_accumulation_steps": 2, "max_steps": 3}},
    "lora accumulated": {"adapter": {}, "config": {"gradient_accumulation_steps": 2, "max_steps": 3}},
    "lists": {
        "train_file": "lists.jsonl",
        "eval_file": "eval_lists.jsonl",
        "config": {"train_sampling_strategy": "sequential", "max_steps": 3},
    },
    "passes": {
        "config": {
            "tokens_per_forward": 120,
            "gradient_accumulation_steps": 2,
            "train_sampling_strategy": "sequential",
            "max_steps": 3,
        }
    },
}
# With dropout, so that a resumed run needs the state of each process's random numbers.
DROPOUT = {"disable_dropout": False, "save_strategy": "steps", "save_steps": 3, "max_steps": 5}
RESUMED: Runs = {
    "whole": {"adapter": {"lora_dropout": 0.2}, "config": DROPOUT},
    "resumed": {"adapter": {"lora_dropout": 0.2}, "config": DROPOUT, "resume": "whole/checkpoint-3"},
}
FSDP2: Runs = {
    "full": {"config": {"max_steps": 3}, "reward_model": True},
    "lora": {"adapter": {}, "config": {"max_steps": 3}, "reward_model": True},
}
# The loss of tokens is a mean over tokens, which processes have unequally many of.
MORE_FSDP2: Runs = {
    "full accumulated": {"config": {"gradient_accumulation_steps": 2, "max_steps": 3}},
    "words": {"config": {"language_model_coefficient": 0.5, "max_steps": 3}},
    "anchored": {"adapter": {}, "config": {"head_anchor": 0.5, "head_learning_rate": 1e-2, "max_steps": 3}},
}


@pytest.fixture(scope="module")
def base(trainable: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and data: 40 pairs and 11, 24 lists of three and four responses and 11."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "base").symlink_to(trainable["qwen3"])
    sizes = {"train": (chats, 40), "eval": (chats, 11), "lists": (lists, 24), "eval_lists": (lists, 11)}
    for name, (make, count) in sizes.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make(count)))
    return folder


def lists(n: int) -> list[dict[str, Any]]:
    """Two lists of three responses, two of four, and so on: each of two processes gets lists of its own length."""
    rows = []
    for i, row in enumerate(texts(n)):
        responses = [row["chosen"], row["rejected"], f"again and again {i}", "fine, thank you"]
        count = 3 + i // 2 % 2
        rows.append({"prompt": row["prompt"], "responses": responses[:count], "ranks": list(range(count))})
    return rows


def arguments(base: Path, where: str, run: dict[str, Any], batch: int) -> dict[str, Any]:
    """Of ``distributed_script.train`` for a run, with ``batch`` comparisons a step on each process."""
    files = {"model": "base", "train_file": "train.jsonl", "eval_file": "eval.jsonl"}
    given = {**files, **run}
    for name in (*files, "resume"):
        if given.get(name) is not None:
            given[name] = str(base / (where if name == "resume" else ".") / given[name])
    return {**given, "config": {"per_device_train_batch_size": batch, **run["config"]}}


def launch(folder: Path, *commands: Sequence[str], **environment: str) -> list[str]:
    """Run modules of Python's side by side to their end; what each process wrote to stderr, where that is redirected.

    Fails with the end of all they wrote.
    """
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    caches = {"HF_DATASETS_CACHE": str(folder / "datasets"), "REWARDSMITH_CACHE": str(folder / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **quiet, **caches, "CUDA_VISIBLE_DEVICES": "", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        written = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            if process.poll() is None:  # it waits for another, for ever
                os.killpg(process.pid, signal.SIGKILL)
    found = [path.read_text() for path in sorted(folder.glob("logs/*/attempt_0/*/stderr.log"))]
    failed = any(process.returncode for process in started)
    assert not failed, "\n".join(text[-2000:] for text in (*found, *written))
    return found


def launch_runs(base: Path, where: str, runs: Runs, *commands: Sequence[str]) -> list[str]:
    """Train every run on two processes, into ``base / where / name``."""
    folder = base / where
    folder.mkdir()
    made = [{"folder": str(folder / name), **arguments(base, where, run, batch=2)} for name, run in runs.items()]
    (folder / "runs.json").write_text(json.dumps(made))
    script = (str(SCRIPT), str(folder / "runs.json"))
    redirect = ("--redirects", "3", "--log-dir", str(folder / "logs"))
    return launch(folder, *([*one, *(redirect if one[0] == TORCHRUN else ()), *script] for one in commands))


def launch_sharded(base: Path, where: str, runs: Runs, **changes: Any) -> None:
    """Train every run on two processes with examples/launch/fsdp2.yaml, with ``changes`` to its FSDP settings."""
    config = yaml.safe_load((LAUNCH / "fsdp2.yaml").read_text())
    config["fsdp_config"] |= changes
    file = base / f"{where}.yaml"
    file.write_text(yaml.safe_dump(config))
    runs = {name: {**run, "sharded": True} for name, run in runs.items()}
    launch_runs(base, where, runs, [*ACCELERATE, "--config_file", str(file)])


def alone(base: Path, where: str, name: str, run: dict[str, Any]) -> Any:
    """Train a run in this process, on batches of four; its trainer."""
    folder = base / f"{where} alone" / name
    return distributed_script.train(str(folder), **arguments(base, where, run, batch=4))


@pytest.fixture(scope="module")
def ddp(base: Path) -> list[str]:
    """All runs with DDP; what each process wrote to stderr."""
    return launch_runs(base, "ddp", DDP | RESUMED, [TORCHRUN, "--standalone", "--nproc-per-node", "2"])


@pytest.fixture(scope="module")
def fsdp2(base: Path) -> None:
    launch_sharded(base, "fsdp2", FSDP2)


@pytest.fixture(scope="module")
def one(base: Path) -> Callable[..., Any]:
    """A run in this process; each is trained once."""
    made: dict[tuple[str, str], Any] = {}

    def get(where: str, name: str, runs: Runs) -> Any:
        if (where, name) not in made:
            made[where, name] = alone(base, where, name, runs[name])
        return made[where, name]

    return get


def result(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{rank}.json").read_text())


def weights(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{rank}.pt", weights_only=True)


def numbers(logs: list[dict[str, float]], *left_out: str) -> list[dict[str, float]]:
    """The logs without what a clock says."""
    return [
        {name: value for name, value in entry.items() if name not in left_out and not name.endswith(CLOCKS)}
        for entry in logs
    ]


def assert_same_run(found: Path, expected: Path, tolerance: float) -> None:
    """Two processes logged, predicted and learnt what one did."""
    two, single = result(found), result(expected)
    assert (two["processes"], single["processes"]) == (2, 1)
    assert two["steps"] == single["steps"] == list(range(1, len(two["steps"]) + 1))
    for a, b in zip(numbers(two["logs"], *EXTREMES), numbers(single["logs"], *EXTREMES), strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    for a, b in zip(two["predictions"], single["predictions"], strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    assert_same_weights(weights(found), weights(expected), tolerance)


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


# -- DDP


@pytest.mark.parametrize("name", DDP)
def test_ddp_trains_as_one_process_does(ddp: list[str], base: Path, one: Callable[..., Any], name: str) -> None:
    one("ddp", name, DDP)
    assert result(base / "ddp" / name)["kind"] == "MULTI_CPU"
    assert_same_run(base / "ddp" / name, base / "ddp alone" / name, 1e-5)
    losses = [entry["loss"] for entry in result(base / "ddp" / name)["logs"] if "loss" in entry]
    assert len(set(losses)) == len(losses) > 2  # something was learnt from something


@pytest.mark.parametrize("name", [*DDP, *RESUMED])
def test_ddp_keeps_the_processes_alike(ddp: list[str], base: Path, name: str) -> None:
    folder = base / "ddp" / name
    assert_same_weights(weights(folder, 1), weights(folder, 0), 0.0)
    first, second = (numbers(result(folder, rank)["logs"]) for rank in (0, 1))
    assert first == second


def test_processes_had_lists_of_their_own_length_and_passes_of_their_own_number(
    ddp: list[str], one: Callable[..., Any]
) -> None:
    """What the runs ``lists`` and ``passes`` are there for: unequal work, without anyone waiting for ever."""
    lengths, passes = [], []
    for name, found in (("lists", lengths), ("passes", passes)):
        trainer = one("ddp", name, DDP)
        rows = trainer.train_dataset.to_list()
        for start in range(0, 12, 2):
            batch = rows[start : start + 2]
            found.append(len(batch[0]["ids"]) if name == "lists" else len(trainer.data_collator(batch)["passes"]))
    assert lengths == [3, 4] * 3
    assert any(a != b for a, b in zip(passes[::2], passes[1::2], strict=True))


def test_an_uneven_evaluation_counts_every_row_once(ddp: list[str], base: Path) -> None:
    """Eleven rows in batches of four on two processes: the last batch repeats rows, which must not count."""
    folder = base / "ddp" / "full"
    found = result(folder)
    assert [len(row) for row in found["predictions"]] == [2] * 11
    model = RewardModel.load(folder / "saved", dtype="float32")
    rows = [json.loads(line) for line in (base / "eval.jsonl").read_text().splitlines()]
    rewards = [[model.score(row["prompt"], row[name]) for name in ("chosen", "rejected")] for row in rows]
    for row, expected in zip(found["predictions"], rewards, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    margins = [chosen - rejected for chosen, rejected in rewards]
    logged = found["logs"][-1]
    assert logged["eval_rows"] == 11
    assert logged["eval_loss"] == pytest.approx(sum(math.log1p(math.exp(-d)) for d in margins) / 11, abs=1e-4)
    assert logged["eval_accuracy"] == pytest.approx(sum(d > 0 for d in margins) / 11)
    assert logged["eval_margin"] == pytest.approx(sum(margins) / 11, abs=1e-4)
    assert logged["eval_mean_reward"] == pytest.approx(sum(map(sum, rewards)) / 22, abs=1e-4)


def test_an_uneven_evaluation_of_lists_counts_every_list_once(ddp: list[str], base: Path) -> None:
    found = result(base / "ddp" / "lists")
    rewards = [[reward for reward in row if reward != -100] for row in found["predictions"]]
    assert [len(row) for row in rewards] == [3 + i // 2 % 2 for i in range(11)]
    losses, margins, right = [], [], []
    for row in rewards:
        pairs = [better - worse for i, better in enumerate(row) for worse in row[i + 1 :]]
        losses.append(sum(math.log1p(math.exp(-d)) for d in pairs) / len(pairs))
        margins.append(sum(pairs) / len(pairs))
        right += [d > 0 for d in pairs]
    logged = found["logs"][-1]
    assert logged["eval_loss"] == pytest.approx(sum(losses) / 11, abs=1e-5)
    assert logged["eval_margin"] == pytest.approx(sum(margins) / 11, abs=1e-5)
    assert logged["eval_accuracy"] == pytest.approx(sum(right) / len(right))
    assert logged["eval_mean_reward"] == pytest.approx(sum(map(sum, rewards)) / sum(map(len, rewards)), abs=1e-5)


def test_a_run_resumed_on_two_processes_goes_on_as_if_never_stopped(ddp: list[str], base: Path) -> None:
    whole, resumed = (base / "ddp" / name for name in RESUMED)
    assert result(resumed)["steps"] == [4, 5] and result(whole)["steps"] == [1, 2, 3, 4, 5]
    # but for the mean of all losses, which transformers takes over the steps of this process
    pairs = [numbers(result(folder)["logs"], "train_loss", "total_flos") for folder in (resumed, whole)]
    assert pairs[0] == pairs[1]
    assert_same_weights(weights(resumed), weights(whole), 0.0)


def test_text_is_rendered_once_and_messages_come_once(ddp: list[str]) -> None:
    main, other = ddp
    files = 4  # train, eval, lists, eval_lists
    assert main.count("Caching processed dataset") == files
    assert other.count("Caching processed dataset") == 0
    assert other.count("Loading cached processed dataset") >= files
    warning = "added to modules_to_save"  # the adapters of these runs are not said to be for classification
    adapters = sum("adapter" in run for run in (DDP | RESUMED).values())
    assert (main.count(warning), other.count(warning)) == (adapters, 0)


# -- FSDP2


@pytest.mark.parametrize("name", FSDP2)
def test_fsdp2_trains_as_one_process_does(fsdp2: None, base: Path, one: Callable[..., Any], name: str) -> None:
    one("fsdp2", name, FSDP2)
    assert result(base / "fsdp2" / name)["kind"] == "FSDP"
    assert_same_run(base / "fsdp2" / name, base / "fsdp2 alone" / name, 1e-4)


@pytest.mark.parametrize("name", FSDP2)
def test_what_fsdp2_saves_loads_whole(fsdp2: None, base: Path, one: Callable[..., Any], name: str) -> None:
    """``reward_model()`` gathers the parts, and merges adapters; ``save_model`` writes weights or the adapter."""
    one("fsdp2", name, FSDP2)
    sharded, whole = base / "fsdp2" / name, base / "fsdp2 alone" / name
    prompts, responses = ["what is 15?", "how are you?"], ["42", "fine, thank you"]
    models = [RewardModel.load(folder / "reward_model", dtype="float32") for folder in (sharded, whole)]
    found, expected = (model.score_batch(prompts, responses) for model in models)
    assert found == pytest.approx(expected, abs=1e-4)
    assert models[0].contract.training == models[1].contract.training
    file = "model.safetensors" if name == "full" else "adapter_model.safetensors"
    assert (sharded / "saved" / file).stat().st_size == (whole / "saved" / file).stat().st_size
    if name == "full":
        saved = RewardModel.load(sharded / "saved", dtype="float32")
        assert saved.score_batch(prompts, responses) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_FSDP2)
def test_fsdp2_with_what_else_enters_the_loss(base: Path, one: Callable[..., Any], name: str) -> None:
    if not (base / "more fsdp2").exists():
        launch_sharded(base, "more fsdp2", MORE_FSDP2)
    one("more fsdp2", name, MORE_FSDP2)
    assert_same_run(base / "more fsdp2" / name, base / "more fsdp2 alone" / name, 1e-4)


@pytest.mark.slow
def test_fsdp2_as_accelerate_config_writes_it(base: Path, one: Callable[..., Any]) -> None:
    """Weights loaded by one process, its own checkpointing of activations, checkpoints in parts: resume, then merge."""
    own = {"gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    runs: Runs = {
        "whole": {"config": own, "reward_model": True},
        "resumed": {"config": own, "resume": "whole/checkpoint-2"},
    }
    launch_sharded(
        base,
        "accelerate config",
        runs,
        fsdp_cpu_ram_efficient_loading=True,
        fsdp_activation_checkpointing=True,
        fsdp_state_dict_type="SHARDED_STATE_DICT",
    )
    one("accelerate config", "whole", runs)
    folder, expected = base / "accelerate config", base / "accelerate config alone"
    assert_same_run(folder / "whole", expected / "whole", 1e-4)
    assert result(folder / "resumed")["steps"] == [3]
    assert_same_weights(weights(folder / "resumed"), weights(folder / "whole"), 1e-6)
    scores = [
        RewardModel.load(one / "whole" / "reward_model").score("how are you?", "fine") for one in (folder, expected)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.slow
def test_fsdp2_in_bfloat16_keeps_rewards_in_float32(base: Path) -> None:
    """FSDP2 casts weights and outputs to bfloat16; rewards that close would tie."""
    runs: Runs = {
        "full": {"config": {"bf16": True, "max_steps": 3}, "reward_model": True},
        "lora": {"adapter": {}, "config": {"bf16": True, "max_steps": 3}, "reward_model": True},
    }
    launch_sharded(base, "bfloat16", runs)
    for name in runs:
        rewards = torch.tensor(result(base / "bfloat16" / name)["predictions"])
        assert (rewards.bfloat16().float() != rewards).float().mean() > 0.9
        found = RewardModel.load(base / "bfloat16" / name / "reward_model", dtype="float32")
        rows = [json.loads(line) for line in (base / "eval.jsonl").read_text().splitlines()]
        expected = [[found.score(row["prompt"], row[key]) for key in ("chosen", "rejected")] for row in rows]
        torch.testing.assert_close(rewards, torch.tensor(expected), rtol=0, atol=0.1)


# -- streams, machines, launchers


@pytest.mark.slow
def test_two_machines_a_stream_and_tokens_to_predict(base: Path, one: Callable[..., Any]) -> None:
    """Two machines of one process each: two torchrun that meet at a port."""
    runs: Runs = {
        "stream": {"stream": True, "config": {"max_steps": 4}},
        "words": {"config": {"language_model_coefficient": 0.5, "max_steps": 3}},
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meet = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    launch_runs(base, "machines", runs, *([TORCHRUN, *meet, "--node-rank", rank] for rank in "01"))
    for name in runs:
        one("machines", name, runs)
        assert_same_run(base / "machines" / name, base / "machines alone" / name, 1e-5)


@pytest.mark.slow
def test_the_example_trains_on_a_cpu_under_accelerate(base: Path) -> None:
    """``accelerate launch`` starts two processes on a machine without GPU; the example finds the other by itself."""
    folder = base / "example"
    folder.mkdir()
    options = ["--model", str(base / "base"), "--data", str(base / "train.jsonl"), "--output_dir", str(folder / "out")]
    options += ["--eval_data", str(base / "eval.jsonl"), "--lora_rank", "4", "--max_steps", "3", "--report_to", "none"]
    launch(folder, [*ACCELERATE, "--config_file", str(LAUNCH / "ddp.yaml"), str(LAUNCH / "train.py"), *options])
    state = json.loads((folder / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["epoch"] == 1.0  # three steps, each of eight comparisons of both processes, go through forty
    assert RewardModel.load(folder / "out" / "reward_model").contract.training["steps"] == 3


def test_every_setting_of_the_examples_is_one_that_accelerate_knows() -> None:
    """It takes misspelt FSDP and DeepSpeed settings without a word."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    known = set(vars(launch_command_parser().parse_args(["script.py"])))
    files = sorted(LAUNCH.glob("*.yaml"))
    assert {file.stem for file in files} >= {"ddp", "fsdp2"}
    for file in files:
        config = load_config_from_file(str(file))
        for part in (config.fsdp_config, config.deepspeed_config):
            assert set(part) <= known, file.name
