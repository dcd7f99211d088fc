"""manifests/webhook.yaml: the operator with the admission webhook, and what joins the two."""

from pathlib import Path

import yaml
from charting import of_kind

from coldstart.generate.crd import GROUP, KIND, PLURAL, VERSION
from coldstart_operator.__main__ import main
from coldstart_operator.webhook import SECONDS

FOLDER = Path(__file__).parents[2] / "manifests"
DOCUMENTS = list(yaml.safe_load_all((FOLDER / "webhook.yaml").read_text()))
BARE = list(yaml.safe_load_all((FOLDER / "operator.yaml").read_text()))
BY_KIND = {item["kind"]: item for item in DOCUMENTS}
POD = BY_KIND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


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
    assert spaces == {namespace}


def test_the_operator_has_the_port_and_the_certificate(tmp_path):
    (port,) = (item for item in CONTAINER["ports"] if item["name"] == "webhook")
    assert BY_KIND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    (mount,) = (item for item in CONTAINER["volumeMounts"] if item["name"] == "webhook")
    (volume,) = (item for item in POD["volumes"] if item["name"] == "webhook")
    assert volume["secret"]["secretName"] == BY_KIND["Certificate"]["spec"]["secretName"]
    assert volume["secret"]["optional"] is True
    args = [item.replace(mount["mountPath"], str(tmp_path)) for item in CONTAINER["args"]]
    told = main.make_context("operator", args).params
    assert (told["webhook_port"], told["webhook_cert"]) == (port["containerPort"], tmp_path)


def test_it_is_the_operator_and_nothing_else_changes():
    added = {"Service", "Issuer", "Certificate", "ValidatingWebhookConfiguration"}
    assert BY_KIND.keys() - {item["kind"] for item in BARE} == added
    for item in BARE:
        (same,) = of_kind(DOCUMENTS, item["kind"])
        if item["kind"] != "Deployment":
            assert same == item
    pod = BY_KIND["Deployment"]["spec"]["template"]["spec"]
    for holder, key in ((CONTAINER, "ports"), (CONTAINER, "volumeMounts"), (pod, "volumes")):
        holder[key] = [one for one in holder[key] if one["name"] != "webhook"]
    CONTAINER["args"] = [one for one in CONTAINER["args"] if "webhook" not in one]
    assert of_kind(BARE, "Deployment") == [BY_KIND["Deployment"]]
