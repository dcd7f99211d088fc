"""What a metric is; which ones there are stands in `stage` and `policy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "coldstart_"
"""What every metric's name begins with in Prometheus."""

Kind = Literal["gauge", "counter", "histogram"]

COMMON_LABELS = ("run", "stage", "model")
"""Labels of every series."""

SECONDS_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the histograms' buckets."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name after the prefix, how it behaves, and where TRL logs it."""

    name: str
    """Name, without labels."""
    kind: Kind
    """Counters only grow while an attempt lasts."""
    unit: str
    """Base unit, `ratio`, or `1`."""
    help: str
    """A sentence for people."""
    stages: tuple[str, ...]
    """The stages that report it."""
    labels: tuple[str, ...] = ()
    """Labels besides the common ones."""
    source: str = ""
    """The key of TRL's log, braces for a label; empty where the trainer computes it."""
    needs: str = ""
    """What a stage must have to report it; empty where every one of `stages` does."""
