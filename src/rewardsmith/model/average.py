"""Average the weights of reward models that started from the same weights (WARM: Ramé et al. 2024, arXiv 2401.12187).

Fine-tunings of one pre-trained network stay linearly connected: the average of their weights scores like the average of
their rewards, at the cost of one model, and remembers less of the noise that only one of them has seen.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rewardsmith.encoding.template import Template
from rewardsmith.errors import FileError, ModelError, UsageError
from rewardsmith.model import contract as contracts
from rewardsmith.model.bases import resolve
from rewardsmith.model.contract import Contract
from rewardsmith.model.fingerprint import sha256
from rewardsmith.model.load import LoadOptions, head_weight, load_network, load_tokenizer
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.shaping.pipeline import FILE as SHAPING_FILE

Report = Callable[[int, int], None]  # tensors done, tensors in all

# Must be the same in all models, in words for a message.
_SAME = {
    "layers": "number of layers",
    "pooling": "pooling",
    "mode": "rendering mode",
    "template_sha256": "chat template",
    "template_kwargs": "template variables",
    "tokenizer_sha256": "tokenizer",
}
_INDEX = "model.safetensors.index.json"
_HEADS = ("score", "classifier", "classifier.out_proj")


def average(
    models: Sequence[str | Path],
    weights: Sequence[float] | None = None,
    *,
    scratch: Path,
    trust_remote_code: bool = False,
    report: Report | None = None,
) -> RewardModel:
    """The reward model whose weights are the weighted average of those of ``models``, sealed, not saved.

    Tensors are read one by one and averaged in float32, so that memory holds one shard and then the result, however
    many models there are. Standard errors, ensembles of single heads, process heads, attribute heads and
    shapings do not carry over. Neither do mean, standard deviation and temperature, unless they are the same in all.

    Args:
        models: folders or Hugging Face ids, two or more, written by rewardsmith.
        weights: one per model, >= 0, in any scale; None for equal ones.
        scratch: a folder to write the averaged weights to; it is removed again.
        trust_remote_code: run code that comes with a checkpoint.
        report: called with tensors done and in all.

    Raises:
        UsageError: fewer than two models, or weights that cannot work.
        ModelError: a model that is none, or models that differ in base, architecture, layers, template or tokenizer.
        ContractError: a model that changed since it was trained.
        FileError: ``scratch`` cannot be written.
    """
    shares = normalised_weights(models, weights)
    names = [str(name) for name in models]
    folders = [_folder(name) for name in names]
    found = [_contract(name, folder) for name, folder in zip(names, folders, strict=True)]
    _check_same(names, folders, found)
    for folder, contract in zip(folders, found, strict=True):
        _check_unchanged(folder, contract, trust_remote_code)
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _write_average(folders, shares, scratch, report)
        model = _open(scratch, found[0], trust_remote_code)
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{scratch}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shaped = [name for name, folder in zip(names, folders, strict=True) if (folder / SHAPING_FILE).is_file()]
    return model.sealed(**_facts(names, shares, found, shaped))


def scratch_beside(output: Path) -> Path:
    """A folder for averaged weights; always the same, so that what a kill leaves behind is used up by the next run."""
    output = output.resolve()
    return output.with_name(f".{output.name}.average")


def normalised_weights(models: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    """The weights scaled to a sum of 1.

    Raises:
        UsageError: fewer than two models, another number of weights, a negative one, or a sum of 0.
    """
    if len(models) < 2:
        raise UsageError(f"{len(models)} model: an average needs at least 2 models")
    if weights is None:
        return [1.0 / len(models)] * len(models)
    if len(weights) != len(models):
        raise UsageError(f"--weights: {len(weights)} weights for {len(models)} models; give one per model")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise UsageError(f"--weights {' '.join(f'{w:g}' for w in weights)}: must be >= 0, with a sum greater than 0")
    return [weight / sum(weights) for weight in weights]


def _folder(name: str) -> Path:
    """As :func:`resolve`; of a run of ours it says where the whole model lies."""
    path = Path(name).expanduser()
    run = path.parent if path.name == "adapter" or path.name.startswith("checkpoint-") else path
    made = run.with_suffix("")
    if path.is_dir() and run.suffix == ".run" and (made / contracts.FILE).is_file():
        raise ModelError(f"{name}: holds a run's adapter, not a whole model; the merged model lies in {made}")
    return resolve(name)


def _contract(name: str, folder: Path) -> Contract:
    found = contracts.read(folder)
    if found is None:
        raise ModelError(
            f"{name}: has no {contracts.FILE}, so nothing tells whether it fits the others; give it one in Python: "
            "RewardModel.load(MODEL).save(FOLDER)"
        )
    if not found.reward_head:
        raise ModelError(f"{name}: has a process head and no reward head, so there are no rewards to average")
    return found


def _check_same(names: Sequence[str], folders: Sequence[Path], found: Sequence[Contract]) -> None:
    """One message that names all that differs."""
    first = _description(folders[0], found[0])
    for name, folder, contract in zip(names[1:], folders[1:], found[1:], strict=True):
        other = _description(folder, contract)
        differ = [what for what in first if first[what] != other[what]]
        if differ:
            shown = [f"{what} ({_short(first[what])}, {_short(other[what])})" for what in differ]
            raise ModelError(
                f"{names[0]} and {name} differ in {'; '.join(shown)}: only models fine-tuned from the same weights, "
                "reading the same text, can be averaged"
            )


def _description(folder: Path, contract: Contract) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'}: damaged: {error}") from error
    base = Path(contract.base_model).expanduser()
    return {
        "architecture": (config.get("architectures") or [config.get("model_type")])[0],
        "base model": str(base.resolve()) if base.is_dir() else contract.base_model,
        **{what: getattr(contract, field) for field, what in _SAME.items()},
    }


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and "/" not in text else text


def _check_unchanged(folder: Path, contract: Contract, trust_remote_code: bool) -> None:
    """What loading would check, without the network."""
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    template = Template(tokenizer, contract.mode, contract.template_kwargs)  # type: ignore[arg-type]
    where = _where(folder)
    name = next((name for name in _HEADS if f"{name}.weight" in where), None)
    if name is None:
        raise ModelError(f"{folder}: has no reward head")
    parts = [f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" in where]
    head = sha256(*(_tensor(where[part], part) for part in parts))
    contracts.check(contract, folder, {**template.fingerprint(), "head_sha256": head})


def _where(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    try:
        if (folder / _INDEX).is_file():
            names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            return {key: folder / name for key, name in names.items()}
        file = folder / "model.safetensors"
        with safe_open(file, framework="pt") as tensors:
            return dict.fromkeys(tensors.keys(), file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: its weights cannot be read: {error}") from error


def _tensor(file: Path, key: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(key)


def _write_average(folders: Sequence[Path], shares: Sequence[float], target: Path, report: Report | None) -> None:
    """The first folder, but for contract and model card, its weights averaged with the others'."""
    where = [_where(folder) for folder in folders]
    _check_tensors(folders, where)
    for path in folders[0].iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (contracts.FILE, "README.md"):
            shutil.copy(path, target / path.name)
    done = 0
    for shard in sorted(set(where[0].values())):
        averaged = {}
        with ExitStack() as stack:
            opened: dict[Path, Any] = {}
            for key in (key for key, file in where[0].items() if file == shard):
                tensors = []
                for files in where:
                    if files[key] not in opened:
                        opened[files[key]] = stack.enter_context(safe_open(files[key], framework="pt"))
                    tensors.append(opened[files[key]].get_tensor(key))
                averaged[key] = mean(tensors, shares)
                done += 1
                if report:
                    report(done, len(where[0]))
        save_file(averaged, target / shard.name, metadata={"format": "pt"})


