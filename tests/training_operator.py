"""Kubeflow's training operator as a process beside a kube-apiserver of the tests; knows no jobs.

It carries out PyTorchJobs where `training-operator` lies among the API server's binaries, with its
release's `kubeflow.org_pytorchjobs.yaml` beside it. Its webhook is not asked: a service has no
address here.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml
from apiserver.wire import Wire, suppress_missing, within
from control_processes import Process, free_ports

PROGRAM = "training-operator"
DEFINITION = "kubeflow.org_pytorchjobs.yaml"
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
"""Where its pod has its secret mounted; no option changes that."""

_NAMESPACE, _SECRET = "kubeflow", "training-operator-webhook-cert"
_WEBHOOKS = "validator.training-operator.kubeflow.org"


def definition(binaries: Path) -> dict[str, Any] | None:
    """PyTorchJob as the release defines it; none where the training operator is not there."""
    if not all((binaries / name).is_file() for name in (PROGRAM, DEFINITION)):
        return None
    return dict(yaml.safe_load((binaries / DEFINITION).read_text()))


class TrainingOperator:
    """The process, which may be started again and again.

    Args:
        binaries: where the program is.
        folder: for its log.
        kubeconfig: of somebody who may do everything; PyTorchJob must be served there.
    """

    def __init__(self, binaries: Path, folder: Path, kubeconfig: Path) -> None:
        self.wire = Wire(kubeconfig)
        self.health, webhooks = free_ports(2)
        command = [
            str(binaries / PROGRAM),
            "--enable-scheme=pytorchjob",
            "--metrics-bind-address=0",
            f"--health-probe-bind-address=127.0.0.1:{self.health}",
            f"--webhook-server-port={webhooks}",
            "--controller-threads=4",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]
        self.process = Process(command, folder / f"{PROGRAM}.log", {"KUBECONFIG": str(kubeconfig)})
        _place(self.wire)

    def start(self) -> None:
        """Have it carry out the jobs of all namespaces; nothing if it does."""
        if self.process.lives():
            return
        self.process.start()
        within(120, lambda: _mount(self.wire), "the training operator to make its certificates")
        self.process.wait_until_ready(f"http://127.0.0.1:{self.health}/readyz")

    def stop(self) -> None:
        """End it: a job that it cannot read, such as one without containers, ends it for good."""
        self.process.stop()


def _place(wire: Wire) -> None:
    """What its manifests put beside it: a secret to fill, and webhooks, of which there are none."""
    wire("POST", "/api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
    wire("POST", f"/api/v1/namespaces/{_NAMESPACE}/secrets", {"metadata": {"name": _SECRET}})
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    wire("POST", path, {"metadata": {"name": _WEBHOOKS}, "webhooks": []})


def _mount(wire: Wire) -> bool:
    """Do what a kubelet does with the secret, once it is filled."""
    with suppress_missing():
        found = wire("GET", f"/api/v1/namespaces/{_NAMESPACE}/secrets/{_SECRET}").get("data") or {}
        if "tls.crt" not in found:
            return False
        CERTIFICATES.mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            (CERTIFICATES / name).write_bytes(base64.b64decode(content))
        return True
    return False
