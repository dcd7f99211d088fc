"""The one way to the API server: dictionaries in, dictionaries out; no models, no decisions."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException

from coldstart.children.backend import Resource
from coldstart_operator.metrics import API_REQUESTS

REQUEST_SECONDS = 30.0
"""How long one request may take."""

PAGE = 200
"""Objects in one answer to a LIST; what a page takes as dictionaries, memory keeps."""

Json = dict[str, Any]


RUNS = Resource("coldstart.dev", "v1alpha1", "reasoningruns", "ReasoningRun")
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
SERVICES = Resource("", "v1", "services", "Service")
_VERSION = Resource("", "", "version", "")
_GROUPS = Resource("", "", "groups", "")


class ApiError(Exception):
    """The API server refused a request, or did not answer (code 0)."""

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the API server wants to be left alone for."""

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
    _ahead: timedelta = timedelta()
    """By how much our clock is ahead of the API server's."""
    _timeout: aiohttp.ClientTimeout = field(
        default_factory=lambda: aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    )

    async def close(self) -> None:
        """End the connection."""
        await self.client.close()  # type: ignore[no-untyped-call]

    def time(self, now: datetime) -> datetime:
        """A moment of our clock by that of the API server, which stamps what it deletes.

        Ours may be wrong by hours, and pods that still write would be taken for long gone.
        """
        return now - self._ahead

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

    async def delete(
        self, resource: Resource, namespace: str, name: str, uid: str, version: str | None = None
    ) -> Json:
        """Delete an object, and keep it in sight until what it owns is gone.

        Raises:
            ApiError: it is not there, is another one than `uid`, has changed since `version`,
                refused, or no answer.
        """
        conditions = {"uid": uid} | ({} if version is None else {"resourceVersion": version})
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": conditions,
        }
        return await self._request("DELETE", resource, namespace, name, body=body)

    async def patch_status(self, namespace: str, name: str, version: str, patch: Json) -> Json:
        """Merge into a run's status, unless the run has changed since `version`.

        Raises:
            ApiError: it has changed, is gone, refused, or no answer.
        """
        body = {"metadata": {"resourceVersion": version}, "status": patch}
        return await self._request("PATCH", RUNS, namespace, f"{name}/status", body=body)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Json) -> Json:
        """Merge into an object.

        Raises:
            ApiError: it is not there, refused, or no answer.
        """
        return await self._request("PATCH", resource, namespace, name, body=patch)

    async def log(
        self, namespace: str, pod: str, container: str, *, follow: bool, tail: int | None
    ) -> AsyncGenerator[bytes, None]:
        """What a container has written, in pieces; with `follow`, until it ends.

        Args:
            namespace: where.
            pod: the pod's name.
            container: which of its containers.
            follow: wait for more.
            tail: how many lines of what is there; None: all.

        Raises:
            ApiError: it is not there, has not started (400), refused, or the connection broke.
        """
        query = {"container": container, "follow": "true" if follow else "false"}
        if tail is not None:
            query["tailLines"] = str(tail)
        silence = None if follow else REQUEST_SECONDS
        limits = aiohttp.ClientTimeout(None, sock_connect=REQUEST_SECONDS, sock_read=silence)
        answer: aiohttp.ClientResponse | None = None
        try:
            path = f"{_path(PODS, namespace, pod)}/log"
            answer = (await self._send("GET", path, query, None, limits)).response
            assert answer is not None
            if not _fine(answer.status):
                raise _refusal(answer.status, await answer.read())
            async for piece in answer.content.iter_any():
                self.heard = monotonic()
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as error:
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error
        finally:
            code = answer.status if answer is not None else 0
            API_REQUESTS.labels("get", "pods/log", str(code)).inc()
            if answer is not None:
                answer.close()

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

    async def announced(self) -> set[str]:
        """The versions of groups that the API server lists; new ones a moment after it serves them.

        Raises:
            ApiError: refused, or no answer.
        """
        found = await self._request("GET", _GROUPS, None, path="/apis")
        versions = (item for group in found.get("groups") or [] for item in group["versions"])
        return {str(item["groupVersion"]) for item in versions}

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
            code, data, wait = await self._exchange(verb, path, query, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as error:
            raise ApiError(0, "Unreachable", str(error) or type(error).__name__) from error
        finally:
            API_REQUESTS.labels(verb.lower(), resource.plural, str(code)).inc()
        self.heard = monotonic()
        if not _fine(code):
            raise _refusal(code, data, wait)
        return _document(data)

    async def _exchange(
        self, verb: str, path: str, query: dict[str, str] | None, body: Json | None
    ) -> tuple[int, bytes, str]:
        response = await self._send(verb, path, query, body, self._timeout)
        with suppress(KeyError, TypeError, ValueError):  # something in between may spoil it
            sent = parsedate_to_datetime(response.headers["Date"])
            self._ahead = datetime.now(UTC) - sent
        return response.status, await response.read(), response.headers.get("Retry-After", "")

    async def _send(
        self,
        verb: str,
        path: str,
        query: dict[str, str] | None,
        body: Json | None,
        limits: aiohttp.ClientTimeout,
    ) -> Any:
        # As kubectl asks: a log is no JSON.
        header = {"Accept": "application/json, */*", "Content-Type": "application/json"}
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
        return await self.client.call_api(*request, _request_timeout=limits)


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


def _fine(code: int) -> bool:
    return code < 300  # noqa: PLR2004


def _refusal(code: int, data: bytes, wait: str = "") -> ApiError:
    """The error in an answer; `wait` is its `Retry-After`."""
    document = _document(data)
    return ApiError(
        code,
        str(document.get("reason") or f"HTTP{code}"),
        str(document.get("message") or data[:200].decode(errors="replace").strip()),
        float(wait) if wait.isdecimal() and len(wait) < 10 else 0.0,  # noqa: PLR2004
    )


class NoCluster(Exception):
    """There is neither a service account nor a kubeconfig."""


Credentials: TypeAlias = Configuration
"""Where the API server is and how it knows us."""

LogIn = Callable[[], Awaitable[Credentials]]
"""Tells where the API server is and how it knows us."""


async def connect(log_in: LogIn) -> Cluster:
    """A connection; the process has one."""
    found = await log_in()
    found.proxy = found.proxy or _proxy(found.host)
    # Else aiohttp asks for proxy and netrc at each request, in threads that wait for this one.
    found.client_session_kwargs = {"trust_env": False}
    return Cluster(ApiClient(found))


def _proxy(server: str) -> str | None:
    """The proxy that the environment names for an address."""
    place = urlsplit(server)
    if proxy_bypass(place.hostname or ""):
        return None
    return getproxies().get(place.scheme)


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


_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Login:
    """Which cluster a person means, and where in it, as the kubeconfig says."""

    credentials: Credentials
    """Where the API server is and how it knows us."""
    context: str
    """The context's name; empty for a service account."""
    namespace: str
    """The namespace that is meant where none is named."""


async def login(kubeconfig: str | None, context: str | None) -> Login:
    """What a person's kubeconfig says; where there is none, the service account of this pod.

    Args:
        kubeconfig: its path; None: as kubectl finds it, `$KUBECONFIG` or `~/.kube/config`.
        context: which of its contexts; None: the current one.

    Raises:
        NoCluster: there is none, it cannot be read, or has no such context.
    """
    files = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    paths = _present(files)
    configuration = Configuration()
    if not paths:
        return _service_account(configuration, files)
    try:
        if context is not None and context not in (known := _contexts(paths)):
            names = ", ".join(known) or "none"
            raise NoCluster(f"kubeconfig {files}: has no context {context!r} (has: {names})")
        loader = await config.load_kube_config(files, context, configuration)  # type: ignore[no-untyped-call]
        chosen = loader.current_context
        namespace = (chosen.get("context") or {}).get("namespace") or "default"
        return Login(configuration, str(chosen["name"]), str(namespace))
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise NoCluster(f"kubeconfig {files}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The library takes the file's form for granted.
        raise NoCluster(f"kubeconfig {files}: is not a kubeconfig ({error!r})") from error


def _service_account(configuration: Credentials, files: str) -> Login:
    try:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        namespace = _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as error:
        raise NoCluster(f"there is no kubeconfig ({files})") from error
    return Login(configuration, "", namespace or "default")


def _present(files: str) -> list[Path]:
    """The files that there are of those in a `$KUBECONFIG`."""
    paths = [Path(part).expanduser() for part in files.split(os.pathsep) if part]
    return [path for path in paths if path.is_file()]


def _contexts(paths: Iterable[Path]) -> list[str]:
    """The names of the contexts in some kubeconfigs."""
    documents = [yaml.safe_load(path.read_text("utf-8")) for path in paths]
    return [str(item["name"]) for document in documents for item in document.get("contexts") or ()]


def owner_uid(document: Json) -> str | None:
    """The UID of the run that owns an object, if one does."""
    owners: Iterable[Json] = document["metadata"].get("ownerReferences") or ()
    for owner in owners:
        if owner.get("kind") == RUNS.kind and owner.get("controller"):
            return str(owner.get("uid"))
    return None
