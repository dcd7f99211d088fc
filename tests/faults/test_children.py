"""Faults 26 to 38: what jobs, their pods and whoever handles them do, and what a stage leaves."""

import time
from datetime import timedelta

import pytest
from apiserver.faults import Fault
from apiserver.scripts import FOREVER, KILLED, Behaviour, error, failing, scripted, success
from builders import NOW, make_run
from faults.proxied import faulty
from faults.verdicts import no_rule_was_broken, well_ended
from operating import SFT_ONLY, condition, holds, run_starts, stage

from coldstart.children.backend import BACKENDS
from coldstart.plan import Child, ChildState, Stop, Wait
from coldstart.spec import Stage
from coldstart.status import RunStatus, StageState, StageStatus
from coldstart_operator.reconcile import decide
from coldstart_operator.sight import Found, Sight

JOBS = {"PyTorchJob": "pytorchjobs", "Job": "jobs"}
EACH_BACKEND = pytest.mark.parametrize("backend", JOBS)
GANG = {"dataset": {"name": "d"}, "resources": {"nodes": 2, "gpusPerNode": 1}}


def suspend(w, value):
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": value}})


def job_condition(job, type_):
    """A condition of a job by its type."""
    found = ((job or {}).get("status") or {}).get("conditions") or []
    return next((item for item in found if item["type"] == type_), {})


@pytest.mark.fault(27)
@pytest.mark.parametrize("away", [0, 3600], ids=["looking on", "an hour away"])
def test_the_time_in_a_queue_uses_up_no_deadline(away):
    """Ten seconds may pass while it runs, however long it was suspended by Kueue between."""
    section = {"dataset": {"name": "d"}, "timeoutSeconds": 10}
    run, now = make_run(sft=section), NOW
    entry = StageStatus(name="sft", state=StageState.STARTING, attempt=1, attempt_started_at=now)
    status = RunStatus(stages=(entry,), backend="PyTorchJob")

    def look(state, seconds):
        nonlocal status, now
        now += timedelta(seconds=seconds)
        child = Child(Stage.SFT, 1, state)
        sight = Sight((Found(BACKENDS[0], {}, child),), (), {}, ())
        decision = decide(run.model_copy(update={"status": status}), sight, now)
        status = decision.status
        return decision.action

    assert isinstance(look(ChildState.QUEUED, 100), Wait)
    assert isinstance(look(ChildState.RUNNING, 100), Wait)
    assert isinstance(look(ChildState.RUNNING, 9), Wait)
    assert isinstance(look(ChildState.QUEUED, 0.5), Wait)
    assert status.stage("sft").state is StageState.STARTING
    assert isinstance(look(ChildState.QUEUED, away), Wait)
    assert isinstance(look(ChildState.RUNNING, 100), Wait)
    assert isinstance(look(ChildState.RUNNING, 9), Wait)
    assert isinstance(look(ChildState.RUNNING, 2), Stop)
    assert status.stage("sft").error.code == "DeadlineExceeded"


@pytest.mark.fault(27, 35)
@EACH_BACKEND
@pytest.mark.parametrize("looks", [True, False], ids=["looking on", "away"])
def test_a_job_that_somebody_suspends_is_queued_and_goes_on(tmp_path, looks, backend):
    jobs = JOBS[backend]
    with faulty(tmp_path, scripted({("sft", 1): FOREVER})) as w:
        with w.operator():
            w.apply(**SFT_ONLY, backend=backend)
            w.until(run_starts)
            w.controllers.suspend("r-sft-1")
            run = w.until(lambda run: holds(run, "Queued"))
            assert not holds(run, "Suspended")
            assert not holds(run, "Running")
            if not looks:
                w.server.wait("pods", "r-sft-1-master-0", lambda pod: pod is None)
        if looks:
            with w.operator():
                _readmitted(w, jobs)
        else:
            _readmitted(w, jobs)
            with w.operator():
                w.until(run_starts)
                w.controllers.finish("r-sft-1")
                well_ended(w)


def _readmitted(w, jobs):
    """Kueue lets the job go on; in a PyTorchJob `Suspended`, which is False, stands last."""
    while w.server.list("pods"):
        time.sleep(0.02)
    w.controllers.resume("r-sft-1")
    resumed = lambda job: job_condition(job, "Suspended").get("status") == "False"  # noqa: E731
    w.server.wait(jobs, "r-sft-1", resumed)
    end = time.monotonic() + 20
    while not running(w):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.fault(28)
