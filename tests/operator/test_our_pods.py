"""Every pod of this project meets PodSecurity *restricted*, and has no way to the API server."""

import kube_schema
import pytest
from our_pods import every_pod
from pod_security import violations

PODS = dict(every_pod())


def test_there_is_one_of_every_kind():
    wanted = {
        "chart",
        "kind/storage.yaml",
        "quickstart/claim.yaml",
        "quickstart report",
        "distill distill Job ",
        "beyond-paper-32b grpo PyTorchJob Worker",
    }
    assert wanted <= PODS.keys()
    assert {f"{name} evaluation Job " for name in ("paper-3b", "paper-7b")} <= PODS.keys()


@pytest.mark.fault(51)
@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_restricted(name):
    pod = PODS[name]
    kube_schema.check(pod)
    assert violations(pod) == []


@pytest.mark.parametrize("name", PODS)
def test_only_the_operator_may_talk_to_the_api_server(name):
    assert (PODS[name]["spec"].get("automountServiceAccountToken") is False) == (name != "chart")
