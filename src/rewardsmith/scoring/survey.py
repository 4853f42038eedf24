"""Candidates looked over before they are scored: how many each prompt has, and whether their columns hold numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewardsmith.data.sources import read_rows
from rewardsmith.errors import DataError, RewardsmithError
from rewardsmith.scoring import candidates
from rewardsmith.scoring.score_options import ScoreOptions


def survey(
    source: str,
    options: ScoreOptions,
    *,
    columns: Sequence[str] = (),
    rank: bool = False,
    gold_column: str | None = None,
    gold_model: bool = False,
) -> list[tuple[str, int]]:
    """Read every row once: what is wrong is said before hours of scoring, not after.

    Args:
        columns: those that must hold one number per response.
        rank, gold_column, gold_model: which columns will be added.

    Returns:
        Of each group of candidates its prompt and how many they are (with these numbers).

    Raises:
        DataError: as ``candidates.numbers`` and ``check_new``. Rows that cannot be scored are left for the scoring to
            name.
    """
    sizes: dict[Any, tuple[str, int]] = {}
    for number, row in enumerate(read_rows(source, split=options.split)):
        try:
            item = candidates.read(row, options)
        except RewardsmithError:
            continue
        candidates.check_new(row, item, rank=rank, gold_column=gold_column, gold_model=gold_model)
        count = len(item.responses)
        try:
            for column in columns:
                candidates.numbers(row, item, column)
        except DataError:
            if not options.skip_bad:
                raise
            count = 0
        key = candidates.group_key(item, number)
        sizes[key] = (candidates.prompt_key(item), sizes.get(key, ("", 0))[1] + count)
    return list(sizes.values())
