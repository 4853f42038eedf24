"""A name for a network's weights, that changes when they do."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from rewardsmith.model.backbone import head_name


def sha256(*tensors: torch.Tensor) -> str:
    """The hash of tensors' values as float32, in order."""
    values = (tensor.detach().cpu().float().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(b"".join(values)).hexdigest()


def fingerprint(network: Any, *parts: str) -> str:
    """24 hexadecimal digits that change with any parameter but the head's, and with ``parts`` (template, config ...).

    Parameters are sampled (up to 1,024 values each, evenly spaced): fine-tuning moves all of them, and hashing every
    byte of a large model would take longer than it saves.
    """
    digest = hashlib.sha256("\n".join(parts).encode())
    head = head_name(network)
    for name, parameter in network.named_parameters():
        if name.startswith(f"{head}."):
            continue
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // 1024)
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
