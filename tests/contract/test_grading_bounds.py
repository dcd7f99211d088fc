"""Answers and golds that would keep a grader busy for ever are judged at once."""

import pytest

from coldstart.grading import Gold
from coldstart.grading.match import MAX_OPTIONS, MAX_PRECISION, UnreadableGold, decide


def sets(leaf):
    return r"\{a, " * 40 + leaf + r"\}" * 40


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("span", "gold"),
    [
        (sets("x"), Gold(sets("y"))),
        ("1.5", Gold("1.6", unit="a" * 100_000)),
    ],
)
def test_what_multiplies_without_end_is_wrong(span, gold):
    assert decide(span, gold) is False


def test_a_chain_of_inequalities_is_no_answer():
    with pytest.raises(UnreadableGold, match="beyond the bounds"):
        decide(r"x\ne y\ne " * 150, Gold(r"x\ne z\ne " * 150))


def test_sets_in_sets_are_still_compared():
    assert decide(r"\{1, \{2, x\}\}", Gold(r"\{\{x, 2\}, 1\}")) is True
    assert decide(r"x \ne 3", Gold(r"(-\infty, 3) \cup (3, \infty)")) is True


@pytest.mark.parametrize("choices", [("q" * 100_000, "r"), ("q",) * (MAX_OPTIONS + 1)])
def test_options_beyond_every_bound_make_a_gold_unreadable(choices):
    with pytest.raises(UnreadableGold, match="options"):
        decide("x", Gold("B", choices))


def test_nothing_counts_a_billion_decimal_places():
    with pytest.raises(ValueError, match=f"from 0 to {MAX_PRECISION}"):
        Gold("1.5", precision=10**9)