@pytest.mark.parametrize("times", [1, 3])
def test_a_readmission_before_the_pods_are_gone_costs_no_retry(tmp_path, times):
    """Resumed too early, a PyTorchJob counts the pods of before as failed: operator.md 1.6.10."""
    slow = Behaviour(running=None, shutdown=1.0)
    script = scripted({("sft", number): slow for number in range(1, times + 1)})
    with faulty(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY, retry={"limit": 0})
        for number in range(1, times + 1):
            w.until(lambda run, number=number: run_starts(run, attempt=number), seconds=30)
            _evicted_and_admitted(w, "pytorchjobs", f"r-sft-{number}")
        well_ended(w, attempts={"sft": times + 1}, seconds=60)


@pytest.mark.fault(28)
def test_a_job_that_is_readmitted_before_its_pods_are_gone_goes_on(tmp_path):
    """A Job waits for them; the attempt stays the same."""
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=1.0)})
    with faulty(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY, backend="Job", retry={"limit": 0})
        w.until(run_starts)
        (before,) = (pod["metadata"]["uid"] for pod in w.server.list("pods"))
        _evicted_and_admitted(w, "jobs", "r-sft-1")
        end = time.monotonic() + 30
        while [pod["metadata"]["uid"] for pod in running(w)] in ([], [before]):
            assert time.monotonic() < end
            time.sleep(0.02)
        w.controllers.finish("r-sft-1")
        well_ended(w)


def running(w):
    return [pod for pod in w.server.list("pods") if pod["status"].get("phase") == "Running"]


def _evicted_and_admitted(w, jobs, name):
    """What Kueue does when it has room again at once."""
    w.controllers.suspend(name)
    suspended = lambda job: job_condition(job, "Suspended").get("status") == "True"  # noqa: E731
    w.server.wait(jobs, name, suspended)
    w.controllers.resume(name)


@pytest.mark.fault(29)
@EACH_BACKEND
@pytest.mark.parametrize("moment", ["before the deletion", "after it", "of a queued job"])
def test_what_its_user_suspends_kueue_does_not_start_again(tmp_path, moment, backend):
    slow = Behaviour(running=None, shutdown=0.5)
    with faulty(tmp_path, scripted({("sft", 1): slow})) as w, w.operator():
        w.apply(**SFT_ONLY, backend=backend)
        w.until(run_starts)
        if moment == "of a queued job":
            w.controllers.suspend("r-sft-1")
            w.until(lambda run: holds(run, "Queued"))
        admit = lambda _: w.controllers.resume("r-sft-1")  # noqa: E731
        w.faults.add(Fault("delete", JOBS[backend], hook=admit, after=moment == "after it"))
        suspend(w, True)
        w.until(lambda run: holds(run, "Suspended"), seconds=30)
        assert w.jobs() == w.server.list("pods") == []
        assert [item for item in w.quiet() if item.target != "events"] == []
        suspend(w, False)
        well_ended(w, attempts={"sft": 2})


@pytest.mark.fault(30)
@EACH_BACKEND
def test_a_lost_node_is_named_and_the_gang_starts_again_elsewhere(tmp_path, backend):
    """The pod of a node that is gone stays Terminating for ever; the operator's minutes fly."""
    lost = Behaviour(running=None, lost=True)
    with faulty(tmp_path, scripted({("sft", 1): lost})) as w, w.process(speed=20) as operator:
        operator.ports()
        w.apply(**{**SFT_ONLY, "sft": GANG, "backend": backend})
        w.until(run_starts, seconds=60)
        for pod in w.server.list("pods"):
            name = pod["metadata"]["name"]
            taint = {"type": "DisruptionTarget", "status": "True"}
            taint |= {"reason": "DeletionByTaintManager", "message": "deleting due to NoExecute"}
            silent = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}
            status = {"status": {"conditions": [silent, taint]}}
            w.server.patch("pods", name, status, subresource="status")
            w.server.delete("pods", name, grace=1)
        words = {"PyTorchJob": "DeletionByTaintManager", "Job": "node lost: pod r-sft-1-"}[backend]
        said = lambda run: words in str(stage(run, "sft").get("error"))  # noqa: E731
        run = w.until(said, seconds=60)
        assert stage(run, "sft")["error"]["code"] == "WorkerLost"
        # Whoever still lives on the dead node has been given up; the oracles cannot know that.
        w.allowed = {"r"}
        w.until(lambda run: run_starts(run, attempt=2) or holds(run, "Succeeded"), seconds=60)
        assert stage(w.run(), "sft")["failures"] == 0
        for pod in w.server.list("pods", labels="coldstart.dev/attempt=1"):
            w.server.delete("pods", pod["metadata"]["name"], grace=0)
        w.end(seconds=60)


