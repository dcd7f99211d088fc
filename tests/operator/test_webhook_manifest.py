"""manifests/webhook.yaml and its patch: what turns the admission webhook on, and hangs together."""

import copy
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from apiserver.patches import strategic

from coldstart.generate.crd import GROUP, KIND, PLURAL, VERSION
from coldstart_operator.__main__ import main
from coldstart_operator.webhook import SECONDS

FOLDER = Path(__file__).parents[2] / "manifests"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "webhook.yaml").read_text()))
BY_KIND = {item["kind"]: item for item in DOCUMENTS}
OPERATOR = list(yaml.safe_load_all((FOLDER / "operator.yaml").read_text()))
(DEPLOYMENT,) = (item for item in OPERATOR if item["kind"] == "Deployment")
PATCH_FILE = FOLDER / "patches" / "webhook.yaml"
PATCH = yaml.safe_load(PATCH_FILE.read_text())
PATCHED = strategic(copy.deepcopy(DEPLOYMENT), PATCH)
POD = PATCHED["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]

CERT_MANAGER = {
    "Issuer": {"selfSigned": {"crlDistributionPoints": []}},
    "Certificate": {
        "secretName": "",
        "commonName": "",
        "dnsNames": [],
        "issuerRef": {"group": "", "kind": "", "name": ""},
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
    },
}
"""The fields that we use of cert-manager's own kinds (deploy/crds, August 2026), by type;
Kubernetes' schemas do not have them."""


def unknown(value, known, path="spec"):
    """The fields of a spec that cert-manager does not have, or has as another type."""
    if not isinstance(value, type(known)):
        yield path
    elif isinstance(known, dict):
        for key, inner in value.items():
            if key in known:
                yield from unknown(inner, known[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"


@pytest.mark.parametrize("document", [*DOCUMENTS, PATCHED], ids=lambda item: item["kind"])
def test_every_document_is_what_kubernetes_knows(document):
    if document["apiVersion"] == "cert-manager.io/v1":
        assert list(unknown(document["spec"], CERT_MANAGER[document["kind"]])) == []
        assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    else:
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("Certificate", {"dnsName": ["a"]}),
        ("Certificate", {"privateKey": {"size": "256"}}),
        ("Issuer", {"selfsigned": {}}),
    ],
)
def test_a_misspelt_field_is_seen(kind, broken):
    assert list(unknown(broken, CERT_MANAGER[kind]))


def test_a_webhook_that_is_away_keeps_nobody_from_working():
    (webhook,) = BY_KIND["ValidatingWebhookConfiguration"]["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["sideEffects"] == "None"
    assert webhook["matchPolicy"] == "Equivalent"
    assert webhook["timeoutSeconds"] == SECONDS
    assert webhook["admissionReviewVersions"] == ["v1"]
    (rule,) = webhook["rules"]
    assert (rule["apiGroups"], rule["apiVersions"], rule["resources"]) == (
        [GROUP],
        [VERSION],
        [PLURAL],
    )
    assert rule["operations"] == ["CREATE", "UPDATE"]
    assert KIND == "ReasoningRun"


def test_the_api_server_finds_the_operator_and_trusts_its_certificate():
    configuration, service = BY_KIND["ValidatingWebhookConfiguration"], BY_KIND["Service"]
    certificate, issuer = BY_KIND["Certificate"], BY_KIND["Issuer"]
    namespace, name = (service["metadata"][key] for key in ("namespace", "name"))
    (webhook,) = configuration["webhooks"]
    (port,) = service["spec"]["ports"]
    assert webhook["clientConfig"]["service"] == {
        "namespace": namespace,
        "name": name,
        "port": port["port"],
        "path": "/validate",
    }
    assert f"{name}.{namespace}.svc" in certificate["spec"]["dnsNames"]
    injected = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert injected == f"{namespace}/{certificate['metadata']['name']}"
    assert certificate["spec"]["issuerRef"]["name"] == issuer["metadata"]["name"]
    spaces = {item["metadata"].get("namespace") for item in DOCUMENTS} - {None}
    assert spaces == {DEPLOYMENT["metadata"]["namespace"]}
    labels = PATCHED["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_patch_gives_the_operator_its_port_and_certificate(tmp_path):
    (port,) = (item for item in CONTAINER["ports"] if item["name"] == "webhook")
    assert BY_KIND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    (mount,) = (item for item in CONTAINER["volumeMounts"] if item["name"] == "webhook")
    (volume,) = (item for item in POD["volumes"] if item["name"] == "webhook")
    assert volume["secret"]["secretName"] == BY_KIND["Certificate"]["spec"]["secretName"]
    assert volume["secret"]["optional"] is True
    args = [item.replace(mount["mountPath"], str(tmp_path)) for item in CONTAINER["args"]]
    told = main.make_context("operator", args).params
    assert (told["webhook_port"], told["webhook_cert"]) == (port["containerPort"], tmp_path)


def test_the_patch_changes_nothing_else():
    bare = copy.deepcopy(PATCHED)
    pod = bare["spec"]["template"]["spec"]
    for holder, key in ((pod["containers"][0], "ports"), (pod["containers"][0], "volumeMounts")):
        holder[key] = [item for item in holder[key] if item["name"] != "webhook"]
    pod["volumes"] = [item for item in pod["volumes"] if item["name"] != "webhook"]
    args = pod["containers"][0]["args"]
    pod["containers"][0]["args"] = [item for item in args if "webhook" not in item]
    assert bare == DEPLOYMENT


def test_kubectl_patches_it_likewise(tmp_path):
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on PATH")
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(DEPLOYMENT))
    command = [program, "patch", "--local", "-f", str(file), "-o", "yaml"]
    command += ["--patch-file", str(PATCH_FILE)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    made = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]
    assert _by_name(made["volumes"]) == _by_name(POD["volumes"])
    (container,) = made["containers"]
    for key in ("ports", "volumeMounts"):
        assert _by_name(container[key]) == _by_name(CONTAINER[key])
    assert container["args"] == CONTAINER["args"]


def _by_name(items):
    return {item["name"]: item for item in items}
