"""A real Kubernetes API server for tests marked `cluster`: started here, or the user's own.

`$KUBEBUILDER_ASSETS`, else `/usr/local/kubebuilder/bin`, holds the binaries `etcd` and
`kube-apiserver` (those of controller-runtime's setup-envtest); they run on loopback, in a temporary
directory, and are stopped again. Without binaries `$KUBECONFIG` is used. There is no controller
manager and no kubelet: objects are stored and validated, and nothing else happens to them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from kubernetes import client, config

START_SECONDS = 90.0
"""How long etcd and the API server together may take."""

STOP_SECONDS = 15.0
"""How long each may take to end before it is killed."""

_GROUP = "/apis/coldstart.dev/v1alpha1"


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RealServer:
    """What the tests ask of an API server, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.api = client.ApiClient(_configuration(kubeconfig))
        self.namespace = namespace

    def install(self, crd: dict[str, Any]) -> None:
        """Put a CustomResourceDefinition there, and wait until it is served."""
        name = crd["metadata"]["name"]
        query = {"fieldManager": "coldstart-tests", "force": "true", "fieldValidation": "Strict"}
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        self.call("PATCH", path, crd, query, "application/apply-patch+yaml")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            conditions = self.call("GET", path).get("status", {}).get("conditions", [])
            if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
                self._served()
                return
            time.sleep(0.2)
        raise TimeoutError(f"{name} was not established in {START_SECONDS} s: {conditions}")

    def _served(self) -> None:
        """Wait until the resource is answered for, which is a moment after it is established."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                self.call("GET", self._runs())
            except Refused as error:
                if error.code not in (404, 503):
                    raise
                time.sleep(0.2)
            else:
                return
        raise TimeoutError("the API server does not serve reasoningruns")

    def dry_run(self, run: dict[str, Any]) -> str:
        """Why a run would be refused; empty if it would not."""
        return self._refusal("POST", self._runs(), run)

    def create(self, run: dict[str, Any]) -> None:
        """Create a run in earnest."""
        self.call("POST", self._runs(), run)

    def change(self, name: str, spec: dict[str, Any]) -> str:
        """Why a run's spec could not be replaced by another; empty if it could. Changes nothing."""
        stored = self.call("GET", f"{self._runs()}/{name}")
        return self._refusal("PUT", f"{self._runs()}/{name}", stored | {"spec": spec})

    def patch_status(self, name: str, status: dict[str, Any]) -> None:
        """Write a run's status."""
        path = f"{self._runs()}/{name}/status"
        self.call("PATCH", path, {"status": status}, {}, "application/merge-patch+json")

    def delete(self, name: str) -> None:
        """Delete a run."""
        self.call("DELETE", f"{self._runs()}/{name}")

    def _runs(self) -> str:
        return f"{_GROUP}/namespaces/{self.namespace}/reasoningruns"

    def _refusal(self, method: str, path: str, body: dict[str, Any]) -> str:
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        try:
            self.call(method, path, body, query)
        except Refused as error:
            if error.code not in (400, 422):
                raise
            return str(error)
        return ""

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            Refused: it is an error.
        """
        request = self.api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Content-Type": content, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self.api.call_api(*request)
        text = answer.read().decode()
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, json.loads(text).get("message", text))
        return json.loads(text)


@contextmanager
def control_plane() -> Iterator[RealServer]:
    """A running API server with an empty namespace; skips the test where there is none."""
    binaries, kubeconfig = _binaries(), os.environ.get("KUBECONFIG")
    with ExitStack() as stack:
        if binaries:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="coldstart-")))
            path = stack.enter_context(_started(binaries, folder))
        elif kubeconfig:
            path = Path(kubeconfig)
        else:
            pytest.skip(
                "no API server: neither etcd and kube-apiserver in $KUBEBUILDER_ASSETS or "
                "/usr/local/kubebuilder/bin, nor $KUBECONFIG"
            )
        name = f"coldstart-test-{secrets.token_hex(4)}"
        server = RealServer(path, name)
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        stack.callback(server.call, "DELETE", f"/api/v1/namespaces/{name}")
        yield server


def _configuration(kubeconfig: Path) -> client.Configuration:
    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    return configuration


def _binaries() -> Path | None:
    for folder in (os.environ.get("KUBEBUILDER_ASSETS"), "/usr/local/kubebuilder/bin"):
        if folder and all((Path(folder) / name).is_file() for name in ("etcd", "kube-apiserver")):
            return Path(folder)
    return None


@contextmanager
def _started(binaries: Path, folder: Path) -> Iterator[Path]:
    """Etcd and the API server; gives the path of a kubeconfig of a cluster administrator."""
    deadline = time.monotonic() + START_SECONDS
    etcd, peer, server = _ports(3)
    token = secrets.token_hex(16)
    with ExitStack() as stack:
        store = stack.enter_context(
            _process(folder / "etcd.log", [str(binaries / "etcd"), *_etcd(folder, etcd, peer)])
        )
        _wait(f"http://127.0.0.1:{etcd}/health", "", store, folder / "etcd.log", deadline)
        arguments = _apiserver(folder, etcd, server, token)
        process = stack.enter_context(
            _process(folder / "apiserver.log", [str(binaries / "kube-apiserver"), *arguments])
        )
        url = f"https://127.0.0.1:{server}"
        _wait(f"{url}/readyz", token, process, folder / "apiserver.log", deadline)
        yield _kubeconfig(folder / "kubeconfig", url, token)


def _etcd(folder: Path, port: int, peer: int) -> list[str]:
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync=true",
    ]


def _apiserver(folder: Path, etcd: int, port: int, token: str) -> list[str]:
    """The arguments of an API server that trusts one token and makes its own certificate."""
    tokens, key = folder / "tokens.csv", folder / "service-account.key"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://127.0.0.1",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        # Nobody makes service accounts here, and a pod without one would be refused.
        "--disable-admission-plugins=ServiceAccount",
    ]


@contextmanager
def _process(log: Path, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(
    url: str, token: str, process: subprocess.Popen[bytes], log: Path, deadline: float
) -> None:
    """Return when a URL answers with 200; fail when its process has ended, or time is up."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5, context=trusting) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass  # it is still starting
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"{url} was not ready (exit code {process.poll()}):\n{tail}")


def _kubeconfig(path: Path, url: str, token: str) -> Path:
    cluster = {"server": url, "insecure-skip-tls-verify": True}  # loopback, and our own process
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    return path


def _ports(count: int) -> list[int]:
    """Ports that are free at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
