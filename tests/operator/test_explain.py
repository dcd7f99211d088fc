"""What a child waits for: one line, from pods and events as clusters write them."""

import pytest
from child_objects import IMAGE, condition, seen_job, seen_pod, stamp
from hypothesis import given
from hypothesis import strategies as st

from coldstart.children.backend import BACKENDS
from coldstart_operator.explain import waiting_reason

NAMES = [item.name for item in BACKENDS]


def event(about: dict, reason: str, message: str, at=0.0, type_="Warning", **more) -> dict:
    metadata = about["metadata"]
    return {
        "type": type_,
        "reason": reason,
        "message": message,
        "lastTimestamp": stamp(at),
        "involvedObject": {
            "kind": about.get("kind", "Pod"),
            "name": metadata["name"],
            "uid": metadata.get("uid"),
        },
    } | more


QUOTA = (
    'pods "r-sft-1-master-0" is forbidden: exceeded quota: gpus, requested: '
    "requests.nvidia.com/gpu=4, used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"
)
RESTRICTED = (
    'pods "r-sft-1-worker-0" is forbidden: violates PodSecurity "restricted:latest": '
    'allowPrivilegeEscalation != false (container "init-pytorch" must set …)'
)
NO_GPU = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."
ACCOUNT = 'pods "r-sft-1-master-0" is forbidden: serviceaccount "t" not found'


