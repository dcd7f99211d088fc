"""The one way to the API server: dictionaries in, dictionaries out; no models, no decisions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias
from urllib.parse import quote

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException

from coldstart.children.backend import Resource
from coldstart_operator.metrics import API_REQUESTS

REQUEST_SECONDS = 30.0
"""How long one request may take."""

PAGE = 500
"""Objects in one answer to a LIST."""

Json = dict[str, Any]


RUNS = Resource("coldstart.dev", "v1alpha1", "reasoningruns", "ReasoningRun")
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
SERVICES = Resource("", "v1", "services", "Service")
_VERSION = Resource("", "", "version", "")


class ApiError(Exception):
    """The API server refused a request, or did not answer (code 0)."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message

    @property
    def missing(self) -> bool:
        """Whether there is no such object or resource."""
        return self.code == 404  # noqa: PLR2004

    @property
    def conflict(self) -> bool:
        """Whether the object has changed, or is another one, since it was read."""
        return self.code == 409 and not self.exists  # noqa: PLR2004

    @property
    def exists(self) -> bool:
        """Whether an object of this name is there already."""
        return self.reason == "AlreadyExists"

    @property
    def expired(self) -> bool:
        """Whether a list can no longer be continued."""
        return self.code == 410  # noqa: PLR2004


@dataclass
class Cluster:
    """A connection to the API server; the process has one."""

    client: ApiClient
    heard: float = field(default_factory=monotonic)
    """When it last answered, by the monotonic clock."""
    _timeout: aiohttp.ClientTimeout = field(
        default_factory=lambda: aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    )

    async def close(self) -> None:
        """End the connection."""
        await self.client.close()  # type: ignore[no-untyped-call]

    async def pages(
        self, resource: Resource, namespace: str | None, **selectors: str
    ) -> AsyncIterator[tuple[list[Json], str]]:
        """All objects of a kind, a page at a time, each with the version of the list.

        Args:
            resource: the kind.
            namespace: where; None for everywhere.
            selectors: `labelSelector`, `fieldSelector`.

        Raises:
            ApiError: refused, or no answer, or (`expired`) begin again.
        """
        query = {**selectors, "limit": str(PAGE)}
        while True:
            page = await self._request("LIST", resource, namespace, query=query)
            rest = page.get("metadata") or {}
            yield page.get("items") or [], str(rest.get("resourceVersion") or "")
            if not rest.get("continue"):
                return
            query["continue"] = rest["continue"]

    async def listed(
        self, resource: Resource, namespace: str | None, **selectors: str
    ) -> list[Json]:
        """All objects of a kind of which there are few; as `pages`.

        Raises:
            ApiError: refused, or no answer.
        """
        pages = self.pages(resource, namespace, **selectors)
        return [item async for items, _ in pages for item in items]

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """One object.

        Raises:
            ApiError: it is not there, refused, or no answer.
        """
        return await self._request("GET", resource, namespace, name)

    async def create(self, resource: Resource, namespace: str, body: Json) -> Json:
        """Create an object.

        Raises:
            ApiError: it is there already, refused, or no answer (it may be there then).
        """
        return await self._request("POST", resource, namespace, body=body)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> Json:
        """Delete an object, and keep it in sight until what it owns is gone.

        Raises:
            ApiError: it is not there, is another one than `uid`, refused, or no answer.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        return await self._request("DELETE", resource, namespace, name, body=body)

    async def patch_status(self, namespace: str, name: str, version: str, patch: Json) -> Json:
        """Merge into a run's status, unless the run has changed since `version`.

        Raises:
            ApiError: it has changed, is gone, refused, or no answer.
        """
        body = {"metadata": {"resourceVersion": version}, "status": patch}
        return await self._request("PATCH", RUNS, namespace, f"{name}/status", body=body)

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows a kind.

        Raises:
            ApiError: refused, or no answer.
        """
        try:
            found = await self._request("GET", resource, None, path=_root(resource))
        except ApiError as error:
            if error.missing:
                return False
            raise
        return any(item.get("name") == resource.plural for item in found.get("resources") or [])

    async def alive(self) -> None:
        """Ask for a sign of life.

        Raises:
            ApiError: no answer.
        """
        await self._request("GET", _VERSION, None, path="/version")

    async def _request(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str = "",
        *,
        query: dict[str, str] | None = None,
        body: Json | None = None,
        path: str = "",
    ) -> Json:
        path = path or _path(resource, namespace, name)
        code = 0
        try:
            code, data = await self._exchange(verb, path, query, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as error:
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error
        finally:
            API_REQUESTS.labels(verb.lower(), resource.plural, str(code)).inc()
        self.heard = monotonic()
        document = _document(data)
        if code >= 300:  # noqa: PLR2004
            raise ApiError(
                code,
                str(document.get("reason") or f"HTTP{code}"),
                str(document.get("message") or data[:200].decode(errors="replace")),
            )
        return document

    async def _exchange(
        self, verb: str, path: str, query: dict[str, str] | None, body: Json | None
    ) -> tuple[int, bytes]:
        header = {"Accept": "application/json", "Content-Type": "application/json"}
        if verb == "PATCH":
            header["Content-Type"] = "application/merge-patch+json"
        request = await self.client.param_serialize(
            "GET" if verb == "LIST" else verb,
            path,
            query_params=list(query.items()) if query else [],
            header_params=header,
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self.client.call_api(*request, _request_timeout=self._timeout)
        return response.status, await response.read()  # type: ignore[no-untyped-call]


def _root(resource: Resource) -> str:
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"


def _path(resource: Resource, namespace: str | None, name: str) -> str:
    place = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{_root(resource)}{place}/{resource.plural}" + (f"/{name}" if name else "")


def _document(data: bytes) -> Json:
    """The answer as JSON; a proxy's page of HTML is none."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


class NoCluster(Exception):
    """There is neither a service account nor a kubeconfig."""


Credentials: TypeAlias = Configuration
"""Where the API server is and how it knows us."""

LogIn = Callable[[], Awaitable[Credentials]]
"""Tells where the API server is and how it knows us."""


async def connect(log_in: LogIn) -> Cluster:
    """A connection; the process has one."""
    return Cluster(ApiClient(await log_in()))


async def credentials() -> Credentials:
    """Where the API server is and how it knows us: service account first, then kubeconfig.

    Raises:
        NoCluster: there is neither.
    """
    configuration = Configuration()
    try:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        try:
            await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise NoCluster(f"neither a service account nor a kubeconfig: {error}") from error
    configuration.connection_pool_maxsize = 100
    return configuration


def owner_uid(document: Json) -> str | None:
    """The UID of the run that owns an object, if one does."""
    owners: Iterable[Json] = document["metadata"].get("ownerReferences") or ()
    for owner in owners:
        if owner.get("kind") == RUNS.kind and owner.get("controller"):
            return str(owner.get("uid"))
    return None
