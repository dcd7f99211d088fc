"""Faults 1 to 6: the operator is killed between two writes that belong together, and starts again.

Each case is a process that gets SIGKILL at one request, before the API server has done it or
after, and a second one that has to go on from what is recorded.
"""

import json
import time

import pytest
from apiserver.faults import Fault
from apiserver.scripts import FOREVER, KILLED, Behaviour, scripted
from faults.proxied import faulty
from faults.verdicts import no_rule_was_broken, well_ended
from operating import SFT_ONLY, holds, run_starts, stage

WHEN = pytest.mark.parametrize("when", ["before", "after"])
JOBS = {"PyTorchJob": "pytorchjobs", "Job": "jobs"}
GANG = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}


def saying(*words):
    """Requests that say all of this."""
    return lambda request: all(word in json.dumps(request.body) for word in words)


def killed(w, verb, target, when, play, where=lambda _: True):
    """Have the operator killed at a request of what the play brings it to do."""
    fault = Fault(verb, target, where=where, after=when == "after", drop=when == "before")
    with w.process() as operator:
        operator.ports()
        fault.hook = lambda _: operator.process.kill()
        w.faults.add(fault)
        play()
        operator.process.wait(60)
    w.faults.clear()
    assert fault.hits == 1


def suspend(w, value):
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": value}})


def pods_run(w, jobs):
    """Wait until every pod of the first attempt runs."""
    w.server.wait(jobs, "r-sft-1", lambda job: job is not None, seconds=30)
    end = time.monotonic() + 30
    while True:
        pods = w.server.list("pods")
        if pods and all(pod["status"].get("phase") == "Running" for pod in pods):
            return
        assert time.monotonic() < end, pods
        time.sleep(0.02)


@pytest.mark.fault(1)
@pytest.mark.parametrize("meanwhile", ["runs", "ended", "deleted"])
@pytest.mark.parametrize("backend", JOBS)
def test_a_job_that_was_made_and_not_recorded_is_taken_over(tmp_path, backend, meanwhile):
    jobs = JOBS[backend]
    with faulty(tmp_path, scripted({("sft", 1): FOREVER})) as w:
        killed(w, "create", jobs, "after", lambda: w.apply(backend=backend, evaluation=None))
        uid = w.server.get(jobs, "r-sft-1")["metadata"]["uid"]
        pods_run(w, jobs)
        if meanwhile == "ended":
            w.controllers.finish("r-sft-1")
        if meanwhile == "deleted":
            w.controllers.script = scripted({})
            w.server.delete(jobs, "r-sft-1")
        with w.process():
            if meanwhile == "runs":
                w.until(run_starts, seconds=30)
                w.controllers.finish("r-sft-1")
            well_ended(w)
        again = meanwhile == "deleted"
        assert (w.server.get(jobs, "r-sft-1")["metadata"]["uid"] != uid) == again
        assert w.created(jobs) == ["r-sft-1"] * (1 + again) + ["r-grpo-1"]


@pytest.mark.fault(1)
@WHEN
def test_a_gang_whose_service_alone_was_made_is_completed(tmp_path, when):
    with faulty(tmp_path) as w:
        gang = {**SFT_ONLY, "backend": "Job", "sft": GANG}
        killed(w, "create", "services", when, lambda: w.apply(**gang))
        with w.process():
            well_ended(w)
        assert w.created("services") == w.created("jobs") == ["r-sft-1"]


@pytest.mark.fault(2)
@pytest.mark.parametrize("meanwhile", ["nothing", "deleted"])
@WHEN
def test_a_verdict_is_given_once_whenever_the_judge_dies(tmp_path, when, meanwhile):
    judging = saying('"name": "sft", "state": "Succeeded"', "gates")
    with faulty(tmp_path, scripted({}, Behaviour(running=0.3))) as w:
        play = lambda: w.apply(evaluation=None)  # noqa: E731
        killed(w, "patch", "reasoningruns/status", when, play, judging)
        if meanwhile == "deleted":
            w.server.delete("pytorchjobs", "r-sft-1")
        # What nobody has read is gone with its job, and costs a retry where it was seen to run;
        # what has been judged is not judged again.
        lost = meanwhile == "deleted" and stage(w.run(), "sft")["state"] == "Running"
        assert not (lost and when == "after")
        with w.process():
            well_ended(w, attempts={"sft": 1 + lost}, failures={"sft": int(lost)})
        assert w.created().count("r-grpo-1") == 1


