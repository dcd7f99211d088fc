"""The dashboard *Runs*: what the operator tells of runs and of itself.

The operator's metrics are described in `coldstart_operator.metrics` and `.run_metrics`, which
nothing here may import; the operator's tests hold every name here against them.
"""

from __future__ import annotations

from typing import Any

from coldstart.generate.dashboards.grafana import Dashboard, Panel, Query, Row, Table, Variable

OPERATOR = "coldstart_operator_"

RUNS = 'run_namespace=~"$namespace", run=~"$run"'
"""What is told of single runs."""

STAGES = 'stage=~"$stage"'
"""What is counted over all runs."""


def _run(name: str, *by: str, more: str = "") -> str:
    """A gauge of the chosen runs, one series for each, and for each of some labels."""
    labels = ", ".join(("run_namespace", "run", *by))
    return f"max by ({labels}) ({OPERATOR}run_{name}{{{RUNS}{more}}})"


def _increase(name: str, *by: str, where: str = STAGES, over: str = "$window") -> str:
    return f"sum by ({', '.join(by)}) (increase({OPERATOR}{name}{{{where}}}[{over}]))"


def _quantiles(name: str, *by: str, where: str = "", over: str = "$window") -> tuple[Query, ...]:
    buckets = _increase(f"{name}_bucket", *by, "le", where=where, over=over)
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"{legend} {word}".strip())
        for share, word in ((0.5, "median"), (0.95, "95 %"))
    )


def _panel(title: str, description: str, *queries: Query | tuple[Query, ...], **more: Any) -> Panel:
    found: list[Query] = []
    for query in queries:
        found += query if isinstance(query, tuple) else [query]
    return Panel(title, description, tuple(found), **more)


def _by_word(label: str, more: str = "") -> Query:
    chosen = f'{OPERATOR}run_info{{{RUNS}, stage=~"$stage|"{more}}}'
    return Query(f"count by ({label}) ({chosen})", f"{{{{{label}}}}}")


_TRAINING = (
    "/d/coldstart-training?var-datasource=${datasource}&var-run=${__value.raw}"
    "&var-namespace=${__data.fields.Namespace}&${__url_time_range}"
)
"""The other dashboard with the run that was clicked on."""

_TABLE = Table(
    names={
        "run_namespace": "Namespace",
        "run": "Run",
        "phase": "Phase",
        "stage": "Stage",
        "reason": "Reason",
        "Value #B": "Attempts",
        "Value #C": "GPU time used",
        "Value #D": "of it wasted",
        "Value #E": "Ended",
    },
    hidden=("Time", "Value #A"),
    units={"GPU time used": "s", "of it wasted": "s", "Ended": "dateTimeFromNow"},
    links={"Run": ("Training of this run", _TRAINING)},
)

_RUNS = Row(
    "Overview",
    (
        _panel(
            "Runs",
            "Those that go on, and those that ended within a day. A click on a name opens its "
            "training curves. *Wasted* are the GPU-seconds of attempts that failed or were "
            "preempted; the attempt that runs is counted when it ends.",
            Query(_run("info", "stage", "phase", "reason", more=', stage=~"$stage|"')),
            Query(f"sum by (run_namespace, run) ({OPERATOR}run_stage_attempts{{{RUNS}}})"),
            Query(f"sum by (run_namespace, run) ({OPERATOR}run_gpu_seconds{{{RUNS}}})"),
            Query(
                f'sum by (run_namespace, run) ({OPERATOR}run_gpu_seconds{{{RUNS}, use="wasted"}})'
            ),
            Query(f"1000 * {_run('finished_timestamp_seconds')}"),
            kind="table",
            table=_TABLE,
            width=24,
            height=9,
        ),
        _panel("Phases", "Chosen runs by phase.", _by_word("phase"), stacked=True),
        _panel(
            "What runs wait for",
            "Why the next job does not start or cannot be created, in a few words; "
            "`kubectl describe rrun` has the sentence.",
            _by_word("reason", ', reason!="", phase!~"Failed|Invalid"'),
            stacked=True,
        ),
        _panel(
            "Why runs failed or were refused",
            "The error code of what failed within a day, or why a spec was not accepted.",
            _by_word("reason", ', phase=~"Failed|Invalid"'),
            stacked=True,
        ),
    ),
)

