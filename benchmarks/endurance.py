"""The operator for half an hour with 1,000 runs that churn, under faults of every kind at random.

Three processes: the operator, the world around it (`endurance_server.py`: API server, faults,
users and nodes) and this program, which looks at the operator's memory, threads and descriptors as
the kernel has them, at its metrics as Prometheus does, and at what it holds (`held.py`). At the
end all faults and deeds cease, and everything has to come to rest.
"""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import click
from endured import Endured, Options, Sample, page, rows, series
from findings import table
from rich.console import Console
from rig import ROOT, Failed, Json, Operator, served
from setting import machine_class

RESULT = ROOT / "benchmarks" / "results" / "endurance.md"

HERE = ROOT / "benchmarks"
LOOK, SCRAPE, COUNT, TELL = 2.0, 15.0, 30.0, 60.0
"""Seconds between two looks at the process, two scrapes, two counts and two lines of progress; in
a short run all of them are shorter."""

REST = 900.0
"""Seconds until everything has to be at rest: two full LISTs, and the longest backoff."""

OK = 200

QUIET = 3.0
"""Seconds without any change that are called rest."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


class Watcher:
    """What this program asks of the two other processes."""

    def __init__(
        self, session: aiohttp.ClientSession, levers: str, operator: Operator, place: Path
    ) -> None:
        self.session, self.levers, self.operator, self.place = session, levers, operator, place
        self._pages: tuple[str, str] | None = None

    async def report(self) -> Json:
        """What the world tells.

        Raises:
            Failed: it or the operator has ended, or it has errors of its own.
        """
        self.operator.check()
        try:
            async with self.session.get(f"{self.levers}/report") as answer:
                found: Json = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Failed(f"the world does not answer: {error!r}") from error
        if found["errors"]:
            raise Failed(f"the world has errors: {found['errors'][:3]}")
        return found

    async def lever(self, name: str) -> None:
        """Have faults and deeds `begin`, or cease (`calm`)."""
        async with self.session.post(f"{self.levers}/{name}") as answer:
            await answer.read()

    def counts(self) -> Json:
        """What the operator holds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.place))
            found: Json = json.loads(b"".join(iter(lambda: connection.recv(1 << 20), b"")))
        return found

    async def page(self, name: str) -> tuple[int, str]:
        """A page of the operator: `healthz`, `readyz` or `metrics`."""
        health, metrics = self._pages or self._found()
        place = metrics if name == "metrics" else health
        try:
            async with self.session.get(f"http://127.0.0.1:{place}/{name}") as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.operator.check()
            raise Failed(f"/{name} does not answer: {error!r}") from error

    def _found(self) -> tuple[str, str]:
        for line in self.operator.log.read_text(errors="replace").splitlines():
            if "serves /healthz" in line:
                words = json.loads(line)["message"].split()
                self._pages = words[4], words[9]
                return self._pages
        raise Failed("the operator has not said where its pages are")


