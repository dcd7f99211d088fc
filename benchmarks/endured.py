"""What was found of an operator that endured: judged, as a table, as a page; measures nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median

from rig import Json
from setting import setting

from coldstart_operator.cache import GRAVES
from coldstart_operator.recorder import MAX_SAID, MAX_WAITING

FLAT = 1.05
"""What is flat is in the last third no more than this times what it was in the second."""

LONG = 5.0
"""Minutes from which on what has grown tells of a leak; before, of the beginning."""

FEW = 50
"""Entries, or objects, that come and go with the work."""

BOUNDED = {
    "coldstart_operator.cache.Cache._graves": 3 * GRAVES,
    "coldstart_operator.recorder.Recorder._said": MAX_SAID,
    "coldstart_operator.recorder.Recorder._waiting": MAX_WAITING,
}
"""Tables that grow to a bound of their own, and the bound."""

QUEUES = ("coldstart_operator.work.WorkQueue.", "asyncio.queues.Queue.")
"""Tables that are as long as there is work to do: at most every run twice, and every event."""

Rows = list[tuple[str, str, str]]


@dataclass(frozen=True)
class Options:
    """How much of everything."""

    minutes: float
    runs: int
    seed: int
    stage: float
    resync: float

    @property
    def world(self) -> list[str]:
        """The options of `endurance_server.py`: short runs have all faults, and more of them."""
        share = min(1.0, self.minutes / 10)
        seconds = {
            "stage": self.stage,
            "pause": max(2 * self.stage, 10.0),
            "requests": 0.4,
            "streams": 1.0 * share**0.5,
            "silences": 200 * share,
            "gone": 60 * share,
            "restarts": 120 * share,
            "timeouts": 20.0,
        }
        found = [f"--{name}={value}" for name, value in seconds.items()]
        return [*found, f"--seed={self.seed}", f"--runs={self.runs}"]

    @property
    def patience(self) -> float:
        """Seconds after which a run to which nothing happens is stuck.

        What the watch streams have not told, a full LIST tells, and its request may fail, too.
        """
        return 2 * self.resync + 60


@dataclass
class Sample:
    """One look at the operator's process."""

    at: float
    memory: float = 0.0
    processor: float = 0.0
    objects: int = 0
    """Runs and jobs in the cluster."""
    threads: int = 0
    descriptors: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Entries of `tables`, objects of `classes`, `series` of metrics, where they were counted."""


@dataclass
class Endured:
    """What was found; times are seconds, memory is MiB."""

    samples: list[Sample] = field(default_factory=list)
    report: Json = field(default_factory=dict)
    idle: tuple[float, str] = (0.0, "")
    """The longest for which nothing happened to a run that waited for nobody."""
    red: list[str] = field(default_factory=list)
    """When /healthz was red, and why."""
    looks: int = 0
    """At /healthz."""
    rest: float = 0.0
    """From the last fault until everything was at rest."""
    unrest: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """Lines of the operator's log that tell of mistakes."""
    processor: float = 0.0

    def thirds(self, value: Callable[[Sample], float | None]) -> list[list[float]]:
        """What was seen in each third of the time."""
        end = self.samples[-1].at
        found: list[list[float]] = [[], [], []]
        for sample in self.samples:
            seen = value(sample)
            if seen is not None:
                found[min(2, int(3 * sample.at / end))].append(seen)
        return found

    @property
    def memory(self) -> list[float]:
        """The mean of each third."""
        return [mean(part) for part in self.thirds(lambda sample: sample.memory)]

    def grown(self, options: Options) -> list[str]:
        """Tables, classes of objects and families of series that have grown, and how far.

        What there is in the cluster may have grown, and the operator's tables with it. The lower
        quartile of a third counts: what no stream has told the deletion of goes with the next full
        LIST, and an operator that begins anew begins with nothing.
        """
        *earlier, now = [mean(part) for part in self.thirds(lambda one: one.objects)]
        more = FLAT * max(1.0, now / max(earlier))
        found = []
        for what in ("tables", "classes", "series"):
            for name, before, last in self._counted(what):
                bound = BOUNDED.get(name, 0)
                if name.startswith(QUEUES):
                    bound = 2 * options.runs + MAX_WAITING
                if last > more * max(before) + FEW and last > bound:
                    found.append(f"{what}: {name}: {max(before):.0f}, then {last:.0f}")
        return found

    def _counted(self, what: str) -> list[tuple[str, list[float], float]]:
        """The lower quartiles of the thirds, the last apart, of all that was ever counted."""
        names = {name for sample in self.samples for name in sample.counts.get(what, ())}
        found = []
        for name in sorted(names):

            def number(sample: Sample, name: str = name) -> float | None:
                return sample.counts[what].get(name, 0) if what in sample.counts else None

            *before, last = [_lower_quartile(part or [0]) for part in self.thirds(number)]
            found.append((name, before, last))
        return found

    def complaints(self, options: Options) -> list[str]:
        """Every bound that was broken, in a sentence."""
        found = [
            f"{row[0]}: {row[1]}; {row[2]}" for row in rows(self, options) if "MISSED" in row[2]
        ]
        found += [f"  {one}" for one in (*self.grown(options), *self.red[:5], *self.unrest[:10])]
        found += [f"  {one}" for one in (*self.report["violations"][:10], *self.said[:10])]
        return found if any("MISSED" in one for one in found) else []


