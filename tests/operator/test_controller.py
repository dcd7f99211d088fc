"""What wakes a run, and what does not."""

import asyncio
from copy import deepcopy

import pytest
from operating import spec

from coldstart_operator.cache import Key
from coldstart_operator.cluster import ApiError, Cluster
from coldstart_operator.controller import Controller, RunMark
from coldstart_operator.settings import Settings


def make_controller():
    return Controller(Cluster(client=None), None, Settings(), more=lambda: None)


def document(version, *, generation=1, uid="u", **status):
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {
            "name": "r",
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": generation,
        },
        "spec": spec(),
        "status": status,
    }


def woken(*events):
    """How often a series of events wakes a run that is worked on at once each time."""

    async def main():
        controller, times = make_controller(), 0
        for type_, item in events:
            before = controller.queue.depth
            controller.run_event(type_, deepcopy(item))
            times += controller.queue.depth > before
            controller.queue._queued.clear()
        return times

    return asyncio.run(main())


def test_a_new_run_and_a_changed_spec_wake():
    assert woken(("ADDED", document(1)), ("MODIFIED", document(2, generation=2))) == 2


def test_a_written_status_does_not_wake_even_if_its_event_overtakes_the_answer():
    assert woken((None, document(1)), ("MODIFIED", document(2, phase="SFTRunning"))) == 1


def test_old_news_do_not_wake():
    assert woken((None, document(5)), (None, document(5)), ("MODIFIED", document(4))) == 1


def test_a_deletion_and_a_namesake_wake():
    gone = document(1)
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    gone["metadata"]["resourceVersion"] = "2"
    assert woken(("ADDED", document(1)), ("MODIFIED", gone)) == 2
    assert woken(("ADDED", document(1)), ("DELETED", document(2))) == 2
    assert woken(("ADDED", document(1)), ("MODIFIED", document(9, uid="v"))) == 2


def test_a_run_that_is_gone_waits_for_nobody():
    async def main():
        controller = make_controller()
        waits, another = Key("ns", "r"), Key("ns", "s")
        dependents = controller.reconciler._dependents
        dependents |= {Key("ns", "a"): {waits}, Key("ns", "b"): {waits, another}}
        await controller.reconciler.reconcile(waits)
        return dependents

    assert asyncio.run(main()) == {Key("ns", "b"): {Key("ns", "s")}}


def job(version, *conditions, run="r", uid="u", owner="o", **status):
    controller = {"kind": "ReasoningRun", "uid": owner, "controller": True}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": "r-sft-1",
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {
                "coldstart.dev/run": run,
                "coldstart.dev/stage": "sft",
                "coldstart.dev/attempt": "1",
            },
            "ownerReferences": [controller],
        },
        "status": {"conditions": [{"type": one, "status": "True"} for one in conditions]} | status,
    }


def woken_by(*jobs):
    """Which runs each version of a job wakes."""

    async def main():
        controller, runs = make_controller(), []
        for item in jobs:
            controller.child_event("pytorchjobs", "MODIFIED", deepcopy(item))
            runs.append({key.name for key in controller.queue._queued})
            controller.queue._queued.clear()
        return runs

    return asyncio.run(main())


def test_a_job_wakes_its_run_when_it_tells_something_new():
    seen = woken_by(job(1), job(2, "Running"), job(3, "Running", "Succeeded"))
    assert seen == [{"r"}, {"r"}, {"r"}]


def test_a_job_that_tells_the_same_again_wakes_nobody():
    again = job(2, "Created", replicaStatuses={"Master": {"active": 1}})
    assert woken_by(job(1), again) == [{"r"}, set()]
    counted = job(2, "Succeeded", replicaStatuses={"Master": {"succeeded": 1}})
    assert woken_by(job(1, "Succeeded"), counted) == [{"r"}, set()]


def test_every_status_of_a_failed_job_wakes_since_it_may_tell_that_a_pod_has_ended():
    counted = job(2, "Failed", replicaStatuses={"Master": {"failed": 1}})
    assert woken_by(job(1, "Failed"), counted) == [{"r"}, {"r"}]


def test_a_job_of_another_uid_or_owner_wakes_and_one_of_another_run_wakes_both():
    assert woken_by(job(1), job(2, uid="v")) == [{"r"}, {"r"}]
    assert woken_by(job(1), job(2, owner="p")) == [{"r"}, {"r"}]
    assert woken_by(job(1), job(2, run="s")) == [{"r"}, {"r", "s"}]


def test_the_mark_of_a_run_survives_any_status():
    for status in (None, "x", [], {"conditions": "x"}, {"conditions": ["x"]}, {"phase": 7}):
        mark = RunMark.of({**document(1), "status": status})
        assert mark == RunMark("Pending", ended=False, expires=False, observed=False)


def waits_of_a_refused_start(monkeypatch, error, refusals):
    """How long a start waits after each of so many refusals."""
    waits = []

    async def refuse(*_, **__):
        raise error

    async def wait(seconds):
        waits.append(seconds)
        if len(waits) == refusals:
            raise EOFError

    controller = make_controller()
    monkeypatch.setattr(controller.cluster, "_request", refuse)
    monkeypatch.setattr(asyncio, "sleep", wait)
    with pytest.raises(EOFError):
        asyncio.run(controller.start())
    return waits


def test_a_start_that_is_refused_ten_times_is_not_put_off(monkeypatch):
    """Bad weather refuses some page of every attempt; no run moves until one goes through."""
    error = ApiError(503, "ServiceUnavailable", "busy")
    waits = waits_of_a_refused_start(monkeypatch, error, 10)
    assert all(waits)
    assert sum(waits) < Settings().unhealthy / 10


@pytest.mark.parametrize(("asked", "kept"), [(0.0, 1.0), (7.0, 7.0), (1e9, 120.0)])
def test_a_start_waits_as_long_as_it_is_asked_to(monkeypatch, asked, kept):
    error = ApiError(429, "TooManyRequests", "busy", asked)
    assert waits_of_a_refused_start(monkeypatch, error, 1) == [kept]
