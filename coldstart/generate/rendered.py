"""`manifests/`: what the chart renders to with its defaults, for `kubectl apply`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coldstart.generate.chart import FOLDER

RELEASE = "coldstart"
NAMESPACE = "coldstart-system"

_ORDER = (
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Service",
    "Deployment",
    "Issuer",
    "Certificate",
    "ValidatingWebhookConfiguration",
)
"""What others need goes first."""

_OPERATOR = """\
# Made by `make generate` from charts/coldstart, with its defaults. For all namespaces:
#   kubectl apply -f manifests/crd.yaml -f manifests/operator.yaml
"""

_WEBHOOK = """\
# Made by `make generate` from charts/coldstart: the operator with the admission webhook. A run that
# can never work is refused when it is applied, with a line for each field; without the webhook the
# operator says the same in the status of the run. Needs cert-manager (https://cert-manager.io).
# To turn it on:
#   kubectl apply -f manifests/webhook.yaml
# To turn it off:
#   kubectl delete validatingwebhookconfiguration coldstart-operator
#   kubectl apply -f manifests/operator.yaml
"""

_PLACE = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    app.kubernetes.io/name: coldstart
    app.kubernetes.io/part-of: coldstart
    pod-security.kubernetes.io/enforce: restricted
"""


def manifests(root: Path) -> Iterator[tuple[str, str]]:
    """The name and text of each rendered file, from the chart as it is on disk."""
    for name, head, webhook in (("operator", _OPERATOR, False), ("webhook", _WEBHOOK, True)):
        values = {"crds": {"enabled": False}, "webhook": {"enabled": webhook}}
        yield f"manifests/{name}.yaml", head + _text(root, values)


def _text(root: Path, values: dict[str, Any]) -> str:
    # Helm's engine is a program of Go; nothing but this command needs it.
    from helm_python import Chart  # noqa: PLC0415

    with Chart.load(root / FOLDER) as chart:
        files = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    parts = [part.strip() + "\n" for text in files.values() for part in text.split("\n---\n")]
    objects = [part for part in parts if "\nkind: " in part]
    return "---\n".join(sorted([_PLACE, *objects], key=_rank))


def _rank(text: str) -> int:
    """Where an object stands in the file."""
    kind = text.partition("\nkind: ")[2].split("\n", 1)[0]
    return _ORDER.index(kind)