def mean(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The weighted mean of tensors of one shape, computed in float32, in the first one's dtype.

    ``shares`` sum to 1. The mean of equal tensors is that tensor, to the bit.
    """
    first = tensors[0]
    if not first.is_floating_point():
        return first
    start = first.float()
    total = torch.zeros_like(start)
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        total.add_(tensor.float() - start, alpha=share)
    return (start + total).to(first.dtype)


def _check_tensors(folders: Sequence[Path], where: Sequence[Mapping[str, Path]]) -> None:
    for folder, files in zip(folders[1:], where[1:], strict=True):
        if odd := sorted(files.keys() ^ where[0].keys()):
            raise ModelError(f"{folders[0]} and {folder} differ in architecture: {odd[0]} is in one of them only")
    shapes = [_shapes(files) for files in where]
    for folder, found in zip(folders[1:], shapes[1:], strict=True):
        for key, shape in found.items():
            if shape != shapes[0][key]:
                raise ModelError(
                    f"{folders[0]} and {folder} differ in architecture: {key} has shapes {shapes[0][key]} and {shape}"
                )


def _shapes(where: Mapping[str, Path]) -> dict[str, list[int]]:
    found = {}
    for file in set(where.values()):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: cannot be read: {error}") from error
    return found


@torch.no_grad()
def _open(folder: Path, contract: Contract, trust_remote_code: bool) -> RewardModel:
    """The averaged network as a reward model, in the dtype that the first one was trained in."""
    options = LoadOptions(dtype=contract.dtype, device="cpu", trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    network = load_network(folder, tokenizer, options, fresh_head=False)
    kind: dict[str, Any] = {"pooling": contract.pooling, "mode": contract.mode}
    model = RewardModel.around(network, tokenizer, base=contract.base_model, **kind)
    model.template = Template(tokenizer, kind["mode"], contract.template_kwargs)
    stored = head_weight(folder, network)
    assert stored is not None
    model.head.weight.copy_(stored)  # float32, whatever the network made of it
    return model


def _facts(
    names: Sequence[str], shares: Sequence[float], found: Sequence[Contract], shaped: Sequence[str]
) -> dict[str, Any]:
    """The average's contract, where it is not the first one's; ``shaped`` are the models that carry a shaping."""
    scale: dict[str, Any] = {"mean": 0.0, "std": 1.0, "temperature": 1.0}
    notes = []
    if all(getattr(one, name) == getattr(found[0], name) for name in scale for one in found):
        scale = {name: getattr(found[0], name) for name in scale}
    else:
        notes.append("the models differ in mean, standard deviation or temperature: the average gives raw rewards")
    lengths = sorted({one.max_length for one in found})
    if len(lengths) > 1:
        notes.append(
            f"the models differ in max_length ({', '.join(map(str, lengths))}): the average takes the smallest, and "
            "shortens longer inputs that some of them read whole"
        )
    if shaped:
        notes.append(
            f"the shaping saved with {', '.join(shaped)} is not kept, as it was fitted to other rewards than the "
            "average's: fit one to these with rewardsmith shape"
        )
    training = {
        "method": "average of weights (WARM)",
        "models": list(names),
        "weights": [round(share, 6) for share in shares],
        "their training": [dict(one.training) for one in found],
        "notes": notes,
    }
    data = found[0].data if all(one.data == found[0].data for one in found) else {}
    return {
        **{"max_length": min(one.max_length for one in found), "template_kwargs": found[0].template_kwargs},
        **{"training": training, "data": data, "metrics": {}, **scale},
    }
