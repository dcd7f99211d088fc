"""Faults that a test asks for, and the record of every request; decides nothing by itself.

A fault hits requests (or watch events) that match it, from the `nth` on, `times` times; they are
counted from when the fault was added. Several faults may hit one request. Those who present
themselves as stand-ins (`User-Agent: stand-in/…`) and direct access by the test are spared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass
class Request:
    """One request as the record has it; `status` is 0 until it is answered, -1 if never."""

    verb: str
    """get, list, watch, create, update, patch, delete, deletecollection; or the method."""
    resource: str
    """The plural, or the path of what is no resource."""
    subresource: str = ""
    group: str = ""
    namespace: str = ""
    name: str = ""
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    """What was sent, as JSON."""
    agent: str = ""
    status: int = 0
    at: float = 0.0
    """Seconds of the event loop's clock."""
    version: int = 0
    """The store's version when it was answered."""
    done: int = 0
    """What the API server answered, where a proxy stands before it; 0: it never got the request."""

    @property
    def target(self) -> str:
        """The resource with its subresource: `reasoningruns/status`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass
class Fault:
    """What happens to some requests; build one with the functions below."""

    verb: str | None = None
    resource: str | None = None
    """Plural, `plural/subresource`, or none for all; `pods` does not match `pods/log`."""
    nth: int = 1
    times: int | None = 1
    """None: from then on, always."""
    where: Callable[[Request], bool] = lambda _: True
    seconds: float = 0.0
    """Delay before anything else."""
    hook: Callable[[Request], Awaitable[None] | None] | None = None
    """Called instead of, or before, an answer; at `after` for what must follow the commit."""
    after: bool = False
    """Act when the write has been done and the answer has not been sent."""
    status: int = 0
    """Answer with this code."""
    message: str = "injected fault"
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    drop: bool = False
    """Close the connection without an answer."""
    stale: int | None = None
    """Lists and gets answer as of this version."""
    seen: int = 0
    """Matching requests so far."""
    hits: int = 0
    """Requests that it has hit."""

    def strikes(self, request: Request) -> bool:
        """Count a request, and whether it is hit."""
        if self.verb not in {None, request.verb}:
            return False
        if self.resource not in {None, request.target} or not self.where(request):
            return False
        self.seen += 1
        over = self.times is not None and self.seen >= self.nth + self.times
        if self.seen < self.nth or over:
            return False
        self.hits += 1
        return True


@dataclass
class StreamFault:
    """What happens to the events of watches of one resource."""

    resource: str
    action: str
    """hide, duplicate, swap, cut, silence, stall, error."""
    where: Callable[[str, dict[str, Any]], bool] = lambda _type, _object: True
    """By type and object of the event."""
    nth: int = 1
    times: int | None = 1
    status: int = 410
    """Of an `error` event."""
    seconds: float = 0.0
    """Of a `stall`."""
    hook: Callable[[Any], None] | None = None
    """Called with the object of an event that is hit, before anything else."""
    seen: int = 0
    hits: int = 0
    held: Any = None

    def strikes(self, kind: str, document: Any) -> bool:
        """Count an event, and whether it is hit."""
        if not self.where(kind, document):
            return False
        self.seen += 1
        over = self.times is not None and self.seen >= self.nth + self.times
        if self.seen < self.nth or over:
            return False
        self.hits += 1
        return True


class Faults:
    """The faults in force; change it only through `ApiServer` when another thread serves."""

    def __init__(self) -> None:
        self.requests: list[Fault] = []
        self.streams: list[StreamFault] = []

    def add(self, fault: Fault | StreamFault) -> Any:
        """Put a fault in force; it is returned, to look at its `hits`."""
        if isinstance(fault, StreamFault):
            self.streams.append(fault)
        else:
            self.requests.append(fault)
        return fault

    def clear(self) -> None:
        """All is well again; streams that were silenced stay so until they are opened anew."""
        self.requests.clear()
        self.streams.clear()

    def hitting(self, request: Request) -> list[Fault]:
        """The faults that this request meets."""
        if not self.requests or request.agent.startswith("stand-in"):
            return []
        return [fault for fault in self.requests if fault.strikes(request)]


def answer(verb: str | None, resource: str | None, status: int, **more: Any) -> Fault:
    """Answer with an error; with `after=True` once the write has been done."""
    return Fault(verb, resource, status=status, **more)


def delay(verb: str | None, resource: str | None, seconds: float, **more: Any) -> Fault:
    """Take longer; always, unless `times` says otherwise."""
    return Fault(verb, resource, seconds=seconds, **{"times": None, **more})


def drop(verb: str | None, resource: str | None, *, after: bool, **more: Any) -> Fault:
    """Close the connection: before anything was done, or after the commit."""
    return Fault(verb, resource, drop=True, after=after, **more)


def timeout(verb: str | None, resource: str | None, *, after: bool, **more: Any) -> Fault:
    """Answer never: before anything was done, or after the commit."""
    return Fault(verb, resource, seconds=86_400.0, after=after, **more)


def stale(resource: str, version: int, verb: str = "list", **more: Any) -> Fault:
    """Serve what was there at a version, as an API server with an old cache does."""
    return Fault(verb, resource, stale=version, **more)


def hide(resource: str, **more: Any) -> StreamFault:
    """Leave watch events out."""
    return StreamFault(resource, "hide", **more)


def duplicate(resource: str, **more: Any) -> StreamFault:
    """Send watch events twice."""
    return StreamFault(resource, "duplicate", **more)


def swap(resource: str, **more: Any) -> StreamFault:
    """Send a watch event after the one that follows it."""
    return StreamFault(resource, "swap", **more)


def cut(resource: str, **more: Any) -> StreamFault:
    """Close the connection of a watch in place of the event."""
    return StreamFault(resource, "cut", **more)


def silence(resource: str, **more: Any) -> StreamFault:
    """Leave the connection open and send nothing, not even bookmarks, from that event on."""
    return StreamFault(resource, "silence", **more)


def stall(resource: str, seconds: float, **more: Any) -> StreamFault:
    """Send nothing more for a while after that event, then all of it."""
    return StreamFault(resource, "stall", seconds=seconds, **more)


def error(resource: str, status: int = 410, **more: Any) -> StreamFault:
    """Send an ERROR event in place of the event, and end the stream."""
    return StreamFault(resource, "error", status=status, **more)


class Record:
    """Every request in the order in which they came, the oldest dropped beyond a bound."""

    def __init__(self, bound: int = 1_000_000) -> None:
        self._requests: deque[Request] = deque(maxlen=bound)
        self.bodies = True
        """Whether what was sent is kept; off, long soaks stay small."""

    def __iter__(self) -> Any:
        return iter(list(self._requests))

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Append a request."""
        if not self.bodies:
            request.body = None
        self._requests.append(request)

    def clear(self) -> None:
        """Forget all."""
        self._requests.clear()

    def of(
        self,
        verb: str | None = None,
        target: str | None = None,
        *,
        verbs: Iterable[str] = (),
        agent: str | None = None,
    ) -> list[Request]:
        """The requests of a verb (or several), a resource, a client."""
        wanted = {verb} if verb else set(verbs)
        return [
            one
            for one in list(self._requests)
            if (not wanted or one.verb in wanted)
            and (target is None or one.target == target)
            and (one.agent.startswith(agent) if agent else not one.agent.startswith("stand-in"))
        ]

    def writes(self, target: str | None = None) -> list[Request]:
        """The mutating requests, those of stand-ins left out."""
        return self.of(target=target, verbs=WRITES)
