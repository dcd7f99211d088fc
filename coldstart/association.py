"""Whether two yes-or-no properties of responses go together; never whether one causes the other.

The measure is the phi coefficient (Yule 1912): Pearson's correlation of the two as 0 and 1. The
interval is the percentile bootstrap over clusters, as in `intervals`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from coldstart.intervals import Interval, percentile_interval

RESAMPLES: Final = 2_000
FEWEST: Final = 5
"""Of responses expected in each of the four cells if there were no association, and of clusters
with each value of each property: with fewer, resampling sees less spread than there is."""


class Table(NamedTuple):
    """Responses, and how many of them have either property, or both."""

    n: int
    first: int
    second: int
    both: int


def total(tables: Sequence[Table]) -> Table:
    """The table of all responses."""
    return Table(*(sum(column) for column in zip(*tables, strict=True))) if tables else _EMPTY


def phi(table: Table) -> float | None:
    """The correlation, from -1 to 1; None where all responses agree in one of the properties."""
    n, first, second, both = table
    spread = first * (n - first) * second * (n - second)
    return (n * both - first * second) / math.sqrt(spread) if spread else None


def phi_interval(
    clusters: Sequence[Table], *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval | None:
    """The percentile interval of phi; None where there is too little to tell it from.

    Whole clusters are drawn with replacement, so that several responses to one problem do not count
    as several problems. A resample in which all agree in a property has no phi and is left out:
    with as many clusters as are asked for, about one in a hundred at the most for each value.

    Args:
        clusters: the table of each problem, or of each group of problems that belong together.
        seed: of the resampling.
        resamples: how many.
        confidence: of the interval.
    """
    if not _enough(clusters):
        return None
    drawn = map(phi, _resampled(clusters, random.Random(seed), resamples))  # noqa: S311
    return percentile_interval((value for value in drawn if value is not None), confidence)


def _enough(clusters: Sequence[Table]) -> bool:
    n, first, second, _ = total(clusters)
    fewest_cell = min(first, n - first) * min(second, n - second)
    if fewest_cell < FEWEST * n or not n:
        return False
    sides = (
        sum(table.first > 0 for table in clusters),
        sum(table.first < table.n for table in clusters),
        sum(table.second > 0 for table in clusters),
        sum(table.second < table.n for table in clusters),
    )
    return min(sides) >= FEWEST


def _resampled(clusters: Sequence[Table], draw: random.Random, resamples: int) -> Iterator[Table]:
    # Four counts in one integer: one sum adds them all up.
    width = (sum(table.n for table in clusters) * len(clusters)).bit_length()
    packed = [
        table.n << 3 * width | table.first << 2 * width | table.second << width | table.both
        for table in clusters
    ]
    low = (1 << width) - 1
    for _ in range(resamples):
        found = sum(draw.choices(packed, k=len(packed)))
        yield Table(found >> 3 * width, found >> 2 * width & low, found >> width & low, found & low)


_EMPTY: Final = Table(0, 0, 0, 0)
