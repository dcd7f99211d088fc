"""A bare synchronous HTTP client for tests of the server: no retries, no types."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

RUNS = "/apis/coldstart.dev/v1alpha1/namespaces/default/reasoningruns"
JOBS = "/apis/kubeflow.org/v1/namespaces/default/pytorchjobs"

KINDS = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Client:
    """Requests to one server; each on a connection of its own."""

    def __init__(self, port: int, agent: str = "test", seconds: float = 10.0) -> None:
        self.port = port
        self.agent = agent
        self.seconds = seconds
        """How long it waits for the next bytes."""

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        patch: str = "",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> tuple[int, Any]:
        """The status and the JSON (or the text) of an answer; `patch` names the patch's format.

        Raises:
            OSError: the connection was closed without an answer.
        """
        response = self._request(method, path, body, patch, headers or {}, query)
        data = response.read()
        if response.headers.get_content_type() == "application/json":
            return response.status, json.loads(data)
        return response.status, data.decode()

    def watch(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """The events of a watch until the server ends it."""
        response = self._request("GET", path, None, "", {}, {"watch": "true", **query})
        for line in response:
            yield json.loads(line)

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        patch: str,
        headers: dict[str, str],
        query: dict[str, Any],
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.seconds)
        data = None if body is None else body if isinstance(body, str) else json.dumps(body)
        kind = KINDS[patch] if patch else "application/json"
        address = f"{path}?{urlencode(query)}" if query else path
        named = {"Content-Type": kind, "User-Agent": self.agent, **headers}
        connection.request(method, address, data, named)
        return connection.getresponse()
