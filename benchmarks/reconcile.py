"""The operator under 500 runs: hand-off, requests, memory and restart, beside bare API calls.

The API server (`tests/apiserver`, with stand-ins for the job controller and the kubelet), the
operator and this program are three processes. Nothing is asked of the operator itself: what is
told here is the server's own record, and the operator's memory as the kernel has it.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import click
from findings import Findings, Options, page, quantile, rows, table
from rich.console import Console
from rig import OURS, ROOT, RUNS, Bench, Failed, Json, Operator, served
from setting import machine_class

RESULT = ROOT / "benchmarks" / "results" / "reconcile.md"
JOBS = "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs"
PODS = "/api/v1/namespaces/{}/pods"
BARE = "bare"
"""The namespace of the bare client; the operator works in another."""

MOST_RATE, SHARE = 5.0, 0.3
"""Runs begun a second where no rate is given, and its share of what the machine can take: a queue
that only grows tells of the machine."""

SHORT_STAGE = 0.1
"""Seconds of a stage where it is found out what the machine can take."""

SOAK_STAGE = 60.0
"""Seconds that a stage takes in the soak, on average."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


async def paced(rate: float, actions: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Begin so many actions a second, however long each takes; wait for the last to end."""
    begun, tasks = time.monotonic(), []
    for place, action in enumerate(actions):
        await asyncio.sleep(max(0.0, begun + place / rate - time.monotonic()))
        tasks.append(asyncio.create_task(action()))
    for task in tasks:
        await task


async def wave(bench: Bench, prefix: str, count: int, rate: float) -> Json:
    """Take runs from creation to their end; requests per run, as the server counted them."""
    before = await bench.until(lambda _: True)
    names = [f"{prefix}-{number}" for number in range(count)]
    await paced(rate, [lambda name=name: bench.apply(name) for name in names])
    await bench.until(lambda found: found["ended"] >= before["ended"] + count)
    # Events are sent beside the work.
    await asyncio.sleep(0.5)
    after = await bench.ledger()
    kinds = {
        kind: (number - before["requests"].get(kind, 0)) / count
        for kind, number in after["requests"].items()
    }
    return {key: (after[key] - before[key]) / count for key in ("reads", "writes")} | {
        "requests": {kind: number for kind, number in kinds.items() if number}
    }


@dataclass
class BareCalls:
    """The calls of a hand-off without an operator.

    They are the same calls with the same bodies, taken from the server's record: the LIST of a
    run's pods, the PATCH of a run's status, the POST of a job. The objects are in a namespace
    that the operator does not watch, the jobs are left alone by their controller.
    """

    bench: Bench
    sample: Json
    versions: list[str]
    """Of the runs whose status is patched; each is used once."""

    @classmethod
    async def prepared(cls, bench: Bench, count: int) -> BareCalls:
        """Calls for so many hand-offs, their objects made.

        Raises:
            Failed: the record has no hand-off.
        """
        sample = await bench.call("GET", f"{bench.levers}/sample")
        if not sample:
            raise Failed("the record has no hand-off to take the bare calls from")
        sample["job"]["spec"]["runPolicy"]["managedBy"] = "kueue.x-k8s.io/multikueue"
        await bench.call("POST", "/api/v1/namespaces", {"metadata": {"name": BARE}})
        return cls(bench, sample, await bench.copies(count, prefix="b", namespace=BARE))

    async def once(self, number: int, run: str) -> float:
        """Make the calls of one hand-off, with the pods of a run; the seconds they take."""
        bench, patch, job = self.bench, deepcopy(self.sample["patch"]), deepcopy(self.sample["job"])
        patch["metadata"]["resourceVersion"] = self.versions[number]
        job["metadata"] |= {"name": f"b-{number}-grpo-1", "namespace": BARE}
        begun = time.monotonic()
        selector = f"coldstart.dev/run={run}"
        await bench.call("GET", PODS.format(OURS), labelSelector=selector, limit="200")
        await bench.call("PATCH", f"{RUNS.format(BARE)}/b-{number}/status", patch)
        await bench.call("POST", JOBS.format(BARE), job)
        return time.monotonic() - begun

    async def beside(self, prefix: str, options: Options, found: list[float]) -> None:
        """Make them as often as a wave of runs has hand-offs, while it has them."""
        count = len(self.versions)

        async def one(number: int) -> None:
            await asyncio.sleep(random.random() / options.rate)  # noqa: S311 - not in step
            found.append(await self.once(number, f"{prefix}-{number * options.runs // count}"))

        await asyncio.sleep(options.stage)
        actions = [lambda number=number: one(number) for number in range(count)]
        await paced(2 * options.rate, actions)


async def handoffs(bench: Bench, options: Options, findings: Findings) -> Options:
    """Two waves of runs, the smaller at once; the larger with bare calls beside it.

    Returns:
        The options with the rate that was chosen, where none was given.
    """
    small = max(2, options.runs // 5)
    console.print(f"{small} runs through three short stages, all at once")
    await bench.lever("running", seconds=SHORT_STAGE)
    begun = time.monotonic()
    found = await wave(bench, "a", small, math.inf)
    findings.reads[small] = found["reads"]
    most = small / (time.monotonic() - begun)
    options = replace(options, rate=options.rate or min(MOST_RATE, SHARE * most))
    console.print(f"  {most:.1f} a second")
    console.print(f"{options.runs} runs through three stages, {options.rate:.2g} begun a second")
    await bench.lever("running", seconds=options.stage)
    bare = await BareCalls.prepared(bench, 2 * options.runs)
    since = (await bench.ledger())["handoffs"]
    beside = asyncio.create_task(bare.beside("r", options, findings.bare))
    found = await wave(bench, "r", options.runs, options.rate)
    await beside
    findings.reads[options.runs] = found["reads"]
    findings.writes, findings.requests = found["writes"], found["requests"]
    findings.handoffs = await bench.call("GET", f"{bench.levers}/handoffs", since=str(since))
    for name, values in (("hand-off", findings.handoffs), ("bare calls", findings.bare)):
        middle, last = (1e3 * quantile(values, share) for share in (0.5, 0.99))
        console.print(f"  {name}: {len(values)}, p50 {middle:.1f} ms, p99 {last:.1f} ms")
    return options


async def settled(bench: Bench, options: Options) -> None:
    """Wait until there are as many live runs as asked, and a stage of nearly each runs."""
    running = 0
    while running < 0.95 * options.runs:
        running = (await topped_up(bench, options))["running"]
        await asyncio.sleep(0.2)


async def topped_up(bench: Bench, options: Options) -> Json:
    """Begin runs in place of those that have ended, delete the oldest of these; the ledger."""
    found = await bench.until(lambda _: True)
    for _ in range(options.runs - found["live"]):
        bench.begun += 1
        await bench.apply(f"l-{bench.begun}")
    while len(bench.names) > options.runs + options.finished:
        await bench.call("DELETE", f"{RUNS.format(OURS)}/{bench.names.popleft()}")
    return found


async def memory(bench: Bench, options: Options, findings: Findings) -> None:
    """Finished runs beside the live ones, and time passes; then a restart with all of them."""
    copies = max(0, options.finished - (await bench.ledger())["ended"])
    console.print(f"{options.finished} finished runs with three jobs each, {options.runs} live")
    if copies:
        await bench.copies(copies, prefix="c", run=bench.names[0])
        bench.names.extendleft(f"c-{number}" for number in range(copies))
    await settled(bench, options)
    sampler = asyncio.create_task(sampled(bench.operator, findings.memory))
    try:
        await asyncio.sleep(0.5)
        console.print(f"  {bench.operator.memory:.1f} MiB")
        if options.soak:
            await soaked(bench, options, findings)
        await restart(bench, findings)
    finally:
        sampler.cancel()


async def sampled(operator: Operator, found: list[tuple[float, float]]) -> None:
    """Look at the operator's memory again and again."""
    while True:
        found.append((time.monotonic(), operator.memory))
        await asyncio.sleep(0.25)


async def soaked(bench: Bench, options: Options, findings: Findings) -> None:
    """Keep so many runs live and so many finished while time passes."""
    console.print(f"soak of {options.soak:g} min, with stages of {SOAK_STAGE:g} s")
    await bench.lever("running", seconds=SOAK_STAGE)
    await bench.lever("finish", nth=2)
    begun, told = time.monotonic(), 0.0
    while (passed := time.monotonic() - begun) < 60 * options.soak:
        await topped_up(bench, options)
        if passed - told > 60:  # noqa: PLR2004 - a line a minute
            told = passed
            console.print(f"  {passed / 60:.0f} min: {bench.operator.memory:.1f} MiB")
        await asyncio.sleep(1)
    findings.soaked = [found for when, found in findings.memory if when >= begun]
    await bench.lever("running")
    await settled(bench, options)


async def restart(bench: Bench, findings: Findings) -> None:
    """SIGKILL amid hand-offs, and start again, until every live run is observed.

    While the operator is away the spec of every live run is changed. A run is observed when its
    status says so: `observedGeneration` is that of the changed spec.
    """
    found = await bench.call("GET", RUNS.format(OURS))
    live = [one["metadata"]["name"] for one in found["items"] if not over(one)]
    console.print(f"restart with {len(live)} live runs of {len(found['items'])}, amid hand-offs")
    await bench.lever("finish", nth=10)
    await asyncio.sleep(0.1)
    bench.operator.kill()
    change = {"spec": {"retry": {"limit": 5 + len(findings.restarts)}}}
    for name in live:
        await bench.call("PATCH", f"{RUNS.format(OURS)}/{name}", change)
    begun = bench.operator.start()
    told = await bench.until(lambda found: not found["behind"], pause=0.05)
    taken, busy = told["caught_up"] - begun, bench.operator.processor_seconds
    findings.restarts.append((taken, busy))
    console.print(f"  observed again after {taken:.1f} s ({busy:.1f} s of processor time)")


async def finished(bench: Bench) -> Json:
    """The ledger when every run has come to its end."""
    await bench.lever("running", seconds=0.5)
    while (found := await bench.until(lambda _: True))["live"]:
        # What was started before the lever was pulled runs until it is told to end.
        await bench.lever("finish")
        await asyncio.sleep(0.4)
    return found


def over(run: Json) -> bool:
    """Whether a run has ended."""
    found = (run.get("status") or {}).get("conditions") or ()
    return any(one["type"] in ("Succeeded", "Failed") and one["status"] == "True" for one in found)


async def measured(
    url: str, levers: str, operator: Operator, options: Options
) -> tuple[Findings, Options]:
    """Everything, one after the other; what was found, and with which rate.

    Raises:
        Failed: there is no result.
    """
    findings = Findings()
    # Those who call themselves stand-ins are not counted.
    headers = {"User-Agent": "stand-in/benchmark"}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout
    ) as session:
        bench = Bench(session, url, levers, operator)
        operator.start()
        await bench.until(lambda found: "watch reasoningruns" in found["requests"])
        await asyncio.sleep(0.5)
        options = await handoffs(bench, options, findings)
        await bench.lever("running")
        await settled(bench, options)
        await restart(bench, findings)
        await memory(bench, options, findings)
        console.print("all runs to their end")
        findings.duplicates = (await finished(bench))["duplicates"]
    return findings, options


