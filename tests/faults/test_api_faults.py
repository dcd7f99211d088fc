"""Faults 7 to 15: requests that the API server refuses, does not answer, or answers too late."""

import itertools
import re
import time

import pytest
from apiserver.crds import pytorchjobs
from apiserver.faults import Fault, answer, drop, hide
from apiserver.scripts import FOREVER, KILLED, Behaviour, scripted
from faults.proxied import faulty
from faults.verdicts import no_rule_was_broken, well_ended
from operating import SFT_ONLY, condition, holds, run_starts, stage, world

from coldstart_operator import controller
from coldstart_operator.metrics import exposition

GANG = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}
FAILS_ONCE = scripted({("sft", 1): KILLED})


def every_other():
    """The first of two requests, again and again: whoever is refused comes again at once."""
    turns = itertools.count()
    return lambda _: next(turns) % 2 == 0


@pytest.mark.fault(7)
def test_each_patch_that_is_refused_once_is_made_again(tmp_path):
    with faulty(tmp_path, FAILS_ONCE) as w, w.operator():
        w.faults.add(answer("patch", "reasoningruns/status", 409, where=every_other(), times=None))
        w.apply()
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        patches = [item.status for item in w.requests.of("patch", "reasoningruns/status")]
        assert patches.count(409) >= patches.count(200) >= 6
        assert len(w.created()) == 4


@pytest.mark.fault(7)
def test_somebody_who_changes_the_run_before_each_patch_costs_time_only(tmp_path):
    with faulty(tmp_path, FAILS_ONCE) as w, w.operator():
        numbers = itertools.count()

        def meddle(_):
            label = {"metadata": {"labels": {"changed": str(next(numbers))}}}
            w.server.patch("reasoningruns", "r", label)

        w.faults.add(
            Fault("patch", "reasoningruns/status", hook=meddle, where=every_other(), times=None)
        )
        w.apply()
        well_ended(w, attempts={"sft": 2}, failures={"sft": 1})
        patches = [item.status for item in w.requests.of("patch", "reasoningruns/status")]
        assert patches.count(409) == next(numbers) >= 6
        assert len(w.created()) == 4


SITES = {
    "LIST of the runs": ("list", "reasoningruns"),
    "LIST of the jobs": ("list", "jobs"),
    "LIST of the pods": ("list", "pods"),
    "LIST of the events": ("list", "events"),
    "groups": ("get", "/apis"),
    "kinds of a group": ("get", "/apis/batch/v1"),
    "status": ("patch", "reasoningruns/status"),
    "GET of a run": ("get", "reasoningruns"),
    "GET of a job": ("get", "jobs"),
    "service": ("create", "services"),
    "job": ("create", "jobs"),
    "event": ("create", "events"),
    "deletion of a job": ("delete", "jobs"),
    "deletion of a run": ("delete", "reasoningruns"),
}
"""Every call of `cluster.Cluster` that the operator makes, as the API server sees it."""

NOT_INSISTED_ON = {"event", "LIST of the events", "kinds of a group"}
"""What is not asked for again and again: nothing waits for it, or the answer is known."""

BUSY = {"Retry-After": "1"}
ANSWERS = {
    "429": (429, BUSY, 1),
    "429 ten times": (429, BUSY, 10),
    "500": (500, {}, 1),
    "500 ten times": (500, {}, 10),
    "503": (503, BUSY, 1),
}


def by_all_means(w):
    """A run that brings the operator to each of its calls: waits, is suspended, ends, expires."""
    w.apply(**{**SFT_ONLY, "backend": "Job", "sft": GANG, "ttlSecondsAfterFinished": 1})
    w.until(run_starts, seconds=40)
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
    w.until(lambda run: holds(run, "Suspended"), seconds=40)
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})
    run = w.until(lambda run: holds(run, "Succeeded"), seconds=40)
    assert (stage(run, "sft")["attempt"], stage(run, "sft")["failures"]) == (2, 0)
    w.server.wait("reasoningruns", "r", lambda run: run is None, seconds=40)
    assert w.created("jobs") == w.created("services") == ["r-sft-1", "r-sft-2"]


@pytest.mark.fault(8)
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("site", SITES)
def test_a_refused_call_is_made_again(tmp_path, monkeypatch, site, name):
    monkeypatch.setattr(controller, "PRIME_AGAIN", 0.1)
    verb, resource = SITES[site]
    code, headers, times = ANSWERS[name]
    script = scripted({("sft", 1): Behaviour(pending=0.5, running=None, shutdown=0.2)})
    with faulty(tmp_path, script) as w:
        fault = w.faults.add(answer(verb, resource, code, headers=headers, times=times))
        with w.operator(heartbeat=5.0):
            by_all_means(w)
            no_rule_was_broken(w)
        assert fault.hits == times or site in NOT_INSISTED_ON
        assert fault.hits >= 1
        # Refused calls and right ones; a loop without waits would make thousands.
        assert fault.seen < times + 40


