"""How a run goes on, ends and is tried again, with scripted pods behind an API server."""

import itertools
import time

import pytest
from apiserver.crds import pytorchjobs
from apiserver.scripts import (
    EVICTED,
    FOREVER,
    KILLED,
    Behaviour,
    failing,
    scripted,
    success,
)
from operating import (
    SFT_ONLY,
    condition,
    holds,
    run_starts,
    stage,
    world,
)

from coldstart_operator import reconcile


def no_more_than_one_live(w):
    """The safety rule: of all pods of a run, those of one attempt live at most."""
    live = {
        (
            pod["metadata"]["labels"]["coldstart.dev/run"],
            pod["metadata"]["labels"]["coldstart.dev/stage"],
            pod["metadata"]["labels"]["coldstart.dev/attempt"],
        )
        for pod in w.server.list("pods")
        if pod["status"].get("phase") not in ("Succeeded", "Failed")
    }
    return len(live) <= len({run for run, *_ in live})


def test_a_run_goes_through_its_three_stages(tmp_path):
    with world(tmp_path) as w, w.operator():
        w.apply()
        run = w.end()
        assert holds(run, "Succeeded")
        assert w.created() == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]
        status = run["status"]
        assert status["phase"] == "Succeeded"
        assert status["backend"] == "PyTorchJob"
        assert status["observedGeneration"] == run["metadata"]["generation"]
        types = [item["type"] for item in status["conditions"]]
        assert types == ["Accepted", "Queued", "Running", "Suspended", "Succeeded", "Failed"]
        for name in ("sft", "grpo"):
            entry = stage(run, name)
            assert entry["state"] == "Succeeded"
            assert entry["child"] == f"r-{name}-1"
            assert entry["checkpoint"]["location"] == f"r/{name}/final"
            assert all(verdict["passed"] for verdict in entry["gates"])
        order = w.server.requests.of("create", "pytorchjobs")[1].body
        assert stage(run, "sft")["checkpoint"]["digest"] in str(order)


def test_nothing_is_written_into_objects_but_the_status(tmp_path):
    with world(tmp_path) as w, w.operator():
        w.apply()
        run = w.end()
        objects = [run, *w.server.list("pytorchjobs")]
        for item in objects:
            assert not item["metadata"].get("finalizers")
            assert not item["metadata"].get("annotations")
        kinds = {(item.verb, item.target) for item in w.writes()}
        assert kinds == {
            ("patch", "reasoningruns/status"),
            ("create", "pytorchjobs"),
            ("create", "events"),
        }
        assert len(w.writes()) <= 15
        assert w.has_events("StageSucceeded", "StageSucceeded", "Succeeded")
        assert run["metadata"]["generation"] == 1


def test_an_ended_run_costs_no_request(tmp_path):
    with world(tmp_path) as w, w.operator():
        w.apply()
        w.end()
        time.sleep(0.3)
        assert w.quiet(1.0) == []


@pytest.mark.parametrize("states", [("Pending", "Running"), ("Running",)])
def test_a_job_of_the_plain_kind_does_as_well(tmp_path, states):
    script = scripted({}, Behaviour(pending=0.1 if "Pending" in states else 0, running=0.1))
    with world(tmp_path, script, pytorch=False) as w, w.operator():
        w.apply()
        run = w.end()
        assert holds(run, "Succeeded")
        assert run["status"]["backend"] == "Job"
        assert w.created("jobs") == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]


def test_the_chosen_backend_stays(tmp_path):
    script = scripted({("sft", 1): FOREVER})
    with world(tmp_path, script, pytorch=False) as w, w.operator():
        w.apply()
        w.until(run_starts)
        w.server.create("customresourcedefinitions", pytorchjobs())
        w.controllers.finish("r-sft-1")
        run = w.end()
        assert holds(run, "Succeeded")
        assert w.created("jobs") == ["r-sft-1", "r-grpo-1", "r-evaluation-1"]
        assert w.created("pytorchjobs") == []


