"""What was measured of the operator under many runs: table, page and JSON; measures nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rich.table import Table
from rig import Json
from setting import setting

GROWTH = 1.1
"""What is flat, or linear, grows by no more than this."""

BOUNDS = {
    "handoff_p50_ratio": 3.0,
    "handoff_p99_ratio": 10.0,
    "writes_per_run": 15.0,
    "rss_mib": 200.0,
    "restart_seconds": 10.0,
    "duplicate_children": 0.0,
}


@dataclass(frozen=True)
class Options:
    """How much of everything."""

    runs: int
    finished: int
    rate: float
    """Runs begun a second; 0 to find one."""
    stage: float
    soak: float


@dataclass
class Findings:
    """What was measured; times are seconds, memory is MiB."""

    handoffs: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    reads: dict[int, float] = field(default_factory=dict)
    """Per run, by how many runs there were."""
    writes: float = 0.0
    requests: dict[str, float] = field(default_factory=dict)
    """Per run, by verb and resource."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """When, and how much, from when finished and live runs were there until the second restart."""
    soaked: list[float] = field(default_factory=list)
    """How much, during the soak."""
    restarts: list[tuple[float, float]] = field(default_factory=list)
    """How long each took, and the operator's processor time in it: with live runs, then with
    finished ones beside them."""
    duplicates: int = 0

    def ratio(self, share: float) -> float:
        """A quantile of the hand-offs over that of the bare calls."""
        return quantile(self.handoffs, share) / quantile(self.bare, share)

    @property
    def thirds(self) -> list[float]:
        """The mean memory of each third of the soak."""
        size = len(self.soaked) // 3
        parts = [self.soaked[size * place : size * (place + 1)] for place in range(3)]
        return [sum(part) / len(part) for part in parts if part]

    def document(self) -> Json:
        """What `--json` prints."""
        return {
            "handoff_p50_ratio": round(self.ratio(0.5), 3),
            "handoff_p99_ratio": round(self.ratio(0.99), 3),
            "writes_per_run": round(self.writes, 3),
            "rss_mib": round(max(found for _, found in self.memory), 1),
            "restart_seconds": round(self.restarts[0][0], 2),
            "duplicate_children": self.duplicates,
        }


def quantile(values: list[float], share: float) -> float:
    """The value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def rows(findings: Findings, options: Options) -> list[tuple[str, str, str]]:
    """The table: what, how much, and the bound with whether it is kept."""
    document = findings.document()

    def judged(key: str, unit: str = "") -> str:
        kept = document[key] <= BOUNDS[key]
        return f"at most {BOUNDS[key]:g}{unit}, {'kept' if kept else 'MISSED'}"

    def grown(after: float, before: float, word: str) -> str:
        verdict = "kept" if after <= GROWTH * before else "MISSED"
        return f"{word}, {verdict} ({100 * (after / before - 1):+.0f} %)"

    def ratio(key: str) -> tuple[str, str]:
        return f"{document[key]:.2f}", judged(key)

    def spread(values: list[float]) -> str:
        return ", ".join(f"{1e3 * quantile(values, share):.1f} ms" for share in (0.5, 0.99))

    few, many = findings.reads.values()
    reads = "; ".join(f"{found:.2f} with {runs}" for runs, found in findings.reads.items())
    found = [
        ("hand-off (child finished, next created), p50, p99", spread(findings.handoffs), ""),
        ("bare calls beside it (LIST, PATCH, POST), p50, p99", spread(findings.bare), ""),
        ("hand-off / bare, p50", *ratio("handoff_p50_ratio")),
        ("hand-off / bare, p99", *ratio("handoff_p99_ratio")),
        ("writes per run", f"{document['writes_per_run']:.2f}", judged("writes_per_run")),
        ("reads per run", f"{reads} runs", grown(many, few, "linear")),
        ("memory, at most", f"{document['rss_mib']:.0f} MiB", judged("rss_mib", " MiB")),
    ]
    if findings.thirds:
        thirds = ", ".join(f"{third:.1f}" for third in findings.thirds)
        flat = grown(findings.thirds[-1], findings.thirds[0], "flat")
        found.append((f"memory, thirds of {options.soak:g} min", f"{thirds} MiB", flat))
    first, second = (
        f"{taken:.1f} s ({busy:.1f} s of processor time)" for taken, busy in findings.restarts
    )
    restarted = judged("restart_seconds", " s")
    return [
        *found,
        (f"restart with {options.runs} live runs, until each is observed", first, restarted),
        (f"the same beside {options.finished} finished runs", second, ""),
        ("duplicate children", str(findings.duplicates), judged("duplicate_children")),
    ]


def table(found: list[tuple[str, str, str]]) -> Table:
    """The rows for a terminal."""
    shown = Table("measure", "found", "bound")
    for row in found:
        shown.add_row(*row, style="red" if "MISSED" in row[2] else None)
    return shown


PAGE = """\
# The operator under {runs} runs

`{command}`: runs of `examples/quickstart/run.yaml`, {rate:.2g} begun a second, with stages of about
{stage:g} s, against the API server of `tests/apiserver` and its stand-in controllers; operator,
server and client are a process each. The bare calls are those of a hand-off with the same bodies,
made by a plain HTTP client on the same server, at the same time and as often. Memory is with
{finished} finished runs (three jobs each) and {runs} live ones, until after the second restart.
Restart: SIGKILL amid hand-offs, the spec of every live run changed while the operator is away, then
the time from its start until the last run's `observedGeneration` is that of the change.

Measured on {day} on {machine} (load average of its last 15 minutes: {load:.1f}), with Python
{python}, {versions}.

| measure | found | bound |
|---|---|---|
{rows}

Requests of the operator per run, of {runs} runs:

| request | per run |
|---|---|
{requests}
"""


def page(findings: Findings, options: Options, machine: str, command: str) -> str:
    """The kept result, in Markdown."""
    return PAGE.format(
        runs=options.runs,
        command=command,
        rate=options.rate,
        stage=options.stage,
        finished=options.finished,
        **setting("kopf", "kubernetes", "aiohttp", "pydantic"),
        machine=machine,
        rows="\n".join(f"| {' | '.join(cells)} |" for cells in rows(findings, options)),
        requests="\n".join(
            f"| {kind} | {number:.2f} |"
            for kind, number in sorted(findings.requests.items(), key=lambda item: -item[1])
        ),
    )
