"""manifests/operator.yaml: what a plain `kubectl apply` installs, and what it may do."""

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from coldstart_operator.__main__ import main
from coldstart_operator.settings import Settings

TEXT = (Path(__file__).parents[2] / "manifests" / "operator.yaml").read_text()
DOCUMENTS = list(yaml.safe_load_all(TEXT))
(DEPLOYMENT,) = (item for item in DOCUMENTS if item["kind"] == "Deployment")
(ROLE,) = (item for item in DOCUMENTS if item["kind"] == "ClusterRole")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]

VERBS = {"get", "list", "watch", "create", "patch", "update", "delete"}
NEVER = {"secrets", "pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token"}


def excesses(role):
    """What a role has that ours must not."""
    for rule in role["rules"]:
        for resource in rule.get("resources", ()):
            if "*" in resource or resource in NEVER or "role" in resource:
                yield f"resource {resource}"
        for verb in rule["verbs"]:
            if verb not in VERBS:
                yield f"verb {verb}"
        if "*" in rule.get("apiGroups", ()):
            yield "every group"
        if "nonResourceURLs" in rule:
            yield "URLs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda item: item["kind"])
def test_every_document_is_what_kubernetes_knows(document):
    kubernetes_validate.validate(document, "1.37", strict=True)


def test_a_misspelt_field_is_seen():
    broken = copy.deepcopy(DEPLOYMENT)
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_role_has_nothing_in_excess():
    assert list(excesses(ROLE)) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]},
        {"apiGroups": ["batch"], "resources": ["*"], "verbs": ["get"]},
        {"apiGroups": ["*"], "resources": ["jobs"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["deletecollection"]},
        {"apiGroups": ["x"], "resources": ["clusterroles"], "verbs": ["get"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
    ],
    ids=str,
)
def test_an_excess_is_seen(rule):
    assert list(excesses({"rules": [*ROLE["rules"], rule]}))


def test_binding_joins_the_account_and_the_role():
    (binding,) = (item for item in DOCUMENTS if item["kind"] == "ClusterRoleBinding")
    (account,) = (item for item in DOCUMENTS if item["kind"] == "ServiceAccount")
    (subject,) = binding["subjects"]
    assert binding["roleRef"]["name"] == ROLE["metadata"]["name"]
    assert {"name": subject["name"], "namespace": subject["namespace"]} == {
        key: account["metadata"][key] for key in ("name", "namespace")
    }
    assert POD["serviceAccountName"] == account["metadata"]["name"]


def test_namespace_comes_first_and_holds_everything():
    assert DOCUMENTS[0]["kind"] == "Namespace"
    spaces = {item["metadata"].get("namespace") for item in DOCUMENTS} - {None}
    assert spaces == {DOCUMENTS[0]["metadata"]["name"]}


def test_there_is_never_a_second_operator():
    assert DEPLOYMENT["spec"]["replicas"] == 1
    assert DEPLOYMENT["spec"]["strategy"] == {"type": "Recreate"}
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_pod_meets_pod_security_restricted():
    assert DOCUMENTS[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = CONTAINER["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD.keys()
    assert [set(volume) - {"name"} for volume in POD["volumes"]] == [{"emptyDir"}]


def test_ports_are_those_that_the_operator_serves():
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"health": Settings.health_port, "metrics": Settings.metrics_port}
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "health"}
    assert set(CONTAINER["resources"]) == {"requests", "limits"}


def test_arguments_are_options_of_the_operator():
    told = main.make_context("operator", list(CONTAINER["args"])).params
    assert (told["health_port"], told["metrics_port"]) == (
        Settings.health_port,
        Settings.metrics_port,
    )
    assert told["webhook_port"] is None