FAILURES = {
    "out of memory": (KILLED, "WorkerLost", True),
    "killed": (Behaviour(exit_code=137, message=None), "WorkerLost", True),
    "told to end": (failing(143, "Terminated"), "Terminated", True),
    "told to end, without a word": (Behaviour(exit_code=143, message=None), "WorkerLost", True),
    "wrong configuration": (failing(2, "DatasetInvalid"), "DatasetInvalid", False),
    "a mistake": (Behaviour(exit_code=1, message=None), "Internal", False),
    "endpoint": (failing(128, "EndpointDown"), "EndpointDown", True),
    "used up its node": (
        Behaviour(exit_code=137, message=None, reason="Evicted"),
        "WorkerLost",
        True,
    ),
}


@pytest.mark.fault(31)
@EACH_BACKEND
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_retried_by_its_class(tmp_path, name, backend):
    behaviour, code, retried = FAILURES[name]
    with faulty(tmp_path, scripted({("sft", 1): behaviour})) as w, w.operator():
        retry = {"limit": 1, "backoffSeconds": 1}
        w.apply(**SFT_ONLY, backend=backend, retry=retry)
        run = w.until(lambda run: stage(run, "sft").get("error"), seconds=30)
        assert stage(run, "sft")["error"]["code"] == code
        if retried:
            well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        else:
            assert condition(w.end(), "Failed")["reason"] == code
            assert w.created(JOBS[backend]) == ["r-sft-1"]


@pytest.mark.fault(31)
def test_a_deadline_that_somebody_gave_the_job_is_a_failure_like_others(tmp_path):
    with faulty(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator():
        w.apply(**SFT_ONLY, backend="Job")
        w.until(run_starts)
        w.server.patch("jobs", "r-sft-1", {"spec": {"activeDeadlineSeconds": 1}})
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1})


@pytest.mark.fault(32)
@EACH_BACKEND
@pytest.mark.parametrize("last", [False, True], ids=["another stage follows", "the last stage"])
def test_workers_that_outlive_their_master_are_ended_before_anything_starts(
    tmp_path, last, backend
):
    straggler = Behaviour(running=None, shutdown=0.5)

    def script(attempt):
        if backend == "Job":  # its success policy is not the stand-in's: all end by themselves
            return Behaviour(running=0.2 * (1 + attempt.index))
        return straggler if attempt.index else Behaviour(running=0.2)

    stages = {"grpo": None, "evaluation": None} if last else {"evaluation": None}
    with faulty(tmp_path, script) as w, w.operator():
        w.apply(**{**stages, "sft": GANG, "backend": backend})
        well_ended(w)
        assert [pod for pod in w.server.list("pods") if pod["status"]["phase"] == "Running"] == []


@pytest.mark.fault(33)
@EACH_BACKEND
@pytest.mark.parametrize("state", ["Starting", "Running"])
def test_a_job_that_a_person_deletes_is_made_anew_once_and_it_is_said(tmp_path, state, backend):
    first = Behaviour(pending=None) if state == "Starting" else FOREVER
    with faulty(tmp_path, scripted({("sft", 1): first})) as w, w.operator():
        w.apply(**SFT_ONLY, backend=backend)
        w.until(lambda run: stage(run, "sft").get("state") == state)
        w.server.wait(JOBS[backend], "r-sft-1", lambda job: job is not None)
        w.watched(JOBS[backend])
        w.controllers.script = scripted({})
        w.server.delete(JOBS[backend], "r-sft-1")
        if state == "Starting":  # it has begun nothing: the same attempt is made again
            well_ended(w)
            return
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        assert w.has_events("AttemptFailed", "Succeeded", seconds=20)
        events = w.server.list("events", fields="involvedObject.kind=ReasoningRun")
        assert any("was deleted before it ended" in item["message"] for item in events)


