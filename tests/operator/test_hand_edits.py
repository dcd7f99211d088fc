"""What people do to runs and their jobs behind the operator's back, at each phase of a run.

One table: phases by deeds, with the operator looking on or away. Whatever was done, each run ends
as it should, and the record of the API server shows none of the safety rules broken.
"""

import itertools
import json
import time

import pytest
from apiserver.faults import answer
from apiserver.scripts import PENDING, Behaviour, failing
from operating import SFT_ONLY, condition, ended, holds, stage, world
from oracles import at_rest, requests_per_run, violations
from strategies import EXAMPLES

ME = {"labels": {f"coldstart.dev/{key}": None for key in ("run", "stage", "attempt", "run-uid")}}
LIE = [{"type": "Succeeded", "status": "True", "reason": "Lie", "message": "as somebody says"}]
JUDGED = '"state": "Succeeded"'
SLOW = Behaviour(running=None, shutdown=1.5)
"""A pod that runs until it is told to end, and then takes its time."""

QUICK = {"retry": {"limit": 3, "backoffSeconds": 0}}


def at(name, *states):
    """Whether a stage of a run has got so far."""
    return lambda run: stage(run, name).get("state") in (states or ("Running",))


def has_condition(type_):
    return lambda run: holds(run, type_)


PHASES = {
    "before": lambda run: (condition(run, "Queued") or {}).get("reason") == "Forbidden",
    "pending": at("sft", "Starting"),
    "running": at("sft"),
    "unjudged": at("sft", "Starting", "Running"),
    "grpo": at("grpo"),
    "evaluation": at("evaluation"),
    "suspended": has_condition("Suspended"),
    "succeeded": has_condition("Succeeded"),
    "failed": has_condition("Failed"),
}
"""How far a run is brought, and how that is seen."""

LIVE = {"pending": "sft", "running": "sft", "unjudged": "sft"} | {
    name: name for name in ("grpo", "evaluation")
}
"""The stage whose job is there, where one is at work."""

LEFT_OUT = {"unjudged": "evaluation", "running": "evaluation", "grpo": "evaluation"}
LEFT_OUT |= {"evaluation": "grpo"}
"""The stage that a run is without; the others have the first alone. A table takes its time."""

AT_WORK = {"running": {"sft"}, "suspended": {"sft"}, "grpo": {"grpo"}, "evaluation": {"evaluation"}}
"""The stages whose first attempts do not end by themselves."""


class Play:
    """Runs that are brought to their phases, meddled with, and then let go."""

    def __init__(self, cases):
        self.cases = cases
        self.meddled = self.released = False
        self.w = None

    def script(self, attempt):
        """What pods do: as the phase needs it, and after the release whatever is right."""
        phase = attempt.run.partition("-")[0]
        if self.released:
            return Behaviour()
        if phase == "pending":
            return PENDING
        if phase == "failed" and not self.meddled:
            return failing(2, "DatasetInvalid")
        return SLOW if attempt.stage in AT_WORK.get(phase, ()) else Behaviour()

    def bring(self):
        """Create the runs, and wait until each is in its phase."""
        add = self.w.server.faults.add
        early = lambda request: request.body["metadata"]["name"].startswith("before-")  # noqa: E731
        add(answer("create", "pytorchjobs", 403, where=early, times=None))
        late = lambda request: (  # noqa: E731
            request.name.startswith("unjudged-") and JUDGED in json.dumps(request.body)
        )
        add(answer("patch", "reasoningruns/status", 500, where=late, times=None))
        for phase, deed in self.cases:
            make(self.w, f"{phase}-{deed}", phase)
        for phase, deed in self.cases:
            name = f"{phase}-{deed}"
            if phase == "suspended":
                self.w.until(at("sft"), name, 30)
                self.w.server.patch("reasoningruns", name, {"spec": {"suspend": True}})
        for phase, deed in self.cases:
            self.w.until(PHASES[phase], f"{phase}-{deed}", 30)
            if phase == "unjudged":
                self.w.server.wait("pytorchjobs", f"{phase}-{deed}-sft-1", succeeded, seconds=30)
        watched(self.w)

    def meddle(self):
        """Do what the cases say."""
        self.meddled = True
        for phase, deed in self.cases:
            DEEDS[deed](self.w, f"{phase}-{deed}", phase)

    def release(self):
        """Have all that hangs end well, and lift what was in the way."""
        self.released = True
        self.w.server.faults.clear()
        for run in self.w.server.list("reasoningruns"):
            if run["spec"].get("suspend"):
                name = run["metadata"]["name"]
                self.w.server.patch("reasoningruns", name, {"spec": {"suspend": False}})
        for pod in self.w.server.list("pods"):
            if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                self.w.controllers.finish(pod["metadata"]["ownerReferences"][0]["name"])


def make(w, name, phase):
    """Create a run with as many stages as its phase needs."""
    without = {LEFT_OUT[phase]: None} if phase in LEFT_OUT else SFT_ONLY
    w.apply(name, **QUICK, **without)


