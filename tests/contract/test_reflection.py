"""Reflection: counts and ratios by hand, and that nothing is told where nothing can be."""

import math
import random

import pytest

from coldstart.association import Table, phi, phi_interval, total
from coldstart.estimates import reflection
from coldstart.lexicon import MAYE_LIST, WordList
from coldstart.reflection import Counts, counted
from coldstart.results import Correlation, Reflection, Sample

NONE = dict.fromkeys(Counts().ratios())


def sample(place, response, correct, *, number=0):
    outcome = "correct" if correct else "wrong"
    fields = {"problem": "?", "gold": "7", "tokens": 1, "truncated": False, "boxed": True}
    return Sample(id=str(place), sample=number, response=response, outcome=outcome, **fields)


def responses(reflecting_right, reflecting_wrong, plain_right, plain_wrong):
    """One response to each of so many problems."""
    kinds = [("wait, 7", True), ("wait, 8", False), ("7", True), ("8", False)]
    counts = (reflecting_right, reflecting_wrong, plain_right, plain_wrong)
    every = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    return [sample(place, text, correct) for place, (text, correct) in enumerate(every)]


def test_the_five_ratios_by_hand():
    counts = counted(
        [(True, True)] * 2 + [(True, False)] * 6 + [(False, True)] * 9 + [(False, False)]
    )
    assert counts == Counts(responses=18, correct=11, reflecting=8, reflecting_correct=2)
    assert counts.ratios() == {
        "ratio": 8 / 18,
        "ratio_correct": 2 / 11,
        "ratio_wrong": 6 / 7,
        "accuracy_reflecting": 2 / 8,
        "accuracy_not_reflecting": 9 / 10,
    }


@pytest.mark.parametrize(
    ("judged", "known"),
    [
        ([], {}),
        ([(False, True)], {"ratio": 0, "ratio_correct": 0, "accuracy_not_reflecting": 1}),
        ([(True, True)], {"ratio": 1, "ratio_correct": 1, "accuracy_reflecting": 1}),
        ([(True, False)], {"ratio": 1, "ratio_wrong": 1, "accuracy_reflecting": 0}),
    ],
)
def test_a_ratio_without_a_denominator_is_none(judged, known):
    assert counted(judged).ratios() == NONE | known


def test_phi_is_pearsons_correlation_by_hand():
    assert phi(Table(18, 8, 11, 2)) == (18 * 2 - 8 * 11) / math.sqrt(8 * 10 * 11 * 7)
    assert phi(Table(10, 5, 5, 5)) == 1
    assert phi(Table(10, 5, 5, 0)) == -1
    assert phi(Table(4, 2, 2, 1)) == 0


@pytest.mark.parametrize("table", [(0, 0, 0, 0), (9, 0, 4, 0), (9, 9, 4, 4), (9, 4, 0, 0)])
def test_without_two_values_of_each_there_is_no_phi(table):
    assert phi(Table(*table)) is None
    assert phi_interval([Table(*table)] * 30, seed=0) is None


def drawn(seed, clusters, each, *, same):
    """Clusters of responses that reflect at random, and are right at random."""
    draw = random.Random(seed)
    found = []
    for _ in range(clusters):
        pairs = [(draw.random() < 0.4, draw.random() < 0.5) for _ in range(1 if same else each)]
        counts = counted(pairs * (each if same else 1))
        found.append(counts.table)
    return found


def test_an_interval_takes_the_responses_to_a_problem_as_one_draw():
    alone = phi_interval(drawn(1, 80, 6, same=False), seed=0)
    copies = phi_interval(drawn(1, 80, 6, same=True), seed=0)
    once = phi_interval(drawn(1, 80, 1, same=True), seed=0)
    # Six copies of a response tell what one does; six draws more.
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    assert alone.high - alone.low < 0.6 * (copies.high - copies.low)


