"""Every number that a stage reports, by name, type, unit and meaning; nothing is measured here."""

from coldstart.metrics.metric import COMMON_LABELS, PREFIX, SECONDS_BUCKETS, Metric
from coldstart.metrics.progress import Progress
from coldstart.metrics.stage import PHASES
from coldstart.metrics.table import METRICS, TABLE, named, series, split

__all__ = [
    "COMMON_LABELS",
    "METRICS",
    "PHASES",
    "PREFIX",
    "SECONDS_BUCKETS",
    "TABLE",
    "Metric",
    "Progress",
    "named",
    "series",
    "split",
]
