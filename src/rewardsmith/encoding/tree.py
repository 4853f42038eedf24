"""Responses to one prompt as a tree: the longest common token prefix once, then one branch per response.

Trees that all begin with the same tokens, as a system prompt, can stand on a common trunk (:func:`trunk`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewardsmith.encoding.template import Rendered, common_prefix

_WORTH = 8  # tokens; a shorter trunk saves less than its part of the attention costs


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt's responses.

    Args:
        prefix: tokens shared by every branch, [P], P >= 0.
        branches: what follows for each response, K lists of [B_k], B_k >= 1: the score is read at the last of them.
        response_starts: per branch, the index in prefix + branch at which the response begins.
    """

    prefix: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    response_starts: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens to compute."""
        return len(self.prefix) + sum(len(branch) for branch in self.branches)

    @property
    def depth(self) -> int:
        """Tokens of the longest single sequence."""
        return len(self.prefix) + max(len(branch) for branch in self.branches)

    def sequence(self, branch: int) -> tuple[int, ...]:
        """The whole token list of one response."""
        return self.prefix + self.branches[branch]


def build(rendered: Sequence[Rendered]) -> Tree:
    """The tree of K >= 1 rendered responses.

    The prefix is found on tokens, never on text, so it is right whatever the template does at the boundary (trap 8).
    It stops one token short of the shortest sequence: every branch keeps the token its score is read at.
    """
    first = rendered[0].ids
    shared = min(len(item.ids) for item in rendered) - 1
    for item in rendered[1:]:
        shared = min(shared, common_prefix(first, item.ids))
    if len(rendered) == 1:
        shared = 0
    return Tree(
        prefix=first[:shared],
        branches=tuple(item.ids[shared:] for item in rendered),
        response_starts=tuple(item.response_start for item in rendered),
    )


def unshare(tree: Tree) -> list[Tree]:
    """One tree per response, nothing shared: the slow, obvious way, and the way for encoders."""
    return [
        Tree((), (tree.sequence(k),), (tree.response_starts[k],))  #
        for k in range(len(tree.branches))
    ]


def rooted(tree: Tree, depth: int) -> Tree:
    """The same single response with its first ``depth`` tokens as the prefix, ``depth`` less than its length."""
    (ids,) = (tree.sequence(k) for k in range(len(tree.branches)))
    return Tree(ids[:depth], (ids[depth:],), tree.response_starts)


def split(tree: Tree, budget: int, known: int = 0) -> list[Tree]:
    """The same responses in trees of at most ``budget`` tokens each, the prefix repeated; order kept.

    A group of 64 long responses would otherwise be one row whose mask and activations do not fit (trap 16). A single
    sequence longer than the budget stays whole.

    Args:
        known: tokens of the prefix that need not be computed again for the second and later pieces.
    """
    if len(tree) <= budget:
        return [tree]
    pieces: list[Tree] = []
    start, size = 0, len(tree.prefix)
    for k, branch in enumerate(tree.branches):
        if k > start and size + len(branch) > budget:
            pieces.append(Tree(tree.prefix, tree.branches[start:k], tree.response_starts[start:k]))
            start, size = k, len(tree.prefix) - known
        size += len(branch)
    pieces.append(Tree(tree.prefix, tree.branches[start:], tree.response_starts[start:]))
    return pieces


def trunk(trees: Sequence[Tree]) -> int:
    """How many first tokens all trees have in common, to be computed once for all of them.

    Nothing of a response's own, which pooling may read, nor the last token of a sequence. 0 where it is not worth it.
    """
    first = _stem(trees[0]) if len(trees) > 1 else ()
    for tree in trees[1:]:
        first = first[: common_prefix(first, _stem(tree))]
    return len(first) if len(first) >= _WORTH else 0


def _stem(tree: Tree) -> tuple[int, ...]:
    """What of a tree could stand in a trunk."""
    ids = tree.prefix if len(tree.branches) > 1 else tree.sequence(0)[:-1]
    return ids[: min(tree.response_starts)]


def first_places(trees: Sequence[Tree]) -> list[int]:
    """Per tree, how many responses come before it: where its own begin when all are counted through."""
    places, at = [], 0
    for tree in trees:
        places.append(at)
        at += len(tree.branches)
    return places
