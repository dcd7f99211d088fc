"""Several responses per problem: pass@k, the majority vote, and the results that hold them."""

import itertools
import random

import pytest

from coldstart.estimates import accuracy_interval, breakdown, repeats, wemath
from coldstart.grading import Grader
from coldstart.intervals import wilson
from coldstart.repeats import budgets, majority, pass_at_k
from coldstart.results import Sample


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_draws_with_a_right_response(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
        expected = sum(any(draw) for draw in draws) / len(draws)
        assert pass_at_k(n, right, k) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "right", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0), (4, -1, 1)])
def test_pass_at_k_refuses_what_was_not_sampled(n, right, k):
    with pytest.raises(ValueError, match="needs 1 <= k <= n"):
        pass_at_k(n, right, k)


def test_the_budgets_are_powers_of_two_and_all():
    assert budgets(2) == [1, 2]
    assert budgets(10) == [1, 2, 4, 8, 10]


def exact(one, other):
    return one == other


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("7", True), ("7.0", True), ("8", False)], 1.0),
        ([("7", True), ("8", False), ("8", False)], 0.0),
        ([("7", True), ("8", False)], 0.5),
        ([("7", True), ("8", False), ("9", False)], 1 / 3),
        ([(None, False), (None, False), ("7", True)], 1.0),
        ([(None, False)], 0.0),
        ([("8", False), ("9", False)], 0.0),
    ],
)
def test_the_majority_by_hand(answers, expected):
    assert majority(answers, exact) == pytest.approx(expected)


def test_the_majority_against_lots():
    draw = random.Random(1)
    for _ in range(200):
        names = [draw.choice("abc") for _ in range(draw.randrange(1, 7))]
        counts = {name: names.count(name) for name in names}
        winners = [name for name in counts if counts[name] == max(counts.values())]
        expected = sum(name == "a" for name in winners) / len(winners)
        votes = [(name, name == "a") for name in names]
        assert majority(votes, exact) == pytest.approx(expected)


def sample(identifier, number, extracted, outcome="wrong", **changes):
    fields = {
        "id": identifier,
        "sample": number,
        "problem": "q",
        "gold": "7",
        "response": f"\\boxed{{{extracted}}}",
        "tokens": 1,
        "truncated": False,
        "boxed": True,
        "extracted": extracted,
        "outcome": outcome,
    }
    return Sample.model_validate(fields | changes)


def test_equal_answers_vote_together_however_they_are_written():
    samples = [
        *(sample("a", number, text) for number, text in enumerate(("1/2", "0.5", "\\frac{1}{2}"))),
        *(sample("a", number, "7", "correct") for number in (3, 4)),
        *(sample("b", number, str(number)) for number in range(3)),
        *(sample("b", number, "7", "correct") for number in (3, 4)),
    ]
    with Grader(workers=1) as grader:
        found = repeats(samples, grader)
    # By their strings, three wrong answers of one each would have lost to the two right ones.
    assert found.majority.value == 0.5
    assert found.samples == 5
    assert found.pass_at["1"].value == pytest.approx(0.4)
    assert found.pass_at["5"].value == 1.0
    assert list(found.pass_at) == ["1", "2", "4", "5"]
    assert repeats(samples, None).majority is None


def test_one_response_per_problem_is_no_repetition():
    assert repeats([sample("a", 0, "7"), sample("b", 0, "7")], None) is None


def test_versions_of_a_problem_are_one_piece_of_evidence():
    samples = [
        sample(f"{problem}-{version}", 0, "7", "correct" if problem % 2 else "wrong", **group)
        for problem in range(20)
        for version in range(5)
        for group in [{"cluster": str(problem), "facets": {"level": str(problem % 2)}}]
    ]
    found = accuracy_interval(samples)
    alone = wilson(50, 100)
    assert found.high - found.low > 1.5 * (alone.high - alone.low)
    levels = breakdown(samples)["level"]
    assert {name: (part.accuracy, part.n) for name, part in levels.items()} == {
        "0": (0.0, 50),
        "1": (1.0, 50),
    }
    assert (levels["1"].low, levels["1"].high) == (wilson(10, 10).low, 1.0)


def test_wemath_counts_each_response_to_a_composite_once():
    def answers(number, *outcomes):
        keys = ("2steps_1", "2steps_2", "2steps_multi")
        return [
            sample(f"1/{key}", number, "A", outcome, cluster="2steps/1", facets={"step": key})
            for key, outcome in zip(keys, outcomes, strict=True)
        ]

    samples = [
        *answers(0, "correct", "correct", "correct"),
        *answers(1, "correct", "wrong", "correct"),
    ]
    found = wemath(samples)
    assert (found.composites, found.torn) == (2, 0)
    assert (found.strict.score, found.loose.score) == (0.5, 1.0)
    assert found.strict.rote_among_right == 0.5
    assert wemath(samples[:2]) is None
    assert wemath([sample("a", 0, "7")]) is None
