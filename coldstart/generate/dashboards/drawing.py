"""How a metric of the table is drawn: its query, unit, legend and words; it chooses no panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from coldstart.generate.dashboards.grafana import Panel, Query
from coldstart.metrics import PREFIX, TABLE, Metric

SELECTOR = 'namespace=~"$namespace", run=~"$run", stage=~"$stage"'

SERIES = ("namespace", "run", "stage")
"""What tells series apart; not the pod, so that a curve goes on over the attempts of a stage."""

UNITS = {
    "1": "none",
    "1/second": "suffix:/s",
    "bytes": "bytes",
    "nats": "suffix: nats",
    "ratio": "percentunit",
    "seconds": "s",
    "tokens": "suffix: tokens",
    "tokens/second": "suffix: tokens/s",
}
"""The table's units as Grafana names them."""

Way = Literal["latest", "rate", "age", "mean", "p95"]


def _by(metric: Metric, *more: str) -> str:
    return ", ".join((*SERIES, *metric.labels, *more))


def _metric(name: str, suffix: str = "") -> str:
    return f"{PREFIX}{name}{suffix}{{{SELECTOR}}}"


def latest(name: str) -> str:
    """A gauge, or what a counter has come to."""
    return f"max by ({_by(TABLE[name])}) ({_metric(name)})"


def rate(name: str, suffix: str = "", *more: str) -> str:
    """A counter, or a part of a histogram, per second.

    Args:
        name: in the table.
        suffix: `_sum`, `_count` or `_bucket` of a histogram.
        more: labels that are kept beside the metric's own.
    """
    return f"sum by ({_by(TABLE[name], *more)}) (rate({_metric(name, suffix)}[$window]))"


_WAYS: dict[Way, Callable[[str], str]] = {
    "latest": latest,
    "rate": rate,
    "age": lambda name: f"time() - {latest(name)}",
    "mean": lambda name: f"{rate(name, '_sum')} / {rate(name, '_count')}",
    "p95": lambda name: f"histogram_quantile(0.95, {rate(name, '_bucket', 'le')})",
}


def line(name: str, way: Way = "latest", word: str = "") -> tuple[str, Query]:
    """A metric of the table and how it is drawn.

    Args:
        name: in the table.
        way: as it is, per second, seconds since then; of a histogram, mean or 95th percentile.
        word: what tells it from the panel's other metrics.
    """
    labels = [f"{{{{{label}}}}}" for label in ("run", "stage", *TABLE[name].labels)]
    return name, Query(_WAYS[way](name), " ".join([*labels, word]).strip())


def panel(title: str, advice: str, *lines: tuple[str, Query], unit: str = "", **more: Any) -> Panel:
    """A panel whose description is what to look for, and what the table says of its metrics."""
    metrics = [TABLE[name] for name in dict.fromkeys(name for name, _ in lines)]
    meanings = [meaning(metric) for metric in metrics]
    return Panel(
        title,
        "\n\n".join([advice, *meanings] if advice else meanings),
        tuple(query for _, query in lines),
        unit or UNITS[metrics[0].unit],
        **more,
    )


def meaning(metric: Metric) -> str:
    """What the table says of a metric."""
    needs = f" Needs {metric.needs}." if metric.needs else ""
    return f"`{PREFIX}{metric.name}`: {metric.help}{needs}"
