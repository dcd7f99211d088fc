"""What is taken for alive, for ours and for lost."""

import asyncio
from datetime import timedelta

import pytest
from builders import NOW, make_run

from coldstart.children.backend import BACKENDS
from coldstart.plan import ChildState, Wait, next_step
from coldstart.status import RunStatus, StageState, StageStatus
from coldstart_operator.cache import Cache, Key, key_of, slim_child, slim_run
from coldstart_operator.sight import LABEL, Observer

LOST = 60.0


class Pods:
    """A cluster in which there are pods and nothing else."""

    def __init__(self, *pods):
        self.pods = list(pods)
        self.asked = 0

    def time(self, now):
        return now

    async def listed(self, resource, namespace, **selectors):
        assert (resource.plural, namespace) == ("pods", "ns")
        assert selectors == {"labelSelector": f"{LABEL}=r"}
        self.asked += 1
        return self.pods


def labels(stage="sft", attempt=1, uid="u"):
    return {
        LABEL: "r",
        "coldstart.dev/stage": stage,
        "coldstart.dev/attempt": str(attempt),
        "coldstart.dev/run-uid": uid,
    }


def later(seconds):
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def job(condition="Running", *, owner="u", deleted=None, **more):
    owned = {"kind": "ReasoningRun", "name": "r", "uid": owner, "controller": True}
    metadata = {
        "name": "r-sft-1",
        "namespace": "ns",
        "uid": "job",
        "resourceVersion": "1",
        "labels": labels(**more),
    }
    if owner:
        metadata["ownerReferences"] = [owned]
    if deleted is not None:
        metadata["deletionTimestamp"] = later(deleted)
    conditions = [{"type": condition, "status": "True", "lastTransitionTime": later(0)}]
    return {"kind": "PyTorchJob", "metadata": metadata, "status": {"conditions": conditions}}


def pod(phase="Running", *, deleted=None, **more):
    metadata = {"name": "p", "namespace": "ns", "uid": "pod", "labels": labels(**more)}
    if deleted is not None:
        metadata["deletionTimestamp"] = later(deleted)
    return {"metadata": metadata, "status": {"phase": phase}}


def look(cluster, *jobs, state=StageState.RUNNING, thorough=False):
    run = make_run()
    metadata = run.metadata.model_copy(update={"namespace": "ns"})
    entry = StageStatus(name="sft", state=state, attempt=1)
    run = run.model_copy(update={"metadata": metadata, "status": RunStatus(stages=(entry,))})
    children = {
        item.name: Cache(slim_child, lambda _: Key("ns", "r"), lambda _: None) for item in BACKENDS
    }
    for document in jobs:
        children["PyTorchJob"].put(document)
    runs = Cache(slim_run, key_of, lambda _: None)
    observer = Observer(cluster, runs, children, LOST)
    return run, asyncio.run(observer.look(run, NOW, thorough=thorough))


@pytest.mark.parametrize(
    ("condition", "state"),
    [
        ("Running", StageState.RUNNING),
        ("Created", StageState.STARTING),
        ("Suspended", StageState.RUNNING),
    ],
)
def test_a_live_child_is_seen_without_asking_for_pods(condition, state):
    cluster = Pods()
    _, sight = look(cluster, job(condition), state=state)
    assert cluster.asked == 0
    assert sight.children[0].state.live
    assert not sight.reduced


def test_the_pods_of_a_job_that_ran_and_lacks_one_are_looked_at():
    cluster = Pods()
    _, sight = look(cluster, job("Created"), state=StageState.RUNNING)
    assert cluster.asked == 1
    assert sight.reduced


@pytest.mark.parametrize(("state", "asked"), [(StageState.RUNNING, 1), (StageState.SUCCEEDED, 0)])
def test_pods_are_asked_for_when_an_end_is_not_recorded_yet(state, asked):
    cluster = Pods()
    look(cluster, job("Succeeded"), state=state)
    assert cluster.asked == asked


STILL_THERE = {
    "a job of an earlier run": [job(owner="old")],
    "an ended job of an earlier run": [job("Failed", owner="old")],
    "a live job of nobody": [job(owner=None)],
    "a pod of an earlier run": [pod(uid="old")],
    "a pod of a job that is gone": [pod()],
    "a pod that has not begun": [pod("Pending")],
    "a pod that nobody hears of": [pod("Unknown")],
    "a pod that ends": [pod(deleted=30)],
    "a pod that is a little late": [pod(deleted=-LOST + 1)],
}


def parted(things):
    jobs = [thing for thing in things if "kind" in thing]
    return [thing for thing in things if thing not in jobs], jobs


@pytest.mark.parametrize("name", STILL_THERE)
def test_nothing_starts_while_something_may_still_write(name):
    pods, jobs = parted(STILL_THERE[name])
    run, sight = look(Pods(*pods), *jobs, state=StageState.WAITING, thorough=True)
    assert sight.children == ()
    assert len(sight.remains) == 1
    step = next_step(run, sight.observation, NOW)
    assert isinstance(step.action, Wait)


GONE = {
    "an ended job of nobody": [job("Failed", owner=None)],
    "a pod that has succeeded": [pod("Succeeded")],
    "a pod that has failed": [pod("Failed", uid="old")],
    "a pod on a lost node": [pod(deleted=-LOST - 1)],
}


@pytest.mark.parametrize("name", GONE)
def test_what_has_ended_holds_up_nothing(name):
    pods, jobs = parted(GONE[name])
    _, sight = look(Pods(*pods), *jobs, state=StageState.WAITING, thorough=True)
    assert sight.remains == ()


def test_the_pods_of_a_live_child_are_its_own_business():
    _, sight = look(Pods(pod()), job(), thorough=True)
    assert sight.remains == ()
    assert len(sight.children) == 1


def test_a_failed_job_whose_pods_may_write_is_looked_at_again():
    _, sight = look(Pods(pod()), job("Failed"))
    assert sight.children[0].state is ChildState.RUNNING
    assert sight.unsettled
    _, sight = look(Pods(pod("Failed")), job("Failed"))
    assert sight.children[0].state is ChildState.FAILED
    assert not sight.unsettled


@pytest.mark.parametrize(
    ("pods", "seen"),
    [
        ([pod(deleted=-LOST - 1)], 0),  # its node is lost
        ([], 0),
        ([pod(deleted=10)], 1),
        ([pod()], 1),
    ],
)
def test_a_job_that_waits_for_pods_on_a_lost_node_counts_as_gone(pods, seen):
    _, sight = look(Pods(*pods), job(deleted=-LOST - 1))
    assert len(sight.children) == seen


def test_a_job_that_is_being_deleted_is_given_its_time():
    cluster = Pods(pod(deleted=-LOST - 1))
    _, sight = look(cluster, job(deleted=-LOST + 1))
    assert cluster.asked == 0
    assert sight.children[0].state is ChildState.STOPPING
