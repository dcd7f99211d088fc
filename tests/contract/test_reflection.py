"""Reflection: whole words, the five ratios, and ratios that have no denominator."""

import pytest

from coldstart.reflection import MAYE_WORDS, Lexicon, reflection


def test_the_list_is_that_of_the_recipe():
    assert MAYE_WORDS == (
        "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine",
        "reevaluation", "rethink", "check again", "think again", "try again", "verify", "wait",
        "yet",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Wait, that is wrong.", {"wait": 1}),
        ("WAIT! Wait.", {"wait": 2}),
        ("I await the waiter and verified it yesterday.", {}),
        ("Let me re-check and recheck.", {"re-check": 1, "recheck": 1}),
        ("Let me re\u2011check.", {"re-check": 1}),
        ("We check\nagain.", {"check again": 1}),
        ("Check it again.", {}),
        ("A reevaluation, not to reevaluate.", {"reevaluation": 1, "reevaluate": 1}),
        ("", {}),
    ],
)
def test_words_are_matched_whole_and_in_either_case(text, found):
    assert dict(Lexicon().found(text)) == found


def test_the_five_ratios_and_the_counts():
    graded = [
        ("wait, 5", True),
        ("wait, wait, 6", False),
        ("let me verify, yet wait", False),
        ("5", True),
        ("5, surely", True),
    ]
    result = reflection(graded)
    assert result.ratios() == {
        "reflection_ratio": 3 / 5,
        "reflection_ratio_correct": 1 / 3,
        "reflection_ratio_incorrect": 2 / 2,
        "accuracy_reflecting": 1 / 3,
        "accuracy_not_reflecting": 2 / 2,
    }
    assert (result.responses, result.correct) == (5, 3)
    assert (result.reflecting, result.reflecting_correct) == (3, 1)
    assert result.word_responses["wait"] == 3
    assert result.word_responses["rethink"] == 0
    assert tuple(result.word_responses) == MAYE_WORDS


@pytest.mark.parametrize(
    ("graded", "undefined"),
    [
        ([], 5),
        ([("5", True)], 2),
        ([("wait", True)], 2),
        ([("wait", False)], 2),
    ],
)
def test_a_ratio_without_a_denominator_is_none(graded, undefined):
    values = list(reflection(graded).ratios().values())
    assert values.count(None) == undefined


def test_the_list_is_configurable_and_the_longest_phrase_wins():
    result = reflection([("Hold on a moment. Hmm.", True)], words=["hold on", "hold on a moment"])
    assert result.word_responses == {"hold on": 0, "hold on a moment": 1}


@pytest.mark.parametrize("words", [[], [" "], ["wait", "Wait"]])
def test_an_unusable_list_is_refused(words):
    with pytest.raises(ValueError, match="words: "):
        reflection([], words=words)
