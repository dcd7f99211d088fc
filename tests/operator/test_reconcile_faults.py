"""Faults of the API server, of the watch streams and of our own: they cost time only."""

import time

import pytest
from apiserver.crds import pytorchjobs
from apiserver.faults import answer, drop, duplicate, error, hide, swap
from apiserver.scripts import (
    FOREVER,
    scripted,
)
from operating import SFT_ONLY, condition, ended, holds, install, run_starts, stage, world

from coldstart_operator import controller, reconcile

FAULTS = {
    "409 on every status": answer("patch", "reasoningruns/status", 409, times=3),
    "500 on a status": answer("patch", "reasoningruns/status", 500, times=2),
    "429 on a job": answer("create", "pytorchjobs", 429, times=2, headers={"Retry-After": "1"}),
    "500 on a job": answer("create", "pytorchjobs", 500, times=2),
    "no answer before a job": drop("create", "pytorchjobs", after=False, times=2),
    "no answer after a job": drop("create", "pytorchjobs", after=True, times=1),
    "500 after a job": answer("create", "pytorchjobs", 500, after=True, times=1),
    "no answer after a status": drop("patch", "reasoningruns/status", after=True, times=3),
    "500 on the pods": answer("list", "pods", 500, times=3),
    "500 on events": answer("create", "events", 500, times=None),
    "an event twice": duplicate("pytorchjobs", times=None),
    "events out of order": swap("pytorchjobs", times=3),
    "a watch that ends": error("pytorchjobs", 410, nth=2, times=1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_api_server_cost_time_only(tmp_path, name):
    fault = FAULTS[name]
    fault.seen = fault.hits = 0
    with world(tmp_path) as w, w.operator():
        w.server.faults.add(fault)
        w.apply()
        run = w.end()
        assert holds(run, "Succeeded"), run["status"]
        assert fault.hits
        assert len(w.server.list("pytorchjobs")) == 3
        assert [stage(run, name)["attempt"] for name in ("sft", "grpo", "evaluation")] == [1, 1, 1]


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", ["reasoningruns", "pytorchjobs"])
def test_what_a_watch_does_not_tell_a_full_list_does(tmp_path, kind):
    with world(tmp_path) as w, w.operator(resync=0.5):
        time.sleep(0.5)
        w.server.faults.add(hide(kind, times=None))
        w.apply()
        assert holds(w.end(), "Succeeded")


def test_a_deletion_that_nobody_told_is_found_by_a_full_list(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator(resync=0.5):
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.server.faults.add(
            hide("pytorchjobs", times=None, where=lambda type_, _: type_ == "DELETED")
        )
        w.server.delete("pytorchjobs", "r-sft-1")
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 2


def test_a_full_list_that_failed_is_made_again_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(controller, "LIST_AGAIN", 0.2)
    with world(tmp_path) as w, w.operator(resync=8.0):
        w.apply(**SFT_ONLY)
        w.end()
        failing = w.server.faults.add(answer("list", "reasoningruns", 500))
        while not (
            failing.hits and w.server.requests.of("list", "reasoningruns")[-1].status == 200
        ):
            time.sleep(0.1)
        failed, again = w.server.requests.of("list", "reasoningruns")[-2:]
        assert failed.status == 500
        assert again.at - failed.at < 6


def test_an_expired_run_that_is_gone_unseen_is_not_deleted_again_and_again(tmp_path):
    with world(tmp_path) as w, w.operator():
        w.apply(**SFT_ONLY, ttlSecondsAfterFinished=2)
        w.end()
        w.server.faults.add(
            hide("reasoningruns", times=None, where=lambda type_, _: type_ == "DELETED")
        )
        w.server.delete("reasoningruns", "r")
        deadline = time.monotonic() + 20
        while not (asked := w.server.requests.of("get", "reasoningruns")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert w.quiet(2.0) == []
        assert [one.status for one in asked] == [404]
        assert w.server.requests.of("delete", "reasoningruns") == []


def test_a_mistake_of_ours_is_told_and_not_a_wedge(tmp_path, monkeypatch):
    right, broken = reconcile.next_step, []

    def wrong(run, *arguments):
        if broken and run.metadata.name == "bad":
            raise TypeError("a mistake")
        return right(run, *arguments)

    monkeypatch.setattr(reconcile, "next_step", wrong)
    with world(tmp_path) as w, w.operator():
        broken.append(1)
        w.apply("bad", **SFT_ONLY)
        run = w.until(lambda run: condition(run, "Accepted"), "bad")
        accepted = condition(run, "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("Unknown", "ReconcileError")
        assert "a mistake" in accepted["message"]
        w.apply("good", **SFT_ONLY)
        assert holds(w.end("good"), "Succeeded")
        broken.clear()
        run = w.end("bad")
        assert holds(run, "Succeeded")
        assert holds(run, "Accepted")


@pytest.mark.fault(25)
def test_two_operators_at_once_make_each_job_once(tmp_path):
    with world(tmp_path) as w, w.operator(), w.operator():
        for number in range(5):
            w.apply(f"r{number}")
        for number in range(5):
            run = w.end(f"r{number}")
            assert holds(run, "Succeeded")
            assert [stage(run, name)["attempt"] for name in ("sft", "grpo", "evaluation")] == [
                1,
                1,
                1,
            ]
        assert len(w.created()) == 15


@pytest.mark.fault(50)
def test_only_its_namespaces_are_an_operators_business(tmp_path):
    with world(tmp_path) as w:
        w.server.create("namespaces", {"metadata": {"name": "ml"}})
        with w.operator(namespaces=("ml",)):
            w.apply()
            w.apply(namespace="ml", name="mine")
            w.server.wait("reasoningruns", "mine", ended, "ml")
            assert not w.run().get("status")


def test_the_definition_may_come_later(tmp_path):
    with world(tmp_path, crd=False) as w, w.operator():
        time.sleep(0.5)
        install(w.server)
        w.apply()
        assert holds(w.end(), "Succeeded")


def test_definitions_may_come_later_where_they_may_not_be_listed(tmp_path):
    with world(tmp_path, crd=False, pytorch=False) as w, w.operator(namespaces=("default",)):
        time.sleep(0.3)
        w.server.authorize = lambda request: (
            "no" if request.resource == "customresourcedefinitions" else None
        )
        install(w.server)
        w.server.create("customresourcedefinitions", pytorchjobs())
        w.apply(backend="PyTorchJob")
        assert holds(w.end(), "Succeeded")


def test_a_run_that_changes_behind_our_back_is_read_again(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.server.faults.add(hide("reasoningruns", times=None))
        w.server.patch("reasoningruns", "r", {"metadata": {"labels": {"a": "b"}}})
        w.controllers.finish("r-sft-1")
        assert holds(w.end(), "Succeeded")


def test_a_change_of_an_ended_run_that_nobody_told_is_found_by_a_full_list(tmp_path):
    with world(tmp_path) as w, w.operator(resync=0.5):
        w.apply(**SFT_ONLY)
        w.end()
        w.server.faults.add(hide("reasoningruns", times=None))
        w.server.patch("reasoningruns", "r", {"spec": {"ttlSecondsAfterFinished": 0}})
        w.server.wait("reasoningruns", "r", lambda run: run is None)
