"""Settings of a fine-tuning run: from a YAML file, from ``key=value``, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from rewardsmith.errors import FileError, UsageError
from rewardsmith.training.field_names import no_such_setting

TunedName = Literal["lora", "qlora", "full"]
TUNED: tuple[TunedName, ...] = ("lora", "qlora", "full")

# Decided by the run itself: where it writes, and what would end in other checkpoints than ours.
_OURS = ("output_dir", "resume_from_checkpoint", "do_train", "do_eval", "do_predict", "remove_unused_columns")


# Flags of `rewardsmith train` that a file may name too: fields have TRL's names, people remember the flags.
_FLAGS = {
    "batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "epochs": "num_train_epochs",
    "lora_rank": "lora.r",
}
_ONLY_FLAGS = ("ensemble", "resume", "device", "format", "split", "skip_bad", "rejects", "config", "json", "quiet")


_SECRETS = ("token", "hub_token", "push_to_hub_token", "use_auth_token")


@dataclass(frozen=True)
class LoraSettings:
    """The adapters.

    Args:
        r: rank, >= 1.
        alpha: the adapters' output is scaled by alpha / r; None for 2 r.
        dropout: in [0, 1); only used with ``disable_dropout: false``.
        target_modules: names of linear layers, or ``all-linear``.
        layers: adapters on these layers only (0-based); None for all.
        use_dora, use_rslora: variants of PEFT.
    """

    r: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    layers: list[int] | None = None
    use_dora: bool = False
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise UsageError(f"lora.r {self.r}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"lora.dropout {self.dropout}: must be in [0, 1)")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise UsageError(f"lora.alpha {self.alpha}: must be finite and greater than 0")
        if self.layers == []:
            raise UsageError("lora.layers []: names no layer; leave it out for all")

    def config(self) -> Any:
        """The same as PEFT's."""
        from peft import LoraConfig

        config = LoraConfig(
            task_type="SEQ_CLS",
            r=self.r,
            lora_alpha=self.alpha if self.alpha is not None else 2 * self.r,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
        )
        config.layers_to_transform = self.layers  # LoraConfig refuses it beside "all-linear", which add_adapters names
        return config


