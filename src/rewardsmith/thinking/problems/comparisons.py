"""Comparisons: two products, two unit prices, a chain of heights, decimals in order. The answer is a choice."""

from __future__ import annotations

import random
from fractions import Fraction

from rewardsmith.thinking.problems.problem import Problem, Unclean, Work, show, solve
from rewardsmith.thinking.problems.words import ITEMS, NAMES, two


def comparisons(rng: random.Random, difficulty: int) -> Problem:
    """One question that asks for the largest, the cheaper, or an order."""
    return rng.choice((_products, _prices, _heights, _decimals))(rng, difficulty)


def _products(rng: random.Random, difficulty: int) -> Problem:
    top = 12 * difficulty + 10
    a, b, c = (rng.randint(6, top) for _ in range(3))
    d = max(2, a * b // c + rng.choice((-2, -1, 0, 1, 2)))
    if a * b == c * d:
        d += 1
    larger = rng.random() < 0.5
    word = "larger" if larger else "smaller"
    left, right = f"{a} * {b}", f"{c} * {d}"
    question = f"Which is {word}, {left} or {right}?"

    def derive(work: Work) -> str:
        one = work.result(a * b)
        work.write(f"The first is {left} = {one}.")
        other = work.result(c * d)
        work.write(f"The second is {right} = {other}.")
        if one == other:
            raise Unclean("after the slip neither is larger")
        first = work.result((one > other) == larger, [(one > other) != larger])
        picked = left if first else right
        work.write(f"{one if first else other} is {word} than {other if first else one}, so it is {picked}.")
        return picked

    return solve("comparisons", question, derive, difficulty, rng)


def _prices(rng: random.Random, difficulty: int) -> Problem:
    item, (first, second) = rng.choice(ITEMS), two(rng, NAMES)
    counts = (rng.choice((2, 4, 5, 8)), rng.choice((10, 16, 20, 25)))
    each = [Fraction(rng.randint(3, 30 * difficulty), 4 if difficulty > 1 else 1) for _ in counts]
    totals = [count * price for count, price in zip(counts, each, strict=True)]
    if each[0] == each[1] or any((4 * total).denominator != 1 for total in totals):
        return _prices(rng, difficulty)
    question = (
        f"{first} sells {counts[0]} {item} for {show(totals[0])} dollars, {second} sells {counts[1]} {item} "
        f"for {show(totals[1])} dollars. Whose {item} are cheaper apiece?"
    )

    def derive(work: Work) -> str:
        prices = []
        for name, count, total in zip((first, second), counts, totals, strict=True):
            price = work.result(total / count)
            work.write(f"From {name}, one costs {show(total)} / {count} = {show(price)} dollars.")
            prices.append(price)
        if prices[0] == prices[1]:
            raise Unclean("after the slip neither is cheaper")
        own = work.result(prices[0] < prices[1], [prices[0] > prices[1]])
        low, high = prices if own else prices[::-1]
        work.write(f"{show(low)} is less than {show(high)}, so it is {first if own else second}.")
        return first if own else second

    return solve("comparisons", question, derive, difficulty, rng)


def _heights(rng: random.Random, difficulty: int) -> Problem:
    people = rng.sample(NAMES, 2 + difficulty)
    start, gaps = rng.randint(140, 180), [rng.choice((-1, 1)) * rng.randint(2, 14) for _ in people[1:]]
    heights = [start]
    for gap in gaps:
        heights.append(heights[-1] + gap)
    if len(set(heights)) < len(heights):
        return _heights(rng, difficulty)
    facts = [
        f"{name} is {abs(gap)} cm {'taller' if gap > 0 else 'shorter'} than {before}."
        for before, name, gap in zip(people, people[1:], gaps, strict=False)
    ]
    # Told in any order: otherwise the last sentence often names the answer.
    rng.shuffle(facts)
    tallest = rng.random() < 0.5
    word = "tallest" if tallest else "shortest"
    question = f"{people[0]} is {start} cm tall. {' '.join(facts)} Who is the {word}?"

    def derive(work: Work) -> str:
        known = [start]
        for name, gap in zip(people[1:], gaps, strict=True):
            height = work.result(known[-1] + gap, [known[-1] - gap, known[-1] + gap + 10, known[-1] + gap - 10])
            work.write(f"{name} is {known[-1]} {'+' if gap > 0 else '-'} {abs(gap)} = {height} cm tall.")
            known.append(height)
        ranked = sorted(zip(known, people, strict=True), reverse=tallest)
        if ranked[0][0] == ranked[1][0]:
            raise Unclean(f"after the slip two are the {word}")
        _, name = work.result(ranked[0], [ranked[1]])
        work.write(f"Of {', '.join(map(str, known))} cm, the {word} is {name}.")
        return name

    return solve("comparisons", question, derive, difficulty, rng)


def _decimals(rng: random.Random, difficulty: int) -> Problem:
    base = rng.randint(0, 9)
    pool = [f"{base}.{digits}" for digits in ("7", "07", "65", "605", "6", "615", "71", "069", "701", "59", "509", "5")]
    pool += [f"{base}.{rng.randint(1, 99):02d}", f"{base}.{rng.randint(1, 999):03d}"]
    numbers = rng.sample(pool, 2 + difficulty)
    if len({Fraction(number) for number in numbers}) < len(numbers):
        return _decimals(rng, difficulty)
    rising = rng.random() < 0.5
    question = f"Put {', '.join(numbers)} in {'increasing' if rising else 'decreasing'} order."
    longest = max(len(number) for number in numbers)

    def derive(work: Work) -> str:
        padded = ", ".join(number.ljust(longest, "0") for number in numbers)
        work.write(f"With equally many decimals these are {padded}.")
        order = sorted(numbers, key=Fraction, reverse=not rising)
        # The classic mistake: 0.65 taken for more than 0.7, because 65 is more than 7.
        naive = sorted(numbers, key=lambda number: (int(number.split(".")[1]), number), reverse=not rising)
        swapped = [order[1], order[0], *order[2:]]
        best = work.result(order, [naive, swapped])
        work.write(f"The {'smallest' if rising else 'largest'} comes first, so the order is {', '.join(best)}.")
        return ", ".join(best)

    return solve("comparisons", question, derive, difficulty, rng)