@pytest.mark.parametrize(
    ("message", "beginning"),
    [
        (QUOTA, "quota: FailedCreatePod: pods"),
        (RESTRICTED, "PodSecurity: FailedCreatePod: pods"),
        (ACCOUNT, "missing service account: FailedCreatePod: pods"),
        ("no PriorityClass with name high was found", "missing priority class: FailedCreatePod"),
        ("something else", "FailedCreatePod: something else"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_pods_that_cannot_be_created(name, message, beginning):
    child = seen_job(name)
    assert waiting_reason(child, [], [event(child, "FailedCreatePod", message)]).startswith(
        beginning
    )


def test_a_service_that_cannot_be_created():
    child = seen_job("PyTorchJob")
    found = waiting_reason(child, [], [event(child, "FailedCreateService", "name is too long")])
    assert found == "FailedCreateService: name is too long"


def unschedulable(message: str, reason="Unschedulable") -> dict:
    return {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (
            {"conditions": [unschedulable(NO_GPU)]},
            f"no node has the GPUs free: pod r-sft-1-0: {NO_GPU}",
        ),
        (
            {"conditions": [unschedulable('persistentvolumeclaim "runs" not found')]},
            'missing claim: pod r-sft-1-0: persistentvolumeclaim "runs" not found',
        ),
        (
            {"conditions": [unschedulable("0/1 nodes are available: 1 node(s) had taints.")]},
            "no node fits: pod r-sft-1-0: 0/1 nodes are available: 1 node(s) had taints.",
        ),
        (
            {"conditions": [unschedulable("waiting for x", "SchedulingGated")]},
            "pod r-sft-1-0 waits for its scheduling gates: waiting for x",
        ),
        (
            {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
            f"image pull: pod r-sft-1-0: ImagePullBackOff {IMAGE}: Back-off pulling image",
        ),
        (
            {
                "waiting": {
                    "reason": "CreateContainerConfigError",
                    "message": 'secret "hub" not found',
                }
            },
            'pod r-sft-1-0: CreateContainerConfigError: secret "hub" not found',
        ),
        (
            {"waiting": {"reason": "ContainerCreating"}},
            "pod r-sft-1-0 is starting (ContainerCreating)",
        ),
        ({}, "pod r-sft-1-0 waits for a node"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_pods_that_do_not_start(name, pod, expected):
    child = seen_job(name, nodes=1)
    assert waiting_reason(child, [seen_pod(child, 0, "Pending", **pod)], []) == expected


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("FailedMount", "MountVolume.SetUp failed", "FailedMount: MountVolume.SetUp failed"),
        (
            "FailedScheduling",
            NO_GPU,
            f"no node has the GPUs free: FailedScheduling: {NO_GPU}",
        ),
    ],
)
def test_events_of_a_pod_say_more_than_that_it_starts(reason, message, expected):
    child = seen_job("Job", nodes=1)
    pod = seen_pod(child, 0, "Pending", waiting={"reason": "ContainerCreating"})
    assert waiting_reason(child, [pod], [event(pod, reason, message)]) == expected


def test_nothing_holds_up_pods_that_run():
    child = seen_job("PyTorchJob")
    old = event(child, "FailedCreatePod", QUOTA)
    pods = [seen_pod(child, 0), seen_pod(child, 1)]
    assert waiting_reason(child, pods, [old]) == ""
    assert waiting_reason(child, pods[:1], [old]).startswith("quota")


@pytest.mark.parametrize("name", NAMES)
def test_a_child_without_pods_and_events_waits_for_its_controller(name):
    found = waiting_reason(seen_job(name), [], [])
    assert found == "waits for its controller to create its pods (0 of 2)"


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "signs",
    [
        {"conditions": [{"type": "DisruptionTarget", "reason": "DeletionByTaintManager"}]},
        {"status": {"reason": "NodeLost"}},
    ],
)
def test_a_lost_node_is_named(signs):
    child = seen_job("PyTorchJob")
    pods = [seen_pod(child, 0), seen_pod(child, 1, **signs)]
    expected = "node lost: pod r-sft-1-1 was on node-1, which does not answer"
    assert waiting_reason(child, pods, []) == expected


def test_a_node_that_came_back_is_not_lost():
    child = seen_job("Job", nodes=1)
    pod = seen_pod(child, 0, conditions=[{"type": "Ready", "status": "False"}])
    told = event(pod, "NodeNotReady", "Node is not ready")
    assert waiting_reason(child, [pod], [told]).startswith("node lost")
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert waiting_reason(child, [pod], [told]) == ""


def test_a_queued_child_names_its_queue_and_what_kueue_says():
    child = seen_job("PyTorchJob", condition("Suspended"))
    assert waiting_reason(child, [], []) == "suspended"
    child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    where = "queued: waits for admission by Kueue's queue team-a"
    assert waiting_reason(child, [], []) == where
    workload = {"kind": "Workload", "metadata": {"name": "pytorchjob-r-sft-1-4a7fe"}}
    told = event(workload, "Pending", "insufficient unused quota", type_="Normal")
    assert waiting_reason(child, [], [told]) == f"{where}: {told['message']}"


def test_the_newest_event_speaks_in_either_version_of_events():
    child = seen_job("Job")
    old = event(child, "FailedCreate", QUOTA, at=0)
    new = event(child, "FailedCreate", "", at=0, note=RESTRICTED)
    new |= {"regarding": new.pop("involvedObject"), "lastTimestamp": None, "message": None}
    new["eventTime"] = stamp(60)
    assert waiting_reason(child, [], [old, new]).startswith("PodSecurity")
    old["series"] = {"lastObservedTime": stamp(120)}
    assert waiting_reason(child, [], [new, old]).startswith("quota")


@pytest.mark.parametrize(
    "other",
    [
        {"type": "Normal"},
        {"involvedObject": {"kind": "PyTorchJob", "name": "r-sft-1", "uid": "of-an-earlier-one"}},
        {"involvedObject": {"kind": "PyTorchJob", "name": "other"}},
        {"involvedObject": None},
    ],
)
def test_what_is_not_a_warning_about_this_child_is_left_out(other):
    child = seen_job("PyTorchJob")
    told = event(child, "FailedCreatePod", QUOTA) | other
    assert waiting_reason(child, [], [told]).startswith("waits for its controller")


def test_hostile_words_become_one_short_line():
    child = seen_job("PyTorchJob")
    words = "a\nb\r\x1b[31m\u202e\u2028\0" + "x" * 10**6
    found = waiting_reason(child, [], [event(child, "FailedCreatePod", words)])
    assert found.startswith("FailedCreatePod: a b [31m xxx")
    assert len(found) == 512
    assert found.isprintable()


_odd = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=2)
_document = st.recursive(
    _odd,
    lambda inner: st.dictionaries(
        st.sampled_from(
            ["metadata", "name", "status", "conditions", "type", "reason", "involvedObject", "spec"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(_document, st.lists(_document, max_size=3), st.lists(_document, max_size=3))
def test_no_object_raises(change, pods, events):
    child = seen_job("Job")
    mine = [seen_pod(child, 0, "Pending") | pod for pod in pods]
    found = waiting_reason(child | change, mine + pods, events)
    assert len(found) <= 512
    told = [event(child, "FailedCreate", "x") | item for item in events]
    waiting_reason(child, [], told)