_STAGES = Row(
    "Stages and attempts",
    (
        _panel(
            "Time of a stage so far",
            "From its first attempt to its end, or until now: waits and retries are in it.",
            Query(
                _run("stage_seconds", "stage", more=f", {STAGES}"),
                "{{run}} {{stage}}",
            ),
            unit="s",
            width=12,
        ),
        _panel(
            "Attempts of a stage",
            "Every start counts: after a failure, a preemption, a suspension.",
            Query(
                _run("stage_attempts", "stage", more=f", {STAGES}"),
                "{{run}} {{stage}}",
            ),
            width=12,
        ),
        _panel(
            "Time of ended stages, all runs",
            "Of the stages that ended within the time that is shown.",
            _quantiles("stage_seconds", "stage", "result", where=STAGES, over="$__range"),
            kind="bargauge",
            unit="s",
        ),
        _panel(
            "Hand-off, all runs",
            "From a stage's end being seen to the next one's job being created: below a second "
            "where the API server is well.",
            _quantiles("handoff_seconds"),
            unit="s",
        ),
        _panel(
            "Stages that ended, all runs",
            "Ended for good: a stage that is tried again has not.",
            Query(_increase("stage_seconds_count", "stage", "result"), "{{stage}} {{result}}"),
        ),
        _panel(
            "Attempts started, all runs",
            "Many more than stages that end: attempts are lost, or preempted.",
            Query(_increase("attempts_total", "stage"), "{{stage}}"),
        ),
        _panel(
            "Attempts that failed, all runs",
            "By error code; docs/reference/run.md has the list, and which are tried again.",
            Query(
                f"{_increase('attempt_failures_total', 'stage', 'code')} > 0",
                "{{stage}} {{code}}",
            ),
        ),
        _panel(
            "Gate refusals, all runs",
            "Checks that kept a next stage from starting, since the operator's start.",
            Query(
                f"sum by (stage, check) ({OPERATOR}gate_refusals_total{{{STAGES}}})",
                "{{stage}} {{check}}",
            ),
        ),
    ),
)

_GPU = Row(
    "GPU time",
    (
        _panel(
            "Used and wasted, chosen runs",
            "GPU-seconds of ended attempts, of the runs in the table above.",
            Query(
                f"sum by (run_namespace, run, use) ({OPERATOR}run_gpu_seconds{{{RUNS}, {STAGES}}})",
                "{{run}} {{use}}",
            ),
            unit="s",
            stacked=True,
            width=12,
        ),
        _panel(
            "Used and wasted, all runs",
            "GPU-seconds of the attempts that ended, by whether they came to something.",
            Query(_increase("gpu_seconds_total", "stage", "use"), "{{stage}} {{use}}"),
            unit="s",
            stacked=True,
            width=12,
        ),
    ),
)

_HEALTH = Row(
    "Operator",
    (
        _panel(
            "All runs",
            "Every run of the cluster by phase, however long ago it ended.",
            Query(f"sum by (phase) ({OPERATOR}runs)", "{{phase}}"),
            stacked=True,
        ),
        _panel(
            "Silence",
            "For how long the API server has not answered, a watch stream has not told of a "
            "change that is known, or a worker has been at one run. At 180 s `/healthz` goes red "
            "and the operator is started again.",
            Query(f"max by (source) ({OPERATOR}silence_seconds)", "{{source}}"),
            unit="s",
        ),
        _panel(
            "Changes that the watch streams did not tell",
            "Found by the full LIST every five minutes. A few after a lost connection are usual.",
            Query(f"sum(increase({OPERATOR}missed_changes_total[$window]))", "missed"),
        ),
        _panel(
            "Time of one look at a run",
            "Milliseconds, unless the API server is slow.",
            _quantiles("reconcile_seconds"),
            unit="s",
        ),
        _panel(
            "Looks that failed",
            "By what failed; they are taken again.",
            Query(
                f"sum by (reason) (increase({OPERATOR}reconcile_errors_total[$window]))",
                "{{reason}}",
            ),
        ),
        _panel(
            "Requests to the API server",
            "409 and 404 are usual now and then; 403 is a missing right; 0 is no answer.",
            Query(
                f"sum by (verb, code) (rate({OPERATOR}api_requests_total[$window]))",
                "{{verb}} {{code}}",
            ),
            unit="suffix:/s",
        ),
        _panel(
            "Watch events",
            "What the watch streams tell. None for a kind that changes is a dead stream.",
            Query(
                f"sum by (resource) (rate({OPERATOR}watch_events_total[$window]))",
                "{{resource}}",
            ),
            unit="suffix:/s",
        ),
        _panel(
            "Admission reviews",
            "Where the webhook is switched on.",
            Query(
                f"sum by (verdict) (increase({OPERATOR}admissions_total[$window]))",
                "{{verdict}}",
            ),
        ),
        _panel(
            "Memory",
            "Resident. It grows with the number of runs and of their jobs.",
            Query(
                f"process_resident_memory_bytes and on (job, instance) {OPERATOR}runs",
                "{{instance}}",
            ),
            unit="bytes",
        ),
    ),
)

_INFO = f"{OPERATOR}run_info"
DASHBOARD = Dashboard(
    uid="coldstart-runs",
    title="Coldstart / Runs",
    description="What the operator tells of runs and of itself. Alerts: docs/runbooks.",
    variables=(
        Variable("namespace", "Namespace", f"label_values({_INFO}, run_namespace)"),
        Variable("run", "Run", f'label_values({_INFO}{{run_namespace=~"$namespace"}}, run)'),
        Variable(
            "stage",
            "Stage",
            f"label_values({OPERATOR}run_stage_attempts{{{RUNS}}}, stage)",
        ),
    ),
    rows=(_RUNS, _STAGES, _GPU, _HEALTH),
)