def test_the_sites_are_all_calls_that_there_are(tmp_path):
    """Else a new call would go without its faults."""
    script = scripted({("sft", 1): Behaviour(pending=0.5, running=None, shutdown=0.2)})
    with faulty(tmp_path, script) as w, w.operator(heartbeat=0.2):
        by_all_means(w)
        made = {(item.verb, item.target) for item in w.requests.of() if item.verb != "watch"}
    # kopf looks for definitions; of the kinds of jobs one is enough.
    others = {("list", "customresourcedefinitions"), ("list", "pytorchjobs")}
    known = set(SITES.values()) | others
    ours = {item for item in made if not item[1].startswith("/")}
    assert ours <= known
    assert set(SITES.values()) - {("get", "/apis/batch/v1")} <= made


@pytest.mark.fault(8)
def test_the_wait_that_is_asked_for_is_kept(tmp_path):
    with faulty(tmp_path) as w, w.operator(max_backoff=60.0):
        busy = {"headers": {"Retry-After": "2"}}
        w.faults.add(answer("create", "pytorchjobs", 429, times=2, **busy))
        w.apply(**SFT_ONLY)
        well_ended(w)
        asked = [item.at for item in w.requests.of("create", "pytorchjobs")]
        assert len(asked) == 3
        assert all(later - earlier >= 1.9 for earlier, later in itertools.pairwise(asked))


@pytest.mark.fault(8)
@pytest.mark.parametrize("kind", ["reasoningruns", "jobs"])
def test_the_wait_that_is_asked_for_is_kept_at_the_start(tmp_path, kind):
    with faulty(tmp_path) as w:
        w.apply(**SFT_ONLY)
        busy = {"headers": {"Retry-After": "3"}}
        w.faults.add(answer("list", kind, 429, times=2, **busy))
        with w.operator(max_backoff=60.0):
            well_ended(w)
        asked = [item.at for item in w.requests.of("list", kind)][:3]
        assert all(later - earlier >= 2.9 for earlier, later in itertools.pairwise(asked))


def somebodys(w, kind, owned):
    """A job under the name that the operator will take, and that belongs to somebody else."""
    metadata = {"name": "r-sft-1"}
    if owned:
        made = w.server.create("configmaps", {"metadata": {"name": "r"}})
        about = {"apiVersion": "v1", "kind": "ConfigMap", "name": "r", "controller": True}
        metadata["ownerReferences"] = [about | {"uid": made["metadata"]["uid"]}]
    spec = {
        "pytorchjobs": {"pytorchReplicaSpecs": {}, "runPolicy": {"suspend": True}},
        "jobs": {"suspend": True, "template": {"spec": {"restartPolicy": "Never"}}},
        "services": {"clusterIP": "None"},
    }[kind]
    return w.server.create(kind, {"metadata": metadata, "spec": spec})["metadata"]["uid"]


@pytest.mark.fault(9)
@pytest.mark.parametrize(("target", "times"), [("services", 1), ("services", 3), ("jobs", 1)])
def test_what_was_made_without_an_answer_is_taken_as_made(tmp_path, target, times):
    with faulty(tmp_path, scripted({}, Behaviour(running=0.5))) as w, w.operator():
        fault = w.faults.add(drop("create", target, after=True, times=times))
        w.apply(**{**SFT_ONLY, "backend": "Job", "sft": GANG})
        well_ended(w)
        assert fault.hits == times
        assert [item.done for item in w.requests.of("create", target)].count(201) == 1


@pytest.mark.fault(9, 21)
def test_what_an_earlier_run_of_the_name_made_is_not_taken_for_ours(tmp_path):
    with faulty(tmp_path) as w:
        earlier = w.apply(**SFT_ONLY)["metadata"]["uid"]
        about = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun", "name": "r"}
        owner = {**about, "uid": earlier, "controller": True}
        kept = {"name": "r-sft-1", "ownerReferences": [owner], "finalizers": ["example.com/slow"]}
        spec = {"pytorchReplicaSpecs": {}, "runPolicy": {"suspend": True}}
        uid = w.server.create("pytorchjobs", {"metadata": kept, "spec": spec})["metadata"]["uid"]
        w.server.delete("reasoningruns", "r")
        with w.operator():
            w.apply(**SFT_ONLY)
            w.until(lambda run: (condition(run, "Queued") or {}).get("reason") == "EarlierRunEnds")
            assert w.server.get("pytorchjobs", "r-sft-1")["metadata"]["uid"] == uid
            assert w.requests.of("delete") == []
            w.server.patch("pytorchjobs", "r-sft-1", {"metadata": {"finalizers": None}})
            well_ended(w)


