"""Faults 16 to 25: what watch streams do not tell, or tell twice or late, and two operators."""

import itertools
import signal
import time

import pytest
from apiserver.faults import (
    Fault,
    answer,
    duplicate,
    error,
    hide,
    silence,
    stale,
    swap,
)
from apiserver.scripts import FOREVER, KILLED, Behaviour, failing, scripted
from faults.proxied import faulty
from faults.verdicts import health_turns, well_ended
from operating import SFT_ONLY, condition, ended, holds, run_starts, stage

KINDS = ("reasoningruns", "pytorchjobs")


def has(document, type_):
    """Whether an object has a condition that is True."""
    found = ((document or {}).get("status") or {}).get("conditions") or []
    return any(item["type"] == type_ and item["status"] == "True" for item in found)


@pytest.mark.fault(16)
@pytest.mark.parametrize("end", ["Succeeded", "Failed"])
@pytest.mark.parametrize("name", ["sft", "grpo", "evaluation"])
def test_an_end_that_the_stream_does_not_tell_is_found(tmp_path, name, end):
    script = scripted({(name, 1): KILLED} if end == "Failed" else {})
    with faulty(tmp_path, script) as w, w.operator(resync=1.0):
        w.watched(*KINDS)
        where = lambda _, job: job["metadata"]["name"] == f"r-{name}-1" and has(job, end)  # noqa: E731
        fault = w.faults.add(hide("pytorchjobs", where=where, times=None))
        w.apply()
        again = {name: 1} if end == "Failed" else {}
        well_ended(w, attempts=dict.fromkeys(again, 2), failures=again)
        assert fault.hits


@pytest.mark.fault(17)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("disorder", [duplicate, swap], ids=["twice", "swapped"])
def test_the_order_of_events_does_not_matter(tmp_path, disorder, number, kind):
    with faulty(tmp_path, scripted({("sft", 1): KILLED})) as w, w.operator():
        w.watched(*KINDS)
        fault = w.faults.add(disorder(kind, nth=number, times=1))
        w.apply()
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        assert fault.hits == 1
        assert len(w.created()) == 4


@pytest.mark.fault(17)
@pytest.mark.parametrize("kind", KINDS)
def test_every_event_twice_or_swapped_costs_nothing(tmp_path, kind):
    with faulty(tmp_path, scripted({("sft", 1): KILLED})) as w, w.operator():
        w.watched(*KINDS)
        w.faults.add(duplicate(kind, times=None))
        w.faults.add(swap(kind, times=20))
        w.apply()
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        assert len(w.created()) == 4


@pytest.mark.fault(18)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_stream_that_is_gone_begins_anew(tmp_path, number, kind):
    with faulty(tmp_path, scripted({("sft", 1): KILLED})) as w, w.operators() as operators:
        w.watched(*KINDS)
        fault = w.faults.add(error(kind, 410, nth=number))
        w.apply()
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1}, seconds=60)
        assert fault.hits == 1
        assert len(w.created()) == 4
    assert operators.codes == []


def begun_anew(w, kind):
    """The operator's processes, if a run ends well though a watch of a kind is lost twice."""
    expired = {"reason": "Expired", "message": "too old resource version: 1 (100)"}
    fault = w.faults.add(answer("watch", kind, 410, times=2, **expired))
    with w.operators() as operators:
        w.apply()
        well_ended(w, seconds=60)
        assert fault.hits == 2
    assert operators.codes == []
    return operators.processes


@pytest.mark.fault(18)
@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_of_the_past_is_refused_and_begins_anew(tmp_path, kind):
    with faulty(tmp_path, scripted({}, Behaviour(running=0.3))) as w:
        begun_anew(w, kind)


@pytest.mark.fault(18)
@pytest.mark.parametrize(("lost", "waits"), [KINDS, KINDS[::-1]], ids=KINDS)
def test_a_watch_that_is_lost_while_another_is_not_answered_begins_anew(tmp_path, lost, waits):
    """Nothing of kopf's is waited for that would wait for ever."""
    with faulty(tmp_path, scripted({}, Behaviour(running=0.3))) as w:
        w.faults.add(Fault("watch", waits, seconds=60, times=2))
        (operator,) = begun_anew(w, lost)
        assert [line for line in operator.lines() if line["logger"] == "asyncio"] == []


