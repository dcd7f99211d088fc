"""What a place with runs answers, and the errors it may answer with; asks nobody itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from coldstart.run import ReasoningRun
from coldstart.status import RunStatus, StageStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from coldstart.report import RunResults


class PlaceError(Exception):
    """What keeps a command from its answer; the message is a sentence for people."""

    exit_code = 2


class NoPlace(PlaceError):
    """There is no such place, or nothing here that can ask it."""


class NoRun(PlaceError):
    """The place has no run of this name."""


class NoAnswer(PlaceError):
    """The place did not answer; asked again, it may."""

    exit_code = 1


class NoLog(PlaceError):
    """The log that was asked for is not there, or no longer."""

    exit_code = 1


class NoPage(PlaceError):
    """The report's page cannot be had."""

    exit_code = 1


class NotYet(NoPage):
    """The page is written later; nothing is wrong."""

    exit_code = 0


@dataclass(frozen=True)
class Where:
    """Which cluster, and where in it; what is None is as the user's kubeconfig has it."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def told(self) -> bool:
        """Whether the user has named any of it."""
        return any((self.namespace, self.context, self.kubeconfig))


@dataclass(frozen=True)
class Event:
    """Something that happened to a run."""

    time: datetime | None
    """When it was last seen."""
    warning: bool
    """Whether somebody should look at it."""
    reason: str
    """A CamelCase word."""
    message: str
    """A sentence."""


@dataclass(frozen=True)
class RunView:
    """A run as its place shows it."""

    name: str
    """Its name."""
    place: str
    """Where it was found, for people."""
    status: RunStatus
    """How far it is."""
    events: tuple[Event, ...] = ()
    """The latest events, the latest last."""
    notes: tuple[str, ...] = ()
    """What the status does not say; a sentence each."""


@dataclass(frozen=True)
class LogQuery:
    """Which log, and how much of it."""

    stage: str | None = None
    """None: the stage that runs, or ran last."""
    attempt: int | None = None
    """None: the latest."""
    node: int | None = 0
    """Which pod; None: all of them."""
    follow: bool = False
    """Go on until the attempt ends."""
    tail: int | None = None
    """How many lines of what is there; None: all."""


@dataclass(frozen=True)
class PageQuery:
    """Where the report's page is to go."""

    output: Path | None = None
    """None: where it belongs."""
    seconds: int = 180
    """How long a place that has to fetch it may take."""


class Place(Protocol):
    """A place with runs. Every method raises PlaceError where it has no answer."""

    def __enter__(self) -> Self:
        """Begin to ask."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what was opened for asking."""
        ...

    def view(self, name: str) -> RunView:
        """A run as it is."""
        ...

    def logs(self, name: str, query: LogQuery, tell: Callable[[str], None]) -> Iterator[bytes]:
        """The log of an attempt, in pieces; `tell` gets what is not part of it."""
        ...

    def results(self, name: str) -> RunResults:
        """The scores of a run's checkpoints."""
        ...

    def table(self, name: str) -> RenderableType:
        """The same and what goes with it, for the terminal."""
        ...

    def page(self, name: str, query: PageQuery, tell: Callable[[str], None]) -> Path:
        """Write a run's `report.html`; where it is."""
        ...

    def suspend(self, name: str, *, value: bool) -> str:
        """Suspend a run or let it go on; what has come of it, as a sentence."""
        ...

    def start(self, run: ReasoningRun) -> bool:
        """Have a run carried out, if it is not there; whether it was not."""
        ...

    def file(self, name: str, path: str, seconds: int, tell: Callable[[str], None]) -> bytes:
        """A file of a run's directory; a place that has to fetch it may take so long."""
        ...


_KINDS = ("reasoningruns", "reasoningrun", "rrun")


def bare(name: str) -> str:
    """The name in `rrun/NAME` and `reasoningrun.coldstart.dev/NAME`, as kubectl writes them."""
    kind, _, rest = name.partition("/")
    return rest if rest and kind.partition(".")[0] in _KINDS else name


def shown_attempt(view: RunView, query: LogQuery) -> tuple[StageStatus, int]:
    """The stage and the attempt whose log is meant.

    Without a stage it is the last one that has begun: the running one, or the one that failed.

    Raises:
        PlaceError: there is no such stage or attempt, or none has begun.
    """
    stages = view.status.stages
    if query.stage is None:
        entry = next((item for item in reversed(stages) if item.attempt), None)
        if entry is None:
            waits = view.status.message or "nothing has been said about it yet"
            raise NoLog(f"{view.name}: no stage has started: {waits}")
    else:
        entry = view.status.stage(query.stage)
        if entry is None:
            known = ", ".join(item.name for item in stages) or "none yet"
            raise PlaceError(f"--stage {query.stage}: {view.name} has no such stage (has: {known})")
    number = query.attempt or entry.attempt
    if not number:
        raise NoLog(f"{view.name}: {entry.name} has not started: {view.status.message}")
    if number > entry.attempt:
        raise PlaceError(
            f"--attempt {number}: {entry.name} of {view.name} has made {entry.attempt} so far"
        )
    return entry, number


def gone(what: str, entry: StageStatus, number: int) -> NoLog:
    """The error for a log that is there no longer, with what the status still knows.

    Args:
        what: what is gone, as the subject of a sentence.
        entry: the stage.
        number: the attempt.
    """
    told = f"{what} of {entry.name} attempt {number} is gone"
    if number != entry.attempt:
        return NoLog(f"{told}; the status knows of attempt {entry.attempt} only")
    if entry.error:
        return NoLog(f"{told}; it ended with {entry.error.code}: {entry.error.message}")
    return NoLog(f"{told}; the stage is {entry.state.value}")
