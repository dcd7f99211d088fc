"""How far a measured accuracy can be trusted: three intervals and two paired tests.

It draws no conclusion about which checkpoint to keep: that is the gate's. Sources: Wilson (1927),
McNemar (1947) in its exact form, Fisher's randomization test (1935), Student (1908), and the
percentile bootstrap over clusters.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev
from typing import Final, TypeVar

RESAMPLES: Final = 10_000
_FEWEST_CLUSTERS: Final = 2

# fmt: off
_STUDENT: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
"""97.5 % quantiles of Student's t by degrees of freedom; beyond, the last is a little too wide."""

Identifier = TypeVar("Identifier", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two checkpoints on the same samples. `p_value` is two-sided and exact."""

    n: int
    gained: int
    lost: int
    p_value: float

    @property
    def difference(self) -> float:
        """The accuracy of the second checkpoint less that of the first."""
        return (self.gained - self.lost) / self.n


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a share, for one independent sample per problem.

    It stays in [0, 1] and is sound at the ends, where the normal interval has no width: 0 of 20
    gives [0, 0.161].

    Raises:
        ValueError: no trials, more successes than trials, or a confidence outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes of {n}: wilson needs 0 <= successes <= n and n > 0"
        )
    z = _quantile(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def cluster_bootstrap(
    clusters: Mapping[Identifier, Sequence[float]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """The percentile interval of the mean over all values when those of a cluster belong together.

    A cluster is a problem with its several samples, or the versions of one problem. Whole clusters
    are drawn with replacement, so that ten samples of one problem do not count as ten problems. The
    bootstrap, and not the quicker cluster-robust t interval, because it stays within the range of
    the values and assumes no symmetry close to 0 and 1; 10,000 resamples of 400 clusters take
    about half a second. Where all values are 0, or all are 1, resampling sees no spread at all, and
    the Wilson interval over the clusters takes its place.

    Raises:
        ValueError: fewer than two clusters, an empty one, no resamples, or a confidence outside
            (0, 1).
    """
    if len(clusters) < _FEWEST_CLUSTERS:
        raise ValueError(f"{len(clusters)} clusters: a bootstrap needs at least two")
    empty = [str(name) for name, values in clusters.items() if not values]
    if empty:
        raise ValueError(f"cluster {empty[0]} holds no values")
    if resamples < 1:
        raise ValueError(f"resamples: {resamples}; it must be at least 1")
    _quantile(confidence)
    extreme = {float(value) for values in clusters.values() for value in values}
    if extreme in ({0.0}, {1.0}):
        return wilson(len(clusters) if extreme == {1.0} else 0, len(clusters), confidence)
    means = _resampled_means(clusters, random.Random(seed), resamples)  # noqa: S311
    return percentile_interval(means, confidence)


def percentile_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """What lies in the middle of resampled values; there is one at least."""
    ordered, tail = sorted(values), (1 - confidence) / 2
    return Interval(_percentile(ordered, tail), _percentile(ordered, 1 - tail))


def _resampled_means(
    clusters: Mapping[Identifier, Sequence[float]], draw: random.Random, resamples: int
) -> list[float]:
    sums = [math.fsum(values) for values in clusters.values()]
    sizes = [len(values) for values in clusters.values()]
    count = len(sums)
    if len(set(sizes)) == 1:
        total = count * sizes[0]
        return [sum(draw.choices(sums, k=count)) / total for _ in range(resamples)]
    means = []
    pairs = list(zip(sums, sizes, strict=True))
    for _ in range(resamples):
        drawn_sums, drawn_sizes = zip(*draw.choices(pairs, k=count), strict=True)
        means.append(sum(drawn_sums) / sum(drawn_sizes))
    return means


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the neighbours, as numpy's default."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of a few trainings that differ in their seed alone.

    Unlike the intervals over problems it holds the luck of training. Of few seeds it is wide, and
    takes them for draws of a normal distribution: of accuracies near 0 or 1 it may leave [0, 1].

    Raises:
        ValueError: fewer than two values.
    """
    freedom = len(values) - 1
    if freedom < 1:
        raise ValueError(f"{len(values)} values: an interval over seeds needs at least two")
    quantile = _STUDENT[min(freedom, len(_STUDENT)) - 1]
    half = quantile * stdev(values) / math.sqrt(len(values))
    mean = math.fsum(values) / len(values)
    return Interval(mean - half, mean + half)


def mcnemar(before: Mapping[Identifier, bool], after: Mapping[Identifier, bool]) -> PairedTest:
    """The exact McNemar test of two checkpoints, joined by sample id.

    Only the samples on which they differ carry information; under no difference each of these
    falls either way like a coin. One sample per problem is assumed; `sign_flip` is for several.

    Raises:
        ValueError: no samples, or the two were not measured on the same ones.
    """
    if before.keys() != after.keys():
        odd = sorted(map(str, before.keys() ^ after.keys()))
        raise ValueError(
            f"{len(odd)} samples have one checkpoint's result only, for example {odd[0]}; "
            "compare runs over the same benchmark, split and limit"
        )
    if not before:
        raise ValueError("no samples to compare")
    gained = sum(after[name] and not before[name] for name in before)
    lost = sum(before[name] and not after[name] for name in before)
    return PairedTest(len(before), gained, lost, _sign_test(gained, lost))


def sign_flip(differences: Sequence[int]) -> float:
    """The two-sided p value of Fisher's randomization test over clusters, exact.

    Samples of one problem, or versions of it, are no independent evidence, so whole clusters are
    flipped: under no difference between two checkpoints, a cluster's difference is as likely as its
    negative. With one sample in each cluster this is the exact McNemar test.

    Args:
        differences: of each cluster, how many more of its samples the second checkpoint got right.
    """
    known = [abs(difference) for difference in differences if difference]
    if not known:
        return 1.0
    if set(known) == {1}:
        gained = sum(difference > 0 for difference in differences)
        return _sign_test(gained, len(known) - gained)
    # The chance that the flipped sum reaches the observed one, over the distribution of all sums.
    reach = sum(known)
    chances = [1.0]
    for size in sorted(known):
        gap = [0.0] * (2 * size)
        pairs = zip(chances + gap, gap + chances, strict=True)
        chances = [(low + high) / 2 for low, high in pairs]
    observed = abs(sum(differences))
    outer = math.fsum(chances[: reach - observed + 1])
    return min(1.0, 2 * outer) if observed else 1.0


def _sign_test(gained: int, lost: int) -> float:
    discordant = gained + lost
    tail = ways = 1
    for k in range(min(gained, lost)):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    # Both integers may be far beyond a float; their quotient is exact before it is rounded.
    return min(1.0, 2 * tail / 2**discordant) if discordant else 1.0


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence}; it must lie between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)
