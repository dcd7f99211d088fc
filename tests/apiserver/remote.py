"""`Access` to a real API server over HTTP: what tests and stand-ins do there, in one namespace.

The namespace `default` of the tests is this one namespace; nothing outside of it is touched but
what has none. Objects of the kinds that the stand-ins follow are mirrored here from watches and
from the answers to our own writes, in whatever order they come.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml
from apiserver.access import Access
from apiserver.errors import ApiError
from apiserver.faults import Record, Request
from apiserver.mirror import Mirror
from apiserver.resources import Registry, Resource, from_crd
from apiserver.store import Change
from apiserver.wire import Wire, document_of, suppress_missing, within
from kubernetes import aio

Json = dict[str, Any]
Key = tuple[str, str]

PATIENCE = 6.0
"""So many times longer than for the server in process may everything take."""

MANAGER = "coldstart-tests"
"""Who applies CustomResourceDefinitions."""

FOLLOWED = ("reasoningruns", "pytorchjobs", "jobs", "pods", "services")


class Remote(Access):
    """One namespace of a real API server; `with running_remote(...)` starts and ends it.

    Args:
        kubeconfig: of somebody who may do everything.
        namespace: the name of one that is there.
        lent: whether definitions of the cluster are left as they are.
    """

    pause = 0.05

    def __init__(self, kubeconfig: Path, namespace: str, *, lent: bool = False) -> None:
        super().__init__()
        self.kubeconfig_path = kubeconfig
        self.own_namespace = namespace
        self.lent = lent
        self.wire = Wire(kubeconfig)
        self.registry = Registry()
        self.store = Mirror()
        self.requests = Record()
        """The creations in followed kinds as they were seen, whoever made them; nothing else."""
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self.store.listeners.append(self._seen)

    # As Access has it

    def namespace(self, name: str) -> str:
        return self.own_namespace if name in ("", "default") else name

    def create(self, resource: str, document: Json, namespace: str = "") -> Json:
        document = copy.deepcopy(document)
        if resource == "customresourcedefinitions":
            return self._define(document)
        found = self.registry.named(resource)
        document.setdefault("apiVersion", found.api_version)
        document.setdefault("kind", found.kind)
        metadata = document["metadata"]
        if found.namespaced:
            metadata["namespace"] = self.namespace(namespace or metadata.get("namespace", ""))
        place = metadata.get("namespace", "")
        return self._known(found, self.wire("POST", self._at(found, place), document))

    def get(self, resource: str, name: str, namespace: str = "default") -> Json:
        found = self.registry.named(resource)
        return self.wire("GET", self._at(found, namespace, name))

    def list(
        self, resource: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> list[Json]:
        found = self.registry.named(resource)
        query = {"labelSelector": labels, "fieldSelector": fields}
        path = self._at(found, namespace or "default")
        page = self.wire("GET", path, None, {key: text for key, text in query.items() if text})
        return [
            {"apiVersion": found.api_version, "kind": found.kind, **one} for one in page["items"]
        ]

    def patch(
        self,
        resource: str,
        name: str,
        body: Any,
        namespace: str = "default",
        *,
        subresource: str = "",
        strategic: bool = False,
    ) -> Json:
        found = self.registry.named(resource)
        content = f"application/{'strategic-' if strategic else ''}merge-patch+json"
        path = self._at(found, namespace, name, subresource)
        return self._known(found, self.wire("PATCH", path, body, None, content))

    def set_status(
        self, resource: str, name: str, status: Json | None, namespace: str = "default"
    ) -> Json:
        found = self.registry.named(resource)
        path = self._at(found, namespace, name, "status")
        while True:
            document = {**self.get(resource, name, namespace), "status": status}
            try:
                return self._known(found, self.wire("PUT", path, document))
            except ApiError as error:
                if error.reason != "Conflict" or "UID" in error.message:
                    raise

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "default",
        *,
        propagation: str | None = "Background",
        grace: int | None = 0,
    ) -> None:
        found = self.registry.named(resource)
        if resource == "customresourcedefinitions":
            self._spare(self._at(found, "", name))
        options = {"propagationPolicy": propagation, "gracePeriodSeconds": grace}
        body = {key: value for key, value in options.items() if value is not None}
        with suppress_missing():
            self.wire("DELETE", self._at(found, namespace, name), body)
        if resource == "customresourcedefinitions":
            self._undefined(name)

    def bind(self, name: str, node: str, namespace: str = "default") -> None:
        found = self.registry.named("pods")
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.wire("POST", self._at(found, namespace, name, "binding"), body)

    def wait(
        self,
        resource: str,
        name: str,
        test: Callable[[Json | None], Any],
        namespace: str = "default",
        seconds: float = 10.0,
    ) -> Json | None:
        return super().wait(resource, name, test, namespace, seconds * PATIENCE)

    def path(self, resource: str, name: str = "") -> str:
        """Where the server has a resource of the namespace, or one object of it."""
        return self._at(self.registry.named(resource), "default", name)

    def kubeconfig(self, path: Path, namespace: str = "") -> Path:
        """Write a copy of the kubeconfig, with our namespace as the one that is meant."""
        document = yaml.safe_load(self.kubeconfig_path.read_text())
        for one in document["contexts"]:
            one["context"]["namespace"] = namespace or self.own_namespace
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    # Definitions

    def _define(self, crd: Json) -> Json:
        """Apply a CustomResourceDefinition, and wait until it is served."""
        name, found = crd["metadata"]["name"], self.registry.named("customresourcedefinitions")
        path = self._at(found, "", name)
        self._spare(path)
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        self.wire("PATCH", path, crd, query, "application/apply-patch+yaml")
        served = from_crd(crd)
        for one in served:
            self.registry.add(one)
        within(60, lambda: self._served(path, served), f"{name} to be served")
        for one in served:
            if one.plural in FOLLOWED:
                self.follow(one)
        return self.wire("GET", path)

    def _spare(self, path: str) -> None:
        """Leave alone what somebody else has installed in a cluster that is lent."""
        with suppress_missing():
            fields = self.wire("GET", path)["metadata"].get("managedFields") or ()
            if self.lent and not any(one["manager"] == MANAGER for one in fields):
                raise PermissionError(f"{path} is not the tests': use a cluster without it")

    def _served(self, path: str, resources: list[Resource]) -> bool:
        # Null for a moment after it has been created.
        conditions = self.wire("GET", path).get("status", {}).get("conditions") or []
        if not any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
            return False
        try:
            for one in resources:
                self.wire("GET", self._at(one, "default"))
        except ApiError as error:
            if error.code not in (404, 429, 503):
                raise
            return False
        return True

    def _undefined(self, name: str) -> None:
        plural, _, group = name.partition(".")
        crd = self.registry.named("customresourcedefinitions")
        within(60, lambda: self._gone(self._at(crd, "", name)), f"{name} to be gone")
        self.registry.drop(group, plural)

        def end() -> None:
            if task := self._tasks.pop((group, plural), None):
                task.cancel()
            self.store.replace((group, plural), [], 2**63)

        self.call(end)

    def _gone(self, path: str) -> bool:
        with suppress_missing():
            self.wire("GET", path)
            return False
        return True

    # Following

    async def start(self) -> None:
        """Follow what there is of the kinds that are followed."""
        self._enter()
        configuration = aio.client.Configuration()
        await aio.config.load_kube_config(
            str(self.kubeconfig_path), client_configuration=configuration
        )
        self._stream = aio.client.ApiClient(configuration)
        for plural in FOLLOWED:
            with suppress(KeyError):
                self.follow(self.registry.named(plural))

    async def stop(self) -> None:
        """Follow nothing any longer."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._stream.close()

    def follow(self, resource: Resource) -> None:
        """Mirror a kind, which must be served, if anybody follows at all."""
        if self._loop is None:
            return

        def begin() -> None:
            if resource.key not in self._tasks:
                self._tasks[resource.key] = asyncio.ensure_future(self._follow(resource))

        self.call(begin)

    async def _follow(self, resource: Resource) -> None:
        while True:
            try:
                version = await self._listed(resource)
                while version:
                    version = await self._watched(resource, version)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                await asyncio.sleep(0.2)

    async def _listed(self, resource: Resource) -> str:
        """Take in all that there is; the version as of which."""
        answer = await self._ask(resource, {})
        page = document_of(await answer.read())
        version = str((page.get("metadata") or {}).get("resourceVersion") or "")
        identity = {"apiVersion": resource.api_version, "kind": resource.kind}
        if answer.status == 200:
            items = [{**identity, **one} for one in page["items"]]
            self.store.replace(resource.key, items, int(version))
            return version
        raise ValueError(page)

    async def _watched(self, resource: Resource, version: str) -> str:
        """Take in changes until the server ends the stream; the last version, empty if too old."""
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        answer = await self._ask(resource, query)
        rest = b""
        async for chunk in answer.response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self.store.take(resource.key, event["type"], event["object"])
        return version

    async def _ask(self, resource: Resource, query: dict[str, str]) -> Any:
        request = await self._stream.param_serialize(
            "GET",
            self._at(resource, "default"),
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        return await self._stream.call_api(*request, _request_timeout=timeout)

    def _seen(self, key: Key, change: Change) -> None:
        if change.type == "ADDED":
            namespace, name = change.entry.place
            self.requests.add(
                Request(
                    "create",
                    key[1],
                    group=key[0],
                    namespace=namespace,
                    name=name,
                    body=dict(change.entry.object),
                    status=201,
                    at=asyncio.get_running_loop().time(),
                    version=change.version,
                )
            )

    def _known(self, resource: Resource, document: Json) -> Json:
        """Mirror what a write of ours left."""
        if resource.key in self._tasks:
            self.call(lambda: self.store.take(resource.key, "MODIFIED", copy.deepcopy(document)))
        return document

    def _at(self, resource: Resource, namespace: str, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
        place = f"/namespaces/{self.namespace(namespace)}" if resource.namespaced else ""
        parts = (resource.plural, quote(name, safe=""), subresource)
        return f"{root}{place}/{'/'.join(part for part in parts if part)}"


@contextmanager
def running_remote(remote: Remote) -> Iterator[Remote]:
    """Have a thread follow what is in the namespace."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="remote", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(remote.start(), loop).result(60)
        yield remote
    finally:
        asyncio.run_coroutine_threadsafe(remote.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