class Clock:
    """Says when something is due that is done again and again."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._next = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether it is due now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.seconds
        return True


async def churned(watcher: Watcher, options: Options, found: Endured) -> None:
    """Look at the operator while the world churns."""
    seconds = 60 * options.minutes
    share = min(1.0, seconds / 600)
    scrape, count, tell = Clock(SCRAPE * share), Clock(COUNT * share), Clock(TELL * share)
    begun = time.monotonic()
    while (at := time.monotonic() - begun) < seconds:
        operator, sample = watcher.operator, Sample(at)
        sample.memory, sample.processor = operator.memory, operator.processor_seconds
        sample.threads, sample.descriptors = operator.threads, operator.descriptors
        found.report = await watcher.report()
        sample.objects = found.report["objects"]
        found.idle = max(found.idle, (found.report["idle"], found.report["idlest"]))
        if scrape.due():
            sample.counts["series"] = series((await watcher.page("metrics"))[1])
            status, text = await watcher.page("healthz")
            found.looks += 1
            if status != OK:
                found.red.append(f"{at:.0f} s: {text.strip()}")
        if count.due():
            sample.counts |= await asyncio.to_thread(watcher.counts)
        found.samples.append(sample)
        if tell.due():
            console.print(f"  {at / 60:5.1f} min: {_line(sample, found.report)}")
        await asyncio.sleep(LOOK * share)


def _line(sample: Sample, report: Json) -> str:
    ended, faults = sum(report["ends"].values()), sum(report["faults"].values())
    return (
        f"{sample.memory:.1f} MiB, {report['live']} live runs, {ended} ended, {faults} faults, "
        f"idlest {report['idlest'] or 'none'} for {report['idle']:.0f} s"
    )


async def rested(watcher: Watcher, found: Endured) -> None:
    """Wait until everything is at rest, or has had the time for it."""
    console.print("no more faults and deeds: everything to its end")
    begun, tell = time.monotonic(), Clock(TELL / 4)
    await watcher.lever("calm")
    while True:
        found.report = await watcher.report()
        found.rest = time.monotonic() - begun
        found.unrest = found.report["unrest"]
        if not found.unrest and found.report["unchanged"] > QUIET:
            return
        if found.rest > REST:
            return
        if tell.due():
            console.print(f"  {found.rest:.0f} s: {found.report['live']} live runs")
        await asyncio.sleep(1)


async def measured(levers: str, operator: Operator, place: Path, options: Options) -> Endured:
    """All of it.

    Raises:
        Failed: there is no result.
    """
    found = Endured()
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        watcher = Watcher(session, levers, operator, place)
        operator.start()
        await _ready(watcher)
        await watcher.lever("begin")
        console.print(f"{options.runs} runs churn for {options.minutes:g} min, seed {options.seed}")
        await churned(watcher, options, found)
        await rested(watcher, found)
        found.processor = operator.processor_seconds
    found.said = said(operator.log)
    return found


async def _ready(watcher: Watcher) -> None:
    """Wait until the operator works.

    Raises:
        Failed: it does not.
    """
    end, status = time.monotonic() + 60, 0
    while status != OK:
        await asyncio.sleep(0.2)
        try:
            status, text = await watcher.page("readyz")
        except Failed as error:
            text = str(error)
        if time.monotonic() > end:
            raise Failed(f"the operator is not ready after 60 s: {text}")


def said(log: Path) -> list[str]:
    """What the operator said that it should not: mistakes of its own, and what is no log line."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        if entry["level"] in ("error", "critical") and not _expected(entry):
            found.append(line)
    return found


def _expected(entry: Json) -> bool:
    """Whether kopf calls an error that the API server refused it something.

    It asks again, or gives a watch up with a traceback, and the operator begins anew.
    """
    end = str(entry.get("error", "")).strip().splitlines()[-1:]
    refused = all(line.startswith("kopf._cogs.clients.errors.API") for line in end)
    return str(entry["logger"]).startswith("kopf") and refused


@click.command(context_settings={"max_content_width": 100}, help=__doc__)
@click.option("--minutes", default=30.0, show_default=True, help="For how long.")
@click.option("--runs", default=1000, show_default=True, help="Live runs at any time.")
@click.option("--seed", type=int, help="Of faults, deeds and ends; by default another each time.")
@click.option(
    "--stage-seconds", "stage", default=120.0, show_default=True, help="A stage's usual length."
)
@click.option("--resync", default=300.0, show_default=True, help="The operator's option.")
@click.option("--machine", default=machine_class, help="The machine in words, for --keep.")
@click.option("--keep", is_flag=True, help="Keep the table in benchmarks/results/endurance.md.")
@click.option("--folder", type=click.Path(path_type=Path), help="Leave logs and samples there.")
def main(
    machine: str, seed: int | None, folder: Path | None, *, keep: bool, **how_much: Any
) -> None:
    """Measure, and print the table; 1 if a bound is broken."""
    if not Path("/proc/self/status").exists():
        raise click.UsageError("needs Linux: the operator's memory is read from /proc")
    if seed is None:
        seed = random.SystemRandom().randrange(2**31)
    options = Options(seed=seed, **how_much)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="coldstart-endurance-") as directory:
        try:
            found = _endured(folder or Path(directory), options)
        except Failed as error:
            raise SystemExit(f"no result: {error}") from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None
    console.print(table(rows(found, options)))
    for sentence in found.complaints(options):
        console.print(sentence, markup=False)
    if keep:
        command = shlex.join(["python", "benchmarks/endurance.py", *sys.argv[1:]])
        RESULT.write_text(page(found, options, machine, command))
        console.print(f"kept in {RESULT.relative_to(ROOT)}")
    sys.exit(1 if found.complaints(options) else 0)


def _endured(folder: Path, options: Options) -> Endured:
    """The processes, and what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "held.socket"
    for old in (place, folder / "operator.log", folder / "server.log"):
        old.unlink(missing_ok=True)
    with served(folder, str(HERE / "endurance_server.py"), *options.world) as (_, levers):
        program = (str(HERE / "held.py"), str(place))
        operator = Operator(
            folder / "kubeconfig",
            folder / "operator.log",
            program,
            ("--resync", str(options.resync)),
        )
        try:
            found = asyncio.run(measured(levers, operator, place, options))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            operator.stop()
    (folder / "samples.json").write_text(json.dumps([vars(one) for one in found.samples]))
    return found


if __name__ == "__main__":
    main()
