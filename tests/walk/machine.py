"""A story of hypothesis: what people, pods, the API server and operators do, one step at a time.

Each rule is one line of the story. After each step nothing may ever have been wrong; at the end
everything must come to rest, and then, with some help, to its end.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from apiserver.faults import Fault, StreamFault, stale
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from walk.deeds import DEEDS
from walk.fates import FATES
from walk.judge import finished, settled, wrong
from walk.world import walked_world

GATED = {"dataset": {"name": "d.jsonl"}, "gate": {"maxLoss": 1.0}}
ONE = {"sft": GATED, "grpo": None, "evaluation": None, "retry": {"limit": 1, "backoffSeconds": 10}}
KINDS: dict[str, dict[str, Any]] = {
    "one stage": ONE,
    "whole": {"sft": GATED, "grpo": GATED, "retry": {"limit": 2, "backoffSeconds": 5}},
    "plain job": ONE | {"backend": "Job"},
    "gang": ONE | {"sft": GATED | {"resources": {"nodes": 2}}},
    "plain gang": ONE | {"sft": GATED | {"resources": {"nodes": 2}}, "backend": "Job"},
    "short-lived": ONE | {"ttlSecondsAfterFinished": 60},
    "timed": ONE | {"sft": GATED | {"timeoutSeconds": 25}},
    "never again": ONE | {"retry": {"limit": 0, "backoffSeconds": 0}},
    "heir of a": ONE | {"sft": None, "grpo": GATED | {"from": {"run": "a", "stage": "sft"}}},
}
JOBS = ("pytorchjobs", "jobs")
REQUESTS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "status": ("patch", ("reasoningruns/status",)),
    "new job": ("create", JOBS),
    "deletion": ("delete", ("reasoningruns", *JOBS)),
    "read": ("get", ("reasoningruns", *JOBS)),
    "list": ("list", ("reasoningruns", "pods", *JOBS)),
    "watch": ("watch", ("reasoningruns", *JOBS)),
    "event": ("create", ("events",)),
    "request": (None, ()),
}
"""Verb and resources of the requests that a fault is for; none means all of them."""

STREAMS = {"runs": ("reasoningruns",), "jobs": JOBS, "runs and jobs": ("reasoningruns", *JOBS)}
"""The resources of watch streams and lists that a fault is for."""

names = st.sampled_from(["a", "b"])
kinds = st.sampled_from(list(KINDS))
fates = st.lists(st.sampled_from(list(FATES)), max_size=4)
few = st.integers(1, 4)
requests = st.sampled_from(list(REQUESTS))
writes = st.sampled_from(["status", "new job", "deletion"])
streams = st.sampled_from(list(STREAMS))


def these(request):
    """What a fault is told to be for some requests."""
    verb, resources = REQUESTS[request]
    return {"verb": verb, "where": lambda one: not resources or one.target in resources}


class Story(RuleBasedStateMachine):
    """One story in one cluster."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.w = self._stack.enter_context(walked_world())

    @initialize(run=names, kind=kinds, fates=fates)
    def begin(self, run, kind, fates):
        self.apply(run, kind, fates)

    # Time

    @rule(seconds=st.sampled_from([0.005, 0.01, 0.02, 0.11, 0.13, 0.5]))
    def let_a_moment_pass(self, seconds):
        self.let(seconds)

    @rule(seconds=st.sampled_from([2, 7, 30]))
    def let_seconds_pass(self, seconds):
        self.let(seconds)

    @rule(seconds=st.sampled_from([70, 400]))
    def let_minutes_pass(self, seconds):
        self.let(seconds)

    def let(self, seconds):
        self._step(f"let {seconds} s pass", lambda: self.w.let(seconds))

    # People

    @rule(run=names, kind=kinds, fates=fates)
    def apply(self, run, kind, fates):
        for fate in fates:
            self.w.fates.append(fate)
        words = ", ".join(fates) or "well"
        self._step(
            f"apply {run}, {kind}; the next attempts: {words}", partial(self._apply, run, kind)
        )

    @rule(run=names, how=st.sampled_from(["Background", "Foreground"]))
    def delete(self, run, how):
        if self._there(run):
            self._step(f"delete {run} ({how})", lambda: self._delete(run, how))

    @rule(run=names, kind=kinds)
    def recreate(self, run, kind):
        self.delete(run, "Background")
        self.apply(run, kind, [])

    @rule(run=names, label=st.sampled_from(["x", "y"]))
    def label(self, run, label):
        if self._there(run):
            patch = {"metadata": {"labels": {"team": label}}}
            self._step(f"label {run}: {label}", lambda: self.w.patch_run(run, patch))

    @rule(run=names, deed=st.sampled_from(list(DEEDS)))
    def meddle(self, run, deed):
        if found := self._there(run):
            self.w.touch(found["metadata"]["uid"], deed)
            self._step(f"meddle with {run}: {deed}", lambda: DEEDS[deed](self.w, run))

    # The API server

    @rule(
        request=requests,
        status=st.sampled_from([403, 409, 429, 500, 503]),
        times=few,
        done=st.booleans(),
    )
    def refuse(self, request, status, times, done):
        wait = {"Retry-After": "1"}
        fault = Fault(**these(request), status=status, times=times, after=done, headers=wait)
        self._fault(f"{status} to {_each(request, times, done)}", fault)

    @rule(request=writes, times=few, done=st.booleans())
    def lose_answer(self, request, times, done):
        fault = Fault(**these(request), drop=True, times=times, after=done)
        self._fault(f"no answer to {_each(request, times, done)}", fault)

    @rule(request=requests, seconds=st.sampled_from([2, 40]))
    def dawdle(self, request, seconds):
        self._fault(
            f"the next {request} takes {seconds} s", Fault(**these(request), seconds=seconds)
        )

    @rule(stream=streams, ago=st.integers(1, 30), times=few)
    def list_the_past(self, stream, ago, times):
        version = max(101, self.w.server.store.version - ago)
        faults = [stale(plural, version, times=times) for plural in STREAMS[stream]]
        self._fault(f"{times} lists of {stream} are of {ago} changes ago", *faults)

    @rule(
        stream=streams,
        action=st.sampled_from(["hide", "duplicate", "swap", "cut", "error", "silence"]),
        times=few,
    )
    def tamper(self, stream, action, times):
        faults = [StreamFault(plural, action, times=times) for plural in STREAMS[stream]]
        self._fault(f"{action} {times} events of {stream}", *faults)

    @rule(stream=streams)
    def hold(self, stream):
        def hold():
            for one in self.w.alive:
                for plural in STREAMS[stream]:
                    one.watches[plural].held = True

        self._step(f"events of {stream} are held back", hold)

    @rule(seconds=st.sampled_from([0.01, 3, 45]))
    def collect(self, seconds):
        collector = self.w.server.collector
        self._step(
            f"garbage is collected after {seconds} s",
            lambda: setattr(collector, "seconds", seconds),
        )

    @rule()
    def compact(self):
        self._step("forget history for watches", self._compact)

    @rule()
    def mend(self):
        self._step("all faults end", self.w.mend)

    # Operators

    @rule(request=writes, done=st.booleans(), nth=st.integers(1, 3))
    def crash_at(self, request, done, nth):
        fault = Fault(**these(request), drop=True, after=done, nth=nth, hook=self.w.crash_at)
        words = "once done" if done else "before"
        self._fault(f"the operator dies at {request} {nth} from here, {words}", fault)

    @rule(seconds=st.sampled_from([1, 5, 400]))
    def crash(self, seconds):
        if self.w.alive:
            kill = partial(self.w.crash, self.w.alive[0], seconds)
            self._step(f"the operator dies, for {seconds} s", lambda: self.w.do(kill))

    @rule()
    def another_operator(self):
        if len(self.w.alive) < 2:
            self._step("another operator starts", lambda: self.w.do(self.w.start))

    # The end

    def teardown(self):
        try:
            self._judge("when the faults have ended", settled)
            self._judge("in the end", finished)
        finally:
            self._stack.close()

    def _judge(self, when, judgement):
        if self.w.broken:
            return
        self.w.say(f"{when}:")
        self._assert(lambda: None, judgement)

    def _step(self, line, deed):
        self.w.say(line)
        self._assert(deed, wrong)

    def _assert(self, deed, judgement):
        """Do something; what is wrong then is told with the story that led to it."""
        self.w.broken = True
        deed()
        if found := judgement(self.w):
            raise AssertionError("\n".join(["", *found, "", *self.w.log]))
        self.w.broken = False

    def _fault(self, line, *faults):
        self._step(line, lambda: [self.w.server.faults.add(one) for one in faults])

    def _there(self, run):
        return self.w.server.find("reasoningruns", run)

    def _apply(self, run, kind):
        self.w.apply(run, KINDS[kind])
        if kind == "timed":
            self.w.touch(self._there(run)["metadata"]["uid"], "a deadline")

    def _delete(self, run, how):
        self.w.attempt(lambda: self.w.server.delete("reasoningruns", run, propagation=how))

    def _compact(self):
        for collection in self.w.server.store.collections.values():
            collection.compacted = self.w.server.store.version


def _each(request, times, done):
    """Some requests, in words."""
    return f"{request}, {times} times{', once done' if done else ''}"
