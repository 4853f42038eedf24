"""What is checked before the first step: data that can be learnt from, a head that learns and is saved, a pad token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from rewardsmith.errors import DataError, ModelError, UsageError
from rewardsmith.model.backbone import find_head, head_name
from rewardsmith.training.config import RewardConfig
from rewardsmith.types import Comparison

_PEEKED = 1000  # rows of a stream that are looked at


def check_dataset(dataset: Any, args: RewardConfig) -> None:
    """The training data are there, and of a type that can be read.

    Raises:
        DataError: there are none.
        UsageError: another type, or a stream without ``max_steps``.
    """
    from datasets import Dataset, IterableDataset

    if dataset is None:
        raise DataError("train_dataset is required")
    if isinstance(dataset, IterableDataset):
        if args.max_steps < 1:
            raise UsageError("max_steps must be set for a stream: its length is not known")
    elif not isinstance(dataset, Dataset) and not _comparisons(dataset):
        kind = type(dataset).__name__
        raise UsageError(f"train_dataset must be a datasets.Dataset, an IterableDataset or comparisons, not {kind}")


def check_length(args: RewardConfig) -> None:
    """There is a step to train.

    Raises:
        UsageError: there is none: transformers would ignore the setting, or end at once as if it had trained.
    """
    if args.max_steps == 0 or args.max_steps < -1:
        raise UsageError(f"max_steps {args.max_steps}: nothing would be trained; at least 1, or -1 to count epochs")
    if args.max_steps < 0 and not 0 < args.num_train_epochs < math.inf:
        why = "it would never end" if args.num_train_epochs > 0 else "nothing would be trained"
        raise UsageError(f"num_train_epochs {args.num_train_epochs:g}: {why}; must be finite and greater than 0")


def _comparisons(dataset: Any) -> bool:
    return isinstance(dataset, list) and all(isinstance(one, Comparison) for one in dataset)


def check_mean(collator: Any) -> None:
    """The mean over a response is read only of what our own collator packs.

    Args:
        collator: the caller's own, None for ours.

    Raises:
        UsageError: it is another, which would have the network read the last token.
    """
    if collator is not None:
        raise UsageError("pooling 'mean' needs the trainer's own collator: leave data_collator out")


def check_scores(rows: Any, name: str, attributes: Sequence[str] | None = None) -> None:
    """Some of the token rows for ``regression`` have a score; one without adds nothing to the loss.

    Args:
        rows: token rows.
        name: of the data set.
        attributes: of which all must be known somewhere in the training data, and some elsewhere; None for one score.

    Raises:
        DataError: none has; of a stream, none of the first 1,000.
    """
    from datasets import Dataset

    if isinstance(rows, Dataset):
        found: Iterable[Any] = rows["scores"] if "scores" in rows.column_names else ()
    else:
        found = (row.get("scores") for row in islice(rows, _PEEKED))
    if attributes:
        missing = _never_rated(found, attributes)
        if missing and (name == "train" or len(missing) == len(attributes)):
            raise DataError(f"no row of the {name} data rates {missing[0]!r}; see docs/data.md", field="attributes")
        return
    if not any(_known(scores) for scores in found):
        raise DataError(
            f"regression needs scores, and no row of the {name} data has any; use bradley-terry instead",
            field="scores",
        )


def _never_rated(found: Iterable[Any], attributes: Sequence[str]) -> list[str]:
    """The attributes that no response has."""
    missing = dict(enumerate(attributes))
    for scores in found:
        for one in scores:
            missing = {place: name for place, name in missing.items() if not _known(one[place])}
        if not missing:
            break
    return list(missing.values())


def check_order(rows: Any) -> None:
    """Weights of attributes can be learnt: some response of the token rows is better than another.

    Raises:
        DataError: all comparisons are ties.
        UsageError: the data are a stream.
    """
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        raise UsageError("attribute_weights 'learned' reads the data again after the last step: it cannot be a stream")
    if all(map(_is_tie, rows)):
        raise DataError(
            "attribute_weights 'learned' needs preferences, and every comparison of the train data is a tie; "
            "give the weights by name, or leave them out to weigh all alike"
        )


def _is_tie(row: Any) -> bool:
    return len(set(row["ranks"])) == 1 if row.get("ids") else row.get("probability") == 0.5


def _known(scores: Any) -> bool:
    if isinstance(scores, list):
        return any(map(_known, scores))
    return scores is not None and scores == scores  # NaN is not itself


def check_best(args: RewardConfig, sets: Any) -> None:
    """Early stopping, and keeping the best checkpoint, know which of several evaluation sets to look at.

    Args:
        sets: the evaluation data as handed in.

    Raises:
        UsageError: they do not.
    """
    metric = args.metric_for_best_model or ("loss" if args.early_stopping_patience is not None else None)
    if not isinstance(sets, Mapping) or metric is None:
        return
    if not any(metric.removeprefix("eval_").startswith(f"{name}_") for name in sets):
        raise UsageError(
            f"metric_for_best_model {metric!r}: is of none of the evaluation sets {', '.join(map(repr, sets))}; say "
            f"which counts, e.g. 'eval_{next(iter(sets))}_loss'"
        )


def check_head(network: Any, model: Any) -> None:
    """The head learns, and will be in what is saved (traps 1 and 4).

    Args:
        network: the ``*ForSequenceClassification``.
        model: the same, or the PEFT model around it.

    Raises:
        ModelError: the head is frozen, or an adapter checkpoint would leave it out.
    """
    head = network.get_submodule(head_name(network))
    if not any(parameter.requires_grad for parameter in head.parameters()):
        raise ModelError(
            "the reward head is frozen and would stay as it is; "
            + ("put it into modules_to_save of the LoraConfig" if model is not network else "set requires_grad on it")
        )
    if model is not network:
        from peft import get_peft_model_state_dict

        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
        part = head_name(network).split(".")[0]
        if not any(f".{part}." in f".{key}" for key in saved):
            raise ModelError("the reward head would not be saved with the adapter; put it into modules_to_save")


def check_pad(tokenizer: Any, network: Any, outputs: int = 1) -> None:
    """The pad token is not EOS, and the network knows it (trap 5); the head has one output, or one per attribute."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ModelError("the tokenizer has no pad token of its own; set tokenizer.pad_token to one that is not EOS")
    if network.config.get_text_config().pad_token_id != tokenizer.pad_token_id:
        raise ModelError("config.pad_token_id is not the tokenizer's; other tools would read the score elsewhere")
    if find_head(network).out_features != outputs:
        raise ModelError(f"the head has {find_head(network).out_features} outputs; a reward model has {outputs}")
