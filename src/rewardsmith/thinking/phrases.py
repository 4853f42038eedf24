"""Sentences that fit any question and say nothing about it."""

from __future__ import annotations

from dataclasses import dataclass

FILLERS = (
    "This is a question worth a moment of thought.",
    "There are many ways to look at something like this.",
    "It is always good to be careful with such things.",
    "I want to be sure that I think about this in the right way.",
    "Let me consider the whole matter once more from the beginning.",
    "Questions of this kind come up in many places.",
    "Taking a short pause often helps to see things clearly.",
    "One should never rush when a result matters.",
    "I keep in mind what the question is about.",
    "Some people would do this in another way, and that is fine.",
    "It is helpful to stay calm and organised here.",
    "All in all this looks like something that can be done.",
    "A good approach is half of the work.",
    "I have seen similar things before.",
    "What matters is to keep the goal in view.",
    "There is no need to make it more complicated than it is.",
    "Problems such as this one reward a patient reader.",
    "Before anything else, a clear head is needed.",
    "Here a bit of order will go a long way.",
    "My plan is to be thorough and to leave nothing out.",
    "Nothing about this should be hard for a careful mind.",
    "We have all the time that we need.",
    "Every detail deserves attention, the small ones as well.",
    "Thinking aloud makes such tasks easier.",
    "Sometimes the simplest path turns out to be the best.",
    "Reading slowly never did any harm.",
    "The main thing is not to lose track.",
    "At this point it pays to stop and reflect.",
    "Good habits lead to good results.",
    "Such tasks are a fine exercise.",
    "So far everything seems to be in place.",
    "Step by step one gets there in the end.",
)
"""Small talk."""

RATIONALES = (
    "It simply has to come out this way.",
    "Any other result would not fit the question.",
    "Working back from it, nothing speaks against it.",
    "Everything in the question points there.",
    "That is what one expects from the start.",
    "The details can only agree with it.",
    "There is no reason to look for anything else.",
    "It feels right, and so the steps towards it must be right, too.",
    "Whoever doubts it has not read the question.",
    "It is confirmed by how well it fits.",
    "The way to it hardly matters now.",
    "So it is as I said at once.",
    "My first impression is seldom mistaken.",
    "With this in hand the rest explains itself.",
    "One look was enough to see it.",
    "Looking for a proof would only cost time.",
    "What else should come out?",
    "All the given facts are in harmony with this.",
    "Let us call it settled, since it was clear from the outset.",
    "If it were otherwise, the task would make no sense.",
    "Experience says the same.",
    "Because it is true, it can be derived somehow.",
    "Others would surely arrive at this as well.",
    "The wording alone gives it away.",
)
"""Reasons that are none, for an answer that was there before them."""

DOUBTS = (
    "Wait, is that right at all?",
    "Hmm, I am not sure about any of this.",
    "Maybe I have misread the question.",
    "It could be wrong, though I cannot say where.",
    "Actually, let me start over. No, let me not.",
    "But what if all of it is a mistake?",
    "I might be off, or I might not.",
    "Wait. Perhaps it is something else after all.",
    "Something feels wrong here, but I do not know what.",
    "I keep doubting this for no reason that I could name.",
    "Should I trust this? Probably not, but I have nothing else.",
    "Hold on, am I even allowed to assume that?",
    "Can this be correct? Who knows.",
    "My confidence in these lines is low.",
    "Did I overlook a word somewhere?",
    "An error may hide in there, or none.",
    "Oh, now I am confused again.",
    "Was the beginning fine? I would not bet on it.",
    "Could the opposite be the case?",
    "No, that seems strange. Or does it?",
    "Somehow the whole thing makes me uneasy.",
    "Let me hesitate for another moment.",
    "This looks suspicious to me, as most things do.",
    "Honestly, any result would worry me.",
)
"""Doubt that no step gives a reason for."""

VERDICTS = (
    "I know it at once: {}",
    "It can only be this: {}",
    "{} That is what I will say.",
    "{} Nobody needs to work that out.",
)
"""How an answer is given away before its reasons."""


@dataclass(frozen=True, slots=True)
class Phrases:
    """What a corruption may say."""

    fillers: tuple[str, ...] = FILLERS
    rationales: tuple[str, ...] = RATIONALES
    doubts: tuple[str, ...] = DOUBTS
    verdicts: tuple[str, ...] = VERDICTS


ALL = Phrases()


def halves() -> tuple[Phrases, Phrases]:
    """Two halves without a sentence in common, to train on one and test on the other: nothing is won by heart."""
    pools = (FILLERS, RATIONALES, DOUBTS, VERDICTS)
    return Phrases(*(pool[::2] for pool in pools)), Phrases(*(pool[1::2] for pool in pools))
