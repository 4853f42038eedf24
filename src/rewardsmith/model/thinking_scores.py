"""What of a response earned its reward: its thinking, its answer, and each step, from one shared forward pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any

from rewardsmith.encoding.parsed_thinking import in_content
from rewardsmith.encoding.places import Placed, place
from rewardsmith.encoding.template import Rendered, coerce
from rewardsmith.encoding.tree import Tree
from rewardsmith.errors import ModelError, UsageError
from rewardsmith.model.as_loaded import as_loaded
from rewardsmith.model.read_places import read_places, tree_of
from rewardsmith.model.response_scores import check_lengths, scored
from rewardsmith.model.steps import Curve, Part, Step, curve, split_steps
from rewardsmith.shaping import RepetitionPenalty
from rewardsmith.thinking.boundary import tokenizer_tags
from rewardsmith.thinking.tags import THINK, Tags
from rewardsmith.types import ScoredResponse, Text

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

Reading = tuple[ScoredResponse, float | None]
"""The reward at one place, and the probability that the step which ends there is right (with a process head)."""


@dataclass(frozen=True, slots=True)
class ThinkingScore:
    """A response's reward taken apart. All rewards are in the units of ``RewardModel.score``.

        overall = answer_alone + contribution = thinking + answer_given_thinking

    The first equation is exact in Python's floats: rewards are float32 numbers, and differences of those are exact
    unless one is more than 2^28 times the other.

    Args:
        response: the text that was split: of several turns the last one's.
        scored: the whole response as ``score_responses`` gives it.
        thinking: the reward read where the thinking ends: at the end of its (last) closing tag, or of its text while
            it is unclosed. None without thinking, or when it was cut off to fit the model.
        answer_alone: the reward of the response with its thinking taken out.
        curve: the rewards at the ends of its steps.
        thinking_tokens, answer_tokens: tokens that begin in the text of either, cut off or not; tags are not counted.
        repetition: share of the thinking's 4-grams of words that were there before, in [0, 1).
        has_thinking, opened, closed: whether there is thinking, and its opening and closing tag.
    """

    response: str
    scored: ScoredResponse
    thinking: float | None
    answer_alone: float
    curve: Curve
    thinking_tokens: int
    answer_tokens: int
    repetition: float
    has_thinking: bool
    opened: bool
    closed: bool

    @property
    def overall(self) -> float:
        """The reward of the whole response."""
        return self.scored.reward

    @property
    def contribution(self) -> float:
        """What the thinking adds to the reward of the answer alone."""
        return self.overall - self.answer_alone

    @property
    def answer_given_thinking(self) -> float | None:
        """What the answer adds once the thinking is read; None where ``thinking`` is."""
        return None if self.thinking is None else self.overall - self.thinking

    @property
    def prefilled(self) -> bool:
        """Whether the thinking's opening tag stood in the prompt."""
        return self.has_thinking and not self.opened

    @property
    def share(self) -> float:
        """The thinking's part of the tokens, in [0, 1]; 0 without any."""
        return self.thinking_tokens / max(1, self.thinking_tokens + self.answer_tokens)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the response with their rewards."""
        return self.curve.steps

    @property
    def min_step(self) -> float | None:
        """See :class:`Curve`."""
        return self.curve.min_step

    @property
    def last_step(self) -> float | None:
        """See :class:`Curve`."""
        return self.curve.last_step

    @property
    def mean_step(self) -> float | None:
        """See :class:`Curve`."""
        return self.curve.mean_step

    @property
    def process(self) -> tuple[float, ...]:
        """The probability that each step of the thinking is right; empty without steps or without a process head."""
        return tuple(
            step.probability for step in self.steps if step.part == "thinking" and step.probability is not None
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values, steps included."""
        names = ("overall", "thinking", "answer_given_thinking", "answer_alone", "contribution")
        facts = ("thinking_tokens", "answer_tokens", "share", "repetition", "closed", "opened", "prefilled")
        forms = ("min_step", "last_step", "mean_step")
        steps = [{name: getattr(step, name) for name in Step.__dataclass_fields__} for step in self.steps]
        more = {"start": self.curve.start, "worst_step": self.curve.worst, "fall_step": self.curve.fall}
        return {**{name: getattr(self, name) for name in (*names, *facts, *forms)}, **more, "steps": steps}

    def _repr_html_(self) -> str:
        from rewardsmith.evaluation.thinking_page import fragment

        return fragment(self)


