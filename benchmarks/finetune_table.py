"""What makes fine-tuning pay on hh-harmless: many settings, trained on the upper layers of one base.

Adapters on the upper layers leave the lower ones as they are, so what these give is computed once, for all runs and all
epochs. It becomes the embedding table of a base of the upper layers alone, every position of the data a "word" of its
own; the trainer runs on that, unchanged. A line says how far the first rewards are from those of the whole base.

    python benchmarks/finetune_table.py --states FOLDER                                  compute what is shared
    python benchmarks/finetune_table.py --states FOLDER --run "lr=1e-4 epochs=2"         one run, a line an epoch
    python benchmarks/finetune_table.py --states FOLDER --run "pooling=mean epochs=0"    the frozen head

A run is settings by name: ``lr``, ``head_lr``, ``rank``, ``epochs``, ``batch``, ``anchor``, ``pooling``, ``init``
(probe or random), ``seed``, ``first`` (the first layer with adapters, counted in the whole base), ``decay``,
``smooth``, ``center``, ``warmup``, ``drop`` (dropout of the adapters). The difference to the frozen head of the same
pooling is paired over the test pairs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import TrainerCallback

import _training
from _common import data_folder, machine
from rewardsmith import RewardConfig, RewardModel, RewardTrainer
from rewardsmith.data import load_comparisons
from rewardsmith.encoding import pack
from rewardsmith.encoding.tree import Tree, first_places
from rewardsmith.intervals import wilson
from rewardsmith.training import bradley_terry
from rewardsmith.training.adapted_head import active_head
from rewardsmith.training.config import POOLINGS
from rewardsmith.training.cross_validation import choose_ridge
from rewardsmith.training.pairs import Pairs
from rewardsmith.training.prepare import prepare

DEFAULTS: dict[str, Any] = {
    **{"lr": 1e-4, "head_lr": None, "rank": 16, "epochs": 1.0, "batch": 16, "anchor": 0.0, "pooling": "last"},
    **{
        "init": "probe",
        "seed": 42,
        "first": None,
        "decay": 0.0,
        "smooth": 0.0,
        "center": None,
        "warmup": 0,
        "drop": 0.0,
    },
}


def main() -> None:
    """Shared states, then the runs asked for."""
    args = arguments()
    torch.set_num_threads(args.threads)
    print(machine(), flush=True)
    folder = Path(args.states)
    if not (folder / "index.json").is_file():
        compute_states(args, folder)
    index = json.loads((folder / "index.json").read_text())
    for text in args.run:
        run(Run(folder, index, settings(text)), args.save)


def settings(text: str) -> dict[str, Any]:
    """``name=value`` words over the defaults."""
    given = dict(word.split("=", 1) for word in text.split())
    if unknown := set(given) - set(DEFAULTS):
        raise SystemExit(f"no such setting: {', '.join(sorted(unknown))}; there are {', '.join(DEFAULTS)}")
    words = ("pooling", "init")
    return DEFAULTS | {name: value if name in words else json.loads(value) for name, value in given.items()}


# -- what the lower layers give


@torch.inference_mode()
def compute_states(args: argparse.Namespace, folder: Path) -> None:
    """The states before layer ``--from`` of all positions, and token rows whose ids are places in that table."""
    folder.mkdir(parents=True, exist_ok=True)
    model = RewardModel.from_base(_training.shallow(args.base, args.layers, folder / "base"), dtype="float32")
    rows = {name: list(load_comparisons(data_folder() / "hh-harmless" / f"{name}.jsonl")) for name in ("train", "test")}
    trees = {name: prepare(model.template, rows[name][: args.rows], args.max_length).trees for name in rows}
    every = [tree for name in trees for tree in trees[name]]
    starts = np.cumsum([0, *(len(tree) for tree in every)])
    width = model.backbone.network.config.hidden_size
    table = np.lib.format.open_memmap(folder / "states.npy", "w+", np.float32, (int(starts[-1]), width))
    first = first_places(every)
    features = {name: np.empty((2 * len(every), width), np.float32) for name in POOLINGS}
    done, started = 0, time.perf_counter()
    for batch_rows in model.backbone.arrange(every, 4096)[1]:
        batch = pack.collate(every, batch_rows, 0)
        found = model.backbone.states(batch, output_hidden_states=True).hidden_states
        hidden, places = found[args.first][0].numpy(), [first[tree] + k for tree, k in batch.owner]
        for name, kept in features.items():
            kept[places] = replace(model.backbone, pooling=name).pool(found[-1], batch).numpy()
        at = 0
        for index in batch_rows[0]:
            table[starts[index] : starts[index] + len(every[index])] = hidden[at : at + len(every[index])]
            at += len(every[index])
        done += at
        print(f"states of {done:,} of {starts[-1]:,} tokens, {time.perf_counter() - started:.0f} s", flush=True)
    table.flush()
    parts, at = {}, 0
    for name, own in trees.items():
        parts[name] = [token_row(tree, int(starts[at + k])) for k, tree in enumerate(own)]
        for pooling, kept in features.items():
            np.save(folder / f"features-{pooling}-{name}.npy", kept[2 * at : 2 * (at + len(own))])
        at += len(own)
    index = {"first": args.first, "layers": model.backbone.layers, "rows": parts}
    (folder / "index.json").write_text(json.dumps(index))


def token_row(tree: Tree, start: int) -> dict[str, Any]:
    """A pair whose token ids are places in the table, laid out as the tree was."""
    prefix, first = len(tree.prefix), len(tree.branches[0])
    shared = list(range(start, start + prefix))
    chosen = shared + list(range(start + prefix, start + prefix + first))
    rejected = shared + list(range(start + prefix + first, start + len(tree)))
    return {"chosen_ids": chosen, "rejected_ids": rejected, "response_start": list(tree.response_starts)}


class Run:
    """One training: its network of the upper layers, rows and settings."""

    def __init__(self, folder: Path, index: dict[str, Any], chosen: dict[str, Any]):
        self.folder, self.index, self.chosen = folder, index, chosen
        self.rows = {name: Dataset.from_list(rows) for name, rows in index["rows"].items()}

    def network(self) -> tuple[Any, Any]:
        """The upper layers with the table as their embeddings, and a tokenizer."""
        model = RewardModel.from_base(str(self.folder / "base"), dtype="float32", attention="sdpa")
        network, first = model.backbone.network, self.index["first"]
        body = model.backbone.body
        body.layers = body.layers[first:]
        for place, layer in enumerate(body.layers):
            layer.self_attn.layer_idx = place
        table = torch.from_numpy(np.load(self.folder / "states.npy", mmap_mode="c"))
        body.embed_tokens = nn.Embedding.from_pretrained(table, freeze=True)
        config = network.config.get_text_config()
        config.num_hidden_layers, config.vocab_size = len(body.layers), len(table)
        if getattr(config, "layer_types", None):
            config.layer_types = list(config.layer_types)[first:]
        return network, model.template.tokenizer

    def trainer(self, scratch: str) -> RewardTrainer:
        """Ours, the head as the settings say."""
        chosen = self.chosen
        torch.manual_seed(chosen["seed"])
        network, tokenizer = self.network()
        with torch.no_grad():
            network.score.weight.normal_(std=network.config.initializer_range)
        config = RewardConfig(
            scratch,
            num_train_epochs=max(chosen["epochs"], 1),
            per_device_train_batch_size=chosen["batch"],
            per_device_eval_batch_size=16,
            learning_rate=chosen["lr"],
            head_learning_rate=chosen["head_lr"],
            head_anchor=chosen["anchor"],
            weight_decay=chosen["decay"],
            label_smoothing_factor=chosen["smooth"],
            center_rewards_coefficient=chosen["center"],
            warmup_steps=chosen["warmup"],
            pooling=chosen["pooling"],
            seed=chosen["seed"],
            disable_dropout=not chosen["drop"],
            gradient_checkpointing=False,
            max_length=None,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        skipped = (chosen["first"] or self.index["first"]) - self.index["first"]
        lora = LoraConfig(
            task_type="SEQ_CLS",
            r=chosen["rank"],
            lora_alpha=2 * chosen["rank"],
            lora_dropout=chosen["drop"],
            target_modules=_training.PROJECTIONS,
            layers_to_transform=list(range(skipped, network.config.num_hidden_layers)) if skipped else None,
        )
        return RewardTrainer(
            network, config, train_dataset=self.rows["train"], processing_class=tokenizer, peft_config=lora
        )

    def fitted(self) -> np.ndarray:
        """The head's optimum on the frozen features, [d]."""
        features = self.features("train")
        pairs = Pairs.of(np.arange(0, len(features), 2), np.arange(1, len(features), 2))
        return bradley_terry.fit(features, pairs, choose_ridge(features, pairs).ridge).weight

    def features(self, part: str) -> np.ndarray:
        """[2 N, d] of the frozen whole base, chosen before rejected."""
        return np.load(self.folder / f"features-{self.chosen['pooling']}-{part}.npy")

    @torch.inference_mode()
    def error(self, trainer: RewardTrainer) -> float:
        """How far rewards by the upper layers (adapters are 0 at first) are from the whole base's, eight test pairs."""
        rows = [self.rows["test"][k] for k in range(min(8, len(self.rows["test"])))]
        packed = trainer.data_collator(rows)["passes"][0]["batch"]
        found = trainer.model(packed=packed).logits[:, 0].numpy()
        weight = active_head(trainer.network).weight[0].numpy()
        return float(np.abs(found - self.features("test")[: len(found)] @ weight).max())