def test_an_interval_covers_what_is_true():
    # 0 in 95 of 100 draws without a correlation; fewer than 86 has a chance of 1 in 10,000.
    made = [
        phi_interval(drawn(seed, 60, 2, same=False), seed=0, resamples=200) for seed in range(100)
    ]
    assert 86 <= sum(interval.low <= 0 <= interval.high for interval in made) <= 100


def test_a_seed_decides_the_interval():
    tables = drawn(3, 40, 2, same=False)
    assert phi_interval(tables, seed=0) == phi_interval(tables, seed=0)
    assert phi_interval(tables, seed=0) != phi_interval(tables, seed=1)
    assert total([]) == Table(0, 0, 0, 0)


def test_what_a_checkpoint_shows_by_hand():
    found = reflection(responses(10, 30, 40, 20), MAYE_LIST)
    assert (found.word_list, found.reflecting, found.reflecting_correct) == ("maye", 40, 10)
    assert found.ratio.value == 0.4
    # Wilson's interval of 40 of 100.
    assert (found.ratio.low, found.ratio.high) == pytest.approx((0.3094, 0.4980), abs=1e-4)
    assert found.ratio_correct.value == 10 / 50
    assert found.ratio_wrong.value == 30 / 50
    assert found.accuracy_reflecting.value == 10 / 40
    assert found.accuracy_not_reflecting.value == 40 / 60
    correlation = found.correlation
    assert correlation.value == pytest.approx((100 * 10 - 40 * 50) / math.sqrt(40 * 60 * 50 * 50))
    assert -0.6 < correlation.low < correlation.value < correlation.high < -0.2
    assert correlation.missing == ""
    assert found.words == dict.fromkeys(MAYE_LIST.entries, 0) | {"wait": 40}
    assert reflection(responses(10, 30, 40, 20), MAYE_LIST) == found


def test_of_several_responses_to_a_problem_the_problem_is_the_evidence():
    once = responses(5, 15, 20, 10)
    copied = [each.model_copy(update={"sample": n}) for each in once for n in range(4)]
    one, four = reflection(once, MAYE_LIST), reflection(copied, MAYE_LIST)
    assert four.ratio.value == one.ratio.value
    assert four.ratio.low == pytest.approx(one.ratio.low, abs=0.02)
    assert four.accuracy_reflecting.high == pytest.approx(one.accuracy_reflecting.high, abs=0.03)
    assert four.correlation == one.correlation


@pytest.mark.parametrize(
    ("counts", "missing"),
    [
        ((0, 0, 3, 4), "no response reflects"),
        ((3, 4, 0, 0), "every response reflects"),
        ((0, 3, 0, 4), "no response is right"),
        ((3, 0, 4, 0), "every response is right"),
    ],
)
def test_where_there_is_no_correlation_it_says_why(counts, missing):
    found = reflection(responses(*counts), MAYE_LIST)
    assert found.correlation == Correlation(missing=missing)
    assert "NaN" not in found.model_dump_json()
    assert Reflection.parse(found.document()) == found


@pytest.mark.parametrize("counts", [(0, 2, 50, 50), (1, 0, 50, 50), (20, 20, 2, 2)])
def test_few_responses_of_a_sort_have_a_correlation_without_an_interval(counts):
    # Resampled, two wrong reflecting responses are wrong each time: the interval would leave 0 out.
    found = reflection(responses(*counts), MAYE_LIST).correlation
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert found.missing == "too few responses of one sort for an interval"


def test_many_responses_to_few_problems_are_few():
    tables = [Table(50, 50, 25, 25)] * 4 + [Table(50, 0, 25, 0)] * 30
    assert phi(total(tables)) == 0
    assert phi_interval(tables, seed=0) is None


def test_a_list_of_ones_own_is_named():
    samples = responses(1, 1, 1, 1)
    found = reflection(samples, WordList(name="own", words=["8", "nine"]))
    assert (found.word_list, found.words) == ("own", {"8": 2, "nine": 0})
    assert found.reflecting_correct == 0
