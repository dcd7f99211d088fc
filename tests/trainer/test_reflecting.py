"""Reflection of rollouts: what each completion adds to the counters, and the ratios that follow."""

import pytest

from coldstart.lexicon import MAYE_LIST, WordList
from coldstart_trainer.reflecting import ReflectionCounters

WORDS = WordList(name="own", words=("wait", "try again"))
OUTCOMES = "reflection_outcomes_total"


def counters(*rewards):
    made = ReflectionCounters(WORDS, rewards)
    return made, dict.fromkeys(made.series, 0.0)


def add(made, totals, *completions):
    for key, number in made.seen(*zip(*completions, strict=True)).items():
        totals[key] += number
    return dict(totals)


def test_completions_are_counted_by_word_and_by_what_the_accuracy_reward_says():
    made, totals = counters("format", "accuracy")
    completions = [
        ("Wait, wait. Try  again", [1.0, 0.0]),
        ("I WAIT", [0.0, 1.0]),
        ("the waiter", [0.0, 1.0]),
        ("", [1.0, float("nan")]),
    ]
    assert add(made, totals, *completions) == {
        f"{OUTCOMES}{{yes,right}}": 1,
        f"{OUTCOMES}{{yes,wrong}}": 1,
        f"{OUTCOMES}{{no,right}}": 1,
        f"{OUTCOMES}{{no,wrong}}": 1,
        "reflection_words_total{wait}": 2,
        "reflection_words_total{try again}": 1,
    }


def test_ratios_are_those_of_what_came_since_the_last_report():
    made, totals = counters("accuracy")
    # What an earlier attempt counted; the first call only takes note of it.
    assert made.ratios(add(made, totals, *[("wait", [1.0])] * 7)) == {}
    new = [("wait", [1.0]), ("wait", [0.0]), ("wait", [0.0]), ("7", [1.0])]
    assert made.ratios(add(made, totals, *new)) == {
        "reflection_ratio{all}": 3 / 4,
        "reflection_ratio{right}": 1 / 2,
        "reflection_ratio{wrong}": 1.0,
        "reflection_accuracy_ratio{yes}": 1 / 3,
        "reflection_accuracy_ratio{no}": 1.0,
    }
    assert made.ratios(add(made, totals, ("7", [0.0]))) == {
        "reflection_ratio{all}": 0.0,
        "reflection_ratio{wrong}": 0.0,
        "reflection_accuracy_ratio{no}": 0.0,
    }
    assert made.ratios(dict(totals)) == {}


def test_without_the_accuracy_reward_nobody_is_right_or_wrong():
    made, totals = counters("length:score")
    made.ratios(dict(totals))
    found = add(made, totals, ("wait", [5.0]), ("7", [0.0]))
    assert found[f"{OUTCOMES}{{yes,unknown}}"] == found[f"{OUTCOMES}{{no,unknown}}"] == 1
    assert made.ratios(found) == {"reflection_ratio{all}": 0.5}


@pytest.mark.parametrize("rewards", [("accuracy",), ("mine:score",)])
def test_every_counter_is_there_from_the_beginning(rewards):
    # Processes add up their counters place by place: none may come later in one of them.
    made = ReflectionCounters(MAYE_LIST, rewards)
    added = made.seen(["Wait, yet: re-check", "7"] * 2, [[1.0], [1.0], [0.0], [0.0]])
    assert set(added) < set(made.series)
    assert (
        len(set(made.series)) == len(made.series) == 15 + 2 * (2 if rewards == ("accuracy",) else 1)
    )