@dataclass(frozen=True)
class RunSettings:
    """A fine-tuning run.

    Args:
        method: ``lora``, ``qlora`` or ``full``.
        base: folder, Hugging Face id, or ``smollm2``.
        data, eval_data: files, folders or Hub ids.
        output: folder of the trained model; the run itself goes to ``OUTPUT.run`` beside it.
        lora: the adapters of ``lora`` and ``qlora``.
        training: fields of ``RewardConfig`` by name.
    """

    method: TunedName
    base: str
    data: tuple[str, ...]
    output: str
    eval_data: tuple[str, ...] = ()
    lora: LoraSettings = field(default_factory=LoraSettings)
    training: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without access tokens: it is written and shown."""
        return without_secrets(dataclasses.asdict(self))


def without_secrets(value: Any) -> Any:
    """Without access tokens, which settings and arguments of ``from_pretrained`` may hold."""
    if isinstance(value, Mapping):
        return {key: without_secrets(one) for key, one in value.items() if key not in _SECRETS}
    return [without_secrets(one) for one in value] if isinstance(value, (list, tuple)) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        FileError: it cannot be read.
        UsageError: it is no YAML, or no mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: must hold settings by name, like 'learning_rate: 1.0e-4', not {found!r:.40}")
    return {str(key): value for key, value in found.items()}


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """``["learning_rate=1e-4", "lora.r=32"]`` as settings; values are read as YAML.

    Raises:
        UsageError: not of the form key=value.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {text}: must be key=value, like learning_rate=1e-4")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: the value is not YAML") from error
    return found


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over settings, the last wins; ``lora`` may be a mapping or dotted keys, flags may stand for fields.

    Raises:
        UsageError: one layer has a field under both of its names.
    """
    flat: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key == "lora" and isinstance(value, Mapping):
                flat |= {f"lora.{name}": one for name, one in value.items()}
            elif key in _FLAGS and (_FLAGS[key] in layer or (key == "lora_rank" and "r" in (layer.get("lora") or {}))):
                raise UsageError(f"{key} and {_FLAGS[key]}: are the same setting; give one of them")
            else:
                flat[_FLAGS.get(key, key)] = value
    return flat


def build(flat: Mapping[str, Any]) -> RunSettings:
    """Check names and types.

    Raises:
        UsageError: a name that does not exist (the nearest is given), a missing one, or a value of a wrong type.
    """
    from rewardsmith.training.config import RewardConfig

    training_fields = {one.name: one for one in dataclasses.fields(RewardConfig) if one.init}
    lora_fields = {f"lora.{one.name}": one for one in dataclasses.fields(LoraSettings)}
    run_fields = {"method", "base", "data", "eval_data", "output"}
    names = {*training_fields, *lora_fields, *run_fields}
    lora, training = {}, {}
    for key, value in flat.items():
        if key in _OURS:
            raise UsageError(f"{key}: is decided by the run; use --output and --resume")
        if key in _ONLY_FLAGS:
            raise UsageError(f"{key}: is given on the command line, as --{key.replace('_', '-')}, not as a setting")
        if key not in names:
            raise UsageError(no_such_setting(key, names))
        if key in lora_fields:
            lora[key.removeprefix("lora.")] = _typed(key, value, lora_fields[key].type)
        elif key in training_fields:
            training[key] = _typed(key, value, training_fields[key].type)
    method = flat.get("method")
    if method not in TUNED:
        raise UsageError(f"method {method!r}: use head, {', '.join(TUNED)}")
    if method == "full" and lora:
        raise UsageError(f"lora.{next(iter(lora))}: --method full has no adapters; use --method lora")
    data = _files(flat.get("data"))
    if not data:
        raise UsageError("data: no training data; give --data FILE, or data: in the config")
    if not flat.get("output"):
        raise UsageError("output: no folder for the trained model; give --output, or output: in the config")
    return RunSettings(
        method,  # type: ignore[arg-type]
        str(flat.get("base") or "smollm2"),
        data,
        str(flat["output"]),
        _files(flat.get("eval_data")),
        LoraSettings(**lora),
        training,
    )


def _files(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (str(value),) if isinstance(value, (str, Path)) else tuple(map(str, value))


def _typed(name: str, value: Any, kind: Any) -> Any:
    """``value`` as the annotation says: YAML reads ``1e-4`` as text, and a whole number where a float is meant."""
    kinds = kind.__name__ if isinstance(kind, type) else str(kind)
    if value is None:
        if "None" in str(kind):
            return None
        raise UsageError(f"{name}: must not be empty")
    if isinstance(value, bool):
        if "bool" in kinds or str(value) in kinds:
            return value
        if not value and "Strategy" in kinds:
            return "no"  # which YAML reads as false
        raise UsageError(f"{name} {value}: must be {_plain(kind)}, not true or false")
    if isinstance(value, (Mapping, list)) or not any(word in kinds for word in ("int", "float", "bool")):
        return value if isinstance(value, (Mapping, list)) else _text(name, value, kinds)
    for word, convert in (("int", int), ("float", float)):
        if word in kinds:
            try:
                number = convert(value)
            except (TypeError, ValueError):
                continue
            if convert is float or number == float(value):
                return number
    if "str" in kinds:
        return str(value)
    raise UsageError(f"{name} {value!r}: must be {_plain(kind)}")


def _text(name: str, value: Any, kinds: str) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise UsageError(f"{name}: not JSON: {error}") from error
    return value if isinstance(value, str) or "dict" in kinds else str(value)


def _plain(kind: Any) -> str:
    words = kind.__name__ if isinstance(kind, type) else str(kind)
    options = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    return " or ".join(text for word, text in options.items() if word in words) or words
