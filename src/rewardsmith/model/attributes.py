"""Attribute heads: one reward per named attribute, and the weights that make the one reward of them.

HelpSteer2 (Wang et al. 2024, arXiv 2406.08673) and ArmoRM (Wang et al. 2024, arXiv 2406.12845) are trained so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewardsmith.errors import ModelError
from rewardsmith.model.backbone import find_head
from rewardsmith.model.fingerprint import sha256

FILE = "attribute_heads.safetensors"
NO_ATTRIBUTES = (
    "has no attribute heads; train some: rewardsmith train --method lora --set loss=regression "
    "--set attributes=[helpfulness,verbosity] --data FILE -o OUT"
)


@dataclass(frozen=True)
class AttributeHeads:
    """r_a = weight[a] . x + bias[a], and the reward is sum_a mix[a] r_a, x what the reward head reads.

    Args:
        names: of the A attributes, distinct.
        weight: H, [A, d] float32.
        mix: w, [A] float32.
        bias: [A] float32; None where the reward head has none.
    """

    names: tuple[str, ...]
    weight: torch.Tensor
    mix: torch.Tensor
    bias: torch.Tensor | None = None

    def rewards(self, features: torch.Tensor) -> torch.Tensor:
        """[R, d] features -> [R, A], not normalised."""
        return torch.nn.functional.linear(features, self.weight, self.bias)

    def by_name(self, features: torch.Tensor) -> list[dict[str, float]]:
        """[R, d] features -> the attributes of each response by name."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rewards(features).tolist()]

    def collapsed(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight w H, [1, d], and bias w . bias, [1], of the one head that gives the reward: it is linear too."""
        mix = self.mix.double()[None]
        weight = (mix @ self.weight.double()).float()
        return weight, None if self.bias is None else (mix @ self.bias.double()).float()

    @property
    def weights(self) -> dict[str, float]:
        """w by name."""
        return dict(zip(self.names, self.mix.tolist(), strict=True))

    def to(self, device: torch.device) -> AttributeHeads:
        """The same on another device."""
        bias = None if self.bias is None else self.bias.to(device)
        return AttributeHeads(self.names, self.weight.to(device), self.mix.to(device), bias)

    def sha256(self) -> str:
        """Of the values, for the contract."""
        return sha256(*self._tensors().values())

    def write(self, folder: Path) -> None:
        """Write them into a checkpoint folder."""
        from safetensors.torch import save_file

        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._tensors().items()}
        save_file(tensors, folder / FILE, metadata={"names": json.dumps(self.names)})

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {"weight": self.weight, "mix": self.mix}
        return found if self.bias is None else {**found, "bias": self.bias}


def read(folder: Path, width: int) -> AttributeHeads | None:
    """The attribute heads of a checkpoint folder, None when it has none.

    Args:
        width: number of features that the backbone gives, d.

    Raises:
        ModelError: the file is damaged, or for another backbone.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = tuple(map(str, json.loads(opened.metadata()["names"])))
            tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118
        heads = AttributeHeads(names, tensors["weight"], tensors["mix"], tensors.get("bias"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: damaged ({error}); restore it, or train again") from error
    count = len(names)
    shapes = [
        list(heads.weight.shape),
        list(heads.mix.shape),
        *([] if heads.bias is None else [list(heads.bias.shape)]),
    ]
    if shapes != [[count, width], *[[count]] * (len(shapes) - 1)]:
        raise ModelError(
            f"{file}: its shapes are {shapes}; {count} attributes of this backbone need [{count}, {width}]"
        )
    return heads


def facts(heads: AttributeHeads | None) -> dict[str, Any]:
    """What the contract says of them."""
    weights: Mapping[str, float] = heads.weights if heads else {}
    return {"attribute_heads_sha256": heads and heads.sha256(), "attributes": weights}


def set_outputs(network: Any, weight: torch.Tensor, bias: torch.Tensor | None, labels: Sequence[str]) -> None:
    """Give the head of a network other outputs, in place: weight [A, d], bias [A] (None is 0), A labels."""
    head = find_head(network)
    head.weight = torch.nn.Parameter(weight.to(head.weight), requires_grad=head.weight.requires_grad)
    if head.bias is not None:
        bias = torch.zeros(len(weight)) if bias is None else bias
        head.bias = torch.nn.Parameter(bias.to(head.bias), requires_grad=head.bias.requires_grad)
    head.out_features = len(weight)
    network.num_labels = network.config.num_labels = len(labels)
    network.config.id2label = dict(enumerate(labels))
    network.config.label2id = {label: number for number, label in enumerate(labels)}
