"""``RewardTrainer``: TRL's interface on transformers' trainer, computing every prompt once."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import PredictionOutput

from rewardsmith.model import adapter
from rewardsmith.model import pooling as poolings
from rewardsmith.model.quiet import quiet_transformers
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.training import attribute_heads, guards, losses, objective
from rewardsmith.training.adapted_head import active_head, set_rate
from rewardsmith.training.assemble import (
    add_adapters,
    assemble,
    language_head,
    short_name,
    template_for,
    without_dropout,
)
from rewardsmith.training.assemble import reward_model_around as around
from rewardsmith.training.attributes import LEARNED, given_mix
from rewardsmith.training.collator import TreeCollator
from rewardsmith.training.config import RewardConfig
from rewardsmith.training.features import Report
from rewardsmith.training.forward import teach
from rewardsmith.training.launch import offloading, prepare_launch
from rewardsmith.training.measured import MeasuresComparisons
from rewardsmith.training.merge import away, is_sharded, placed, plain, whole
from rewardsmith.training.objective import measure, scored
from rewardsmith.training.passes import passes
from rewardsmith.training.prepare import TOO_LONG
from rewardsmith.training.probe_start import start_head
from rewardsmith.training.pushing import SavesBeforePushing
from rewardsmith.training.rows import COLUMNS, RowCount, prepare_rows
from rewardsmith.training.summary import Summary, summarise
from rewardsmith.training.words import language_loss

logger = logging.getLogger("rewardsmith")


class RewardTrainer(MeasuresComparisons, SavesBeforePushing):
    """Trains a reward model on comparisons.

    A script written for TRL's ``RewardTrainer`` runs with this one after its import is changed, and logs the same
    losses. transformers' ``Trainer`` is underneath: callbacks, trackers, checkpoints, DDP and FSDP are its own.

    Args:
        model: a name or folder (a base model gets a head; a reward model keeps its own), a sequence-classification
            network with one output, or a ``PeftModel`` around one.
        args: a :class:`RewardConfig`.
        data_collator: None packs trees. Another collator must give ``input_ids`` and ``attention_mask`` with all chosen
            before all rejected, as TRL's does.
        train_dataset: a ``Dataset`` or ``IterableDataset`` in TRL's preference format (text or messages, prompt
            explicit or implicit, or ``chosen_ids`` and ``rejected_ids``), or with ``responses`` and ``ranks`` for two
            or more; or a list of comparisons from ``rewardsmith.data.load_comparisons``.
        eval_dataset: the same, or a dict of them.
        processing_class: a tokenizer; None loads the model's.
        compute_metrics: gets ``predictions`` [N, K]: the rewards of a comparison's responses, chosen first, -100 where
            a comparison has fewer than K; and ``label_ids`` [N], all 0, the place of the preferred one. (TRL gives the
            rewards of each batch in one column, all chosen before all rejected.)
        callbacks, optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics: as in ``Trainer``.
        quantization_config: for a model given by name.
        peft_config: adapters to put on; the head is trained and saved with them.
        probe_report: with ``head_init="probe"``, called with tokens done and tokens in all; None shows a bar, unless
            ``disable_tqdm``.

    Raises:
        DataError: no training data, or rows that cannot be read.
        ModelError: the model is no reward model and cannot become one, or its head would not learn.
        UsageError: arguments that cannot work together.

    Example:
        >>> from datasets import load_dataset  # doctest: +SKIP
        >>> data = load_dataset("trl-lib/ultrafeedback_binarized", split="train")  # doctest: +SKIP
        >>> RewardTrainer("Qwen/Qwen3-0.6B", RewardConfig("out"), train_dataset=data).train()  # doctest: +SKIP
    """

    args: RewardConfig  # type: ignore[assignment]
    model: Any

    # The loss of a batch is a mean over its comparisons; transformers divides by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any,
        args: RewardConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Callable[..., dict] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        probe_report: Report | None = None,
    ):
        args = args or RewardConfig(f"{short_name(model)}-Reward")
        args.accelerator_config.dispatch_batches = False  # type: ignore[union-attr]  # they cannot be cut into slices
        if not args.should_log:
            logger.setLevel(logging.ERROR)  # what is to be said, the main process says
        guards.check_dataset(train_dataset, args)
        self._objective = objective.build(args.loss, args.loss_options(), args.center_rewards_coefficient)
        set_seed(args.seed)  # before the model: the random head and adapters are the ones TRL would draw
        found = assemble(model, args, processing_class, quantization_config)
        self._source = around(found, args, train_dataset)
        if args.attributes:
            attribute_heads.widen(found, list(args.attributes))
            self._mix = given_mix(args)
        teach(self._source.backbone)
        self.max_length = min(args.max_length or sys.maxsize, self._source.contract.max_length)
        self.rows: dict[str, RowCount] = {}
        self._settings = args
        guards.check_best(args, eval_dataset)
        with args.main_process_first(desc="rendering"):
            train_dataset = self._rows(train_dataset, "train")
            eval_dataset = self._rows_of_all(eval_dataset)
        if self._source.backbone.pooling == "mean":
            guards.check_mean(data_collator)
        if args.attribute_weights == LEARNED:
            guards.check_order(train_dataset)
        probes = args.head_init == "probe" and (found.fresh or args.attributes)
        self.start = start_head(self._source, train_dataset, args, probe_report) if probes else None
        found = add_adapters(found, peft_config, args)
        if args.disable_dropout:
            without_dropout(found.model)
        guards.check_head(found.network, found.model)
        guards.check_pad(found.tokenizer, found.network, len(args.attributes or [""]))
        if args.early_stopping_patience is not None:
            args.metric_for_best_model = args.metric_for_best_model or "loss"
            callbacks = [*(callbacks or []), EarlyStoppingCallback(args.early_stopping_patience)]
        with quiet_transformers():
            super().__init__(
                model=found.model,
                args=args,
                data_collator=data_collator or self._collator(args),
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=found.tokenizer,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            )
        prepare_launch(self)
        if args.fuse_adapters and found.model is not found.network and not self.is_fsdp_enabled:
            from rewardsmith.training import fused_lora, fused_norm

            fused_lora.fuse(self.model)
            fused_norm.fuse(self.model)
        self.can_return_loss, self.label_names = True, []
        self.network = found.network
        self._summary: tuple[Any, Summary] | None = None
        self._offload = offloading(args, self.model)
        self._words: Any = None
        if args.language_model_coefficient is not None:
            self._words = language_head(found, causal=self._source.backbone.causal).to(self.args.device)
        self._anchor = active_head(self.network).weight.detach().clone() if args.head_anchor else None
        self.model.add_model_tags(["rewardsmith", "reward-trainer"])

    def reward_model(self, **changes: Any) -> RewardModel:
        """What was trained, as a reward model ready to score and save: adapters merged, unquantised, sealed.

        On an accelerator adapters are merged in CPU memory; the model then goes to the accelerator if there is room for
        it beside the trained one (:meth:`release` makes room), else it stays where it is, with a warning.
        With FSDP and ZeRO-3 each process holds a part of the weights, so all must call it; the main process gets the
        model, on the CPU, and the others get None.

        Args:
            changes: further fields of its contract, e.g. ``data``.
        """
        source, args = self._source, self.args
        network = self._plain_network()
        if network is None:
            return None  # type: ignore[return-value]  # on the other processes of a sharded run only
        tokenizer = source.template.tokenizer
        heads = attribute_heads.narrow(network, args) if args.attributes else None
        base, pooling = source.contract.base_model, source.backbone.pooling
        made = RewardModel.around(network, tokenizer, base=base, pooling=pooling, mode=source.template.mode)
        made.contract = replace(made.contract, max_length=self.max_length)
        if heads is not None:
            if args.attribute_weights == LEARNED:
                heads = attribute_heads.learn_mix(made, heads, self.train_dataset, args.seed)
            made = attribute_heads.with_heads(made, heads)
        facts = {"method": self._method(), "loss": args.loss, "steps": self.state.global_step, "seed": args.seed}
        return made.sealed(**{"training": facts, **changes})

    def release(self) -> None:
        """Training is over: give up the optimizer's state and the gradients, so that merging has room."""
        self.model.zero_grad(set_to_none=True)
        if is_sharded(self.accelerator.unwrap_model(self.model)):
            return
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.accelerator.free_memory()

    def save_adapter(self, folder: Path, model: RewardModel | None = None) -> None:
        """Write the adapter alone, with the head and the tokenizer; ``RewardModel.load(folder)`` puts it on its base.

        Args:
            folder: to write.
            model: what the adapter was merged into, for :meth:`describe_adapter`; None leaves that to later.
        """
        adapted = self.accelerator.unwrap_model(self.model)
        # All processes take part.
        state = self.accelerator.get_state_dict(self.model_wrapped) if is_sharded(adapted) else None
        if not self.is_world_process_zero():
            return
        adapted.save_pretrained(folder, state_dict=state)
        self._source.template.tokenizer.save_pretrained(folder)
        adapter.write_recipe(folder, self.network)
        if model is not None:
            self.describe_adapter(folder, model)

    def describe_adapter(self, folder: Path, model: RewardModel) -> None:
        """Give a saved adapter the contract of the ``model`` it was merged into, and the head that is the reward's."""
        if not self.is_world_process_zero():
            return
        model.contract.write(folder)
        if model.attributes is not None:
            attribute_heads.into_adapter(folder, model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As ``Trainer._save``, what the checkpoints and ``save_model`` call."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir))
        poolings.write(folder, self._source.backbone.pooling)
        if self.accelerator.unwrap_model(self.model) is not self.network:
            adapter.write_recipe(folder, self.network)

    def _plain_network(self) -> Any:
        """The trained network without adapters; if it is sharded on the main process only, None elsewhere."""
        model = self.accelerator.unwrap_model(self.model)
        if not is_sharded(model):
            with away(model):
                network = plain(model, self.network)
            return placed(network, self.args.device)
        state: Any = self.accelerator.get_state_dict(self.model_wrapped)  # all processes take part
        return whole(model, self.network, state) if self.is_world_process_zero() else None

    def _method(self) -> str:
        adapters = getattr(self.accelerator.unwrap_model(self.model), "peft_config", None)
        return f"adapters ({next(iter(adapters.values())).peft_type.value})" if adapters else "all weights"

    def summary(self) -> Summary:
        """What the run will do: rows, tokens, parameters, expected peak memory. Counted once for a data set."""
        if self._summary is None or self._summary[0] is not self.train_dataset:
            self._summary = (self.train_dataset, summarise(self))
        return self._summary[1]

    # -- data

    def _rows(self, dataset: Any, name: str) -> Any:
        """Token rows; ``name`` is ``train``, ``eval``, or ``eval_`` and the name of one of several evaluation sets."""
        args, template = self._settings, template_for(self._source, dataset, name)
        vocabulary = self._source.backbone.network.get_input_embeddings().weight.shape[0]
        limits = {"vocabulary": vocabulary, "attributes": args.attributes, "processes": args.dataset_num_proc}
        limits["starts"] = self._source.backbone.pooling == "mean"
        rows, count = prepare_rows(dataset, template, self.max_length, **limits, name=name)
        if count.dropped:
            logger.warning("%s data: %s", name, count)
        if self.max_length != args.max_length and (count.kept is None or TOO_LONG in count.dropped):
            text = "%s data: max_length is %d, as the model has no more positions, not %s"
            logger.warning(text, name, self.max_length, args.max_length)
        if args.loss == "regression":
            guards.check_scores(rows, name, args.attributes)
        self.rows[name] = count
        return rows

    def _rows_of_all(self, dataset: Any) -> Any:
        if isinstance(dataset, dict):
            return {name: self._rows(one, f"eval_{name}") for name, one in dataset.items()}
        return None if dataset is None else self._rows(dataset, "eval")

    def _collator(self, args: RewardConfig) -> TreeCollator:
        backbone = self._source.backbone
        return TreeCollator(
            self._source.template.tokenizer.pad_token_id,
            share=backbone.shares and args.share_prompts,
            one_row=backbone.by_tree,
            one_per_row=not backbone.shares,
            tokens=args.tokens_per_forward,
            multiple_of=args.pad_to_multiple_of,  # type: ignore[arg-type]
            language=args.language_model_coefficient is not None,
        )

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = list(COLUMNS)

    # -- one step

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; first a line on standard error says what the run will do, unless ``disable_tqdm``.

        Raises:
            UsageError: ``max_steps`` or ``num_train_epochs`` leave nothing to train.
        """
        guards.check_length(self.args)
        if self.is_world_process_zero():
            if self.args.disable_tqdm:
                logger.info("%s", self.summary())
            else:
                print(self.summary(), file=sys.stderr, flush=True)
        return super().train(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one batch, in as many passes as its collator made of it."""
        parts = self._same_share(inputs.get("passes") or [None])
        total = torch.zeros((), device=self.args.device)
        for number, one in enumerate(parts, start=1):
            part = inputs if one is None else {"passes": [one]}
            together = contextlib.nullcontext() if number == len(parts) else self.accelerator.no_sync(model)
            with together, self._offload():
                total = total + super().training_step(model, part, num_items_in_batch)
        self._flush("train")
        return total

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.get_batch_samples``; tokens to predict count alike in all batches of an update step.

        transformers takes the mean over these batches, so each divides its sum by the mean of their numbers of tokens.
        """
        batches, count = super().get_batch_samples(*args, **kwargs)
        if self._words is not None:
            parts = [one["passes"] for one in batches if "passes" in one]
            share = sum(part[0]["language_share"] for part in parts) / max(1, len(parts))
            for one in itertools.chain.from_iterable(parts):
                one["language_share"] = share
        return batches, count

    def _same_share(self, passes: list[Any]) -> list[Any]:
        """Tokens to predict count alike on all processes: the mean over processes is then the mean over tokens."""
        if self.args.language_model_coefficient is None or self.accelerator.num_processes == 1 or passes == [None]:
            return passes
        count = torch.tensor(float(passes[0]["language_share"]), device=self.args.device)
        share = float(self.accelerator.reduce(count, "mean"))  # type: ignore[arg-type]
        return [{**one, "language_share": share} for one in passes]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch, and with ``return_outputs`` the rewards of its responses, [R, 1] in the rows' order."""
        results = [self._one_pass(model, one) for one in passes(inputs)]
        loss = torch.stack([loss for loss, _ in results]).sum()
        if not return_outputs:
            return loss
        return loss, {"logits": torch.cat([rewards for _, rewards in results])}

    def _one_pass(self, model: Any, one: dict[str, Any]) -> tuple[Tensor, Tensor]:
        device = self.args.device
        coefficient = self.args.language_model_coefficient
        if "batch" in one:
            outputs = model(packed=one["batch"].to(device), with_states=coefficient is not None)
        else:
            outputs = model(**one["inputs"], use_cache=False)
        labels = {name: value.to(device) for name, value in one["labels"].items()}
        rated = scored(outputs.logits, labels, one["share"])
        loss = self._objective(rated)
        # In training the loss is transformers' to log; in evaluation, rows that a sampler repeats are to be left out.
        self._tables.append(measure(rated, labels, None if model.training else self._objective.each(rated), self._mix))
        if coefficient is not None and "language" in one:
            places, tokens = one["language"].to(device)
            states = outputs.hidden_states[0].flatten(0, 1)[places]
            with self.accelerator.autocast():
                said = language_loss(states, self._words, tokens, count=one["language_share"])
            loss = loss + coefficient * said
        if self._anchor is not None:
            part = (int(labels["comparison"][-1]) + 1) / one["share"]
            head = active_head(self.network).weight
            loss = loss + part * self.args.head_anchor * losses.distance_to(head, self._anchor.to(head.device))
        return loss, outputs.logits

    # -- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As ``Trainer.evaluate``; a data set given here may be in any format that the constructor takes."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._rows_of_all(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[arg-type]

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """As ``Trainer.predict``; the data set may be in any format that the constructor takes."""
        return super().predict(self._rows(test_dataset, "test"), ignore_keys, metric_key_prefix)

    # -- optimizer

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.create_optimizer``, the head in a group of its own when it has its own learning rate."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if made and self.args.head_learning_rate is not None:
            set_rate(optimizer, active_head(self.network), self.args.head_learning_rate)
        return optimizer
