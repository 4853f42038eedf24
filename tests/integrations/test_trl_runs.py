"""Real GRPO and RLOO runs of TRL, tiny, on a CPU: what the trainer logs is what the scorer and the shaping give."""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from rewardsmith.cli import main
from rewardsmith.integrations.held_out import HeldOut
from rewardsmith.integrations.history import read_history
from rewardsmith.integrations.keep_shaping import KeepShaping
from rewardsmith.integrations.trl import RewardFunction
from rewardsmith.integrations.watch import RewardWatch
from rewardsmith.scoring.scorer import Scorer
from rewardsmith.shaping import Context, Pipeline, parse
from tests.integrations.conftest import LOAD, user

datasets.disable_progress_bars()
transformers.utils.logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)

ALGORITHMS = ["GRPO", "RLOO"]
SHAPING = "length_penalty(per_token=0.05), group_zscore, clip(low=-1, high=1)"


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def train(
    algorithm: str,
    policy: Path,
    folder: Path,
    rewards: list[Any],
    *,
    callbacks: Any = (),
    chat: bool = True,
    resume: str | None = None,
    **more: Any,
) -> Any:
    """Two steps of 2 prompts x 4 completions each."""
    settings = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "logging_steps": 1,
        "beta": 0.1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    args = getattr(trl, f"{algorithm}Config")(str(folder), **{**settings, **more})
    texts = [f"what is {i} + 27? " * (i + 1) for i in range(4)]
    rows = Dataset.from_list([{"prompt": [user(text)] if chat else text, "ref": 0.5} for text in texts])
    trainer = getattr(trl, f"{algorithm}Trainer")(
        model=str(policy),
        reward_funcs=rewards,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=list(callbacks),
    )
    trainer.tables = next((one for one in callbacks if isinstance(one, Tables)), Tables())
    trainer.tables.trainer = trainer
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Tables(TrainerCallback):
    """The trainer's table of completions at each step; only GRPO writes it to a file."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.found: list[pd.DataFrame] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "grad_norm" in logs:
            held = self.trainer._logs
            parts = {"prompt": held["prompt"], "completion": held["completion"], **held["rewards"], **held["extra"]}
            self.found.append(pd.DataFrame({name: list(values) for name, values in parts.items()}))


def steps(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


def wanted(model: Any, step: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Raw and shaped rewards of one step's completions, by scorer and pipeline alone."""
    prompts = [[dict(turn) for turn in turns] for turns in step["prompt"]]
    completions = [[dict(turn) for turn in turns] for turns in step["completion"]]
    scored = Scorer(model).score(prompts, completions)
    raw = [one.reward for one in scored]
    groups = [turns[0]["content"] for turns in prompts]
    context = Context(groups=groups, lengths=[one.response_tokens for one in scored])
    return raw, parse(SHAPING)(raw, context)


def gold(prompts: list, completions: list, **columns: Any) -> list[float]:
    return [float(len(one[0]["content"])) for one in completions]


@pytest.fixture(scope="module", params=ALGORITHMS)
def run(request, model, saved, policy, tmp_path_factory) -> SimpleNamespace:
    """Four weighted rewards: shaped, raw, TRL's own loader for the same folder, one to watch; with evaluation."""
    folder = tmp_path_factory.mktemp(request.param)
    shaped = RewardFunction(saved, SHAPING, "ours", load=LOAD)
    seen = RewardWatch(shaped, gold, path=folder / "watch.jsonl")
    evaluated = RewardWatch("ours", "gold", evaluation=True)
    trainer = train(
        request.param,
        policy,
        folder,
        [shaped, RewardFunction(model, name="raw"), str(saved), gold],
        reward_weights=[1.0, 0.0, 0.5, 0.0],
        callbacks=[Tables(), seen, evaluated],
        eval_strategy="steps",
        eval_steps=2,
    )
    return SimpleNamespace(trainer=trainer, seen=seen, evaluated=evaluated, folder=folder)


