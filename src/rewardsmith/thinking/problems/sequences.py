"""Number sequences: constant difference, constant ratio, growing difference, sum of the two terms before."""

from __future__ import annotations

import random

from rewardsmith.thinking.problems.problem import Problem, Work, solve


def sequences(rng: random.Random, difficulty: int) -> Problem:
    """One sequence to be continued; the question states the rule whenever the terms alone could mean two rules."""
    return rng.choice((_steady, _ratio, _growing, _summed))(rng, difficulty)


def _steady(rng: random.Random, difficulty: int) -> Problem:
    first, step = rng.randint(1, 40), rng.randint(2, 9 + 6 * difficulty)
    falling = rng.random() < 0.3
    place = rng.randint(8, 10 + 20 * difficulty)
    if falling:
        first += step * place
    sign = -1 if falling else 1
    terms = ", ".join(str(first + sign * step * k) for k in range(4))
    word = "falls" if falling else "grows"
    question = f"The sequence {terms}, ... {word} by the same amount each time. What is term number {place}?"

    def derive(work: Work) -> str:
        larger, smaller = (first, first - step) if falling else (first + step, first)
        gap = work.result(step)
        work.write(f"From one term to the next it {word} by {larger} - {smaller} = {gap}.")
        moves = work.result(place - 1)
        work.write(f"Term number {place} comes {place} - 1 = {moves} moves after the first.")
        change = work.result(moves * gap)
        work.write(f"These moves change it by {moves} * {gap} = {change}.")
        term = work.result(first + sign * change)
        work.write(f"So the term is {first} {'-' if falling else '+'} {change} = {term}.")
        return str(term)

    return solve("sequences", question, derive, difficulty, rng)


def _ratio(rng: random.Random, difficulty: int) -> Problem:
    first, ratio, more = rng.randint(1, 30), rng.randint(2, 5), difficulty + 1
    terms = [first * ratio**k for k in range(3)]
    question = (
        f"In the sequence {', '.join(map(str, terms))}, ... every term is the one before times the same number. "
        f"What is term number {3 + more}?"
    )

    def derive(work: Work) -> str:
        factor = work.result(ratio, [near for near in (ratio + 1, ratio - 1) if 2 <= near <= 5])
        work.write(f"The factor is {terms[1]} / {terms[0]} = {factor}.")
        term = terms[2]
        for place in range(4, 4 + more):
            grown = work.result(term * factor)
            work.write(f"Term number {place} is {term} * {factor} = {grown}.")
            term = grown
        return str(term)

    return solve("sequences", question, derive, difficulty, rng)


def _growing(rng: random.Random, difficulty: int) -> Problem:
    first, gap, growth, more = rng.randint(1, 50), rng.randint(1, 12), rng.randint(1, 5), difficulty + 1
    terms = [first]
    for k in range(3):
        terms.append(terms[-1] + gap + growth * k)
    question = (
        f"The differences between neighbours in {', '.join(map(str, terms))}, ... grow by the same amount each time. "
        f"What is term number {4 + more}?"
    )

    def derive(work: Work) -> str:
        by = work.result(growth)
        last_gap = terms[3] - terms[2]
        work.write(f"The last two differences are {terms[2] - terms[1]} and {last_gap}, so they grow by {by}.")
        term, difference = terms[3], last_gap
        for place in range(5, 5 + more):
            difference += by
            nxt = work.result(term + difference)
            work.write(f"Term number {place} is {term} + {difference} = {nxt}.")
            term = nxt
        return str(term)

    return solve("sequences", question, derive, difficulty, rng)


def _summed(rng: random.Random, difficulty: int) -> Problem:
    terms, more = [rng.randint(1, 25), rng.randint(1, 25)], difficulty + 1
    terms += [terms[0] + terms[1], terms[0] + 2 * terms[1]]
    question = (
        f"From the third term on, every term of {', '.join(map(str, terms))}, ... is the sum of the two before it. "
        f"What is term number {4 + more}?"
    )

    def derive(work: Work) -> str:
        before, term = terms[2], terms[3]
        for place in range(5, 5 + more):
            total = work.result(before + term)
            work.write(f"Term number {place} is {before} + {term} = {total}.")
            before, term = term, total
        return str(term)

    return solve("sequences", question, derive, difficulty, rng)