def watched(w, seconds=20):
    """Wait until the operator watches the jobs; before, only a full LIST tells it of a change."""
    deadline = time.monotonic() + seconds
    while not w.server.requests.of("watch", "pytorchjobs"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def succeeded(job):
    found = ((job or {}).get("status") or {}).get("conditions") or []
    return any(item["type"] == "Succeeded" and item["status"] == "True" for item in found)


def job_of(name, phase):
    """The job that is meddled with: the one at work, else the first there was."""
    return f"{name}-{LIVE.get(phase, 'sft')}-1"


def on_job(patch, subresource=""):
    """A deed that changes a job."""

    def deed(w, name, phase):
        w.server.patch("pytorchjobs", job_of(name, phase), patch, subresource=subresource)

    return deed


def delete_job(w, name, phase):
    w.server.delete("pytorchjobs", job_of(name, phase))


def delete_pods(w, name, phase):
    for pod in w.server.list("pods", labels=f"coldstart.dev/run={name}"):
        w.server.delete("pods", pod["metadata"]["name"], grace=0)


def delete_run(w, name, phase):
    w.server.delete("reasoningruns", name)


def rename_run(w, name, phase):
    w.server.delete("reasoningruns", name)
    make(w, f"{name}-new", phase)


def recreate_run(w, name, phase):
    w.server.delete("reasoningruns", name)
    make(w, name, phase)


ON_JOBS = {
    "spec": on_job({"spec": {"nprocPerNode": "99", "runPolicy": {"cleanPodPolicy": "None"}}}),
    "labels": on_job({"metadata": ME}),
    "hide": on_job({"metadata": ME, "spec": {"runPolicy": {"suspend": True}}}),
    "number": on_job({"metadata": {"labels": {"coldstart.dev/attempt": "999999999"}}}),
    "stage": on_job({"metadata": {"labels": {"coldstart.dev/stage": "evaluation"}}}),
    "owner": on_job({"metadata": {"ownerReferences": []}}),
    "lie": on_job({"status": {"conditions": LIE}}, "status"),
    "delete": delete_job,
    "pods": delete_pods,
}
ON_RUNS = {"remove": delete_run, "rename": rename_run, "recreate": recreate_run}
DEEDS = ON_JOBS | ON_RUNS

TABLE = [
    (phase, deed)
    for phase, deed in itertools.product(PHASES, DEEDS)
    if deed in ON_RUNS or phase not in ("before", "suspended")
]
"""Every phase with every deed that can be done in it."""


RELABELLED = ("labels", "hide", "number", "stage")


def settled(w, phase, deed):
    """Wait for a run's end, which is as it should be."""
    name = f"{phase}-{deed}" + ("-new" if deed == "rename" else "")
    if deed == "remove":
        w.server.wait("reasoningruns", name, lambda run: run is None)
        return
    run = w.until(lambda run: ended(run) or waits_for_a_person(run), name, 40)
    if deed in RELABELLED and waits_for_a_person(run):
        w.server.delete("pytorchjobs", job_of(name, phase))
        run = w.until(ended, name, 40)
    if deed == "owner" and holds(run, "Failed") and phase != "failed":
        # The name of the attempt that is being started belongs to nobody.
        assert phase in ("pending", "unjudged")
        assert condition(run, "Failed")["reason"] == "NameConflict"
        return
    wanted = "Failed" if phase == "failed" and deed not in ON_RUNS else "Succeeded"
    assert holds(run, wanted), (name, run["status"])


def waits_for_a_person(run):
    return (condition(run, "Queued") or {}).get("reason") == "JobChanged"


def judged(w, cases):
    """All runs have ended as they should, and no rule was broken on the way."""
    for phase, deed in cases:
        settled(w, phase, deed)
    orphaned = {job_of(f"{phase}-{deed}", phase) for phase, deed in cases if deed == "owner"}
    deadline = time.monotonic() + 20
    while at_rest(w.server, orphaned=orphaned) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert at_rest(w.server, orphaned=orphaned) == []
    assert violations(w.server) == []
    assert w.quiet() == []
    busiest = requests_per_run(w.server).most_common(1)
    assert busiest[0][1] < 150, busiest


IN_SIGHT = {"labels", "hide", "owner", "lie", "delete", "pods", "recreate"}
OUT_OF_SIGHT = {"spec", "number", "stage", "delete", "remove", "rename", "recreate"}
"""Where an ordinary test run plays a deed: with the operator looking on, or away."""


def share(deeds):
    """The part of the table with these deeds; all of it where more was asked for."""
    return [case for case in TABLE if EXAMPLES or case[1] in deeds]


@pytest.mark.fault(21)
def test_a_run_that_is_meddled_with_ends_as_it_should(tmp_path):
    play = Play(share(IN_SIGHT))
    with world(tmp_path, play.script) as play.w, play.w.operator(resync=1.0):
        play.bring()
        play.meddle()
        time.sleep(0.5)
        play.release()
        judged(play.w, play.cases)


@pytest.mark.fault(21, 46)
def test_a_run_that_is_meddled_with_while_nobody_looks_ends_as_it_should(tmp_path):
    play = Play(share(OUT_OF_SIGHT))
    with world(tmp_path, play.script) as play.w:
        with play.w.operator(resync=1.0):
            play.bring()
        play.meddle()
        with play.w.operator(resync=1.0):
            time.sleep(0.5)
            play.release()
            judged(play.w, play.cases)