@dataclass(frozen=True, slots=True)
class AskedThinking:
    """A response ready to be read.

    Args:
        key: the prompt with what the template gets beside it; equal keys share a prefix.
        full: the whole response.
        alone: without its thinking; None when it has none.
        placed: where its parts are.
        steps: characters and part of each step that is in the sequence as a whole.
        places: tokens to read: the end of the sequence, the end of the thinking, before the first step, the steps'
            ends. The middle two are the end of the sequence where there is nothing to read.
    """

    key: Hashable
    full: Rendered
    alone: Rendered | None
    placed: Placed
    steps: tuple[tuple[int, int, Part], ...]
    places: tuple[int, ...]


def score_thinking(
    model: RewardModel,
    prompts: Sequence[Any],
    responses: Sequence[Any],
    *,
    tags: Tags | None = None,
    variables: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    budget: int | None = None,
) -> list[ThinkingScore]:
    """Take the rewards of responses apart, in order, each from one forward pass in which equal prompts are shared.

    A causal model's state at a token knows nothing of what follows, so the reward read there is that of the response
    cut off behind it: the thinking's and the steps' rewards cost no further tokens. Only the answer without its
    thinking is a second branch behind the same prompt.

    Args:
        prompts, responses: equally many, text or messages. Thinking in a message's ``reasoning_content`` is put back
            into its content.
        tags: the think tags to look for (``custom_tags``, or a member of ``TAG_FAMILIES``); None for all families.
        variables: as for :meth:`Scorer.score`: ``{"tools": ..., "kwargs": ...}`` for all, or one per response.
        budget: positions per forward pass.

    Raises:
        ModelError: the model is an encoder, in which every token sees the whole response.
        UsageError: unequal lengths.
        TemplateError: a text that the template refuses, or changes so that its tokens cannot be found.
    """
    check_lengths(prompts, responses)
    each = [variables] * len(prompts) if variables is None or isinstance(variables, Mapping) else variables
    asked = [
        ask_thinking(model, prompt, response, tags=tags, variables=one)
        for prompt, response, one in zip(prompts, responses, each, strict=True)
    ]
    return score_asked_thinking(model, asked, budget=budget)


def check_causal(model: RewardModel) -> None:
    """Refuse an encoder.

    Raises:
        ModelError: the model is one.
    """
    if not model.backbone.causal:
        raise ModelError(
            f"{type(model.backbone.network).__name__} is an encoder: its every token sees the whole response, so no "
            "reward can be read within it; thinking scores need a causal model"
        )


def ask_thinking(
    model: RewardModel,
    prompt: Any,
    response: Any,
    *,
    tags: Tags | None = None,
    variables: Mapping[str, Any] | None = None,
) -> AskedThinking:
    """Render one response with and without its thinking and find what is to be read; arguments and errors as for
    :func:`score_thinking`.
    """
    check_causal(model)
    if not isinstance(tags, (Tags, NoneType)):
        raise UsageError(f"tags {tags!r}: give custom_tags(open, close) of rewardsmith.thinking")
    prompt = coerce(prompt)
    response = in_content(coerce(response), tags or tokenizer_tags(model.template.tokenizer) or THINK)
    full = model.render(prompt, response, **(variables or {}))
    placed = place(model.template, prompt, response, full, tags=tags, **(variables or {}))
    alone = None
    if placed.parts.blocks:
        alone = model.render(prompt, _replaced(response, placed.parts.visible.lstrip()), **(variables or {}))
    parted = split_steps(placed.parts, model.contract.process.get("separator", "\n"))
    found = [(step, placed.token(step[0] + 1), placed.token(step[1])) for step in parted]
    steps = [(step, first, last) for step, first, last in found if first is not None and last is not None]
    end, thinking = len(full.ids) - 1, placed.closing()
    before = max(full.response_start, steps[0][1] - 1) if steps else end
    places = (end, end if thinking is None else thinking, before, *(last for _, _, last in steps))
    key = (prompt, repr(sorted((variables or {}).items())))
    return AskedThinking(key, full, alone, placed, tuple(step for step, _, _ in steps), places)