@pytest.mark.fault(9, 10)
@pytest.mark.parametrize("owned", [False, True], ids=["nobody", "somebody"])
@pytest.mark.parametrize("target", ["pytorchjobs", "jobs", "services"])
def test_a_name_that_somebody_has_fails_the_run_and_is_left(tmp_path, target, owned):
    backend = "PyTorchJob" if target == "pytorchjobs" else "Job"
    with faulty(tmp_path) as w:
        uid = somebodys(w, target, owned)
        with w.operator():
            # That the creation was not answered makes no difference to whose it is.
            w.faults.add(drop("create", target, after=True))
            w.apply(**{**SFT_ONLY, "backend": backend, "sft": GANG})
            run = w.end(seconds=30)
            assert condition(run, "Failed")["reason"] == "NameConflict"
            assert "r-sft-1" in run["status"]["message"]
            assert w.server.get(target, "r-sft-1")["metadata"]["uid"] == uid
            assert w.requests.of("delete") == []
            no_rule_was_broken(w)


@pytest.mark.fault(12)
@pytest.mark.parametrize("times", [1, 3])
def test_a_job_that_is_gone_between_list_and_get_is_made_again(tmp_path, times):
    """A LIST that shows the job in the meantime makes the rest of the reads needless."""
    with faulty(tmp_path) as w, w.operator(resync=1.0):
        w.watched("reasoningruns", "pytorchjobs")
        w.faults.add(hide("pytorchjobs", times=None))
        w.faults.add(drop("create", "pytorchjobs", after=True))
        gone = w.faults.add(answer("get", "pytorchjobs", 404, times=times))
        w.apply(**SFT_ONLY)
        well_ended(w)
        assert 1 <= gone.hits <= times


@pytest.mark.fault(12)
def test_a_job_that_is_gone_when_it_is_to_be_deleted_is_gone(tmp_path):
    with faulty(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operator():
        w.apply(**SFT_ONLY)
        w.until(run_starts)

        def first(_):
            w.server.delete("pytorchjobs", "r-sft-1")

        fault = w.faults.add(Fault("delete", "pytorchjobs", hook=first))
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
        w.until(lambda run: holds(run, "Suspended"), seconds=30)
        assert fault.hits == 1
        assert [item.status for item in w.requests.of("delete", "pytorchjobs")] == [404]
        w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})
        well_ended(w, attempts={"sft": 2})


@pytest.mark.fault(13)
@pytest.mark.parametrize("backend", ["PyTorchJob", "Auto"])
def test_a_process_outlives_the_definition_of_its_backend(tmp_path, backend):
    with world(tmp_path, scripted({("sft", 1): FOREVER})) as w, w.operators("--resync", "1") as it:
        w.apply(**SFT_ONLY, backend=backend)
        w.until(run_starts, seconds=30)
        w.server.delete("customresourcedefinitions", "pytorchjobs.kubeflow.org")
        run = w.until(
            lambda run: (condition(run, "Queued") or {}).get("reason") == "BackendUnavailable",
            seconds=40,
        )
        # What it began with stays: no Job takes the place of the lost one.
        assert run["status"]["backend"] == "PyTorchJob"
        assert w.created("jobs") == []
        w.server.create("customresourcedefinitions", pytorchjobs())
        w.end(seconds=60)
        assert holds(w.run(), "Succeeded")
        assert it.kills == 0
        assert all(code == 0 for code in it.codes)


def counted(name, **labels):
    """A sample of this process's own metrics."""
    wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(rf"^{name}{{{wanted}}} (\S+)$", exposition().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.fault(14)
def test_a_status_that_is_refused_is_counted_and_no_hot_loop(tmp_path):
    name = "coldstart_operator_reconcile_errors_total"
    before = counted(name, reason="Invalid")
    with faulty(tmp_path, scripted({}, FOREVER)) as w, w.operator(max_backoff=60.0):
        text = "status.stages[0].state: Unsupported value"
        running = lambda request: "'state': 'Running'" in str(request.body)  # noqa: E731
        refusal = {"reason": "Invalid", "message": text, "where": running}
        fault = w.faults.add(answer("patch", "reasoningruns/status", 422, times=None, **refusal))
        w.apply(**SFT_ONLY)
        run = w.until(
            lambda run: "cannot go on" in ((run or {}).get("status") or {}).get("message", "")
        )
        assert text in run["status"]["message"]
        time.sleep(4)
        assert counted(name, reason="Invalid") - before == fault.hits
        assert 3 <= fault.hits <= 10  # 0.05 s, doubled each time
        w.faults.clear()


@pytest.mark.fault(15)
@pytest.mark.parametrize("backend", ["PyTorchJob", "Job"])
def test_a_webhook_of_others_that_is_down_is_named_and_waited_for(tmp_path, backend):
    target = {"PyTorchJob": "pytorchjobs", "Job": "jobs"}[backend]
    text = 'failed calling webhook "mpytorchjob.kb.io": no endpoints available for service "kueue"'
    with faulty(tmp_path) as w, w.operator():
        down = {"reason": "InternalError", "message": text, "times": None}
        fault = w.faults.add(answer("create", target, 500, **down))
        w.apply(**SFT_ONLY, backend=backend)
        run = w.until(lambda run: text in ((run or {}).get("status") or {}).get("message", ""))
        assert not holds(run, "Failed")
        before = len(w.writes())
        time.sleep(1.5)
        assert len(w.writes()) == before  # what has been said is not said again
        assert fault.hits < 15
        w.faults.clear()
        well_ended(w)
