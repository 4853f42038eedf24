"""The reward head of a network with adapters: trained and saved with them, and found again inside PEFT's wrapper."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from rewardsmith.model.backbone import head_name
from rewardsmith.model.load import stored_tensor

logger = logging.getLogger("rewardsmith")


def keep_head(network: Any, peft_config: Any, folder: Path | None) -> None:
    """Put the head into ``modules_to_save`` of ``peft_config``, and with it every layer that a base may lack (trap 1).

    An encoder's head may have several layers (``classifier.dense``, ``classifier.out_proj``) or layers before it
    (``pre_classifier``, a pooler). On a base they are random: left out of the adapter, they are lost. PEFT names a head
    by its top level, so a name inside it (``out_proj``) gives way to that: it would be wrapped twice, and could not be
    loaded.

    Args:
        network: the ``*ForSequenceClassification``, without adapters.
        peft_config: changed in place.
        folder: the network was loaded from; None when it is not known.
    """
    tops = [name for name, module in network.named_children() if name != network.base_model_prefix and _learns(module)]
    if _lacks_pooler(network, folder):
        tops.append("pooler")
    modules = [name for name, _ in network.named_modules()]
    given = set(getattr(peft_config, "modules_to_save", None) or ())
    wanted = {one for one in given if not _inside(one, tops, modules)} | set(tops)
    peft_config.modules_to_save = sorted(wanted)
    head = head_name(network).split(".")[0]
    # What PEFT adds by itself to a classifier is no news.
    if head not in given and peft_config.task_type != "SEQ_CLS":
        logger.warning("the head %r is added to modules_to_save: it would not have been trained or saved", head)


def active_head(network: Any) -> nn.Linear:
    """The head that computes the rewards; of several adapters' copies that of the active one."""
    parts = head_name(network).split(".")
    # PEFT's wrapper keeps the module as it was and a copy per adapter; asked by the module's name it gives the active.
    for mark, deep in (("modules_to_save", 2), ("original_module", 1)):
        while mark in parts:
            del parts[parts.index(mark) : parts.index(mark) + deep]
    head = network.get_submodule(".".join(parts))
    return head.modules_to_save[head.active_adapters[0]] if hasattr(head, "modules_to_save") else head


def set_rate(optimizer: Any, head: nn.Module, rate: float) -> None:
    """Give the head's parameters groups of their own in an optimizer, with their own learning rate."""
    own = {id(parameter) for parameter in head.parameters()}
    for group in list(optimizer.param_groups):
        mine = [parameter for parameter in group["params"] if id(parameter) in own]
        if mine:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
            rest = {name: value for name, value in group.items() if name not in ("params", "lr")}
            optimizer.add_param_group({**rest, "params": mine, "lr": rate})


def _learns(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and all(one.is_floating_point() for one in parameters)


def _lacks_pooler(network: Any, folder: Path | None) -> bool:
    """True when the body has a pooler and its checkpoint none: BERT from a masked language model."""
    prefix = network.base_model_prefix
    pooler = getattr(getattr(network, prefix), "pooler", None)
    if folder is None or pooler is None or not _learns(pooler):
        return False
    names = [name for name, _ in pooler.named_parameters()]
    return stored_tensor(folder, *(f"{start}pooler.{name}" for start in ("", f"{prefix}.") for name in names)) is None


def _inside(entry: str, tops: list[str], modules: list[str]) -> bool:
    """True when all modules that ``entry`` names (by how their names end, as PEFT does) lie within ``tops``."""
    named = [name for name in modules if name.endswith(entry)]
    return bool(named) and all(name.split(".")[0] in tops and name not in tops for name in named)