FAILURES = {
    "killed": (KILLED, "WorkerLost", True),
    "exit code 1 without a word": (Behaviour(exit_code=1, message=None), "Internal", False),
    "exit code 137 without a word": (Behaviour(exit_code=137, message=None), "WorkerLost", True),
    "out of memory": (failing(137, "OutOfMemory"), "OutOfMemory", True),
    "told to end": (failing(143, "Terminated"), "Terminated", True),
    "NaN": (failing(2, "NonFinite"), "NonFinite", False),
    "data set": (failing(2, "DatasetNotFound"), "DatasetNotFound", False),
    "no result": (Behaviour(message=None), "NoResult", True),
    "empty": (Behaviour(message=""), "NoResult", True),
    "not JSON": (Behaviour(message="Traceback (most recent call last)"), "NoResult", True),
    "cut": (Behaviour(message=lambda a: success(a)[:-20]), "NoResult", True),
    "4,097 bytes": (Behaviour(message=lambda a: b" " * 4097 + success(a)), "NoResult", True),
    "another run's": (
        Behaviour(message=lambda a: success(a).replace(a.uid.encode(), b"x")),
        "NoResult",
        True,
    ),
    "nested": (Behaviour(message="[" * 4000), "NoResult", True),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_told_apart(tmp_path, name):
    behaviour, code, retried = FAILURES[name]
    with world(tmp_path, scripted({("sft", 1): behaviour})) as w, w.operator():
        w.apply(**SFT_ONLY)
        run = w.end()
        entry = stage(run, "sft")
        if retried:
            assert holds(run, "Succeeded")
            assert (entry["attempt"], entry["failures"]) == (2, 1)
        else:
            assert holds(run, "Failed")
            assert w.created() == ["r-sft-1"]
            assert entry["error"]["code"] == code
            assert condition(run, "Failed")["reason"] == code
            assert run["status"]["message"] != ""


def test_a_pod_that_used_up_its_node_costs_a_retry(tmp_path):
    disrupted = {("sft", number): EVICTED for number in (1, 2)}
    with world(tmp_path, scripted(disrupted)) as w, w.operator():
        w.apply(**SFT_ONLY)
        run = w.end()
        assert holds(run, "Succeeded")
        assert (stage(run, "sft")["attempt"], stage(run, "sft")["failures"]) == (3, 2)


def test_retries_wait_and_have_a_limit(tmp_path):
    retry = {"limit": 2, "backoffSeconds": 1, "maxBackoffSeconds": 1}
    with world(tmp_path, scripted({}, KILLED)) as w, w.operator():
        w.apply(**SFT_ONLY, retry=retry)
        waiting = w.until(lambda run: stage(run, "sft").get("state") == "Backoff")
        assert "tries again in 1 s" in waiting["status"]["message"]
        assert holds(waiting, "Queued")
        run = w.end()
        assert holds(run, "Failed")
        assert "retry.limit is reached" in run["status"]["message"]
        assert w.created() == ["r-sft-1", "r-sft-2", "r-sft-3"]
        times = [item.at for item in w.server.requests.of("create", "pytorchjobs")]
        assert all(later - earlier >= 0.9 for earlier, later in itertools.pairwise(times))


def test_a_waiting_retry_costs_no_writes(tmp_path):
    retry = {"limit": 2, "backoffSeconds": 3600, "maxBackoffSeconds": 3600}
    with world(tmp_path, scripted({}, KILLED)) as w, w.operator(resync=0.2):
        w.apply(**SFT_ONLY, retry=retry)
        w.until(lambda run: stage(run, "sft").get("state") == "Backoff")
        time.sleep(0.3)
        before = len(w.writes())
        time.sleep(1.0)
        assert len(w.writes()) == before


def test_a_gate_that_refuses_ends_the_run(tmp_path):
    weak = Behaviour(message=lambda attempt: success(attempt, probe_accuracy=0.25))
    with world(tmp_path, scripted({("sft", 1): weak})) as w, w.operator():
        w.apply(sft={"dataset": {"name": "d"}, "gate": {"minAccuracy": 0.5}})
        run = w.end()
        assert holds(run, "Failed")
        assert condition(run, "Failed")["reason"] == "GateRefused"
        verdict = stage(run, "sft")["gates"][1]
        assert (verdict["observed"], verdict["threshold"], verdict["passed"]) == (0.25, 0.5, False)
        assert w.created() == ["r-sft-1"]
        assert w.has_events("GateRefused")


@pytest.mark.fault(33)
@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
def test_a_job_deleted_by_hand_is_replaced_once(tmp_path, propagation):
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=0.5)})
    with world(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.server.delete("pytorchjobs", "r-sft-1", propagation=propagation, grace=None)
        for _ in range(60):
            assert no_more_than_one_live(w)
            time.sleep(0.02)
        run = w.end()
        assert holds(run, "Succeeded")
        assert w.created() == ["r-sft-1", "r-sft-2"]


def test_a_retry_that_waits_for_the_last_attempts_pods_says_so(tmp_path):
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=1.5)})
    with world(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.server.delete("pytorchjobs", "r-sft-1", grace=None)
        w.until(lambda run: "waits for an earlier attempt" in run["status"]["message"])
        assert holds(w.end(), "Succeeded")


def test_suspending_ends_the_job_and_resuming_starts_the_next_attempt(tmp_path):
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=0.3)})
    with world(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
        run = w.until(lambda run: holds(run, "Suspended"))
        assert w.jobs() == []
        assert w.server.list("pods") == []
        assert run["status"]["observedGeneration"] == 2
        assert stage(run, "sft")["failures"] == 0
        assert w.has_events("Suspended")
        assert w.quiet() == []
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})
        run = w.end()
        assert holds(run, "Succeeded")
        assert w.created() == ["r-sft-1", "r-sft-2"]
        assert w.has_events("Suspended", "Succeeded")