def _lower_quartile(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 4]


def series(text: str) -> dict[str, int]:
    """How many series each metric has on a page."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(Counter(line.partition("{")[0].partition(" ")[0] for line in lines))


def rows(found: Endured, options: Options) -> Rows:
    """The table: what, how much, and the bound with whether it is kept."""
    return [*_growth(found, options), *_ends(found, options)]


def _growth(found: Endured, options: Options) -> Rows:
    """What might have grown."""

    def flat(kept: bool, bound: str) -> str:
        return _judged(kept, bound) if options.minutes >= LONG else "too short to tell"

    def few(value: Callable[[Sample], int]) -> tuple[str, str]:
        parts = [median(part) for part in found.thirds(value)]
        most = max(map(value, found.samples))
        kept = parts[2] <= max(parts[0], parts[1]) + 2
        told = ", ".join(f"{part:.0f}" for part in parts)
        return f"{told}; {most} at most", flat(kept, "no more at the end")

    memory, grown = found.memory, found.grown(options)
    change = memory[2] / memory[1] - 1
    last = {what: number for one in found.samples for what, number in one.counts.items()}
    busy = [part[-1] - part[0] for part in found.thirds(lambda sample: sample.processor)]
    shares = [100 * taken / (20 * options.minutes) for taken in busy]
    looked, known = len(last["tables"]) + len(last["classes"]), sum(last["series"].values())
    return [
        (
            "memory, mean of each third",
            ", ".join(f"{part:.1f}" for part in memory) + " MiB",
            flat(change <= FLAT - 1, f"last within 5 % of second ({100 * change:+.1f} %)"),
        ),
        ("memory, at most", f"{max(one.memory for one in found.samples):.1f} MiB", ""),
        ("threads, median of each third", *few(lambda sample: sample.threads)),
        ("file descriptors, median of each third", *few(lambda sample: sample.descriptors)),
        (
            "tables, classes of objects, metrics that have grown",
            f"{len(grown)} of {looked}, {known} series",
            flat(not grown, "none"),
        ),
        (
            "processor, share of a core in each third",
            ", ".join(f"{share:.0f} %" for share in shares),
            flat(shares[2] <= 1.2 * shares[1] + 2, "no more at the end"),
        ),
    ]


def _ends(found: Endured, options: Options) -> Rows:
    """What became of the runs, and what was said."""
    idle, idlest = found.idle
    violations = found.report["violations"]
    return [
        (
            "longest without any change of a run that waits for nobody",
            f"{idle:.0f} s ({idlest})" if idlest else f"{idle:.0f} s",
            _judged(idle <= options.patience, f"at most {options.patience:.0f} s"),
        ),
        (
            "runs at rest after the last fault",
            f"after {found.rest:.0f} s" if not found.unrest else f"{len(found.unrest)} are not",
            _judged(not found.unrest, "all"),
        ),
        (
            "sentences of the safety oracles",
            str(len(violations)),
            _judged(not violations, "none"),
        ),
        ("mistakes in the operator's log", str(len(found.said)), _judged(not found.said, "none")),
        (
            "/healthz red",
            f"{len(found.red)} of {found.looks} looks",
            _judged(not found.red, "never"),
        ),
    ]


def _judged(kept: bool, bound: str) -> str:
    return f"{bound}, {'kept' if kept else 'MISSED'}"


PAGE = """\
# The operator under {runs} runs that churn, for {minutes:g} minutes, under faults

`{command}`: {runs} live runs at any time, of one to three stages of about
{stage:g} s, against the API server of `tests/apiserver` and its stand-in controllers, in a process
of its own. Faults, and what users, nodes and queues do, are drawn at random (seed {seed}); their
numbers are below. Memory, threads and descriptors of the operator are the kernel's. A table is
every container that is an attribute of an object of the operator, kopf, aiohttp, asyncio or the
Prometheus client; the lower quartile of its entries in the last third is compared with those of
the thirds before, and so is the number of objects of each class: what the cluster holds does not
grow, so nothing may.
At the end faults and deeds cease, and every run has to come to its end. The tests' safety oracles
follow every change.

Measured on {day} on {machine} (load average of its last 15 minutes: {load:.1f}), with Python
{python}, {versions}.

| measure | found | bound |
|---|---|---|
{rows}

| runs | times |
|---|---|
{deeds}

| fault | times |
|---|---|
{faults}

| request of the operator | per ended run |
|---|---|
{requests}
"""


def page(found: Endured, options: Options, machine: str, command: str) -> str:
    """The kept result, in Markdown."""
    report = found.report
    ended = sum(report["ends"].values())
    ends = {f"ended: {name}": number for name, number in report["ends"].items()}
    requests = {name: f"{number / ended:.2f}" for name, number in _ordered(report["requests"])}
    return PAGE.format(
        **vars(options),
        command=command,
        **setting("kopf", "kubernetes", "aiohttp", "pydantic"),
        machine=machine,
        rows="\n".join(f"| {' | '.join(cells)} |" for cells in rows(found, options)),
        deeds=_lines({**report["deeds"], **ends}),
        faults=_lines(dict(_ordered(report["faults"]))),
        requests=_lines(requests),
    )


def _ordered(counted: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counted.items(), key=lambda item: -item[1])


def _lines(cells: Json) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in cells.items())
