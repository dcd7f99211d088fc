"""What wakes a run, and what does not."""

import asyncio
from copy import deepcopy

from operating import spec

from coldstart_operator.cluster import Cluster
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


def test_the_mark_of_a_run_survives_any_status():
    for status in (None, "x", [], {"conditions": "x"}, {"conditions": ["x"]}, {"phase": 7}):
        mark = RunMark.of({**document(1), "status": status})
        assert mark == RunMark("Pending", ended=False, expires=False)