def run(one: Run, save: str | None) -> None:
    """Train; after every epoch a line."""
    chosen = one.chosen
    weight = one.fitted()
    frozen = margins(one.features("test") @ weight)
    if not chosen["epochs"]:
        report(chosen, 0, frozen, frozen, [], 0.0, save)
        return
    with tempfile.TemporaryDirectory() as scratch:
        trainer = one.trainer(scratch)
        if chosen["init"] == "probe":
            with torch.no_grad():
                active_head(trainer.network).weight.copy_(torch.tensor(weight)[None])
            if chosen["anchor"]:
                trainer._anchor = active_head(trainer.network).weight.detach().clone()
        print(f"rewards by the upper layers are {one.error(trainer):.0e} from those of the whole base", flush=True)
        ends: list[float] = [time.process_time()]

        class AfterEpoch(TrainerCallback):
            def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                busy = time.process_time() - ends[0]
                found = trainer.predict(one.rows["test"]).predictions
                trainer.model.train()
                losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
                report(chosen, round(state.epoch), margins(np.asarray(found).ravel()), frozen, losses, busy, save)
                ends[0] = time.process_time() - busy

        trainer.add_callback(AfterEpoch())
        trainer.train()


def margins(rewards: np.ndarray) -> np.ndarray:
    """Chosen less rejected, [N]."""
    return rewards[0::2] - rewards[1::2]


