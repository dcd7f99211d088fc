"""What Prometheus is told of single runs, from what is at hand of them when it asks.

Ended runs stay in the cluster as long as their users like; here they stay for a day, and of more
than `MOST` runs the earliest ended are left out, so that a page has an end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from coldstart.children import documents
from coldstart.spec import Stage
from coldstart_operator.cache import Key
from coldstart_operator.explain import cause

RECENT = 24 * 3600.0
"""Seconds for which an ended run is told of."""

MOST = 1000
"""Runs that are told of at most."""

RUN = ("run_namespace", "run")
"""Labels of every series here. `namespace` would be the operator's own, which scraping adds."""

_LABEL = 64


class StageMark(NamedTuple):
    """The numbers of one stage; times are Unix times."""

    name: str
    attempts: int
    started: float | None
    finished: float | None
    used: float
    wasted: float


class Told(NamedTuple):
    """What is told of a run beside its phase."""

    stage: str = ""
    """The stage that it is at, or was at when it ended."""
    reason: str = ""
    """Why it waits, failed or was refused; empty where it works or has succeeded."""
    finished: float | None = None
    stages: tuple[StageMark, ...] = ()

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """What a run's document tells, whatever its status is."""
        entries = [
            entry
            for entry in documents.items(document, "status", "stages")
            if documents.text(entry, "name") in set(Stage)
        ]
        current = next((item for item in entries if item.get("state") != "Succeeded"), None)
        return cls(
            documents.text(current or (entries[-1] if entries else {}), "name"),
            documents.line(_reason(document, documents.text(current, "state")), _LABEL),
            _seconds(document, "status", "finishedAt"),
            tuple(map(_stage, entries)),
        )


def _reason(document: dict[str, Any], state: str) -> str:
    for type_, status in (("Accepted", "False"), ("Failed", "True")):
        condition = documents.condition(document, type_)
        if documents.text(condition, "status") == status:
            return documents.text(condition, "reason")
    queued = documents.condition(document, "Queued")
    if documents.text(queued, "status") != "True":
        return ""
    if state == "Backoff":
        return state
    return cause(documents.text(document, "status", "message")) or documents.text(queued, "reason")


def _stage(entry: dict[str, Any]) -> StageMark:
    return StageMark(
        documents.text(entry, "name"),
        documents.number(entry, "attempt"),
        _seconds(entry, "startedAt"),
        _seconds(entry, "finishedAt"),
        _amount(entry, "gpuSeconds"),
        _amount(entry, "wastedGpuSeconds"),
    )


def _seconds(document: Any, *path: str) -> float | None:
    found = documents.time(document, *path)
    return found.timestamp() if found else None


def _amount(document: Any, key: str) -> float:
    found = documents.value(document, key)
    known = isinstance(found, int | float) and math.isfinite(found)
    return max(0.0, float(found)) if known else 0.0


class RunSeries(Collector):
    """A few gauges for each run that is told of."""

    def __init__(self, runs: Callable[[], Iterable[tuple[Key, str, Told]]]) -> None:
        """Series that are made when Prometheus asks.

        Args:
            runs: every run with its phase and what is told of it.
        """
        self._runs = runs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families, also where there is no run."""
        now = time.time()
        info = _family("info", "Always 1: where a run is, and why.", "stage", "phase", "reason")
        ended = _family("finished_timestamp_seconds", "When a run ended (Unix time).")
        attempts = _family("stage_attempts", "Attempts of a stage.", "stage")
        took = _family(
            "stage_seconds", "From a stage's first attempt to its end, or until now.", "stage"
        )
        used = _family(
            "gpu_seconds",
            "GPU-seconds of ended attempts, by whether they came to something.",
            "stage",
            "use",
        )
        for key, phase, told in _chosen(self._runs(), now):
            info.add_metric([*key, told.stage, phase, told.reason], 1)
            if told.finished is not None:
                ended.add_metric(key, told.finished)
            for stage in told.stages:
                name = [*key, stage.name]
                attempts.add_metric(name, stage.attempts)
                if stage.started is not None:
                    took.add_metric(name, max(0.0, (stage.finished or now) - stage.started))
                used.add_metric([*name, "useful"], max(0.0, stage.used - stage.wasted))
                used.add_metric([*name, "wasted"], stage.wasted)
        yield from (info, ended, attempts, took, used)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"coldstart_operator_run_{name}", text, labels=(*RUN, *labels))


def _chosen(runs: Iterable[tuple[Key, str, Told]], now: float) -> Iterator[tuple[Key, str, Told]]:
    """The runs that are told of: those that go on, then those that ended latest."""
    recent = [run for run in runs if run[2].finished is None or now - run[2].finished < RECENT]
    recent.sort(key=lambda run: -math.inf if run[2].finished is None else -run[2].finished)
    yield from recent[:MOST]