@as_loaded
def score_asked_thinking(
    model: RewardModel, asked: Sequence[AskedThinking], *, budget: int | None = None
) -> list[ThinkingScore]:
    """Read what :func:`ask_thinking` gave, in order."""
    groups: dict[Hashable, list[int]] = {}
    for index, one in enumerate(asked):
        groups.setdefault(one.key, []).append(index)
    wanted: list[tuple[Rendered, tuple[int, ...]]] = []  # in the order of the trees' responses
    trees, order = [], []
    for members in groups.values():
        branches = [branch for index in members for branch in _branches(asked[index])]
        # The prefix ends where the first response begins, so that every place is in a branch.
        starts = [(item.response_start, *places) for item, places in branches]
        trees.append(tree_of([item for item, _ in branches], starts))
        wanted += branches
        order += members
    found: list[list[Reading]] = [[] for _ in wanted]
    for number, reading in _read(model, trees, wanted, budget or model.budget):
        found[number].append(reading)
    read = iter(found)
    scores: dict[int, ThinkingScore] = {}
    for index in order:
        one, at_places = asked[index], next(read)
        scores[index] = _score(one, at_places, at_places[0] if one.alone is None else next(read)[0])
    return [scores[index] for index in range(len(asked))]


def _branches(one: AskedThinking) -> Iterator[tuple[Rendered, tuple[int, ...]]]:
    yield one.full, one.places
    if one.alone is not None:
        yield one.alone, (len(one.alone.ids) - 1,)


def _read(
    model: RewardModel, trees: Sequence[Tree], wanted: Sequence[tuple[Rendered, tuple[int, ...]]], budget: int
) -> Iterator[tuple[int, Reading]]:
    """Number of the response, counted through the trees, and what is read at each of its places, in order."""
    pad = model.template.tokenizer.pad_token_id
    for numbers, features in read_places(model.backbone, trees, [places for _, places in wanted], pad, budget):
        scores = scored(model, features, [wanted[number][0] for number in numbers])
        right = model.process.logits(features).sigmoid().tolist() if model.process else [None] * len(scores)
        for number, score, p in zip(numbers, scores, right, strict=True):
            yield number, (score, p)


def _score(one: AskedThinking, read: Sequence[Reading], alone: Reading) -> ThinkingScore:
    placed, parts = one.placed, one.placed.parts
    thinking, before, *steps = (scored.reward for scored, _ in read[1:])
    right = [p for _, p in read[3:] if p is not None]
    text = parts.join()
    return ThinkingScore(
        response=text,
        scored=read[0][0],
        thinking=None if placed.closing() is None else thinking,
        answer_alone=alone[0].reward,
        curve=curve(before if steps else None, one.steps, steps, text, right or None),
        thinking_tokens=sum(placed.count(start, end) for start, end in parts.spans),
        answer_tokens=sum(placed.count(start, end) for start, end in _answers(one)),
        repetition=RepetitionPenalty().share(parts.thinking or ""),
        has_thinking=bool(parts.blocks),
        opened=parts.opened,
        closed=parts.closed,
    )


def _answers(one: AskedThinking) -> Iterator[tuple[int, int]]:
    """Characters of the response outside of its thinking and its tags."""
    parts = one.placed.parts
    yield 0, len(parts.head)
    for block, (_, end) in zip(parts.blocks, parts.spans, strict=True):
        yield end + len(block.close), end + len(block.close) + len(block.after)


def _replaced(response: Text, content: str) -> Text:
    """The response with another text in its last turn."""
    if isinstance(response, str):
        return content
    return (*response[:-1], replace(response[-1], content=content))
