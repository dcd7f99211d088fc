"""What the operator tells Prometheus of itself; the stages' own metrics are not here."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from coldstart.spec import Stage
from coldstart.status import ErrorCode, RunStatus, StageState, StageStatus

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series, and nobody reads them

REGISTRY = CollectorRegistry()
"""Everything that this process tells."""

ProcessCollector(registry=REGISTRY)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_HOURS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 3 * 86_400, 7 * 86_400)

API_REQUESTS = Counter(
    "coldstart_operator_api_requests",
    "Requests to the API server, without kopf's watches; code 0 is no answer.",
    ("verb", "resource", "code"),
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "coldstart_operator_reconcile_seconds",
    "Time of one look at a run.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "coldstart_operator_reconcile_errors",
    "Looks at a run that failed, by what failed.",
    ("reason",),
    registry=REGISTRY,
)
HANDOFF_SECONDS = Histogram(
    "coldstart_operator_handoff_seconds",
    "From a stage's end being seen to the next stage's job being created.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "coldstart_operator_stage_seconds",
    "From a stage's first attempt to its end.",
    ("stage", "result"),
    buckets=_HOURS,
    registry=REGISTRY,
)
ATTEMPTS = Counter(
    "coldstart_operator_attempts",
    "Attempts that were started.",
    ("stage",),
    registry=REGISTRY,
)
FAILURES = Counter(
    "coldstart_operator_attempt_failures",
    "Attempts that ended without a result.",
    ("stage", "code"),
    registry=REGISTRY,
)
GATE_REFUSALS = Counter(
    "coldstart_operator_gate_refusals",
    "Checks that kept a next stage from starting.",
    ("stage", "check"),
    registry=REGISTRY,
)
GPU_SECONDS = Counter(
    "coldstart_operator_gpu_seconds",
    "GPU-seconds of ended attempts, by whether they came to something.",
    ("stage", "use"),
    registry=REGISTRY,
)
WATCH_EVENTS = Counter(
    "coldstart_operator_watch_events",
    "Events that the watch streams told of.",
    ("resource",),
    registry=REGISTRY,
)
ADMISSIONS = Counter(
    "coldstart_operator_admissions",
    "Reviews that the admission webhook answered.",
    ("verdict",),
    registry=REGISTRY,
)
MISSED = Counter(
    "coldstart_operator_missed_changes",
    "Changes that a full LIST found and the watch streams had not told.",
    registry=REGISTRY,
)

# A counter that is first seen at 1 has not grown as far as Prometheus can tell.
for _stage in Stage:
    ATTEMPTS.labels(_stage.value)
    for _result in ("succeeded", "failed"):
        STAGE_SECONDS.labels(_stage.value, _result)
    for _use in ("useful", "wasted"):
        GPU_SECONDS.labels(_stage.value, _use)
    for _code in ErrorCode:
        FAILURES.labels(_stage.value, _code.value)
for _verdict in ("allowed", "denied", "malformed"):
    ADMISSIONS.labels(_verdict)


class _Runs(Collector):
    """How many runs are in which phase, counted when Prometheus asks."""

    def __init__(self, phases: Callable[[], Iterable[str]]) -> None:
        self.phases = phases

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("coldstart_operator_runs", "Runs by phase.", labels=("phase",))
        for phase, number in sorted(Tally(self.phases()).items()):
            family.add_metric([phase], number)
        yield family


class _Silences(Collector):
    """For how long the operator has not heard, asked of `Health` when Prometheus asks."""

    def __init__(self, silences: Callable[[], Mapping[str, float]]) -> None:
        self.silences = silences

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "coldstart_operator_silence_seconds",
            "For how long the API server has not answered, the watch streams have not told of a "
            "change that is known, or a worker has been at one run; /healthz goes by the same.",
            labels=("source",),
        )
        for source, seconds in self.silences().items():
            family.add_metric([source], seconds)
        yield family


def count_runs(phases: Callable[[], Iterable[str]]) -> Callable[[], None]:
    """Tell the phases of all runs from here on.

    Returns:
        What ends it.
    """
    return tell(_Runs(phases))


def tell_silences(silences: Callable[[], Mapping[str, float]]) -> Callable[[], None]:
    """Tell for how long what must come has not, from here on.

    Returns:
        What ends it.
    """
    return tell(_Silences(silences))


def tell(collector: Collector) -> Callable[[], None]:
    """Ask a collector whenever Prometheus asks.

    Returns:
        What ends it.
    """
    REGISTRY.register(collector)
    return lambda: REGISTRY.unregister(collector)


def tally(before: RunStatus, after: RunStatus) -> None:
    """Count what has happened to a run between two of its statuses."""
    for entry in after.stages:
        old = before.stage(entry.name) or StageStatus(name=entry.name)
        if old == entry:
            continue
        _tally_end(old, entry)
        wasted = entry.wasted_gpu_seconds - old.wasted_gpu_seconds
        useful = entry.gpu_seconds - old.gpu_seconds - wasted
        for use, seconds in (("useful", useful), ("wasted", wasted)):
            if seconds > 0:
                GPU_SECONDS.labels(entry.name, use).inc(seconds)


def _tally_end(old: StageStatus, new: StageStatus) -> None:
    ended = new.state in (StageState.SUCCEEDED, StageState.FAILED) and old.state is not new.state
    if ended and new.started_at and new.finished_at:
        seconds = (new.finished_at - new.started_at).total_seconds()
        STAGE_SECONDS.labels(new.name, new.state.value.lower()).observe(max(0.0, seconds))
    failed = new.failures > old.failures or (ended and new.state is StageState.FAILED)
    if failed and new.error:
        FAILURES.labels(new.name, new.error.code.value).inc()
    for verdict in new.gates if not old.gates else ():
        if not verdict.passed:
            GATE_REFUSALS.labels(new.name, verdict.name).inc()


def exposition() -> bytes:
    """Everything in Prometheus' text format."""
    return generate_latest(REGISTRY)