def test_the_log_has_the_scorers_rewards_row_by_row(run, model) -> None:
    assert run.trainer.reward_func_names == ["ours", "raw", "rm", "gold"]
    tables = run.trainer.tables.found
    assert [len(table) for table in tables] == [8, 8]
    for table, logs in zip(tables, steps(run.trainer), strict=True):
        expected_raw, expected = wanted(model, table)
        assert table["ours"].tolist() == pytest.approx(expected, abs=2e-4)
        assert table["ours/shaped"].tolist() == pytest.approx(expected, abs=2e-4)
        assert table["ours/raw"].tolist() == pytest.approx(expected_raw, abs=1e-4)
        assert table["raw"].tolist() == pytest.approx(expected_raw, abs=1e-4)
        assert table["rm"].tolist() == pytest.approx(expected_raw, abs=1e-4)  # a plain path, by TRL's own loader
        assert table["raw"].std() > 0.1
        assert logs["rewards/ours/mean"] == pytest.approx(sum(expected) / 8, abs=2e-4)
        assert logs["rewards/ours/raw_mean"] == pytest.approx(sum(expected_raw) / 8, abs=1e-4)
        assert logs["rewards/raw/std"] == pytest.approx(logs["rewards/raw/raw_std"], abs=1e-3)
        assert logs["rewards/ours/saturated"] == pytest.approx(sum(abs(value) >= 1 for value in expected) / 8)
        assert logs["reward"] == pytest.approx((sum(expected) + 0.5 * sum(expected_raw)) / 8, abs=2e-4)


def test_the_command_line_gives_the_logged_rewards_row_by_row(run, saved, tmp_path, monkeypatch) -> None:
    """Promise 1, literally: what the trainer logged, written as rows and scored by ``rewardsmith score --shaping``."""
    table = run.trainer.tables.found[-1]
    plain = [[[dict(turn) for turn in turns] for turns in table[name]] for name in ("prompt", "completion")]
    groups: dict[str, dict[str, Any]] = {}
    for prompt, completion, logged in zip(*plain, table["ours"], strict=True):
        row = groups.setdefault(prompt[0]["content"], {"prompt": prompt, "responses": [], "logged": []})
        row["responses"].append(completion)
        row["logged"].append(float(logged))
    source, output = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in groups.values()))
    argv = ["rewardsmith", "score", saved, source, "-o", output, "--shaping", SHAPING, "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", [*map(str, argv), "--device", "cpu", "-q"])
    with pytest.raises(SystemExit) as end:
        main.run()
    assert not end.value.code
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert sum(len(row["logged"]) for row in rows) == 8
    for row in rows:
        assert row["shaped"] == pytest.approx(row["logged"], abs=2e-4)
        assert len(set(row["logged"])) > 1


def test_a_running_normaliser_survives_a_resumed_run(model, policy, tmp_path, caplog) -> None:
    def trained(name: str, steps: int, **more: Any) -> Any:
        reward = RewardFunction(model, "running", "ours")
        transformers.set_seed(0)
        kept = {"save_strategy": "steps", "save_steps": 1, "seed": 0}
        train(
            "GRPO", policy, tmp_path / name, [reward], callbacks=[KeepShaping(reward)], max_steps=steps, **kept, **more
        )
        return reward.judge.shaping.steps[0]

    whole = trained("whole", 2)
    first = Pipeline.load(tmp_path / "whole" / "checkpoint-1" / "ours.shaping.json").steps[0]
    assert (first.count_, whole.count_) == (8, 16)
    again = trained("whole", 2, resume=str(tmp_path / "whole" / "checkpoint-1"))
    assert again.count_ == 16 and "begins anew" not in caplog.text
    assert again.mean_ == pytest.approx(whole.mean_, abs=1e-4)


def test_watch_follows_a_run(run) -> None:
    logged = steps(run.trainer)
    assert [record["step"] for record in run.seen.history] == [1, 2]
    for record, logs in zip(run.seen.history, logged, strict=True):
        assert record["proxy"] == logs["rewards/ours/raw_mean"] != logs["rewards/ours/mean"]
        assert record["held_out"] == logs["rewards/gold/mean"]
        assert record["kl"] == logs["kl"]
        assert record["length"] == logs["completions/mean_length"]
    assert run.seen.history[0]["gap"] == 0
    assert read_history(run.folder / "watch.jsonl") == run.seen.history


