"""Small programs to be run by hand: state carried through several steps."""

from __future__ import annotations

import random

from rewardsmith.thinking.problems.problem import Problem, Work, solve


def traces(rng: random.Random, difficulty: int) -> Problem:
    """One program of a few lines."""
    return rng.choice((_loop, _filter, _branch))(rng, difficulty)


def _asks(rng: random.Random) -> str:
    return rng.choice(("What does this Python program print?", "What is the output of this program?"))


def _loop(rng: random.Random, difficulty: int) -> Problem:
    start, factor, rounds = rng.randint(1, 9), rng.randint(2, 3), 1 + difficulty
    name = rng.choice("xnatv")
    body = f"{name} = {name} * {factor} + i"
    question = f"{_asks(rng)}\n{name} = {start}\nfor i in range(1, {rounds + 1}):\n    {body}\nprint({name})"

    def derive(work: Work) -> str:
        value = start
        for i in range(1, rounds + 1):
            after = work.result(value * factor + i)
            work.write(f"With i = {i}, {name} becomes {value} * {factor} + {i} = {after}.")
            value = after
        work.write(f"The loop ends and {value} is printed.")
        return str(value)

    return solve("traces", question, derive, difficulty, rng)


def _filter(rng: random.Random, difficulty: int) -> Problem:
    numbers = [rng.randint(2, 40) for _ in range(3 + difficulty)]
    divisor = rng.choice((2, 3))
    if not any(number % divisor == 0 for number in numbers):
        return _filter(rng, difficulty)
    question = (
        f"{_asks(rng)}\ntotal = 0\nfor n in {numbers}:\n    if n % {divisor} == 0:\n        total += n\nprint(total)"
    )

    def derive(work: Work) -> str:
        right = [number for number in numbers if number % divisor == 0]
        # A slip loses one of the numbers that count, or takes one too many.
        others = [at for at, number in enumerate(numbers) if number % divisor]
        mistakes = [right[:at] + right[at + 1 :] for at in range(len(right)) if len(right) > 1]
        mistakes += [[n for at, n in enumerate(numbers) if n % divisor == 0 or at == other] for other in others]
        kept = work.result(right, mistakes)
        work.write(f"Divisible by {divisor} are {', '.join(map(str, kept))}.")
        total = work.result(sum(kept))
        # A lone number is its own total: added to the 0 it starts from, it still makes an equation.
        work.write(f"The total is {' + '.join(map(str, kept if len(kept) > 1 else [0, *kept]))} = {total}.")
        work.write(f"So {total} is printed.")
        return str(total)

    return solve("traces", question, derive, difficulty, rng)


def _branch(rng: random.Random, difficulty: int) -> Problem:
    start, limit, up, down = rng.randint(1, 30), rng.randint(10, 40), rng.randint(2, 15), rng.randint(2, 9)
    rounds, name = 1 + difficulty, rng.choice("abkmz")
    question = (
        f"{_asks(rng)}\n{name} = {start}\nfor _ in range({rounds}):\n    if {name} < {limit}:\n"
        f"        {name} += {up}\n    else:\n        {name} -= {down}\nprint({name})"
    )

    def derive(work: Work) -> str:
        value = start
        for _ in range(rounds):
            below = value < limit
            after = work.result(value + up if below else value - down)
            relation = f"{value} is {'' if below else 'not '}below {limit}"
            work.write(
                f"{relation}, so {name} becomes {value} {'+' if below else '-'} {up if below else down} = {after}."
            )
            value = after
        work.write(f"At the end {value} is printed.")
        return str(value)

    return solve("traces", question, derive, difficulty, rng)
