"""An API server with stand-in job controllers, and the operator beside it, for tests.

`world(...)` gives a `World`: in this process, unless `PLACE` says where else (`cluster_world`).
The operator runs in a thread (`operator()`), quick to start, or as the process that it is in
earnest (`process()`), for what only a process can show.
"""

import asyncio
import os
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import yaml
from apiserver.controllers import running_controllers
from apiserver.crds import pytorchjobs
from apiserver.faults import Fault
from apiserver.threaded import running_server
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from nursery import nursery
from operator_processes import Operators, Process
from oracles import at_rest, violations

from coldstart_operator.__main__ import operate
from coldstart_operator.settings import Settings
from coldstart_operator.web import Ports

MANIFEST = Path(__file__).parent.parent / "manifests" / "crd.yaml"

SPEC = {
    "model": {"name": "m"},
    "storage": {"claimName": "runs"},
    "sft": {"dataset": {"name": "d.jsonl"}},
    "grpo": {"dataset": {"name": "d.jsonl"}},
    "evaluation": {"benchmarks": [{"name": "b", "dataset": {"name": "t.jsonl"}}]},
    "retry": {"limit": 2, "backoffSeconds": 0},
}
SFT_ONLY = {"grpo": None, "evaluation": None}

QUICK = {
    "health_port": 0,
    "metrics_port": 0,
    "host": "127.0.0.1",
    "workers": 4,
    "lookers": 2,
    "progress": 0.2,
    "explain": 0.05,
    "cosmetic": 0.05,
    "backoff": 0.05,
    "max_backoff": 0.5,
    "unavailable": 0.2,
}


def spec(**changes):
    """A run's spec: three stages, retried at once; None takes a section away."""
    return {key: value for key, value in (SPEC | changes).items() if value is not None}


def ended(run):
    """Whether a run has reached its end."""
    return holds(run, "Succeeded") or holds(run, "Failed")


def condition(run, type_):
    """A condition of a run by its type."""
    found = ((run or {}).get("status") or {}).get("conditions") or []
    return next((item for item in found if item["type"] == type_), None)


def holds(run, type_):
    """Whether a condition of a run is True."""
    return (condition(run, type_) or {}).get("status") == "True"


def stage(run, name):
    """The status of a stage."""
    found = ((run or {}).get("status") or {}).get("stages") or []
    return next((item for item in found if item["name"] == name), {})


def run_starts(run, name="sft", attempt=1):
    """Whether an attempt of a stage runs."""
    entry = stage(run, name)
    return entry.get("state") == "Running" and entry["attempt"] == attempt


def all_succeeded_once(w, names):
    """Every run has succeeded, every stage at its first attempt, and no job was made twice."""
    for name in names:
        run = w.end(name, 30)
        assert holds(run, "Succeeded"), run["status"]
        assert {entry["attempt"] for entry in run["status"]["stages"]} == {1}
    created = w.created()
    assert len(created) == len(set(created)) == len(w.server.list("pytorchjobs"))


