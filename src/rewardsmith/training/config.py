"""Settings of the trainer: TRL's ``RewardConfig``, and what ours can do beyond it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from rewardsmith.errors import UsageError
from rewardsmith.training import attributes
from rewardsmith.training.field_names import no_such_setting
from rewardsmith.training.losses import LOSSES
from rewardsmith.training.settings import without_secrets

HEAD_INITS = ("random", "probe")
POOLINGS = ("last", "mean")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class RewardConfig(TrainingArguments):
    """Arguments of :class:`RewardTrainer`. Every field of transformers' ``TrainingArguments`` is here as well.

    The names and defaults of TRL 1.16's ``RewardConfig`` are kept, but for one default: ``bf16`` is chosen by the
    hardware, where TRL always takes it (on a CPU that emulates bfloat16 that is several times slower than float32).

    Args:
        learning_rate: of AdamW, > 0.
        logging_steps: update steps between two logs.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        bf16: mixed precision in bfloat16; None takes it where the device multiplies it natively, unless ``fp16``.
        model_init_kwargs: for ``from_pretrained`` when the model is given by name.
        trust_remote_code: run code that comes with a checkpoint.
        chat_template_path: a Jinja file, or a folder or Hub id of a tokenizer whose template to take.
        disable_dropout: dropout off: chosen and rejected are then read by the same network.
        dataset_num_proc: processes that render the data.
        eos_token: the token that ends a text; None for the tokenizer's.
        pad_token: deprecated in TRL; set ``tokenizer.pad_token``.
        max_length: in tokens; a comparison with a longer response is dropped and counted. No more than the model has
            positions, and None for as many.
        pad_to_multiple_of: pad rows to a multiple, for compilers that want few shapes; ``auto`` is none.
        center_rewards_coefficient: pulls chosen + rejected towards 0 (Eisenstein et al. 2023); 0.01 is usual.
        activation_offloading: keep activations in CPU memory between forward and backward pass.

    Beyond TRL:
        loss: a name of ``losses.LOSSES``.
        loss_kwargs: keyword arguments of that loss, e.g. ``{"threshold": 0.3}``.
        attributes: names of ratings in the data, for ``loss`` ``regression``: each gets a head of its own, and their
            weighted sum is the reward. A list, JSON, or text with commas.
        attribute_weights: of that sum, by name; ``learned`` fits them to the preferences after the last step (see
            ``attribute_heads.learn_mix``); None weighs all alike. (Those in ``loss_kwargs`` weigh the losses.)
        share_prompts: compute a prompt once for all its responses. False computes it for each of them, as TRL does;
            short responses may still stand side by side in a row.
        tokens_per_forward: most positions in one forward pass, padding included; a batch with more is split, its
            gradient stays the same. A comparison with more goes alone.
        pooling: what the head reads: the ``last`` token (portable), or the ``mean`` over the response, which only
            rewardsmith reads. None for what the model was trained with, else ``last``.
        head_init: ``random``, or ``probe``: fit the head exactly on the frozen features first (Kumar et al. 2022).
        head_learning_rate: of the head alone; None for ``learning_rate``.
        head_anchor: coefficient of 0.5 ||w - w0||^2 on the head's weight, w0 the head at the start.
        language_model_coefficient: of the language-model loss on chosen responses, which keeps the features general
            (GRM, Yang et al. 2024). None for none.
        early_stopping_patience: evaluations without a better loss after which to stop; needs ``eval_strategy``.
        fuse_adapters: compute plain LoRA layers and frozen RMS norms in fewer passes over memory; the numbers are the
            same.

    ``label_smoothing_factor`` of ``TrainingArguments`` smooths the preference labels.
    """

    learning_rate: float = _option(1e-4, "The initial learning rate for AdamW.")
    logging_steps: float = _option(10, "Update steps between two logs; a share of all steps if below 1.")
    gradient_checkpointing: bool = _option(True, "Recompute activations: less memory, about a third more time.")
    bf16: bool | None = _option(None, "bfloat16 mixed precision; default: where the device has it, unless fp16.")

    model_init_kwargs: dict[str, Any] | str | None = _option(None, "Arguments of from_pretrained, as JSON.")
    trust_remote_code: bool = _option(False, "Run code that comes with a checkpoint.")
    chat_template_path: str | None = _option(None, "A Jinja file, or a tokenizer whose chat template to take.")
    disable_dropout: bool = _option(True, "Switch dropout off.")
    dataset_num_proc: int | None = _option(None, "Processes that render the data.")
    eos_token: str | None = _option(None, "The token that ends a text; default: the tokenizer's.")
    pad_token: str | None = _option(None, "Deprecated: set tokenizer.pad_token.")
    max_length: int | None = _option(1024, "Tokens; comparisons with a longer response are dropped and counted.")
    pad_to_multiple_of: int | str | None = _option("auto", "Pad rows to a multiple of this; auto: do not.")
    center_rewards_coefficient: float | None = _option(None, "Pulls chosen + rejected towards 0; 0.01 is usual.")
    activation_offloading: bool = _option(False, "Keep activations in CPU memory.")

    loss: str = _option("bradley-terry", f"One of {', '.join(LOSSES)}.")
    loss_kwargs: dict[str, Any] | str | None = _option(None, "Arguments of the loss, as JSON.")
    attributes: list[str] | str | None = _option(None, "Names of the ratings to learn, one head each.")
    attribute_weights: dict[str, Any] | str | None = _option(None, "Of the reward: by name, as JSON; or learned.")
    share_prompts: bool = _option(True, "Compute a prompt once for all its responses.")
    tokens_per_forward: int | None = _option(None, "Most positions in a forward pass; larger batches are split.")
    pooling: str | None = _option(None, "What the head reads: last token or mean; default: the model's own, else last.")
    head_init: str = _option("random", "random, or probe: fit the head on frozen features first.")
    head_learning_rate: float | None = _option(None, "Learning rate of the head; default: learning_rate.")
    head_anchor: float = _option(0.0, "Strength that holds the head near where it started.")
    language_model_coefficient: float | None = _option(None, "Weight of the language-model loss on chosen responses.")
    early_stopping_patience: int | None = _option(None, "Evaluations without improvement before stopping.")
    fuse_adapters: bool = _option(True, "Compute LoRA layers and frozen norms in fewer passes over memory.")

    # TrainingArguments parses these from JSON when they come as text from a command line.
    _VALID_DICT_FIELDS = (
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "loss_kwargs",
        "attribute_weights",
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> RewardConfig:
        """Refuse names that do not exist, where a dataclass would raise a plain TypeError.

        Raises:
            UsageError: naming the nearest field, or where a field of transformers or TRL has gone.
        """
        names = {one.name for one in fields(cls) if one.init}
        for name in kwargs:
            if name not in names:
                raise UsageError(no_such_setting(name, names))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        import torch

        # Without an accelerator transformers must be told so, or torchrun's processes would train each for themselves.
        # DeepSpeed knows of CPUs itself.
        speed = bool(self.deepspeed) or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        self.use_cpu = bool(self.use_cpu) or not (speed or torch.accelerator.is_available())
        if self.bf16 is None:
            self.bf16 = not self.fp16 and _native_bfloat16(use_cpu=self.use_cpu)
        if isinstance(self.pad_to_multiple_of, str):
            text = self.pad_to_multiple_of.lower()
            self.pad_to_multiple_of = None if text in ("auto", "none", "null") else _integer(text)
        elif self.pad_to_multiple_of is not None:
            self.pad_to_multiple_of = _integer(str(self.pad_to_multiple_of))
        super().__post_init__()
        self.attributes = attributes.names_of(self.attributes)
        self._check()
        attributes.check(self)

    def _check(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        if self.loss not in LOSSES:
            raise UsageError(f"loss {self.loss!r}: use {', '.join(LOSSES)}")
        if self.head_init not in HEAD_INITS:
            raise UsageError(f"head_init {self.head_init!r}: use {' or '.join(HEAD_INITS)}")
        if self.pooling not in (None, *POOLINGS):
            raise UsageError(f"pooling {self.pooling!r}: use {' or '.join(POOLINGS)}")
        for name in ("max_length", "tokens_per_forward", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: must be at least 1, or None")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate {self.learning_rate}: must be finite and greater than 0")
        if not isinstance(self.model_init_kwargs, (dict, NoneType)):
            raise UsageError(f"model_init_kwargs {self.model_init_kwargs!r}: must be arguments by name, JSON or a dict")
        if "inputs" in (self.include_for_metrics or ()):
            raise UsageError(
                "include_for_metrics 'inputs': batches are packed trees, with no padded inputs to hand on; leave it out"
            )
        if not 0 <= self.label_smoothing_factor < 0.5:
            raise UsageError(f"label_smoothing_factor {self.label_smoothing_factor}: must be in [0, 0.5)")
        additions = ("head_anchor", "language_model_coefficient", "center_rewards_coefficient")
        for name in (*additions, "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} {value}: must be finite and >= 0")
        if self.early_stopping_patience is not None and IntervalStrategy(self.eval_strategy) == IntervalStrategy.NO:
            raise UsageError("early_stopping_patience needs evaluations: set eval_strategy to steps or epoch")

    def to_dict(self) -> dict[str, Any]:
        """As ``TrainingArguments.to_dict``, which trackers and cards show, without the access tokens of
        ``model_init_kwargs`` either."""
        return {name: without_secrets(value) for name, value in super().to_dict().items()}

    def loss_options(self) -> dict[str, Any]:
        """Keyword arguments for the loss.

        Raises:
            UsageError: ``loss_kwargs`` is not a mapping, or not JSON.
        """
        try:
            given = json.loads(self.loss_kwargs) if isinstance(self.loss_kwargs, str) else self.loss_kwargs
            options = dict(given or {})
        except (ValueError, TypeError) as error:
            raise UsageError(f"loss_kwargs {self.loss_kwargs!r}: must be options by name, as JSON or a dict") from error
        if self.label_smoothing_factor:
            options.setdefault("label_smoothing", self.label_smoothing_factor)
        return options


def _integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"pad_to_multiple_of {text!r}: a number of at least 1, auto or none")
    return int(text)


def _native_bfloat16(*, use_cpu: bool) -> bool:
    import torch

    from rewardsmith.model.hardware import pick_device, pick_dtype

    device = torch.device("cpu") if use_cpu else pick_device()
    return pick_dtype("auto", device) == torch.bfloat16
