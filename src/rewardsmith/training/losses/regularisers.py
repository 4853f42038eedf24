"""What is added to a loss, times a coefficient: rewards around 0, a backbone that can write, a head that stays."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from rewardsmith.errors import UsageError
from rewardsmith.training.losses.pairwise import reduce
from rewardsmith.training.losses.scored import Scored, floats, require_shape, rewards_of


def centering(scored: Scored) -> Tensor:
    """(r_first + r_second)^2 of each pair, weighted and divided by N as a loss is.

    Eisenstein et al. (2023, arXiv 2312.09244, equation 2), TRL's ``center_rewards_coefficient`` term. The losses of
    pairs know differences only; this, times a small coefficient such as 0.01, keeps rewards around 0 so that they
    compare across runs.
    """
    rewards = rewards_of(scored)
    return reduce(scored, (rewards[scored.first] + rewards[scored.second]).square())


def language_model(logits: Tensor, labels: Tensor, *, count: float) -> Tensor:
    """-sum over tokens of log softmax(logits)[label], divided by their number: the chosen responses as text to predict.

    The SFT regulariser of GRM (Yang et al. 2024, arXiv 2406.10216), per token and without the log sigma(beta .) they
    put around each response. It keeps a backbone that learns rewards able to write, and its rewards general.

    Args:
        logits: [T, V], each of the position before its label; UsageError for other shapes.
        labels: token ids [T] int64; -100 is left out.
        count: tokens to divide by, > 0: those of all parts of the batch, for accumulation to be exact.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        shapes = f"{list(logits.shape)} and {list(labels.shape)}"
        raise UsageError(f"logits must have shape [T, V] and labels [T], not {shapes}")
    if not count > 0:
        raise UsageError(f"count must be > 0, not {count}: it is the number of tokens to divide by")
    return cross_entropy(floats(logits), labels, reduction="sum") / count


def distance_to(weight: Tensor, anchor: Tensor) -> Tensor:
    """0.5 |w - w0|^2: a head that was fitted should be changed only for a reason.

    L2-SP (Li, Grandvalet & Davoine 2018). Times a coefficient, for training that starts from a fitted head. Both have
    one shape, any, or UsageError; no gradient goes to the anchor w0.
    """
    require_shape("anchor", anchor, "that of weight", weight.shape)
    return 0.5 * (floats(weight) - floats(anchor.detach())).square().sum()