@pytest.mark.fault(18)
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 1.0])
def test_told_to_end_while_a_stream_is_given_up_it_ends(tmp_path, seconds):
    with faulty(tmp_path) as w, w.process() as operator:
        w.watched(*KINDS)
        fault = w.faults.add(error("reasoningruns", 500))
        w.apply(**SFT_ONLY)
        while not fault.hits:
            time.sleep(0.01)
        time.sleep(seconds)
        operator.process.send_signal(signal.SIGTERM)
        assert operator.process.wait(15) == 0


@pytest.mark.fault(19)
@pytest.mark.parametrize("kind", KINDS)
def test_minutes_of_silence_on_a_stream_make_health_red(tmp_path, kind):
    with faulty(tmp_path) as w, w.process(speed=40) as operator:
        w.watched(*KINDS)
        health, _ = operator.ports()
        w.faults.add(silence(kind, times=None))
        w.apply(**SFT_ONLY)
        well_ended(w, seconds=60)  # the LISTs carry it
        assert "watch streams have not told" in health_turns(health, 500)


def version_at(w, kind, test):
    """The version at which the objects of a kind first passed a test."""
    group = {"reasoningruns": "coldstart.dev", "pytorchjobs": "kubeflow.org"}[kind]
    history = w.server.store.collection((group, kind)).history
    return next(change.version for change in history if test(change.entry.object))


@pytest.mark.fault(20)
@pytest.mark.parametrize("stale_kinds", [KINDS, KINDS[:1], KINDS[1:]], ids=["both", "runs", "jobs"])
@pytest.mark.parametrize("progress", ["grpo runs", "grpo has ended", "run has ended"])
def test_a_success_that_was_acted_on_is_not_acted_on_again(tmp_path, stale_kinds, progress):
    first = {"grpo runs": {("grpo", 1): FOREVER}, "grpo has ended": {("evaluation", 1): FOREVER}}
    with faulty(tmp_path, scripted(first.get(progress, {}))) as w:
        with w.operators() as operators:
            w.watched(*KINDS)
            w.apply()
            waits = {
                "grpo runs": lambda run: run_starts(run, "grpo"),
                "grpo has ended": lambda run: run_starts(run, "evaluation"),
                "run has ended": ended,
            }
            w.until(waits[progress], seconds=60)
            # As it was when SFT's job ran.
            past = version_at(w, "reasoningruns", run_starts)
            for kind in stale_kinds:
                w.faults.add(stale(kind, past, times=2))
            operators.kill()
            time.sleep(3)
            for name in ("grpo", "evaluation"):
                w.controllers.finish(f"r-{name}-1")
            well_ended(w, seconds=60)
        assert w.created() == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]
        assert [item for item in w.requests.of("delete") if item.done == 200] == []


@pytest.mark.fault(20)
@pytest.mark.parametrize("stale_kinds", [KINDS, KINDS[:1]], ids=["both", "runs"])
def test_a_start_of_the_past_makes_no_job(tmp_path, stale_kinds):
    """The list says that an attempt is being started, which has been suspended since."""
    with faulty(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operators() as operators:
        w.watched(*KINDS)
        w.apply(**SFT_ONLY)
        w.until(run_starts, seconds=30)
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
        w.until(lambda run: holds(run, "Suspended"), seconds=30)
        starting = lambda run: stage(run, "sft").get("state") == "Starting"  # noqa: E731
        past = version_at(w, "reasoningruns", starting)
        for kind in stale_kinds:
            w.faults.add(stale(kind, past, times=2))
        before = len(w.requests.of("list", "reasoningruns"))
        operators.kill()
        end = time.monotonic() + 30
        while len(w.requests.of("list", "reasoningruns")) < before + 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(2)
        assert w.created() == ["r-sft-1"]
        assert holds(w.run(), "Suspended")
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})
        well_ended(w, attempts={"sft": 2}, seconds=60)


