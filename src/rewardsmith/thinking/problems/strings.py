"""String manipulation: reverse and drop vowels, count a letter, initials, replace and cut, sort letters."""

from __future__ import annotations

import random

from rewardsmith.thinking.problems.problem import Problem, Work, solve
from rewardsmith.thinking.problems.words import WORDS

VOWELS = "aeiou"


def strings(rng: random.Random, difficulty: int) -> Problem:
    """One question about the letters of words; ``difficulty`` is how long the text is."""
    return rng.choice((_reverse, _count, _initials, _replace, _sort))(rng, difficulty)


def _garbled(text: str, letters: str = "ea") -> list[str]:
    """Plausible misspellings of the same length: two neighbours swapped, the last letter changed to one of two."""
    swapped = [text[:at] + text[at + 1] + text[at] + text[at + 2 :] for at in range(len(text) - 1)]
    changed = [text[:-1] + letters[text.endswith(letters[0])]]
    return [wrong for wrong in (*swapped[1:3], *swapped[-2:], *changed) if wrong != text]


def _text(rng: random.Random, difficulty: int) -> str:
    """One word, or two or three written together."""
    return "".join(rng.sample(WORDS, (1, 2, 2, 3, 3)[difficulty - 1]))


def _reverse(rng: random.Random, difficulty: int) -> Problem:
    word = _text(rng, difficulty)
    drop = rng.random() < 0.5
    then = "drop every vowel" if drop else "keep only the first four letters"
    question = f"Write '{word}' backwards, then {then}. What is left?"

    def derive(work: Work) -> str:
        back = work.result(word[::-1], _garbled(word[::-1]))
        work.write(f"'{word}' backwards is '{back}'.")
        right = "".join(letter for letter in back if letter not in VOWELS) if drop else back[:4]
        left = work.result(right, _garbled(right, "tn" if drop else "ea"))
        work.write(f"{'Without its vowels' if drop else 'Its first four letters:'} '{back}' gives '{left}'.")
        return f"'{left}'"

    return solve("strings", question, derive, difficulty, rng)


def _count(rng: random.Random, difficulty: int) -> Problem:
    words = rng.sample(WORDS, 1 + difficulty)
    letter = rng.choice(sorted(set("".join(words))))
    question = f"How often does the letter '{letter}' occur in '{' '.join(words)}'?"

    def derive(work: Work) -> str:
        counts = []
        for word in words:
            right = word.count(letter)
            counts.append(work.result(right, [right + 1, max(0, right - 1)]))
            work.write(f"In '{word}' it occurs {counts[-1]} time{'' if counts[-1] == 1 else 's'}.")
        total = work.result(sum(counts))
        work.write(f"In all that is {' + '.join(map(str, counts))} = {total}.")
        return str(total)

    return solve("strings", question, derive, difficulty, rng)


def _initials(rng: random.Random, difficulty: int) -> Problem:
    words = rng.sample(WORDS, 2 + difficulty)
    last = rng.random() < 0.5
    side = "last" if last else "first"
    question = f"Take the {side} letters of the words {', '.join(words)} and join them in capitals."

    def derive(work: Work) -> str:
        picks = []
        for word in words:
            # A slip takes the neighbour of the letter asked for.
            picks.append(work.result(word[-1] if last else word[0], [word[-2] if last else word[1]]))
            work.write(f"The {side} letter of '{word}' is '{picks[-1]}'.")
        joined = "".join(picks).upper()
        work.write(f"Joined in capitals they are {joined}.")
        return joined

    return solve("strings", question, derive, difficulty, rng)


def _replace(rng: random.Random, difficulty: int) -> Problem:
    word = _text(rng, difficulty)
    old = rng.choice(sorted(set(word)))
    new = rng.choice([letter for letter in "bdkmprtuxz" if letter not in word] or ["y"])
    keep = rng.randint(3, 5)
    question = f"In '{word}', replace every '{old}' with '{new}' and keep the last {keep} letters. What do you get?"

    def derive(work: Work) -> str:
        right = word.replace(old, new)
        replaced = work.result(right, [word.replace(old, new, word.count(old) - 1), *_garbled(right)])
        work.write(f"With '{new}' for '{old}', '{word}' becomes '{replaced}'.")
        end = work.result(replaced[-keep:], _garbled(replaced[-keep:]))
        work.write(f"The last {keep} letters of '{replaced}' are '{end}'.")
        return f"'{end}'"

    return solve("strings", question, derive, difficulty, rng)


def _sort(rng: random.Random, difficulty: int) -> Problem:
    word = _text(rng, difficulty)
    place = rng.randint(2, len(word) - 1)
    question = f"Sort the letters of '{word}' alphabetically, repeated ones too. Which letter is number {place}?"

    def derive(work: Work) -> str:
        right = "".join(sorted(word))
        ordered = work.result(right, _garbled(right))
        work.write(f"The letters of '{word}' in order are '{ordered}'.")
        letter = work.result(ordered[place - 1], sorted(set(ordered)))
        work.write(f"Number {place} of these {len(ordered)} letters is '{letter}'.")
        return f"'{letter}'"

    return solve("strings", question, derive, difficulty, rng)
