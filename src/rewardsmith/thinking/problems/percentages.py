"""Percentages: a changed price, a share of a whole, two changes in a row, the whole from a part."""

from __future__ import annotations

import random
from fractions import Fraction

from rewardsmith.thinking.problems.problem import Problem, Unclean, Work, show, solve
from rewardsmith.thinking.problems.words import ITEMS


def percentages(rng: random.Random, difficulty: int) -> Problem:
    """One question whose numbers come out exactly, to the cent."""
    return rng.choice((_change, _share, _twice, _whole))(rng, difficulty)


def _rate(rng: random.Random, difficulty: int) -> int:
    """A percentage in [5, 95]; round for the easiest problems."""
    return rng.randrange(10, 100, 10) if difficulty == 1 else rng.randrange(5, 100, 5)


def _change(rng: random.Random, difficulty: int) -> Problem:
    price, rate = rng.randint(2, 60 * difficulty) * 10, _rate(rng, difficulty)
    up = rng.random() < 0.5
    thing = rng.choice(("A bicycle", "A desk", "A phone", "A coat", "A printer", "A camera"))
    verb = rng.choice(("rises", "goes up") if up else ("falls", "goes down"))
    question = f"{thing} costs {price} dollars. Its price {verb} by {rate} percent. What does it cost then?"

    def derive(work: Work) -> str:
        amount = work.result(Fraction(price * rate, 100))
        work.write(f"{rate} percent of {price} is {price} * {rate} / 100 = {show(amount)}.")
        after = work.result(price + amount if up else price - amount)
        work.write(f"The new price is {price} {'+' if up else '-'} {show(amount)} = {show(after)} dollars.")
        return f"{show(after)} dollars"

    return solve("percentages", question, derive, difficulty, rng)


def _share(rng: random.Random, difficulty: int) -> Problem:
    whole = rng.choice((20, 25, 40, 50, 80, 100, 125, 200, 250, 400, 500)) * rng.randint(1, difficulty)
    part, item = rng.randint(1, whole - 1), rng.choice(ITEMS)
    kind = rng.choice(("red", "damaged", "new", "reserved", "marked"))
    question = f"Out of {whole} {item}, {part} are {kind}. What percentage of the {item} is not {kind}?"
    # A third in the whole would give endless decimals.
    if Fraction(100 * part, whole).denominator not in (1, 2, 4, 5, 8, 10, 16):
        return _share(rng, difficulty)

    def derive(work: Work) -> str:
        rest = work.result(whole - part)
        work.write(f"Not {kind} are {whole} - {part} = {rest} {item}.")
        share = work.result(Fraction(100 * rest, whole))
        if not 0 < share < 100:
            raise Unclean("after the slip it is none, or more than all")
        work.write(f"As a percentage: {rest} * 100 / {whole} = {show(share)}.")
        work.write(f"So it is {show(share)} percent.")
        return f"{show(share)} percent"

    return solve("percentages", question, derive, difficulty, rng)


def _twice(rng: random.Random, difficulty: int) -> Problem:
    rates = [_rate(rng, 1) for _ in range(2 if difficulty < 4 else difficulty - 1)]
    start = rng.randint(2, 30 * difficulty) * 10 ** len(rates)  # a member is whole in every year
    town = rng.choice(("A club", "A library", "A village", "A forum", "A school"))
    ordinals = ("first", "second", "third", "fourth")
    changes = [
        f"{'grows' if at % 2 == 0 else 'shrinks'} by {rate} percent in the {ordinals[at]} year"
        for at, rate in enumerate(rates)
    ]
    question = (
        f"{town} has {start} members. The number {', then '.join(changes)}. How many members are there at the end?"
    )

    def derive(work: Work) -> str:
        size = start
        for at, rate in enumerate(rates):
            factor = 100 + rate if at % 2 == 0 else 100 - rate
            right = size * factor // 100
            unit = 10 ** (len(rates) - at - 1)  # a wrong number, too, leads to whole members
            after = work.result(right, [right + k * unit for k in (1, -1, 10, -10) if right + k * unit > 0])
            work.write(f"After the {ordinals[at]} year there are {size} * {factor} / 100 = {after} members.")
            size = after
        return f"{size} members"

    return solve("percentages", question, derive, difficulty, rng)


def _whole(rng: random.Random, difficulty: int) -> Problem:
    rate, item = _rate(rng, difficulty), rng.choice(ITEMS)
    whole = rng.randint(1, 30 * difficulty) * 20
    part = whole * rate // 100
    question = f"{part} {item} are {rate} percent of a delivery. How many {item} are in the other part of the delivery?"

    def derive(work: Work) -> str:
        total = work.result(whole)
        work.write(f"The whole delivery is {part} * 100 / {rate} = {total} {item}.")
        rest = work.result(total - part)
        work.write(f"The other part is {total} - {part} = {rest} {item}.")
        return f"{rest} {item}"

    return solve("percentages", question, derive, difficulty, rng)
