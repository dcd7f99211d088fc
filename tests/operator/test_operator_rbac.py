"""The role in manifests/operator.yaml against what the operator asks for: nothing less or more."""

import time

import pytest
from apiserver.authorization import allowing
from apiserver.faults import answer
from apiserver.scripts import FOREVER, Behaviour, scripted
from operating import SFT_ONLY, condition, ended, holds, run_starts, stage, world
from rights import RULES, UNSEEN, granted

WIDE = {"customresourcedefinitions"}
"""What an operator of some namespaces has no business with."""

REFUSED = "exceeded quota: gpus"


def used(w):
    """Group, resource and verb of everything that was asked for, discovery left out."""
    return {
        (item.group, item.target, item.verb)
        for item in w.server.requests.of()
        if not item.resource.startswith("/")
    }


def unused(w, rules):
    """What rules allow and was not asked for, within some seconds."""
    end = time.monotonic() + 10
    while (left := granted(rules) - used(w) - UNSEEN.keys()) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def refused(w):
    """The requests that were forbidden."""
    return [(i.verb, i.target, i.namespace) for i in w.server.requests if i.status == 403]


BEHAVIOURS = {"waits": Behaviour(refused=REFUSED), "stops": FOREVER}
"""What the pods of first attempts do, by the beginning of their run's name; others succeed."""


def script(attempt):
    first = BEHAVIOURS.get(attempt.run.partition("-")[0], Behaviour())
    return first if attempt.number == 1 else Behaviour()


def taken(w, kind, name, namespace):
    """An object of somebody else's, under the name of one that the operator will make."""
    spec = {
        "pytorchjobs": {"pytorchReplicaSpecs": {}, "runPolicy": {"suspend": True}},
        "jobs": {"suspend": True, "template": {"spec": {"restartPolicy": "Never"}}},
        "services": {"clusterIP": "None"},
    }[kind]
    w.server.create(kind, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})


def live(w, namespace="default"):
    """Everything that an operator can be brought to do, side by side."""

    def until(test, name, seconds=20):
        return w.server.wait("reasoningruns", name, test, namespace, seconds)

    def change(name, **spec):
        w.server.patch("reasoningruns", name, {"spec": spec}, namespace)

    several = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}
    taken(w, "pytorchjobs", "taken-sft-1", namespace)
    taken(w, "jobs", "taken-job-sft-1", namespace)
    taken(w, "services", "taken-service-sft-1", namespace)
    w.server.faults.add(answer("patch", "reasoningruns/status", 409, times=1))
    w.apply("whole", namespace)
    w.apply("expires", namespace, backend="Job", ttlSecondsAfterFinished=0, **SFT_ONLY)
    w.apply("gang", namespace, **{**SFT_ONLY, "backend": "Job", "sft": several})
    w.apply("taken", namespace, **SFT_ONLY)
    w.apply("taken-job", namespace, backend="Job", **SFT_ONLY)
    w.apply("taken-service", namespace, **{**SFT_ONLY, "backend": "Job", "sft": several})
    w.apply("waits", namespace, **SFT_ONLY)
    for backend in ("PyTorchJob", "Job"):
        w.apply(f"stops-{backend.lower()}", namespace, backend=backend, **SFT_ONLY)
    for name in ("stops-pytorchjob", "stops-job"):
        until(run_starts, name)
        change(name, suspend=True)
        until(lambda run: holds(run, "Suspended"), name)
        change(name, suspend=False)
    for name in ("whole", "gang", "stops-pytorchjob", "stops-job"):
        assert holds(until(ended, name), "Succeeded")
    for name in ("taken", "taken-job", "taken-service"):
        run = until(ended, name)
        assert condition(run, "Failed")["reason"] == "NameConflict"
        error = stage(run, "sft")["error"]
        assert error["code"] == "NameConflict"
        assert "delete it" in error["message"]
    until(lambda run: REFUSED in (run.get("status") or {}).get("message", ""), "waits")
    until(lambda run: run is None, "expires")


@pytest.mark.fault(49)
def test_role_allows_what_is_used_and_nothing_else(tmp_path):
    with world(tmp_path, script) as w:
        w.server.authorize = allowing(RULES)
        with w.operator(resync=1.0):
            live(w)
            assert unused(w, RULES) == set()
        assert refused(w) == []
        assert used(w) <= granted(RULES) - UNSEEN.keys()


@pytest.mark.fault(49, 50)
def test_an_operator_of_one_namespace_needs_the_role_there_only(tmp_path):
    rules = [rule for rule in RULES if not WIDE & set(rule["resources"])]
    allowed = allowing(rules)
    with world(tmp_path, script) as w:
        w.server.create("namespaces", {"metadata": {"name": "ml"}})
        w.server.authorize = lambda request: (
            allowed(request) if request.namespace == "ml" else "elsewhere"
        )
        with w.operator(namespaces=("ml",), resync=1.0):
            live(w, "ml")
            assert unused(w, rules) == set()
        assert refused(w) == []
        assert used(w) <= granted(rules) - UNSEEN.keys()


@pytest.mark.parametrize("resource", ["pytorchjobs", "reasoningruns/status"])
def test_a_verb_that_is_missing_is_seen_and_healed_when_it_is_given(tmp_path, resource):
    rules = [rule for rule in RULES if resource not in rule["resources"]]
    less = [
        {**rule, "verbs": sorted(set(rule["verbs"]) - {"create", "patch"})}
        for rule in RULES
        if resource in rule["resources"]
    ]
    with world(tmp_path, scripted({})) as w:
        w.server.authorize = allowing([*rules, *less])
        with w.operator():
            w.apply(**SFT_ONLY)
            w.server.wait("reasoningruns", "r", lambda _: refused(w))
            w.server.authorize = allowing(RULES)
            assert holds(w.end(), "Succeeded")
