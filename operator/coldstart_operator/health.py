"""Whether the operator still hears and sees: the API server answers, the watch streams tell.

A watch stream that has died silently looks like a quiet cluster. So whatever is known to have
changed, because we changed it or because a full LIST shows it, must come back through its stream,
or something later must: a stream tells in order. One event that is lost is left to the LISTs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from coldstart_operator.cache import Key

Thing = tuple[str, Key]
"""A kind and the key of an object."""


@dataclass
class Health:
    """What is waited for, and since when."""

    limit: float
    """Seconds after which something that does not happen is a fault."""
    heard: Callable[[], float]
    """When the API server last answered, by the monotonic clock."""
    busy: Callable[[], float]
    """For how many seconds the slowest worker has been at one run."""
    _expected: dict[Thing, tuple[int, float]] = field(default_factory=dict)

    def expect(self, kind: str, key: Key, version: int) -> None:
        """An object has this version: its watch stream has to tell of it, or of a later one."""
        self._expected.setdefault((kind, key), (version, monotonic()))

    def seen(self, kind: str, key: Key, version: int) -> None:
        """A watch stream has told of a version of an object; every namespace may have its own."""
        told = [
            thing
            for thing, (expected, _) in self._expected.items()
            if version >= expected and thing[0] == kind and thing[1].namespace == key.namespace
        ]
        for thing in told:
            del self._expected[thing]

    def gone(self, kind: str, key: Key) -> None:
        """An object is no longer there: nothing has to be told of it."""
        self._expected.pop((kind, key), None)

    def silences(self) -> dict[str, float]:
        """For how many seconds what must come has not: an answer, a change, a worker's end."""
        now = monotonic()
        oldest = min((since for _, since in self._expected.values()), default=now)
        return {"api_server": now - self.heard(), "watch": now - oldest, "worker": self.busy()}

    def problems(self) -> list[str]:
        """What is wrong, in sentences; empty if nothing is."""
        found, now = [], monotonic()
        silence = now - self.heard()
        if silence > self.limit:
            found.append(f"the API server has not answered for {silence:.0f} s")
        late = [thing for thing, (_, since) in self._expected.items() if now - since > self.limit]
        if late:
            kind, key = late[0]
            found.append(
                f"the watch streams have not told of {len(late)} changes, the first of "
                f"{kind} {key.namespace}/{key.name}"
            )
        if self.busy() > self.limit:
            found.append(f"a worker has been at one run for {self.busy():.0f} s")
        return found
