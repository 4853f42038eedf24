"""``rewardsmith data synthesize thinking --from``: pairs out of a user's own solutions or good responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rewardsmith.cli import console
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.thinking.pairs import ThinkingPair
    from rewardsmith.thinking.tags import Tags
    from rewardsmith.types import Comparison, Text


def own_pairs(
    source: str,
    count: int | None,
    seed: int,
    corruptions: list[str] | None,
    tags: Tags | None,
    answer_mark: str | None,
    *,
    corrupt: bool,
    skip_bad: bool,
    quiet: bool,
) -> tuple[list[ThinkingPair], int]:
    """The pairs, and how many responses were left out because they cannot be taken apart."""
    from rewardsmith.data import load_comparisons, read_rows
    from rewardsmith.thinking.own_data import corrupted_pairs, is_usable, labelled_pairs, lacks_mark, text_of, with_tags
    from rewardsmith.thinking.tags import THINK

    written = tags or THINK
    with console.reading("reading", [source], None, quiet=quiet) as tick:
        rows = read_rows(source, tick=tick)
        first = next(rows, None)
        if first is not None and first.data is not None and _is_response(first.data):
            good = list(_responses(source, first, rows, skip_bad))
            corrupt = True
        else:
            comparisons = list(load_comparisons(source, skip_bad=skip_bad))
            good = [(item.prompt, text_of(item.responses[_best(item)])) for item in comparisons] if corrupt else []
            if not corrupt:
                texts = [text_of(response) for item in comparisons for response in item.responses]
                unmarked = sum(lacks_mark(text, answer_mark, written) for text in texts)
                if unmarked:
                    _say_unmarked(source, answer_mark, unmarked, len(texts))
                made = list(labelled_pairs(comparisons, answer_mark, written))
                return _labelled(made, count, seed, corruptions), unmarked
    marked = [(prompt, with_tags(text, answer_mark, written)) for prompt, text in good]
    unusable = sum(not is_usable(text, tags) for _, text in marked)
    unmarked = sum(lacks_mark(text, answer_mark, written) for _, text in good)
    made = corrupted_pairs(marked, count, seed, corruptions, tags)
    if unmarked:
        _say_unmarked(source, answer_mark, unmarked, len(marked))
    if unusable > unmarked:
        console.warn(
            f"{source}: {unusable - unmarked} of {len(marked)} responses are left out: they do not have one closed "
            "block of thinking and an answer behind it"
        )
    return made, unusable


def _say_unmarked(source: str, answer_mark: str | None, unmarked: int, responses: int) -> None:
    """Say how many responses the mark did not fit; without tags beside others that have them they would teach form.

    Raises:
        UsageError: it fits none.
    """
    if unmarked == responses:
        raise UsageError(
            f"--answer-mark {answer_mark!r}: none of the {responses} responses of {source} has a line that begins so; "
            "give the text with which their answer's line begins"
        )
    console.warn(
        f"{source}: {unmarked} of {responses} responses are left out: they have no think tags and no line that begins "
        f"with {answer_mark!r} (--answer-mark)"
    )


def warn_of_bare_responses(made: list[ThinkingPair], tags: Tags | None) -> None:
    """Say how many better responses have no thinking: pairs of those teach nothing about it."""
    from rewardsmith.thinking import split_thinking

    bare = sum(not split_thinking(str(pair.comparison.responses[0]), tags=tags).blocks for pair in made)
    if bare:
        console.warn(
            f"{bare} of {len(made)} better responses have no thinking; if it stands there without tags, "
            '--answer-mark says how the answer\'s line begins (such as "A:")'
        )


def _labelled(
    made: list[ThinkingPair], count: int | None, seed: int, corruptions: list[str] | None
) -> list[ThinkingPair]:
    import random

    if corruptions is not None:
        raise UsageError("--corruptions does nothing for labelled solutions; add --corrupt to corrupt the best of each")
    if count is None or count == len(made):
        return made
    if count > len(made):
        raise UsageError(f"-n {count}: the data gives {len(made)} pairs; ask for fewer")
    # A sample, in the order of the file.
    kept = sorted(random.Random(f"labelled-{seed}").sample(range(len(made)), count))
    return [made[index] for index in kept]


def _is_response(row: dict[str, Any]) -> bool:
    return "prompt" in row and "response" in row and "helpfulness" not in row


def _responses(source: str, first: Any, rest: Iterator[Any], skip_bad: bool) -> Iterator[tuple[Text, str]]:
    """Prompt and response of each row; a row without them is an error with its place, or left out and counted."""
    from rewardsmith.data.fields import required, text, text_or_messages
    from rewardsmith.data.problems import RowError
    from rewardsmith.errors import DataError

    bad = 0
    for row in [first, *rest]:
        place = {"file": row.source.file, "line": row.source.line}
        try:
            if row.data is None:
                raise RowError(row.error or "cannot be read", rule="unreadable")
            yield text_or_messages(required(row.data, "prompt"), "prompt"), text(row.data, "response")
        except RowError as error:
            bad += 1
            if not skip_bad:
                raise DataError(error.message, **place, field=error.field) from error
    if bad:
        console.warn(f"{source}: {bad} bad row{'s' * (bad > 1)} left out")


def _best(item: Comparison) -> int:
    return item.ranks.index(min(item.ranks))