@pytest.mark.fault(3)
@WHEN
def test_a_job_that_was_deleted_and_not_recorded_costs_no_retry(tmp_path, when):
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=0.3)})

    def play(w):
        w.apply(**SFT_ONLY)
        w.until(run_starts, seconds=30)
        suspend(w, True)

    with faulty(tmp_path, script) as w:
        killed(w, "delete", "pytorchjobs", when, lambda: play(w))
        with w.process():
            w.until(lambda run: holds(run, "Suspended"), seconds=30)
            assert w.jobs() == w.server.list("pods") == []
            suspend(w, False)
            well_ended(w, attempts={"sft": 2})
        assert w.created() == ["r-sft-1", "r-sft-2"]


@pytest.mark.fault(3, 4)
@WHEN
def test_a_job_that_was_deleted_because_of_its_deadline_is_counted_once(tmp_path, when):
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=0.3)})
    with faulty(tmp_path, script) as w:
        short = {"dataset": {"name": "d"}, "timeoutSeconds": 1}
        play = lambda: w.apply(**{**SFT_ONLY, "sft": short})  # noqa: E731
        killed(w, "delete", "pytorchjobs", when, play)
        with w.process():
            well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        assert any("DeadlineExceeded" in json.dumps(item.body) for item in w.writes())


@pytest.mark.fault(4)
@pytest.mark.parametrize("number", [1, 2])
@WHEN
def test_a_failure_is_counted_once_whenever_the_counter_dies(tmp_path, when, number):
    counting = saying('"state": "Backoff"', f'"failures": {number}')
    with faulty(tmp_path, scripted({("sft", 1): KILLED, ("sft", 2): KILLED})) as w:
        play = lambda: w.apply(**SFT_ONLY)  # noqa: E731
        killed(w, "patch", "reasoningruns/status", when, play, counting)
        with w.process():
            well_ended(w, attempts={"sft": 3}, failures={"sft": 2})
        assert w.created() == ["r-sft-1", "r-sft-2", "r-sft-3"]


def second_job(w):
    """A second job of the run, such as no operator makes: the next attempt, beside the first."""
    job = w.server.get("pytorchjobs", "r-sft-1")
    about = {key: job["metadata"][key] for key in ("labels", "ownerReferences", "namespace")}
    about |= {"name": "r-sft-2", "labels": {**about["labels"], "coldstart.dev/attempt": "2"}}
    w.server.create("pytorchjobs", {"metadata": about, "spec": job["spec"]})
    w.allowed = {"r"}


@pytest.mark.fault(5)
@WHEN
def test_a_suspension_goes_on_after_one_of_two_deletions(tmp_path, when):
    script = scripted({}, Behaviour(running=None, shutdown=0.2))
    with faulty(tmp_path, script) as w:
        with w.operator():
            w.apply(**SFT_ONLY)
            w.until(run_starts)
        second_job(w)
        killed(w, "delete", "pytorchjobs", when, lambda: suspend(w, True))
        w.controllers.script = scripted({})
        with w.process():
            w.until(lambda run: holds(run, "Suspended"), seconds=30)
            for number in (1, 2):
                w.server.wait("pytorchjobs", f"r-sft-{number}", lambda job: job is None, seconds=30)
            suspend(w, False)
            w.end(seconds=30)
        assert stage(w.run(), "sft")["failures"] == 0
        assert w.created() == ["r-sft-1", "r-sft-3"]


@pytest.mark.fault(6)
@WHEN
def test_a_run_whose_time_is_up_is_deleted_once_and_stays_so(tmp_path, when):
    with faulty(tmp_path) as w:
        play = lambda: w.apply(**SFT_ONLY, ttlSecondsAfterFinished=1)  # noqa: E731
        killed(w, "delete", "reasoningruns", when, play)
        with w.process() as operator:
            operator.ports()
            w.server.wait("reasoningruns", "r", lambda run: run is None, seconds=30)
            w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is None, seconds=30)
            no_rule_was_broken(w)
        assert w.created() == ["r-sft-1"]
        deletions = w.requests.of("delete", "reasoningruns")
        assert len([item for item in deletions if item.status == 200]) <= 1