def test_a_run_that_is_suspended_from_the_start_does_nothing(tmp_path):
    with world(tmp_path) as w, w.operator():
        w.apply(suspend=True)
        w.until(lambda run: holds(run, "Suspended"))
        assert w.jobs() == []


def test_a_deleted_run_takes_its_jobs_along(tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w, w.operator():
        w.apply()
        w.until(run_starts)
        w.server.delete("reasoningruns", "r")
        w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is None)
        time.sleep(0.3)
        assert w.jobs() == []
        assert w.server.list("pods") == []
        assert w.created() == ["r-sft-1"]


def test_a_run_deleted_in_the_foreground_is_left_to_die(tmp_path):
    with world(tmp_path, scripted({}, Behaviour(running=None, shutdown=0.5))) as w, w.operator():
        w.apply()
        w.until(run_starts)
        w.server.delete("reasoningruns", "r", propagation="Foreground", grace=None)
        w.server.wait("reasoningruns", "r", lambda run: run is None)
        time.sleep(0.3)
        assert w.created() == ["r-sft-1"]


@pytest.mark.fault(21)
def test_a_run_recreated_under_its_name_waits_for_the_end_of_the_earlier_ones_pods(tmp_path):
    slow = Behaviour(running=None, shutdown=1.0)
    first = ""

    def script(attempt):
        return slow if attempt.uid == first else Behaviour()

    with world(tmp_path, script) as w, w.operator():
        first = w.apply(**SFT_ONLY)["metadata"]["uid"]
        w.until(run_starts)
        w.server.delete("reasoningruns", "r")
        second = w.apply(**SFT_ONLY)["metadata"]["uid"]
        for _ in range(40):
            assert no_more_than_one_live(w)
            uids = {
                pod["metadata"]["labels"]["coldstart.dev/run-uid"] for pod in w.server.list("pods")
            }
            assert uids != {first, second}
            time.sleep(0.02)
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 1
        assert run["metadata"]["uid"] == second


def test_a_run_is_deleted_when_its_time_is_up(tmp_path):
    """A second less may be seen: the API server's times have no fractions."""
    with world(tmp_path) as w, w.operator():
        w.apply(**SFT_ONLY, ttlSecondsAfterFinished=2)
        run = w.end()
        assert holds(run, "Succeeded")
        begun = time.monotonic()
        w.server.wait("reasoningruns", "r", lambda run: run is None, seconds=5)
        assert time.monotonic() - begun > 0.5
        w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is None, seconds=5)


def test_a_stage_that_takes_too_long_is_stopped_and_tried_again(tmp_path):
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=0.2)})
    with world(tmp_path, script) as w, w.operator():
        # The error is shown until the next attempt starts: the backoff is the time to see it.
        retry = {"limit": 2, "backoffSeconds": 2}
        w.apply(**SFT_ONLY, sft={"dataset": {"name": "d"}, "timeoutSeconds": 1}, retry=retry)
        run = w.until(lambda run: stage(run, "sft").get("failures") == 1)
        assert stage(run, "sft")["error"]["code"] == "DeadlineExceeded"
        assert holds(w.end(), "Succeeded")


