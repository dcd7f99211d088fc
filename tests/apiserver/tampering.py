"""What faults do to requests and to the events of watch streams, for a server or a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from apiserver.errors import ApiError, failure
from apiserver.faults import Fault, Faults, Request, StreamFault
from apiserver.store import encode


class Cut(Exception):
    """The connection is to be closed."""


async def meet(faults: Iterable[Fault], request: Request) -> None:
    """Let faults act on a request.

    Raises:
        ApiError: one of them answers.
        Cut: one of them drops the connection.
    """
    for fault in faults:
        if fault.seconds:
            await asyncio.sleep(fault.seconds)
        if fault.hook:
            waiting = fault.hook(request)
            if waiting is not None:
                await waiting
        if fault.drop:
            raise Cut
        if fault.status:
            error = failure(fault.status, fault.message)
            error.reason = fault.reason or error.reason
            error.headers, error.details = fault.headers, dict(fault.details)
            if "Retry-After" in fault.headers:
                error.details.setdefault("retryAfterSeconds", int(fault.headers["Retry-After"]))
            raise error


class Tampering:
    """What the faults make of the events of one watch stream."""

    def __init__(self, faults: Faults, plural: str) -> None:
        self.faults = faults
        self.plural = plural
        self.silent = False
        """Nothing is sent any more, and the watch does not end: the network has lost it."""
        self.cut = False
        """The connection is to be closed after what has been sent."""
        self.over = False
        """The stream is to end in an orderly way."""
        self.stalled = 0.0
        """Seconds to wait before what comes next."""

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.silent or self.cut or self.over

    def lines(self, kind: str, document: Any, line: bytes) -> list[bytes]:
        """What is sent in place of an event."""
        held: list[bytes] = []
        for fault in self.faults.streams:
            if fault.resource != self.plural or kind == "BOOKMARK":
                continue
            if fault.action == "swap" and fault.held is not None:
                owner, kept = fault.held
                if owner is self:
                    fault.held = None
                    held.append(kept)
            elif fault.strikes(kind, document):
                line = self._strike(fault, document, line)
        return [one for one in (line, *held) if one]

    def _strike(self, fault: StreamFault, document: Any, line: bytes) -> bytes:
        if fault.hook:
            fault.hook(document)
        match fault.action:
            case "duplicate":
                return line + line
            case "stall":
                self.stalled += fault.seconds
                return line
            case "error":
                self.over = True
                return error_line(failure(fault.status, "injected fault"))
            case "swap":
                fault.held = (self, line)
            case "silence":
                self.silent = True
            case "cut":
                self.cut = True
            case action if action != "hide":
                raise ValueError(action)
        return b""


def error_line(error: ApiError) -> bytes:
    """The event with which a watch ends in an error."""
    return b'{"type":"ERROR","object":%s}\n' % encode(error.status())
