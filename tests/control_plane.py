"""A real Kubernetes API server for tests marked `cluster`: started here, or one that is lent.

`$KUBEBUILDER_ASSETS`, else `/usr/local/kubebuilder/bin`, holds the binaries `etcd` and
`kube-apiserver` (those of controller-runtime's setup-envtest), and, where Jobs and the garbage
collector shall be the real ones too, `kube-controller-manager`; beside that, for PyTorchJobs, what
`training_operator` names. They run on loopback in a temporary directory, once for all tests of the
process, and end with it. Without binaries the cluster of `$COLDSTART_TEST_KUBECONFIG` is used, in
namespaces of the tests' own; its CustomResourceDefinitions are added to, never replaced. There is
no kubelet.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from apiserver.errors import ApiError
from apiserver.remote import Remote
from apiserver.wire import Wire, namespace_of_its_own
from control_processes import started, there_in
from training_operator import TrainingOperator, definition

OPERATOR = Path(__file__).parent.parent / "manifests" / "operator.yaml"
ACCOUNT = ("coldstart-system", "coldstart-operator")
"""Namespace and name of the operator's ServiceAccount."""

LENT = "COLDSTART_TEST_KUBECONFIG"


@dataclass(frozen=True)
class Plane:
    """An API server, and what stands beside it."""

    kubeconfig: Path
    """Of somebody who may do everything."""
    managed: bool
    """Whether a kube-controller-manager carries out Jobs and collects garbage."""
    audit: Path | None = None
    """The log of what the operator's ServiceAccount asks for; none where the cluster is lent."""
    restart: Callable[[], None] = lambda: None
    """Kill the API server and start it again, where it is ours; returns when it is ready."""
    pytorchjobs: dict[str, Any] | None = None
    """The definition of PyTorchJob, where Kubeflow's training operator carries them out."""
    training: TrainingOperator | None = None
    """What carries them out there."""

    @property
    def ours(self) -> bool:
        """Whether it was started for the tests, which may do anything to it."""
        return self.audit is not None

    def account(self) -> str:
        """A token of the operator's ServiceAccount, whose rights are those of its manifest."""
        namespace, name = ACCOUNT
        wire = Wire(self.kubeconfig)
        for document in yaml.safe_load_all(OPERATOR.read_text()):
            apply(wire, document)
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(wire("POST", path, request)["status"]["token"])

    def asked(self) -> list[dict[str, Any]]:
        """What the operator's ServiceAccount has asked for so far: audit.k8s.io/v1 events."""
        there = self.audit is not None and self.audit.exists()
        return [json.loads(line) for line in self.audit.read_text().splitlines()] if there else []


def apply(wire: Wire, document: dict[str, Any]) -> dict[str, Any]:
    """Server-side apply an object of one of the kinds in our manifests."""
    metadata, version = document["metadata"], document["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    place = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    path = f"{root}{place}/{document['kind'].lower()}s/{metadata['name']}"
    query = {"fieldManager": "coldstart-tests", "force": "true", "fieldValidation": "Strict"}
    return wire("PATCH", path, document, query, "application/apply-patch+yaml")


class RealServer:
    """What the tests of the definition ask of an API server, in one namespace."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.wire = remote.wire

    def install(self, crd: dict[str, Any]) -> None:
        """Put a CustomResourceDefinition there, and wait until it is served."""
        self.remote.create("customresourcedefinitions", crd)

    def dry_run(self, run: dict[str, Any]) -> str:
        """Why a run would be refused; empty if it would not."""
        return self._refusal("POST", self._path(), run)

    def create(self, run: dict[str, Any]) -> None:
        """Create a run in earnest."""
        self.wire("POST", self._path(), run)

    def change(self, name: str, spec: dict[str, Any]) -> str:
        """Why a run's spec could not be replaced by another; empty if it could. Changes nothing."""
        stored = self.wire("GET", self._path(name))
        return self._refusal("PUT", self._path(name), stored | {"spec": spec})

    def patch_status(self, name: str, status: dict[str, Any]) -> None:
        """Write a run's status."""
        self.remote.patch("reasoningruns", name, {"status": status}, subresource="status")

    def delete(self, name: str) -> None:
        """Delete a run."""
        self.wire("DELETE", self._path(name))

    def _path(self, name: str = "") -> str:
        return self.remote.path("reasoningruns", name)

    def _refusal(self, method: str, path: str, body: dict[str, Any]) -> str:
        try:
            self.wire(method, path, body, {"dryRun": "All", "fieldValidation": "Strict"})
        except ApiError as error:
            if error.code not in (400, 422):
                raise
            return error.message
        return ""


@contextmanager
def control_plane() -> Iterator[RealServer]:
    """A namespace of its own on a running API server; skips the test where there is none."""
    found = plane()
    with namespace_of_its_own(Wire(found.kubeconfig), found.managed) as namespace:
        yield RealServer(Remote(found.kubeconfig, namespace, lent=not found.ours))


MISSING = (
    "no API server: neither etcd and kube-apiserver in $KUBEBUILDER_ASSETS or "
    "/usr/local/kubebuilder/bin, nor $COLDSTART_TEST_KUBECONFIG"
)


def available() -> bool:
    """Whether there is an API server, or could be."""
    return _binaries() is not None or LENT in os.environ


def plane() -> Plane:
    """The API server of this process; skips the test where there is none."""
    if not available():
        pytest.skip(MISSING)
    return _plane()


@functools.cache
def _plane() -> Plane:
    binaries = _binaries()
    if binaries is None:
        return Plane(Path(os.environ[LENT]), managed=True)
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="coldstart-")))
    audited = "system:serviceaccount:" + ":".join(ACCOUNT)
    plane = Plane(*stack.enter_context(started(binaries, folder, audited)))
    jobs = definition(binaries)
    if jobs is None or not plane.managed:
        return plane
    Remote(plane.kubeconfig, "default").create("customresourcedefinitions", jobs)
    training = TrainingOperator(binaries, folder, plane.kubeconfig)
    stack.callback(training.stop)
    return replace(plane, pytorchjobs=jobs, training=training)


def _binaries() -> Path | None:
    for folder in (os.environ.get("KUBEBUILDER_ASSETS"), "/usr/local/kubebuilder/bin"):
        if folder and there_in(Path(folder)):
            return Path(folder)
    return None