@click.command(context_settings={"max_content_width": 100}, help=__doc__)
@click.option("--runs", default=500, show_default=True, help="Runs, and live ones later.")
@click.option("--finished", default=2000, show_default=True, help="Finished runs beside them.")
@click.option(
    "--rate",
    default=0.0,
    help=f"Runs begun a second; by default {SHARE:.0%} of what the machine can take, at most "
    f"{MOST_RATE:g}.",
)
@click.option("--stage-seconds", "stage", default=5.0, show_default=True, help="A stage's length.")
@click.option("--soak", default=1.0, show_default=True, help="Minutes to watch the memory for.")
@click.option("--machine", default=machine_class, help="The machine in words, for --save.")
@click.option("--save", is_flag=True, help="Keep the table in benchmarks/results/reconcile.md.")
@click.option("--json", "as_json", is_flag=True, help="The last line is one JSON object.")
def main(machine: str, *, save: bool, as_json: bool, **how_much: Any) -> None:
    """Measure, and print the table."""
    if not Path("/proc/self/status").exists():
        raise click.UsageError("needs Linux: the operator's memory is read from /proc")
    options = Options(**how_much)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="coldstart-benchmark-") as directory:
        folder = Path(directory)
        try:
            with served(folder) as (url, levers):
                operator = Operator(folder / "kubeconfig", folder / "operator.log")
                try:
                    findings, options = asyncio.run(measured(url, levers, operator, options))
                finally:
                    for number in (signal.SIGINT, signal.SIGTERM):
                        signal.signal(number, signal.SIG_IGN)
                    operator.stop()
        except Failed as error:
            raise SystemExit(f"no result: {error}") from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None
    console.print(table(rows(findings, options)))
    if save:
        command = shlex.join(["python", "benchmarks/reconcile.py", *sys.argv[1:]])
        RESULT.write_text(page(findings, options, machine, command))
        console.print(f"kept in {RESULT.relative_to(ROOT)}")
    if as_json:
        print(json.dumps(findings.document()))


if __name__ == "__main__":
    main()