def test_time_in_a_queue_uses_up_no_deadline(tmp_path):
    script = scripted({("sft", 1): Behaviour(queued=1.5)})
    with world(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY, sft={"dataset": {"name": "d"}, "timeoutSeconds": 1})
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 1


@pytest.mark.fault(28)
def test_a_job_that_kueue_takes_back_goes_on_without_a_failure(tmp_path):
    script = scripted({("sft", 1): FOREVER})
    with world(tmp_path, script) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.controllers.suspend("r-sft-1")
        run = w.until(lambda run: holds(run, "Queued"))
        assert not holds(run, "Suspended")
        w.server.wait("pods", "r-sft-1-master-0", lambda pod: pod is None)
        w.controllers.resume("r-sft-1")
        w.until(run_starts)
        w.controllers.finish("r-sft-1")
        run = w.end()
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["failures"] == 0


def test_a_run_that_starts_from_another_one_waits_for_it(tmp_path):
    arm = {
        "sft": None,
        "evaluation": None,
        "grpo": {"dataset": {"name": "d"}, "from": {"run": "r"}},
    }
    with world(tmp_path) as w, w.operator():
        w.apply("arm", **arm)
        w.until(
            lambda run: "no such run" in ((run or {}).get("status") or {}).get("message", ""), "arm"
        )
        assert w.jobs() == []
        w.apply(**SFT_ONLY)
        source = w.end()
        assert holds(w.end("arm"), "Succeeded")
        order = w.server.get("pytorchjobs", "arm-grpo-1")
        assert stage(source, "sft")["checkpoint"]["digest"] in str(order)


def test_a_source_in_another_storage_is_not_taken(tmp_path):
    arm = {
        "sft": None,
        "evaluation": None,
        "grpo": {"dataset": {"name": "d"}, "from": {"run": "r"}},
    }
    with world(tmp_path) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.end()
        w.apply("arm", **arm, storage={"claimName": "elsewhere"})
        w.until(
            lambda run: (
                "another spec.storage" in ((run or {}).get("status") or {}).get("message", "")
            ),
            "arm",
        )


def test_what_a_lost_attempt_used_is_counted(tmp_path):
    with world(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator():
        w.apply(**SFT_ONLY, sft={"dataset": {"name": "d"}, "resources": {"gpusPerNode": 4}})
        w.until(run_starts)
        time.sleep(1.0)
        w.server.delete("pytorchjobs", "r-sft-1")
        run = w.end()
        assert holds(run, "Succeeded")
        assert 3.9 <= stage(run, "sft")["wastedGpuSeconds"] <= 20


@pytest.mark.fault(24)
def test_an_ended_run_with_a_lifetime_is_remembered_by_the_next_operator(tmp_path):
    with world(tmp_path) as w:
        with w.operator():
            w.apply(**SFT_ONLY, ttlSecondsAfterFinished=2)
            w.end()
        with w.operator():
            w.server.wait("reasoningruns", "r", lambda run: run is None)


def test_a_pod_on_a_lost_node_holds_up_no_further_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr(reconcile, "STOPPING_AGAIN", 0.5)
    lost = Behaviour(running=None, lost=True)
    with world(tmp_path, scripted({("sft", 1): lost})) as w, w.operator(lost_pod=1.0):
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
        w.until(lambda run: stage(run, "sft")["state"] == "Stopping")
        w.server.delete("pods", "r-sft-1-master-0", grace=1)  # nobody waits for two minutes here
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})
        assert holds(w.end(seconds=30), "Succeeded")
        assert w.jobs() == ["r-sft-1", "r-sft-2"]
        assert w.server.get("pods", "r-sft-1-master-0")["status"]["phase"] == "Running"


def test_a_job_that_lives_after_the_end_of_its_run_is_deleted(tmp_path):
    with world(tmp_path, scripted({}, FOREVER)) as w:
        with w.operator():
            w.apply(**SFT_ONLY)
            run = w.until(run_starts)
        conditions = [
            item | ({"status": "True"} if item["type"] == "Failed" else {})
            for item in run["status"]["conditions"]
        ]
        w.server.patch(
            "reasoningruns", "r", {"status": {"conditions": conditions}}, subresource="status"
        )
        with w.operator():
            w.server.wait("pytorchjobs", "r-sft-1", lambda job: job is None)
            assert holds(w.run(), "Failed")
