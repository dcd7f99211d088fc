"""Intervals and the paired test, against values worked out elsewhere and against brute force."""

import itertools
import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldstart.intervals import cluster_bootstrap, mcnemar, mean_over_seeds, sign_flip, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (10, 20, 0.2993, 0.7007),
        (1, 1, 0.2065, 1.0),
        (500, 1000, 0.4691, 0.5309),
    ],
)
def test_wilson_against_published_values(successes, n, low, high):
    found = wilson(successes, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_range(case):
    successes, n = case
    found = wilson(successes, n)
    assert 0 <= found.low <= successes / n <= found.high <= 1
    wider = wilson(successes, n, confidence=0.99)
    assert wider.low <= found.low
    assert found.high <= wider.high


@pytest.mark.parametrize("arguments", [(0, 0), (3, 2), (-1, 2), (1, 2, 0.0), (1, 2, 1.0)])
def test_wilson_refuses_what_has_no_interval(arguments):
    with pytest.raises(ValueError, match=r"wilson|confidence"):
        wilson(*arguments)


def test_bootstrap_of_single_samples_agrees_with_wilson():
    clusters = {place: [float(place < 120)] for place in range(400)}
    found, analytic = cluster_bootstrap(clusters, seed=3), wilson(120, 400)
    assert found.low == pytest.approx(analytic.low, abs=0.006)
    assert found.high == pytest.approx(analytic.high, abs=0.006)


def test_samples_of_one_problem_do_not_count_as_problems():
    draw = random.Random(5)
    outcomes = {place: float(draw.random() < 0.4) for place in range(100)}
    once = cluster_bootstrap({name: [value] for name, value in outcomes.items()}, seed=1)
    copied = cluster_bootstrap({name: [value] * 10 for name, value in outcomes.items()}, seed=1)
    assert copied.low == pytest.approx(once.low)
    assert copied.high == pytest.approx(once.high)


def test_bootstrap_weighs_clusters_by_their_size():
    clusters = {"large": [1.0] * 98, "small": [0.0, 0.0]}
    found = cluster_bootstrap(clusters, seed=0)
    assert (found.low, found.high) == (0.0, 1.0)


def test_bootstrap_is_reproducible_and_quick():
    draw = random.Random(2)
    clusters = {
        place: [float(draw.random() < 0.6) for _ in range(4 + place % 3)] for place in range(400)
    }
    start = time.monotonic()
    assert cluster_bootstrap(clusters, seed=7) == cluster_bootstrap(clusters, seed=7)
    assert time.monotonic() - start < 6
    assert cluster_bootstrap(clusters, seed=7) != cluster_bootstrap(clusters, seed=8)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_without_spread_still_have_an_interval(value):
    found = cluster_bootstrap({place: [value] * 3 for place in range(20)}, seed=0)
    assert found == wilson(int(20 * value), 20)


@pytest.mark.parametrize(
    ("clusters", "options", "message"),
    [
        ({"p1": [1.0]}, {}, "1 clusters"),
        ({"p1": [1.0], "p2": []}, {}, "cluster p2"),
        ({"p1": [1.0], "p2": [0.0]}, {"resamples": 0}, "resamples"),
        ({"p1": [1.0], "p2": [0.0]}, {"confidence": 95}, "confidence"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_resample(clusters, options, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(clusters, seed=0, **options)


def paired(gained, lost, same):
    before = [False] * gained + [True] * lost + [True] * same
    after = [True] * gained + [False] * lost + [True] * same
    return dict(enumerate(before)), dict(enumerate(after))


def test_the_interval_over_seeds_is_student_s():
    bounds = mean_over_seeds([0.8, 0.9])
    assert (bounds.low, bounds.high) == pytest.approx((0.85 - 12.706 * 0.05, 0.85 + 12.706 * 0.05))
    many = mean_over_seeds([0.4, 0.6] * 50)
    assert (many.high - many.low) / 2 == pytest.approx(2.042 * 0.1005 / 10, rel=0.01)
    with pytest.raises(ValueError, match="needs at least two"):
        mean_over_seeds([0.8])


@pytest.mark.parametrize(("gained", "lost"), list(itertools.product(range(6), repeat=2)))
def test_mcnemar_against_brute_force(gained, lost):
    discordant = gained + lost
    extreme = [
        tails
        for tails in itertools.product((0, 1), repeat=discordant)
        if abs(2 * sum(tails) - discordant) >= abs(gained - lost)
    ]
    found = mcnemar(*paired(gained, lost, 4))
    assert found.p_value == pytest.approx(len(extreme) / 2**discordant)
    assert (found.gained, found.lost, found.n) == (gained, lost, discordant + 4)
    assert found.difference == pytest.approx((gained - lost) / (discordant + 4))


def test_mcnemar_on_a_whole_benchmark():
    found = mcnemar(*paired(272, 324, 2444))
    assert found.n == 3040
    assert found.p_value == pytest.approx(0.0366, abs=1e-4)
    assert found.difference == pytest.approx(-0.0171, abs=1e-4)


def test_mcnemar_on_very_many_samples_is_quick_and_finite():
    start = time.monotonic()
    found = mcnemar(*paired(12_000, 3_000, 0))
    assert time.monotonic() - start < 3
    assert math.isfinite(found.p_value)
    assert found.p_value < 1e-100


def test_mcnemar_joins_by_id():
    before, after = {"a": True, "b": False}, {"b": True, "a": True}
    assert mcnemar(before, after).gained == 1
    with pytest.raises(ValueError, match="2 samples have one checkpoint's result only"):
        mcnemar(before, {"a": True, "c": True})
    with pytest.raises(ValueError, match="no samples"):
        mcnemar({}, {})


@pytest.mark.parametrize(
    "differences", [[1, 1, -1, 0, 1], [3, -1, 2, 2, 0, -4], [2, 2, 2, 2], [5], [1, -1], [0, 0]]
)
def test_sign_flip_against_every_flip(differences):
    flips = itertools.product([1, -1], repeat=len(differences))
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in flips]
    reached = sum(abs(total) >= abs(sum(differences)) for total in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(reached)


def test_sign_flip_is_mcnemar_where_every_cluster_has_one_sample():
    before, after = paired(30, 14, 50)
    differences = [after[name] - before[name] for name in before]
    assert sign_flip(differences) == mcnemar(before, after).p_value


def test_samples_of_a_problem_do_not_count_as_problems():
    # Ten problems gained and three lost, with eight samples each: no more evidence than one each.
    eight = sign_flip([8] * 10 + [-8] * 3)
    assert eight == pytest.approx(mcnemar(*paired(10, 3, 0)).p_value)
    assert mcnemar(*paired(80, 24, 0)).p_value < eight / 1000
