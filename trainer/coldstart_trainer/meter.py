"""The numbers of a stage while it runs, for its file and its exporter; it knows neither of them.

One thread, the stage's, sets them. Others read `snapshot`, a whole that is replaced and never
changed, so that no reader can make the stage wait.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from coldstart.metrics import SECONDS_BUCKETS, TABLE, split

SERIES = 200
"""The most series of one metric; what more labels would be is left out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distribution:
    """What a histogram has seen."""

    counts: tuple[int, ...] = (0,) * (len(SECONDS_BUCKETS) + 1)
    """Observations in each bucket, not added up; the last is what exceeds all bounds."""
    total: float = 0.0
    """The sum of what was observed."""

    def with_one(self, value: float) -> Distribution:
        """The same after one more observation."""
        counts = list(self.counts)
        counts[bisect_left(SECONDS_BUCKETS, value)] += 1
        return Distribution(tuple(counts), self.total + value)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


@dataclass(frozen=True)
class Snapshot:
    """All numbers at one moment, by series: plain floats, nothing of torch."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Gauges and counters."""
    histograms: Mapping[str, Distribution] = field(default_factory=dict)
    """Histograms."""


class Meter:
    """Where the numbers of one attempt are put."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._values: dict[str, float] = {}
        self._histograms: dict[str, Distribution] = {}
        self._fresh: set[str] = set()
        self._told: dict[str, Distribution] = {}
        self._sizes: Counter[str] = Counter()

    def put(self, values: Mapping[str, float]) -> None:
        """Set gauges, and counters to what they have come to; what is not finite is left out."""
        for key, value in values.items():
            assert isinstance(value, int | float), f"{key} is no plain number"
            if math.isfinite(value) and self._known(key, self._values):
                self._values[key] = float(value)
                self._fresh.add(key)

    def add(self, key: str, amount: float) -> None:
        """Count further."""
        self.put({key: self._values.get(key, 0.0) + amount})

    def observe(self, key: str, value: float) -> None:
        """Put one observation into a histogram."""
        if self._known(key, self._histograms):
            self._histograms[key] = self._histograms.get(key, Distribution()).with_one(value)

    def observed(self, key: str) -> float:
        """The sum of a histogram's observations."""
        return self._histograms.get(key, Distribution()).total

    def told(self) -> dict[str, float]:
        """What is new since the last call; of a histogram, the mean of the new observations."""
        found = {key: self._values[key] for key in self._values if key in self._fresh}
        for key, now in self._histograms.items():
            before = self._told.get(key, Distribution())
            if now.count > before.count:
                found[key] = (now.total - before.total) / (now.count - before.count)
        self._fresh.clear()
        self._told = dict(self._histograms)
        return found

    def publish(self) -> None:
        """Let others see what there is."""
        self.snapshot = Snapshot(dict(self._values), dict(self._histograms))

    def _known(self, key: str, among: Mapping[str, object]) -> bool:
        """Whether a series is there, or may be added."""
        if key in among:
            return True
        name, labels = split(key)
        assert len(labels) == len(TABLE[name].labels), f"{key}: {TABLE[name].labels} are missing"
        self._sizes[name] += 1
        if self._sizes[name] == SERIES + 1:
            log.warning("%s has more than %d series; the others are left out", name, SERIES)
        return self._sizes[name] <= SERIES
