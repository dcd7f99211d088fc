"""An in-process Kubernetes API server for tests: real HTTP, real semantics, no cluster behind it.

    async with ApiServer() as server:
        ...  # server.url, server.kubeconfig(path), server.create("pods", {...})

`running_server()` (module `threaded`) does the same from a thread of its own, for tests that are
not async. The modules: `store` (versions, history), `resources`, `objects` (the API's rules),
`builtin` (kinds), `schema`, `patches`, `selectors`, `collector` (owners), `streams` (watches),
`table`, `discovery`, `faults` (and the record of requests), `access` (direct access by tests).

What it cannot tell, and a real API server can:

- admission: webhooks, quotas and limit ranges, priorities, PodSecurity, service accounts and the
  defaults that they bring into pods; RBAC beyond the rules that a test gives (`authorize`);
- validation: the types and cost bounds of CEL rules (`cel_rules` evaluates them, where the spec
  has changed), ratcheting below the spec as a whole, the exact words of a refusal, and defaults,
  unknown and wrong fields of built-in kinds beyond the few in `builtin`;
- versions: conversion webhooks, and migration of what is stored;
- field ownership: who applied what is kept, who created or updated what is not, so a plain
  `kubectl apply` or the operator's status never conflicts with a server-side one; lists are owned
  whole; strategic merge goes by the common merge keys;
- storage: etcd's 1.5 MiB per object, numbers as Go reads them, encryption, several API servers
  with caches of different age (`faults.stale` plays one);
- flow: priority and fairness, timeouts and throttling but those that a test injects, audit;
- other ways in: protobuf (`kubectl create configmap` and the like send it), TLS and
  authentication, aggregated discovery, OpenAPI schemas of built-in kinds (`kubectl explain pods`),
  metadata-only lists, `resourceVersionMatch`, proxy, exec, port-forward, scale, eviction;
- time: garbage collection and namespaces are done at once, and watches never lag.

Pods have no kubelet: see `controllers`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import web
from apiserver import discovery, paths
from apiserver.access import Access
from apiserver.collector import Collector
from apiserver.errors import ApiError, Unserved, failure, forbidden
from apiserver.faults import Fault, Faults, Record, Request
from apiserver.objects import Objects
from apiserver.paths import Target
from apiserver.resources import Registry, Resource
from apiserver.store import Entry, Store, encode
from apiserver.streams import Stream
from apiserver.table import table
from apiserver.tampering import Cut, meet

BODY_BYTES = 3 * 1024 * 1024
"""What a real API server accepts of a request."""

_HEALTH = ("/healthz", "/livez", "/readyz")


class ApiServer(Access):
    """The server; `async with` starts and stops it.

    Args:
        history: changes that each resource keeps; an older watch gets 410.
        bookmark_seconds: between two bookmarks of a quiet watch.
        collect_seconds: until owner references are acted upon.
        latency_seconds: added to every answer.
        discovery_seconds: until the list of groups has a new one, which is served at once.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        *,
        history: int = 100_000,
        bookmark_seconds: float = 30.0,
        collect_seconds: float = 0.01,
        latency_seconds: float = 0.0,
        discovery_seconds: float = 0.0,
        port: int = 0,
    ) -> None:
        self.registry = Registry()
        self.store = Store(history)
        self.objects = Objects(self.store, self.registry)
        self.collector = Collector(self.objects, collect_seconds)
        self.faults = Faults()
        self.requests = Record()
        self.bookmark_seconds = bookmark_seconds
        self.latency_seconds = latency_seconds
        self.discovery_seconds = discovery_seconds
        self.authorize: Callable[[Request], str | None] | None = None
        """Why a request is refused with 403; none lets it pass. Stand-ins are not asked."""
        self.port = port
        self.errors: list[Exception] = []
        """The server's own mistakes, answered with 500; a test should find it empty."""
        self._runner: web.ServerRunner | None = None
        self._streams: set[Stream] = set()
        super().__init__()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._enter()
        for name in ("default", "kube-system"):
            if not self.find("namespaces", name):
                self.create("namespaces", {"metadata": {"name": name}})
        server = web.Server(self._handle, request_factory=_request, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.collector.stop()
        for stream in self._streams:
            stream.watcher.close()
        assert self._runner is not None
        await self._runner.cleanup()
        self._runner = None

    async def restart(self, seconds: float = 0.0) -> None:
        """Be away for a while: connections are cut, objects stay."""
        await self.__aexit__()
        await asyncio.sleep(seconds)
        await self.__aenter__()
        self.collector.resume()

    def kubeconfig(self, path: Path, namespace: str = "default") -> Path:
        """Write a kubeconfig that leads here."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [
                {"name": "test", "context": _context(namespace)},
            ],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    # One request

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        path, query = http.path, dict(http.rel_url.query)
        request = paths.describe(http.method, path, query)
        request.agent = http.headers.get("User-Agent", "")
        request.at = asyncio.get_running_loop().time()
        self.requests.add(request)
        try:
            request.body = await _body(http)
            faults = self.faults.hitting(request)
            if self.latency_seconds:
                await asyncio.sleep(self.latency_seconds)
            await meet([one for one in faults if not one.after], request)
            response = await self._respond(http, path, request, faults)
            await meet([one for one in faults if one.after], request)
        except Unserved:
            request.status, request.version = 404, self.store.version
            return web.Response(text="404 page not found\n", status=404)
        except ApiError as error:
            request.status, request.version = error.code, self.store.version
            return _json(encode(error.status()), error.code, error.headers)
        except Cut:
            request.status = -1
            assert http.transport is not None
            if request.verb == "watch":
                http.transport.close()  # what has been sent before the cut still arrives
            else:
                http.transport.abort()
            return web.Response()
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the client gets an answer, the test the error
            self.errors.append(error)
            request.status = 500
            return _json(encode(failure(500, repr(error)).status()), 500)
        finally:
            if not self.requests.bodies:
                request.body = None
        request.status, request.version = response.status, self.store.version
        return response

    async def _respond(
        self, http: web.BaseRequest, path: str, request: Request, faults: list[Fault]
    ) -> web.StreamResponse:
        if paths.split(path) is None:
            return self._other(path)
        if request.group == "authorization.k8s.io":
            review = {**request.body, "status": {"allowed": self._refusal(request) is None}}
            return _json(encode(review), 201)
        refusal = self._refusal(request)
        if refusal is not None:
            qualified = f"{request.resource}.{request.group}".rstrip(".")
            raise forbidden(qualified, request.name, refusal)
        target = paths.resolve(request, path, self.registry)
        accept = http.headers.get("Accept", "")
        as_table = "as=Table" in accept and "g=meta.k8s.io" in accept
        if request.verb == "watch":
            return await self._watch(http, target, request, as_table=as_table)
        if target.subresource == "log":
            return await self._log(http, target, request)
        if request.verb in {"get", "list"}:
            version = next((one.stale for one in faults if one.stale is not None), None)
            return self._read(target, request, as_table=as_table, version=version)
        return self._write(http, target, request)

    def _refusal(self, request: Request) -> str | None:
        if self.authorize is None or request.agent.startswith("stand-in"):
            return None
        return self.authorize(request)

    def _other(self, path: str) -> web.Response:
        if path.startswith(_HEALTH):
            return web.Response(text="ok")
        if path == "/openapi/v2":
            kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            return web.Response(body=discovery.EMPTY_OPENAPI_V2, content_type=kind)
        parts = [part for part in path.split("/") if part]
        found = discovery.document(self.registry, parts)
        if parts == ["apis"]:
            since, latest = self.registry.since, time.monotonic() - self.discovery_seconds
            found["groups"] = [
                one for one in found["groups"] if since.get(one["name"], 0) <= latest
            ]
        return _json(encode(found))

    # Reading

    def _read(
        self, target: Target, request: Request, *, as_table: bool, version: int | None
    ) -> web.Response:
        query, resource = request.query, target.resource
        include = query.get("includeObject", "Metadata")
        if request.verb == "get":
            entry = self._get(target, version)
            if as_table:
                at = {"resourceVersion": entry.object["metadata"]["resourceVersion"]}
                return _json(encode(table(resource, [entry.object], at, include)))
            return _json(entry.data)
        page = self.objects.page(
            resource,
            target.namespace if resource.namespaced else None,
            labels=query.get("labelSelector", ""),
            fields=query.get("fieldSelector", ""),
            limit=int(query.get("limit") or 0),
            token=query.get("continue", ""),
            version=version,
        )
        metadata: dict[str, Any] = {"resourceVersion": str(page.version)}
        if page.token:
            metadata["continue"] = page.token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        if as_table:
            objects = [one.object for one in page.entries]
            return _json(encode(table(resource, objects, metadata, include)))
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        opening = encode({**head, "metadata": metadata})[:-1]
        items = b",".join([one.data for one in page.entries])
        return _json(opening + b',"items":[' + items + b"]}")

    def _get(self, target: Target, version: int | None) -> Entry:
        place = (target.namespace or "", target.name)
        if version is not None:
            for entry in self.store.collection(target.resource.key).at(version):
                if entry.place == place:
                    return self.objects.served(target.resource, entry)
        return self.objects.get(target.resource, *place)

    async def _watch(
        self, http: web.BaseRequest, target: Target, request: Request, *, as_table: bool
    ) -> web.StreamResponse:
        seconds = self.bookmark_seconds
        stream = Stream(
            self.objects,
            target,
            request,
            self.faults,
            bookmark_seconds=seconds,
            as_table=as_table,
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(http)
        request.status = 200
        self._streams.add(stream)
        try:
            async for chunk in stream.chunks():
                if chunk:
                    await response.write(chunk)
            await response.write_eof()
        except ConnectionResetError:
            pass
        finally:
            stream.stop()
            self._streams.discard(stream)
        return response

    async def _log(
        self, http: web.BaseRequest, target: Target, request: Request
    ) -> web.StreamResponse:
        place = (target.namespace or "", target.name)
        self.objects.get(target.resource, *place)
        text = self.logs.get(place, "")
        sent = len(text)
        if lines := request.query.get("tailLines"):
            text = "".join(text.splitlines(keepends=True)[-int(lines) :])
        if request.query.get("follow") not in {"true", "1"}:
            return web.Response(text=text)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(http)
        await response.write(text.encode())
        while True:
            found = self.store.collection(target.resource.key).entries.get(place)
            over = found is None or found.object["status"].get("phase") in {"Succeeded", "Failed"}
            now = self.logs.get(place, "")
            await response.write(now[sent:].encode())
            sent = len(now)
            if over:
                return response
            await asyncio.sleep(0.05)

    # Writing

    def _write(self, http: web.BaseRequest, target: Target, request: Request) -> web.Response:
        resource, namespace = target.resource, target.namespace or ""
        query, body = request.query, request.body
        if request.verb in {"delete", "deletecollection"}:
            return self._delete(target, request)
        options = paths.options(query, request.agent)
        if request.verb in {"create", "update"} and resource.custom:
            _require_kind(resource, body)
        if request.verb == "create":
            if target.name:
                raise failure(405, "the server does not allow this method on the object")
            written = self.objects.create(resource, namespace, body, options)
        elif request.verb == "update":
            written = self.objects.update(
                resource, namespace, target.name, body, target.subresource, options
            )
        else:
            kind = http.headers.get("Content-Type", "").partition(";")[0].strip()
            written = self.objects.patch(
                resource, namespace, target.name, body, kind, target.subresource, options
            )
        headers = [("Warning", f'299 - "{json.dumps(one)[1:-1]}"') for one in written.warnings]
        entry = self.objects.served(resource, written.entry)
        response = _json(entry.data, 201 if written.created else 200)
        for header in headers:
            response.headers.add(*header)
        return response

    def _delete(self, target: Target, request: Request) -> web.Response:
        resource = target.resource
        options = paths.deletion(request.query, request.body)
        if request.verb == "delete":
            namespace = target.namespace or ""
            written = self.objects.delete(resource, namespace, target.name, options)
            if not written.gone or resource.plural == "pods":
                return _json(self.objects.served(resource, written.entry).data)
            uid = written.entry.object["metadata"]["uid"]
            details = {"name": target.name, "group": resource.group, "kind": resource.plural}
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
            return _json(encode({**status, "details": {**details, "uid": uid}}))
        labels = request.query.get("labelSelector", "")
        fields = request.query.get("fieldSelector", "")
        page = self.objects.page(resource, target.namespace, labels=labels, fields=fields)
        for entry in page.entries:
            self.objects.delete(resource, *entry.place, options)
        items = b",".join([one.data for one in page.entries])
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": {}}
        return _json(encode(head)[:-1] + b',"items":[' + items + b"]}")


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=BODY_BYTES
    )


async def _body(http: web.BaseRequest) -> Any:
    if http.method == "GET" or not http.can_read_body:
        return None
    try:
        data = await http.read()
    except web.HTTPRequestEntityTooLarge as error:
        text = f"Request entity too large: limit is {BODY_BYTES}"
        raise ApiError(413, "RequestEntityTooLarge", text) from error
    kind = http.headers.get("Content-Type", "application/json")
    if "protobuf" in kind:
        raise failure(415, "the body of the request was in an unknown format")
    try:
        return json.loads(data) if data else None
    except ValueError as error:
        if "yaml" not in kind:
            raise failure(400, f"the body of the request could not be decoded: {error}") from error
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise failure(400, f"error decoding YAML: {error}") from error


def _json(data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=data, status=status, headers=headers, content_type="application/json")


def _require_kind(resource: Resource, body: Any) -> None:
    """Check that a custom resource says what it is; built-in ones may leave that out.

    Raises:
        ApiError: 400, it does not.
    """
    for key in ("kind", "apiVersion"):
        if isinstance(body, Mapping) and not body.get(key):
            wanted, missing = resource.kind, f"Object '{key[0].upper()}{key[1:]}' is missing"
            text = f"the object provided is unrecognized (must be of type {wanted}): {missing}"
            raise failure(400, f"{text} in '{encode(body).decode()[:200]}'")


def _context(namespace: str) -> dict[str, str]:
    return {"cluster": "test", "user": "test", "namespace": namespace}