EDITS = {
    "Kueue's flavor": {"nodeSelector": {"flavor": "spot"}, "tolerations": [{"key": "spot"}]},
    "a person's image": {"priorityClassName": "high"},
}


@pytest.mark.fault(34)
@EACH_BACKEND
@pytest.mark.parametrize("name", EDITS)
def test_a_job_that_somebody_edits_is_left_as_it_is(tmp_path, name, backend):
    jobs, labels = JOBS[backend], {"kueue.x-k8s.io/queue-name": "team", "a": "b"}
    with faulty(tmp_path, scripted({("sft", 1): FOREVER})) as w:
        with w.operator(resync=0.5):
            w.apply(**SFT_ONLY, backend=backend)
            w.until(run_starts)
            template = {"spec": EDITS[name]}
            # Of a Job that runs the API server lets nobody change the template.
            master = {"pytorchReplicaSpecs": {"Master": {"template": template}}}
            spec = master if backend == "PyTorchJob" else {"parallelism": 1}
            metadata = {"labels": labels, "annotations": {"note": "mine"}}
            w.server.patch(jobs, "r-sft-1", {"metadata": metadata, "spec": spec})
            edited = w.server.get(jobs, "r-sft-1")
            time.sleep(1.5)
        with w.operator():
            w.watched(jobs)
            w.controllers.finish("r-sft-1")
            well_ended(w)
        now = w.server.get(jobs, "r-sft-1")
        assert now["spec"] == edited["spec"]
        assert now["metadata"]["labels"].items() >= labels.items()
        changes = w.requests.of(verbs=("patch", "update", "delete"))
        assert {item.target for item in changes} == {"reasoningruns/status"}


def without(key):
    """A result that lacks something."""

    def message(attempt):
        import json

        return json.dumps({**json.loads(success(attempt)), key: None})

    return message


def replaced(old, new):
    return lambda attempt: success(attempt).replace(old, new)


RESULTS = {
    "no checkpoint": (without("checkpoint"), "GateRefused"),
    "no result": (None, "NoResult"),
    "a loss that is not a number": (replaced(b'"loss":0.5', b'"loss":NaN'), "NoResult"),
    "an infinite loss": (replaced(b'"loss":0.5', b'"loss":1e999'), "NoResult"),
    "no loss where one is asked for": (replaced(b'"loss":0.5', b'"other":0.5'), "GateRefused"),
    "a loss above the gate": (replaced(b'"loss":0.5', b'"loss":1.5'), "GateRefused"),
    "a digest that is none": (replaced(b"sha256:", b"md5:"), "NoResult"),
    "a checkpoint outside the storage": (replaced(b"r/sft/final", b"../../other"), "NoResult"),
    "of another stage": (replaced(b'"stage":"sft"', b'"stage":"grpo"'), "NoResult"),
    "of another attempt": (replaced(b'"attempt":1', b'"attempt":7'), "NoResult"),
    "steps below zero": (replaced(b'"step":10', b'"step":-1'), "NoResult"),
}


@pytest.mark.fault(36)
@pytest.mark.parametrize("name", RESULTS)
def test_no_grpo_starts_from_a_success_without_a_right_result(tmp_path, name):
    message, code = RESULTS[name]
    gated = {"dataset": {"name": "d"}, "gate": {"maxLoss": 1.0}}
    with faulty(tmp_path, scripted({("sft", 1): Behaviour(message=message)})) as w, w.operator():
        w.apply(sft=gated, evaluation=None, retry={"limit": 0})
        run = w.end(seconds=30)
        assert condition(run, "Failed")["reason"] == code
        assert w.created() == ["r-sft-1"]
        no_rule_was_broken(w)


@pytest.mark.fault(36)
@pytest.mark.parametrize("code", ["CheckpointInvalid", "CheckpointMismatch", "ModelInvalid"])
def test_a_stage_that_refuses_its_checkpoint_ends_the_run_at_once(tmp_path, code):
    refuses = Behaviour(exit_code=2, message=error(code, "tokenizer files are not those"))
    with faulty(tmp_path, scripted({("grpo", 1): refuses})) as w, w.operator():
        w.apply()
        run = w.end(seconds=30)
        assert condition(run, "Failed")["reason"] == code
        assert "tokenizer files" in run["status"]["message"]
        assert w.created() == ["r-sft-1", "r-grpo-1"]
