"""Direct access to the server's objects for tests and stand-ins: same rules, no HTTP, no record.

Every method may be called from any thread; from another than the server's it waits for it.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from apiserver.errors import ApiError
from apiserver.objects import MERGE, STRATEGIC, Deletion, Objects
from apiserver.resources import Registry
from apiserver.store import Place

T = TypeVar("T")


class Access:
    """What tests do to a server behind its back."""

    objects: Objects
    registry: Registry
    pause = 0.01
    """Seconds between two looks of those who wait."""

    def __init__(self) -> None:
        self.logs: dict[Place, str] = {}
        """What pods/log answers, by namespace and name of the pod."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def _enter(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the server's thread."""
        if self._loop is None or threading.get_ident() == self._thread:
            return function()

        async def once() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(once(), self._loop).result(30)

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Run a coroutine in the server's loop and wait for it; not from the server's thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def namespace(self, name: str) -> str:
        """The namespace that a test means by a name."""
        return name

    def create(
        self, resource: str, document: dict[str, Any], namespace: str = ""
    ) -> dict[str, Any]:
        """Create an object; its namespace is the document's, else `default`.

        Raises:
            ApiError: as a request would get.
        """
        found = self.registry.named(resource)
        document = copy.deepcopy(document)
        namespace = namespace or document.get("metadata", {}).get("namespace") or "default"
        if not found.namespaced:
            namespace = ""
        written = self.call(lambda: self.objects.create(found, namespace, document))
        return copy.deepcopy(dict(written.entry.object))

    def get(self, resource: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """A copy of an object.

        Raises:
            ApiError: 404.
        """
        found = self.registry.named(resource)
        place = namespace if found.namespaced else ""
        entry = self.call(lambda: self.objects.get(found, place, name))
        return copy.deepcopy(dict(entry.object))

    def find(self, resource: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """A copy of an object; none where it is not there."""
        try:
            return self.get(resource, name, namespace)
        except (ApiError, KeyError):
            return None

    def list(
        self, resource: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> list[dict[str, Any]]:
        """Copies of objects, in order of namespace and name."""
        found = self.registry.named(resource)
        page = self.call(lambda: self.objects.page(found, namespace, labels=labels, fields=fields))
        return [copy.deepcopy(dict(one.object)) for one in page.entries]

    def patch(
        self,
        resource: str,
        name: str,
        body: Any,
        namespace: str = "default",
        *,
        subresource: str = "",
        strategic: bool = False,
    ) -> dict[str, Any]:
        """Merge-patch an object.

        Raises:
            ApiError: as a request would get.
        """
        found = self.registry.named(resource)
        place, kind = namespace if found.namespaced else "", STRATEGIC if strategic else MERGE
        body = copy.deepcopy(body)
        written = self.call(lambda: self.objects.patch(found, place, name, body, kind, subresource))
        return copy.deepcopy(dict(written.entry.object))

    def set_status(
        self, resource: str, name: str, status: dict[str, Any] | None, namespace: str = "default"
    ) -> dict[str, Any]:
        """Replace the whole status."""
        document = self.get(resource, name, namespace)
        document["metadata"].pop("resourceVersion")
        document["status"] = copy.deepcopy(status)
        found = self.registry.named(resource)
        place = namespace if found.namespaced else ""

        def replace() -> dict[str, Any]:
            current = self.objects.get(found, place, name).object["metadata"]["resourceVersion"]
            document["metadata"]["resourceVersion"] = current
            written = self.objects.update(found, place, name, document, "status")
            return copy.deepcopy(dict(written.entry.object))

        return self.call(replace)

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "default",
        *,
        propagation: str | None = "Background",
        grace: int | None = 0,
    ) -> None:
        """Delete an object; what is not there is fine."""
        found = self.registry.named(resource)
        place = namespace if found.namespaced else ""
        try:
            options = Deletion(propagation, grace)
            self.call(lambda: self.objects.delete(found, place, name, options))
        except ApiError as error:
            if error.code != 404:
                raise

    def bind(self, name: str, node: str, namespace: str = "default") -> None:
        """Put a pod on a node, as the scheduler does.

        Raises:
            ApiError: 404.
        """
        self.patch("pods", name, {"spec": {"nodeName": node}}, namespace)

    def set_log(self, name: str, text: str, namespace: str = "default") -> None:
        """What pods/log answers."""
        self.logs[namespace, name] = text

    def compact(self) -> None:
        """Forget history: watches from versions so far, and continue tokens, answer 410."""
        self.call(self.objects.compact)

    def wait(
        self,
        resource: str,
        name: str,
        test: Callable[[dict[str, Any] | None], Any],
        namespace: str = "default",
        seconds: float = 10.0,
    ) -> dict[str, Any] | None:
        """Wait until an object (none where it is not there) passes a test; for other threads.

        Raises:
            TimeoutError: it does not; the message shows the object.
        """
        end = time.monotonic() + seconds
        while True:
            found = self.find(resource, name, namespace)
            if test(found):
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{resource} {namespace}/{name} after {seconds} s: {found}")
            time.sleep(self.pause)

    async def until(
        self,
        resource: str,
        name: str,
        test: Callable[[dict[str, Any] | None], Any],
        namespace: str = "default",
        seconds: float = 10.0,
    ) -> dict[str, Any] | None:
        """`wait` for coroutines.

        Raises:
            TimeoutError: it does not; the message shows the object.
        """
        end = time.monotonic() + seconds
        while True:
            found = self.find(resource, name, namespace)
            if test(found):
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{resource} {namespace}/{name} after {seconds} s: {found}")
            await asyncio.sleep(self.pause)