class World:
    """The server, its controllers and what a test does with them."""

    settings = {}
    """What the operator in a thread is told here beside `QUICK`."""
    options = ()
    """What the operator as a process is told here."""

    proxy = None
    """What stands between the operator and the server, if anything does."""
    allowed = ()
    """The runs whose objects a person has taken from the operator, for `oracles.violations`."""
    orphaned = ()
    """The jobs whose owner a person has taken away, for `oracles.at_rest`."""
    judged = False
    """Whether an operator that is let to end must have brought to rest what has ended."""

    def __init__(self, server, controllers, directory):
        self.server = server
        self.controllers = controllers
        self.directory = directory

    @property
    def faults(self):
        """The faults that the operator's requests and watches meet."""
        return (self.proxy or self.server).faults

    @property
    def requests(self):
        """What the operator has asked for."""
        return (self.proxy or self.server).requests

    def apply(self, name="r", namespace="default", **changes):
        """Create a run."""
        return self.server.create(
            "reasoningruns",
            {
                "apiVersion": "coldstart.dev/v1alpha1",
                "kind": "ReasoningRun",
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec(**changes),
            },
        )

    def run(self, name="r"):
        """A run as it is."""
        return self.server.get("reasoningruns", name)

    def until(self, test, name="r", seconds=10.0):
        """Wait until a run passes a test."""
        return self.server.wait("reasoningruns", name, test, seconds=seconds)

    def end(self, name="r", seconds=15.0):
        """Wait for a run's end."""
        return self.until(ended, name, seconds)

    def jobs(self):
        """The names of all jobs that there are."""
        kinds = ("pytorchjobs", "jobs") if self.has_pytorch else ("jobs",)
        return sorted(item["metadata"]["name"] for kind in kinds for item in self.server.list(kind))

    @property
    def has_pytorch(self):
        return any(item.plural == "pytorchjobs" for item in self.server.registry)

    def created(self, plural="pytorchjobs"):
        """The names of the jobs that were created, in order, those that were refused left out."""
        return [
            item.body["metadata"]["name"]
            for item in self.server.requests.of("create", plural)
            if item.status == 201
        ]

    def writes(self):
        """What the operator has written."""
        return [item for item in self.server.requests.writes() if item.status < 300]

    def has_events(self, *reasons, seconds=3.0):
        """Whether the events on runs are these, or become them shortly."""
        end = time.monotonic() + seconds
        while True:
            found = self.server.list("events", fields="involvedObject.kind=ReasoningRun")
            if sorted(item["reason"] for item in found) == sorted(reasons):
                return True
            if time.monotonic() > end:
                raise AssertionError([(item["reason"], item["message"]) for item in found])
            time.sleep(0.02)

    def watched(self, *plurals, since=0, seconds=20.0):
        """Wait until the operator watches these kinds, by the requests since a number of them."""
        end = time.monotonic() + seconds
        while True:
            asked = [one for one in list(self.requests)[since:] if one.verb == "watch"]
            if set(plurals) <= {one.resource for one in asked if one.status == 200}:
                return
            assert time.monotonic() < end, asked
            time.sleep(0.02)

    def settled(self, seconds=10.0):
        """Wait until nothing is wrong, where every run has ended and the world is judged."""
        if not self.judged or not all(map(ended, self.server.list("reasoningruns"))):
            return
        end = time.monotonic() + seconds
        while found := at_rest(self.server, orphaned=self.orphaned):
            assert time.monotonic() < end, found
            time.sleep(0.05)

    def judge(self):
        """Hold what has happened here to the safety rules."""
        found = violations(self.server, allowed=self.allowed)
        assert not found, found
        assert not (self.proxy and self.proxy.errors), self.proxy.errors

    def quiet(self, seconds=0.5):
        """Wait, then give the requests made meanwhile, but watches, LISTs and kopf's discovery."""
        before = len(self.server.requests)
        time.sleep(seconds)
        late = list(self.server.requests)[before:]
        return [
            item
            for item in late
            if item.verb not in ("watch", "list") and not item.resource.startswith("/")
        ]

    def kubeconfig(self):
        """The operator's credentials, which lead through the proxy if there is one."""
        return self.proxy.kubeconfig() if self.proxy else self.credentials()

    def credentials(self):
        """A kubeconfig that leads to the server."""
        return self.server.kubeconfig(self.directory / "kubeconfig")

    @contextmanager
    def operator(self, **changes):
        """The operator in a thread."""
        settings = Settings(**(QUICK | {"resync": 600.0} | self.settings | changes))
        failures, handles, begun = [], [], threading.Event()
        ports = Ports(settings.host)
        path = str(self.kubeconfig())

        async def log_in():
            configuration = Configuration()
            await config.load_kube_config(path, client_configuration=configuration)
            configuration.connection_pool_maxsize = 20
            return configuration

        async def work(pause):
            await asyncio.sleep(pause)
            stop = asyncio.Event()
            handles.append((asyncio.get_running_loop(), stop))
            begun.set()
            return await operate(settings, ports, log_in, told=stop)

        def main():
            pause = 0.0
            try:
                while pause is not None:
                    pause = asyncio.run(work(pause))
            except BaseException as error:
                failures.append(error)
                raise
            finally:
                ports.close()

        thread = threading.Thread(target=main, daemon=True)
        thread.start()
        assert begun.wait(20), failures
        try:
            yield settings
            self.settled()
        finally:
            loop, stop = handles[-1]
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)
            assert not thread.is_alive()
            assert not failures, failures

    @contextmanager
    def process(self, *options, **clock):
        """The operator as a process, whose clock may be as `nursery.set_clock` has it."""
        found = self._start(options, clock)
        try:
            yield found
            if found.process.poll() is None:
                self.settled()
        finally:
            found.end()

    @contextmanager
    def operators(self, *options, **clock):
        """The operator as a process that is started again whenever it has ended."""
        self.restarted = Operators(lambda: self._start(options, clock))
        try:
            yield self.restarted
            self.settled()
        finally:
            self.restarted.end()

    def killing(self, verb, resource, *, after, **more):
        """A fault that kills the operator: before a request is passed on, or when it is done."""
        return Fault(verb, resource, after=after, drop=True, hook=lambda _: self.kill(), **more)

    def kill(self):
        """SIGKILL for the one of `operators()`; returns at once."""
        self.restarted.kill()

    def _start(self, options, clock):
        log = self.directory / f"operator-{time.monotonic_ns()}.log"
        log.touch()
        arguments = ["--host", "127.0.0.1", "--health-port", "0", "--metrics-port", "0"]
        arguments += [*self.options, *options]
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig())}
        return Process(nursery().start(arguments, environment, log, clock), log)


@contextmanager
def world(directory, script=None, *, pytorch=True, crd=True, **options):
    """A server with the project's definitions, and controllers that follow a script."""
    place = PLACE.get() or in_process
    with place(directory, script, pytorch=pytorch, crd=crd, **options) as found:
        found.judged = JUDGED.get()
        yield found
        if found.judged:
            found.judge()


PLACE = ContextVar("PLACE", default=None)
"""Where worlds are, as a function like `in_process`; none: there."""

JUDGED = ContextVar("JUDGED", default=False)
"""Whether worlds are held to the safety rules, and must come to rest when all has ended."""


@contextmanager
def in_process(directory, script=None, *, pytorch=True, crd=True, **options):
    """A world of this process."""
    with running_server(**options) as server:
        if pytorch:
            server.create("customresourcedefinitions", pytorchjobs())
        if crd:
            install(server)
        with running_controllers(server, script) as controllers:
            yield World(server, controllers, directory)


def install(server):
    """Create the project's definition."""
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        server.create("customresourcedefinitions", document)
