"""Helpers of the trainer's tests: bases that TRL can train as they are, preference rows, and short runs on a CPU."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import datasets
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback

import rewardsmith
from tests import tiny

datasets.disable_progress_bars()
transformers.utils.logging.set_verbosity_error()
warnings.filterwarnings("ignore", message="index_reduce")

PAD = "<|endoftext|>"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + tiny.CHATML


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Every training ends in a garbage collection, which takes longer than a tiny training: let it skip the imports."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a tiny base per family whose pad token is not EOS: TRL would read the score at another place."""
    root = tmp_path_factory.mktemp("trainable")
    found = {family: tiny.save_base(family, root / family) for family in tiny.FAMILIES}
    for family in tiny.CAUSAL:
        tiny.chat_tokenizer(pad=PAD).save_pretrained(found[family])
    return found


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def texts(n: int, *, explicit: bool = True) -> list[dict[str, Any]]:
    """Pairs of plain text, of many lengths; a fox is better than a dog."""
    rows = []
    for i in range(n):
        prompt = f"what is {i} + 27? " * (i % 4 + 1)
        chosen, rejected = f"the quick fox {i}" * (i % 3 + 1), f"a lazy dog {i} " * (i % 5 + 1)
        if explicit:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        else:
            rows.append({"chosen": prompt + chosen, "rejected": prompt + rejected})
    return rows


def chats(n: int, *, explicit: bool = True) -> list[dict[str, Any]]:
    """The same as messages; every third prompt has a turn before it."""
    rows = []
    for i, row in enumerate(texts(n)):
        before = [user("how are you?"), assistant("fine, thank you")] if i % 3 == 0 else []
        prompt = [*before, user(row["prompt"])]
        chosen, rejected = [assistant(row["chosen"])], [assistant(row["rejected"])]
        if explicit:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        else:
            rows.append({"chosen": prompt + chosen, "rejected": prompt + rejected})
    return rows


def config(folder: Path, module: Any = rewardsmith, **more: Any) -> Any:
    """A short float32 run on the CPU that logs every step and saves nothing, of ours or of TRL's."""
    settings = {
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return module.RewardConfig(str(folder), **{**settings, **more})


def trainer(
    base: Any, rows: Any, folder: Path, module: Any = rewardsmith, *, parts: dict[str, Any] | None = None, **more: Any
) -> Any:
    """A trainer on ``rows``; ``parts`` are further arguments of its constructor, ``more`` of its configuration."""
    dataset = Dataset.from_list(rows) if isinstance(rows, list) and rows and isinstance(rows[0], dict) else rows
    model = str(base) if isinstance(base, Path) else base
    return module.RewardTrainer(
        model=model, args=config(folder, module, **more), train_dataset=dataset, **(parts or {})
    )


def steps(made: Any) -> list[dict[str, float]]:
    """What was logged at each step."""
    return [entry for entry in made.state.log_history if "grad_norm" in entry]


def logged(made: Any, name: str) -> list[float]:
    return [entry[name] for entry in steps(made)]


class _Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.found = {name: one.grad.clone() for name, one in named if one.grad is not None}
        control.should_training_stop = True


def gradients(made: Any) -> dict[str, torch.Tensor]:
    """Gradients of a trainer's first step, as its own loop computes them."""
    seen = _Gradients()
    made.add_callback(seen)
    made.args.max_grad_norm = 0.0
    made.train()
    return seen.found


def assert_same_gradients(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the largest entry of all, in float32."""
    assert a.keys() == b.keys()
    scale = max(one.abs().max().item() for one in a.values())
    assert scale > 1e-3  # there is a gradient
    for name, one in a.items():
        torch.testing.assert_close(
            one, b[name], rtol=0, atol=tolerance * scale, msg=lambda text, n=name: f"{n}: {text}"
        )


def network_of(made: Any) -> Any:
    """The sequence classifier of a trainer, without the adapters' wrapper."""
    model = made.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def independent(made: Any, base: Path) -> Any:
    """transformers' own classifier with the weights that a trainer without adapters has now."""
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    network.load_state_dict(made.model.state_dict())
    network.config.pad_token_id = made.processing_class.pad_token_id
    return network.eval()


def plain_rewards(network: Any, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """[R] rewards the slow, obvious way: transformers' own forward, one unpadded sequence at a time, with gradients."""
    return torch.stack([network(input_ids=torch.tensor([list(ids)])).logits[0, 0] for ids in sequences])
