"""What the operator tells Prometheus of itself; the stages' own metrics are not here."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from coldstart.status import RunStatus, StageState, StageStatus

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


class _Runs(Collector):
    """How many runs are in which phase, counted when Prometheus asks."""

    def __init__(self, phases: Callable[[], Iterable[str]]) -> None:
        self.phases = phases

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("coldstart_operator_runs", "Runs by phase.", labels=("phase",))
        for phase, number in sorted(Tally(self.phases()).items()):
            family.add_metric([phase], number)
        yield family


def count_runs(phases: Callable[[], Iterable[str]]) -> Callable[[], None]:
    """Tell the phases of all runs from here on.

    Returns:
        What ends it.
    """
    collector = _Runs(phases)
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