def test_watch_follows_the_evaluation(run) -> None:
    (record,) = run.evaluated.history
    (logs,) = [entry for entry in run.trainer.state.log_history if "eval_reward" in entry]
    assert record["step"] == 2
    assert record["proxy"] == logs["eval_rewards/ours/raw_mean"]
    assert record["held_out"] == logs["eval_rewards/gold/mean"]
    assert record["length"] == logs["eval_completions/mean_length"]


def test_a_policy_with_text_prompts(model, policy, tmp_path) -> None:
    """Standard data: a text is a user's turn, as in ``rewardsmith score``; TRL's own loader would glue the two."""
    reward = RewardFunction(model, name="raw")
    trainer = train("GRPO", policy, tmp_path, [reward], callbacks=[Tables()], chat=False, max_steps=1)
    (found,) = trainer.tables.found
    expected = [one.reward for one in Scorer(model).score(found["prompt"].tolist(), found["completion"].tolist())]
    assert found["raw"].tolist() == pytest.approx(expected, abs=1e-4)


def test_watch_can_generate_for_prompts_of_its_own(model, policy, tmp_path) -> None:
    asked = []

    def judge(
        prompts: list, completions: list, completion_ids: list, answer: list, **columns: Any
    ) -> list[float | None]:
        asked.append((prompts, completions, completion_ids, answer))
        return [None, 1.0, 3.0]

    def trained(folder: Path, *callbacks: Any) -> list[dict[str, float]]:
        transformers.set_seed(0)
        return steps(train("GRPO", policy, folder, [proxy], callbacks=callbacks))

    rows = [{"prompt": [user(f"how are you {i}?" * (i + 1))], "answer": i} for i in range(3)]
    proxy = RewardFunction(model, name="proxy")
    watch = RewardWatch("proxy", HeldOut(proxy, judge, rows, every=2, max_new_tokens=6, batch_size=2))
    logs = trained(tmp_path / "a", watch)
    ((prompts, completions, ids, answer),) = asked  # step 2 of 2
    assert prompts == [row["prompt"] for row in rows]
    assert answer == [0, 1, 2]
    assert [one[0]["role"] for one in completions] == ["assistant"] * 3
    texts = AutoTokenizer.from_pretrained(policy).batch_decode(ids, skip_special_tokens=True)
    assert texts == [one[0]["content"] for one in completions]
    first, second = watch.history
    assert "held_out" not in first
    expected = [one.reward for one in Scorer(model).score(prompts, completions)]
    assert second["proxy"] == pytest.approx(sum(expected) / 3, abs=1e-4)
    assert second["held_out"] == 2.0
    assert second["kl"] == logs[1]["kl"]
    alone = trained(tmp_path / "b")
    assert [entry["grad_norm"] for entry in alone] == [entry["grad_norm"] for entry in logs]  # training is the same


def test_held_out_responses_are_samples_of_the_policy_itself(policy, monkeypatch) -> None:
    """Not of what its generation_config.json, or transformers' top_k=50, makes of it; and others may be asked for."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    network.generation_config.update(top_k=3, top_p=0.5, repetition_penalty=2.0)
    seen: list[dict[str, Any]] = []
    generate = type(network).generate

    def spied(self: Any, *args: Any, **options: Any) -> Any:
        made = generate(self, *args, **options, return_dict_in_generate=True, output_logits=True, output_scores=True)
        seen.append({"logits": made.logits[0], "scores": made.scores[0]})
        return made.sequences

    monkeypatch.setattr(type(network), "generate", spied)
    rows = [{"prompt": [user("how are you")]}]
    HeldOut(gold, gold, rows, max_new_tokens=2)(network, tokenizer)
    assert torch.equal(seen[0]["logits"], seen[0]["scores"])
    HeldOut(gold, gold, rows, max_new_tokens=2, generation={"top_k": 4})(network, tokenizer)
    assert torch.isfinite(seen[1]["scores"]).sum() == 4
