"""The one table of every number that a stage reports, and what its series are called."""

from __future__ import annotations

import re
from collections.abc import Mapping

from coldstart.metrics import policy, stage
from coldstart.metrics.metric import Metric

METRICS: tuple[Metric, ...] = (*stage.ROWS, *policy.ROWS)
"""Every metric, in the order in which the reference page lists them."""

TABLE = {metric.name: metric for metric in METRICS}
"""The same by name."""


def series(name: str, *labels: str) -> str:
    """What a series is called in `metrics.jsonl`, such as `reward_mean{accuracy}`."""
    return f"{name}{{{','.join(labels)}}}" if labels else name


def split(key: str) -> tuple[str, tuple[str, ...]]:
    """The metric's name and the labels' values of a series; the inverse of `series`."""
    name, _, rest = key.partition("{")
    known = len(TABLE[name].labels)
    return name, tuple(rest[:-1].split(",", maxsplit=known - 1)) if rest else ()


def named(logs: Mapping[str, float]) -> dict[str, float]:
    """TRL's log entries under our names; entries that the table does not have are left out."""
    found: dict[str, float] = {}
    for key, value in logs.items():
        for pattern, metric in _SOURCES:
            if match := pattern.fullmatch(key):
                found[series(metric.name, *match.groupdict().values())] = value
    return found


def _source_pattern(source: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(source)))


_SOURCES = [(_source_pattern(metric.source), metric) for metric in METRICS if metric.source]
