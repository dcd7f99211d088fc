"""etcd, kube-apiserver and kube-controller-manager as processes on loopback; knows no tests."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

START_SECONDS = 120.0
"""How long each process may take to start."""

STOP_SECONDS = 15.0
"""How long each may take to end before it is killed."""

MANAGED = "garbagecollector,job,namespace,resourcequota,serviceaccount,ttl-after-finished"
"""The controllers that run; none that judges nodes, since there are none."""

PROGRAMS = ("etcd", "kube-apiserver")
MANAGER = "kube-controller-manager"
AUDIT = "audit.log"


class Started(NamedTuple):
    """What runs."""

    kubeconfig: Path
    """Of somebody who may do everything."""
    managed: bool
    """Whether there is a controller manager."""
    audit: Path
    """The log of the requests of one user."""
    restart: Callable[[], None]
    """Kill the API server and start it again; returns when it is ready."""


def there_in(folder: Path) -> bool:
    """Whether a folder has what is needed."""
    return all((folder / name).is_file() for name in PROGRAMS)


@contextmanager
def started(binaries: Path, folder: Path, audited: str) -> Iterator[Started]:
    """Etcd, the API server and, where there is one, the controller manager.

    Args:
        binaries: where the programs are.
        folder: for all that they write.
        audited: the user whose requests are logged.
    """
    etcd, peer, server = free_ports(3)
    token, managed = secrets.token_hex(16), (binaries / MANAGER).is_file()
    url = f"https://127.0.0.1:{server}"
    with ExitStack() as stack:

        def begin(program: str, arguments: list[str], ready: str = "") -> Process:
            command = [str(binaries / program), *arguments]
            process = Process(command, folder / f"{program}.log")
            stack.callback(process.stop)
            process.start(ready, token)
            return process

        begin("etcd", _etcd(folder, etcd, peer), f"http://127.0.0.1:{etcd}/health")
        arguments = _apiserver(folder, etcd, server, token)
        arguments += _audit(folder, audited)
        # Without a controller manager nobody makes service accounts, and no pod could be created.
        arguments += [] if managed else ["--disable-admission-plugins=ServiceAccount"]
        apiserver = begin("kube-apiserver", arguments, f"{url}/readyz")
        authority = folder / "certificates" / "apiserver.crt"
        kubeconfig = write_kubeconfig(folder / "kubeconfig", url, authority, token)
        if managed:
            begin(MANAGER, _manager(folder, kubeconfig))

        def restart() -> None:
            apiserver.kill()
            apiserver.start(f"{url}/readyz", token)

        yield Started(kubeconfig, managed, folder / AUDIT, restart)


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
        # Not on by default; it asks for the right to block the deletion of an owner.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
    ]


def _audit(folder: Path, user: str) -> list[str]:
    """Log what one user asks for, and nothing else."""
    policy = folder / "audit-policy.yaml"
    document = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [user]}, {"level": "None"}],
    }
    policy.write_text(yaml.safe_dump(document))
    return [f"--audit-policy-file={policy}", f"--audit-log-path={folder / AUDIT}"]


def _manager(folder: Path, kubeconfig: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--controllers={MANAGED}",
        f"--service-account-private-key-file={folder / 'service-account.key'}",
        "--leader-elect=false",
        "--secure-port=0",
    ]


class Process:
    """A program with its log."""

    def __init__(
        self, command: list[str], log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.command = command
        self.log = log
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: str = "", token: str = "") -> None:
        """Start it; returns when a URL answers with 200, at once without one.

        Raises:
            RuntimeError: it has ended, or time is up.
        """
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
            )
        if ready:
            self.wait_until_ready(ready, token)

    def wait_until_ready(self, ready: str, token: str = "") -> None:
        """Wait until a URL answers with 200.

        Raises:
            RuntimeError: it has ended, or time is up.
        """
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _answers(ready, token):
            if time.monotonic() > deadline or self.process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-4000:]
                code = self.process.poll()
                raise RuntimeError(f"{ready} was not ready (exit code {code}):\n{tail}")
            time.sleep(0.2)

    def lives(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Have it end."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def _answers(url: str, token: str) -> bool:
    """Whether a URL answers with 200."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5, context=trusting) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False  # it is still starting


def write_kubeconfig(path: Path, url: str, authority: Path, token: str) -> Path:
    """Write a kubeconfig for who has a token."""
    cluster = {"server": url, "certificate-authority": str(authority)}
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


def free_ports(count: int) -> list[int]:
    """Ports that are free at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