@pytest.mark.fault(20)
def test_a_run_that_was_given_more_time_is_not_deleted_on_the_word_of_the_past(tmp_path):
    with faulty(tmp_path) as w:
        with w.operator():
            w.watched(*KINDS)
            w.apply(**SFT_ONLY, ttlSecondsAfterFinished=2)
            w.end()
            past = version_at(w, "reasoningruns", lambda run: has(run, "Succeeded"))
        w.server.patch("reasoningruns", "r", {"spec": {"ttlSecondsAfterFinished": 3600}})
        time.sleep(2)
        w.faults.add(stale("reasoningruns", past, times=1))
        w.faults.add(hide("reasoningruns", times=None))
        with w.operator():
            time.sleep(2)
            assert w.run() is not None
        assert w.requests.of("delete", "reasoningruns") == []


@pytest.mark.fault(6)
def test_a_run_that_is_given_more_time_at_the_last_moment_is_not_deleted(tmp_path):
    with faulty(tmp_path) as w, w.operator():

        def give(_):
            more = {"spec": {"ttlSecondsAfterFinished": 3600}}
            w.server.patch("reasoningruns", "r", more)

        fault = w.faults.add(Fault("delete", "reasoningruns", hook=give))
        w.apply(**SFT_ONLY, ttlSecondsAfterFinished=0)
        end = time.monotonic() + 30
        while not fault.hits:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(2)
        assert w.run()["spec"]["ttlSecondsAfterFinished"] == 3600
        assert [item.done for item in w.requests.of("delete", "reasoningruns")] == [409]


@pytest.mark.fault(22)
@pytest.mark.parametrize("phase", ["Starting", "Running", "Backoff", "Suspended", "ended"])
def test_a_run_that_is_deleted_while_nobody_looks_is_forgotten(tmp_path, phase):
    first = {"Starting": Behaviour(pending=None), "Backoff": KILLED, "ended": Behaviour()}
    with faulty(tmp_path, scripted({("sft", 1): first.get(phase, FOREVER)})) as w:
        with w.operator():
            w.apply(**SFT_ONLY, retry={"limit": 2, "backoffSeconds": 3600})
            if phase == "Suspended":
                w.until(run_starts)
                w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
            at = lambda run: stage(run, "sft").get("state") == phase  # noqa: E731
            w.until(ended if phase == "ended" else at, seconds=30)
        w.server.delete("reasoningruns", "r")
        created = len(w.created())
        with w.operator():
            w.watched(*KINDS)
            time.sleep(1)
            assert w.jobs() == w.server.list("pods") == []
        assert len(w.created()) == created


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", ["success", "failure", "permanent", "preempted"])
def test_a_stage_that_begins_and_ends_while_nobody_looks_is_judged(tmp_path, name):
    ends = {
        "success": Behaviour(),
        "failure": KILLED,
        "permanent": failing(2, "DatasetInvalid"),
        "preempted": Behaviour(exit_code=137, message=None, reason="Evicted"),
    }
    with faulty(tmp_path, scripted({("sft", 1): Behaviour(pending=None)})) as w:
        with w.operator():
            w.apply(evaluation=None)
            w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is not None)
            w.until(lambda run: stage(run, "sft").get("state") == "Starting")
        w.controllers.script = scripted({})
        w.controllers.finish("r-sft-1", ends[name])
        over = lambda job: has(job, "Succeeded") or has(job, "Failed")  # noqa: E731
        w.server.wait("pytorchjobs", "r-sft-1", over)
        with w.operator():
            if name == "permanent":
                run = w.end(seconds=30)
                assert condition(run, "Failed")["reason"] == "DatasetInvalid"
            else:
                again = {} if name == "success" else {"sft": 2}
                costs = {"sft": 1} if name in ("failure", "preempted") else {}
                well_ended(w, attempts=again, failures=costs)


