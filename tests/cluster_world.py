"""The `world()` of the operator's tests on a real API server: the same tests, another place.

Pods are patched from phase to phase by the stand-in for the kubelet. PyTorchJobs are carried out by
Kubeflow's training operator where it is there, else by the stand-in for it; Jobs and garbage
collection are the real ones where there is a kube-controller-manager. The operator works with its
ServiceAccount's rights.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path

import operating
import pytest
import yaml
from apiserver.controllers import running_controllers
from apiserver.crds import pytorchjobs
from apiserver.faults import WRITES, Request
from apiserver.owners import Owners
from apiserver.remote import PATIENCE, Remote, running_remote
from apiserver.wire import Wire, namespace_of_its_own
from control_plane import MISSING, Plane, available
from control_processes import write_kubeconfig


class ClusterWorld(operating.World):
    """A namespace of a real API server, its controllers and what a test does with them."""

    def __init__(self, server, controllers, directory, plane):
        super().__init__(server, controllers, directory)
        self.plane = plane

    @property
    def settings(self):
        """Where another may own other namespaces, the operator keeps to this one."""
        patient = {"cosmetic": operating.QUICK["cosmetic"] * PATIENCE}
        lent = {} if self.plane.ours else {"namespaces": (self.server.own_namespace,)}
        return patient | lent

    @property
    def options(self):
        return () if self.plane.ours else ("--namespace", self.server.own_namespace)

    def credentials(self):
        """The operator's: its ServiceAccount's where the tests may make that."""
        path = self.directory / "operator.kubeconfig"
        if not self.plane.ours:
            return self.server.kubeconfig(path)
        found = yaml.safe_load(self.plane.kubeconfig.read_text())["clusters"][0]["cluster"]
        authority = Path(found["certificate-authority"])
        return write_kubeconfig(path, found["server"], authority, self.plane.account())

    @contextmanager
    def operator(self, **changes):
        if "namespaces" in changes:
            changes["namespaces"] = tuple(map(self.server.namespace, changes["namespaces"]))
        with super().operator(**changes) as settings:
            yield settings

    def settled(self, seconds=10.0):
        super().settled(seconds * PATIENCE)

    def has_events(self, *reasons, seconds=3.0):
        return super().has_events(*reasons, seconds=seconds * PATIENCE)

    def asked(self):
        """What the operator has asked for here, as the audit log has it."""
        if not self.plane.ours:
            pytest.skip("the audit log of a cluster that is lent is not ours to read")
        return [
            requested(event)
            for event in self.plane.asked()
            if event.get("objectRef", {}).get("namespace") == self.server.own_namespace
        ]

    def writes(self):
        return [one for one in self.asked() if one.verb in WRITES and one.status < 300]

    def quiet(self, seconds=0.5):
        before = len(self.asked())
        time.sleep(seconds)
        return [one for one in self.asked()[before:] if one.verb not in ("watch", "list")]


def requested(event):
    """A request as an event of the audit log has it, with the `decision` on it."""
    about = event.get("objectRef", {})
    decision = event.get("annotations", {}).get("authorization.k8s.io/decision", "")
    return Request(
        event["verb"],
        about.get("resource", event["requestURI"]),
        about.get("subresource", ""),
        about.get("apiGroup", ""),
        about.get("namespace", ""),
        about.get("name", ""),
        {"decision": decision},
        status=event.get("responseStatus", {}).get("code", 0),
        at=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
    )


@contextmanager
def on(plane: Plane, *, lacking=False):
    """Have every `world()` be a namespace of this API server.

    Fails if the operator asked for what it may not do, unless it is `lacking` rights on purpose.
    """

    @contextmanager
    def real(directory, script=None, *, pytorch=True, crd=True, **options):
        assert not options, f"a real API server has no {options}"
        with ExitStack() as stack:
            wire = Wire(plane.kubeconfig)
            namespace = stack.enter_context(namespace_of_its_own(wire, plane.managed))
            remote = InNamespace(plane.kubeconfig, namespace, lent=not plane.ours)
            stack.enter_context(running_remote(remote))
            _define(remote, plane.pytorchjobs or pytorchjobs(), pytorch=pytorch, crd=crd)
            if not plane.managed:
                owners = remote.call(lambda: Owners(remote))
                stack.callback(remote.call, owners.stop)
            options = {"jobs": not plane.managed, "training": plane.pytorchjobs is None}
            found = running_controllers(remote, script, **options)
            yield ClusterWorld(remote, stack.enter_context(found), directory, plane)

    if plane.training:
        plane.training.start()
    before = len(plane.asked())
    token = operating.PLACE.set(real)
    try:
        yield
    finally:
        operating.PLACE.reset(token)
    if not lacking:
        asked = map(requested, plane.asked()[before:])
        denied = [one for one in asked if one.query["decision"] != "allow"]
        assert denied == []


def _define(remote, pytorchjob, *, pytorch, crd):
    """Have the cluster serve what a test asks for, and not what it does not ask for."""
    if crd:
        operating.install(remote)
    else:
        remote.delete("customresourcedefinitions", "reasoningruns.coldstart.dev")
    if pytorch:
        remote.create("customresourcedefinitions", pytorchjob)
    else:
        remote.delete("customresourcedefinitions", "pytorchjobs.kubeflow.org")


class InNamespace(Remote):
    """`Remote` for tests that were written for the server in process."""

    @property
    def faults(self):
        """There is no way to have a real API server fail."""
        pytest.skip("injects faults: for the server in process only")

    def compact(self):
        pytest.skip("forgets history: for the server in process only")


def needs_a_server():
    """Skip the module that is being imported where there is no API server."""
    if not available():
        pytest.skip(MISSING, allow_module_level=True)


def same_tests(name, without=(), room="operator"):
    """The tests of a module beside the caller's, to be run on a real API server.

    Args:
        name: of the module.
        without: names of tests that only make sense with the server in process.
        room: the folder that the module is in.
    """
    folder = str(Path(__file__).parent / room)
    if folder not in sys.path:
        sys.path.append(folder)
    found = {key: value for key, value in vars(import_module(name)).items() if _is_test(key)}
    # Where there is no server, too: nobody else would see that a name has changed.
    assert set(without) <= found.keys(), set(without) - found.keys()
    needs_a_server()
    return {key: value for key, value in found.items() if key not in without}


def _is_test(name):
    return name.startswith("test_")