def report(
    chosen: dict[str, Any],
    epoch: int,
    found: np.ndarray,
    frozen: np.ndarray,
    losses: list[float],
    busy: float,
    save: str | None,
) -> None:
    """A line for people, and one for the file."""
    right, before = (np.sign(values) / 2 + 0.5 for values in (found, frozen))
    accuracy = wilson(float(right.sum()), len(right))
    gain = right - before
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    loss = float(np.logaddexp(0, -found).mean())
    name = " ".join(f"{key}={value}" for key, value in chosen.items() if value != DEFAULTS[key]) or "as given"
    print(
        f"{name}: epoch {epoch}, {accuracy.value:.3f} [{accuracy.low:.3f} to {accuracy.high:.3f}], less frozen "
        f"{gain.mean():+.3f} (s.e. {error:.3f}), held-out loss {loss:.3f}, last losses "
        f"{np.mean(losses[-5:] or [np.nan]):.3f}, {busy / 60:.1f} processor minutes",
        flush=True,
    )
    if save:
        line = {**chosen, "epoch": epoch, "accuracy": accuracy.as_dict(), "gain": float(gain.mean()), "gain_se": error}
        with Path(save).open("a") as file:
            file.write(
                json.dumps({**line, "test_loss": loss, "processor_seconds": round(busy), "losses": losses}) + "\n"
            )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", required=True, help="folder of what the runs share")
    parser.add_argument("--run", action="append", default=[], help="settings; may be given several times")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--layers", type=int, default=15, help="cut the base to its first layers")
    parser.add_argument("--first", type=int, default=8, help="layers below this one (0-based) are never trained")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--rows", type=int, help="the first rows of both files only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", help="append lines to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