@pytest.mark.fault(24)
@pytest.mark.parametrize("state", ["Starting", "Running"])
def test_a_job_that_ends_and_goes_while_nobody_looks_costs_one_retry(tmp_path, state):
    """Somebody gave the job a time to live: its result is gone with it, but for the checkpoint."""
    first = Behaviour(pending=None) if state == "Starting" else FOREVER
    with faulty(tmp_path, scripted({("sft", 1): first})) as w:
        with w.operator():
            w.apply(evaluation=None)
            w.until(lambda run: stage(run, "sft").get("state") == state)
            w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is not None)
        w.controllers.script = scripted({})
        ttl = {"spec": {"runPolicy": {"ttlSecondsAfterFinished": 0}}}
        w.server.patch("pytorchjobs", "r-sft-1", ttl)
        w.controllers.finish("r-sft-1")
        w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is None)
        with w.operator():
            if state == "Starting":  # nobody can tell that it ever was
                well_ended(w)
            else:
                well_ended(w, attempts={"sft": 2}, failures={"sft": 1})


@pytest.mark.fault(24)
def test_a_run_whose_time_is_up_while_nobody_looks_goes_with_all_that_is_its(tmp_path):
    with faulty(tmp_path) as w:
        with w.operator():
            w.apply(**SFT_ONLY, ttlSecondsAfterFinished=2)
            w.end()
        w.server.delete("pytorchjobs", "r-sft-1")
        time.sleep(2)
        with w.operator():
            w.server.wait("reasoningruns", "r", lambda run: run is None, seconds=30)
        assert w.created() == ["r-sft-1"]


@pytest.mark.fault(25)
@pytest.mark.parametrize("deaf", [False, True], ids=["both hear", "one hears late"])
def test_two_operators_make_each_job_once_through_retries_and_suspensions(tmp_path, deaf):
    script = scripted({("sft", 1): KILLED, ("sft", 2): FOREVER})
    with faulty(tmp_path, script) as w, w.operator():
        w.watched(*KINDS)
        with w.operator(resync=1.0):
            w.watched(*KINDS)
            if deaf:  # each event reaches one of the two only
                turns = itertools.count()
                every_other = lambda *_: next(turns) % 2 == 0  # noqa: E731
                for kind in KINDS:
                    w.faults.add(hide(kind, times=None, where=every_other))
            for number in range(3):
                w.apply(f"r{number}")
            for number in range(3):
                w.until(lambda run: run_starts(run, attempt=2), f"r{number}", 30)
                w.server.patch("reasoningruns", f"r{number}", {"spec": {"suspend": True}})
            for number in range(3):
                w.until(lambda run: holds(run, "Suspended"), f"r{number}", 30)
                w.server.patch("reasoningruns", f"r{number}", {"spec": {"suspend": False}})
            for number in range(3):
                well_ended(w, f"r{number}", attempts={"sft": 3}, failures={"sft": 1}, seconds=60)
            created = w.created()
            assert len(created) == len(set(created)) == 15


@pytest.mark.fault(25)
def test_an_operator_of_the_past_beside_one_of_today_makes_and_deletes_nothing(tmp_path):
    """The one that is being replaced hears no more; it acts when its clock says so."""
    first = Behaviour(exit_code=137, message=None, reason="OOMKilled", running=0.3)
    retry = {"limit": 2, "backoffSeconds": 2}
    with faulty(tmp_path, scripted({("sft", 1): first}, Behaviour(running=2.0))) as w:
        with w.operator():
            w.watched(*KINDS)
            w.apply(evaluation=None, retry=retry)
            w.until(lambda run: stage(run, "sft").get("state") == "Backoff")
            before = len(w.requests)
            w.faults.add(silence("reasoningruns", times=1))
            w.faults.add(silence("pytorchjobs", times=1))
            # Anything ends the silence's first event: the old streams are dead from here on.
            w.server.patch("reasoningruns", "r", {"metadata": {"labels": {"a": "b"}}})
            with w.operator():
                w.watched(*KINDS, since=before)
                well_ended(w, attempts={"sft": 2}, failures={"sft": 1}, seconds=60)
        created = w.created()
        assert created == ["r-sft-1", "r-sft-2", "r-grpo-1"]
