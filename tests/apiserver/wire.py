"""Requests to a real API server over HTTP, and namespaces of their own for tests; no objects."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apiserver.errors import REASONS, ApiError
from kubernetes import client, config

Json = dict[str, Any]


class Wire:
    """Requests with the credentials of a kubeconfig; from any thread."""

    def __init__(self, kubeconfig: Path) -> None:
        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self.api = client.ApiClient(configuration)

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, str] | None = None,
        content: str = "application/json",
    ) -> Json:
        """The answer to a request.

        Raises:
            ApiError: it is an error.
        """
        request = self.api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Content-Type": content, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self.api.call_api(*request, _request_timeout=60)
        document = document_of(answer.read())
        if not 200 <= answer.status < 300:
            reason = document.get("reason") or REASONS.get(answer.status, "Unknown")
            message = document.get("message") or str(document)
            raise ApiError(answer.status, reason, message, document.get("details"))
        return document


@contextmanager
def namespace_of_its_own(wire: Wire, managed: bool) -> Iterator[str]:
    """A new namespace, which is deleted again; without a controller manager only its objects are.

    Args:
        wire: requests of somebody who may do that.
        managed: whether there is a controller manager, which makes the default service account.
    """
    name = f"coldstart-test-{secrets.token_hex(4)}"
    root = f"/api/v1/namespaces/{name}"
    wire("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def has_account() -> bool:
        with suppress_missing():
            wire("GET", f"{root}/serviceaccounts/default")
            return True
        return False

    try:
        if managed:
            within(60, has_account, f"the default service account of {name}")
        yield name
    finally:
        # Owners first: nobody shall start anything for them any more.
        for path in _CLEARED:
            with suppress_missing():
                options = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
                wire("DELETE", path.format(name), options)
        with suppress_missing():
            wire("DELETE", root)


_CLEARED = (
    "/apis/coldstart.dev/v1alpha1/namespaces/{}/reasoningruns",
    "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs",
    "/apis/batch/v1/namespaces/{}/jobs",
    "/api/v1/namespaces/{}/pods",
    "/api/v1/namespaces/{}/services",
)


@contextmanager
def suppress_missing() -> Iterator[None]:
    """What is not there is fine."""
    try:
        yield
    except ApiError as error:
        if error.code not in (404, 405):
            raise


def within(seconds: float, test: Callable[[], Any], what: str) -> None:
    """Wait until a test passes.

    Raises:
        TimeoutError: it does not.
    """
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def document_of(data: bytes) -> Json:
    """An answer as JSON; what is none is a message."""
    try:
        found = json.loads(data)
    except ValueError:
        return {"message": data[:500].decode(errors="replace")}
    return found if isinstance(found, dict) else {"message": str(found)}
