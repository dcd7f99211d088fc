"""The rights of the operator's own ServiceAccount, by the audit log of a real API server."""

import pytest
from apiserver.scripts import FOREVER, Behaviour
from cluster_world import needs_a_server, on, requested
from control_plane import plane
from operating import SFT_ONLY, ended, holds, run_starts, world
from rights import RULES, UNSEEN, granted

pytestmark = pytest.mark.cluster

needs_a_server()

SEVERAL = {"dataset": {"name": "d"}, "resources": {"nodes": 2}}
NO_PODS = {"hard": {"pods": "0"}}

AFTER_A_CONFLICT = ("coldstart.dev", "reasoningruns", "get")
"""Asked for where somebody else wrote in between, which cannot be had on purpose here; by
test_operator_rbac it is."""


def script(attempt):
    return FOREVER if attempt.run.startswith("stops") and attempt.number == 1 else Behaviour()


def live(w):
    """Everything that an operator can be brought to do, on a server that does not fail."""
    stops = {f"stops-{backend.lower()}": backend for backend in ("PyTorchJob", "Job")}
    w.apply("whole")
    w.apply("expires", backend="Job", ttlSecondsAfterFinished=0, **SFT_ONLY)
    w.apply("gang", **{**SFT_ONLY, "backend": "Job", "sft": SEVERAL})
    service = {"metadata": {"name": "taken-sft-1"}, "spec": {"clusterIP": "None"}}
    w.server.create("services", service)
    w.apply("taken", **{**SFT_ONLY, "backend": "Job", "sft": SEVERAL})
    for name, backend in stops.items():
        w.apply(name, backend=backend, **SFT_ONLY)
    for name in stops:
        w.until(run_starts, name, 20)
        w.server.patch("reasoningruns", name, {"spec": {"suspend": True}})
        w.until(lambda run: holds(run, "Suspended"), name, 20)
        w.server.patch("reasoningruns", name, {"spec": {"suspend": False}})
    for name in ("whole", "gang", *stops):
        assert holds(w.until(ended, name, 20), "Succeeded")
    assert holds(w.until(ended, "taken", 20), "Failed")
    w.until(lambda run: run is None, "expires", 20)
    w.server.create("resourcequotas", {"metadata": {"name": "none"}, "spec": NO_PODS})
    w.server.wait("resourcequotas", "none", lambda one: (one.get("status") or {}).get("hard"))
    w.apply("waits", **SFT_ONLY)
    w.until(lambda run: "quota" in (run.get("status") or {}).get("message", ""), "waits", 20)


@pytest.fixture(autouse=True)
def real():
    found = plane()
    if not (found.ours and found.managed):
        pytest.skip("needs an audit log, and a kube-controller-manager for quotas")
    with on(found):
        yield found


def test_every_right_is_used_and_none_is_missing(real, tmp_path):
    before = len(real.asked())
    with world(tmp_path, script) as w, w.operator(resync=1.0):
        live(w)
        asked = [requested(event) for event in real.asked()[before:]]
    assert [one for one in asked if one.query["decision"] != "allow"] == []
    used = {(one.group, one.target, one.verb) for one in asked if not one.resource.startswith("/")}
    assert granted(RULES) - used - UNSEEN.keys() <= {AFTER_A_CONFLICT}
