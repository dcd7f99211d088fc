"""The runs in a directory of this machine, as `coldstart run` keeps them; starts and ends none."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, TypeVar

from pydantic import ValidationError

from coldstart.files import write_atomic
from coldstart.foreign import parsed
from coldstart.layout import RunLayout, StageLayout
from coldstart.metrics import Progress
from coldstart.places.place import (
    LogQuery,
    NoRun,
    PageQuery,
    PlaceError,
    RunView,
    gone,
    shown_attempt,
)
from coldstart.plan import replace_status
from coldstart.record import LocalRunError, read
from coldstart.run import ReasoningRun
from coldstart.status import RunProgress, RunStatus, StageState, StageStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from coldstart.report import RunResults

POLL_SECONDS = 0.3
"""How often a log that is followed is looked at."""

_BLOCK = 64 * 1024
Result = TypeVar("Result")

_MOVING = (StageState.STARTING, StageState.RUNNING, StageState.STOPPING, StageState.BACKOFF)


@dataclass(frozen=True)
class Directory:
    """A directory with runs; a run outside of it is named by its path."""

    directory: Path

    def __enter__(self) -> Self:
        """Nothing is opened."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing was opened."""

    def find(self, name: str) -> Path | None:
        """Where a run is; None if it is not here."""
        roots = (self.directory / name, Path(name))
        return next((root for root in roots if RunLayout(root).status.is_file()), None)

    def root(self, name: str) -> Path:
        """Where a run is.

        Raises:
            NoRun: it is not here.
        """
        found = self.find(name)
        if found is None:
            raise self.missing(name)
        return found

    def missing(self, name: str) -> NoRun:
        """The error for a run that is not here."""
        return NoRun(
            f"{name}: no such run in {self.directory}, and no directory with a status.json"
        )

    def view(self, name: str) -> RunView:
        """A run as its files are.

        Raises:
            PlaceError: it is not here, or its status file is damaged.
        """
        layout = RunLayout(self.root(name))
        run = self._read(layout)
        status = run.status or RunStatus()
        progress = _progress(layout, status)
        if progress:
            status = replace_status(status, progress=progress)
        notes = _notes(layout, status)
        return RunView(run.metadata.name, str(layout.root), status, notes=notes)

    def _read(self, layout: RunLayout) -> ReasoningRun:
        try:
            run = read(layout)
        except (LocalRunError, OSError) as error:
            raise PlaceError(str(error)) from error
        if run is None:
            raise NoRun(f"{layout.root}: the run is gone")
        return run

    def logs(
        self,
        name: str,
        query: LogQuery,
        tell: Callable[[str], None],  # noqa: ARG002 - files keep nobody waiting
    ) -> Iterator[bytes]:
        """The log of an attempt, in pieces.

        Raises:
            PlaceError: there is none.
        """
        if query.node:
            raise PlaceError(f"--node {query.node}: a run on one machine has node 0 only")
        entry, number = shown_attempt(self.view(name), query)
        stage = RunLayout(self.root(name)).stage(entry.name)
        path = stage.attempt(number) / "log.txt"
        try:
            with path.open("rb") as log:
                if query.tail is not None:
                    log.seek(_tail(log, query.tail))
                while True:
                    alive = query.follow and _lives(stage, entry, number)
                    # Read after the look: what was written before the end is not missed.
                    while piece := log.read(_BLOCK):
                        yield piece
                    if not alive:
                        return
                    time.sleep(POLL_SECONDS)
        except FileNotFoundError as error:
            raise gone("the log", entry, number) from error
        except OSError as error:
            raise PlaceError(f"{path}: cannot be read: {error.strerror}") from error

    def results(self, name: str) -> RunResults:
        """The scores of a run's checkpoints.

        Raises:
            PlaceError: it is not here, or one of its documents is damaged.
        """
        from coldstart.report import run_results  # noqa: PLC0415 - a status needs no report

        return self._reported(name, run_results)

    def table(self, name: str) -> RenderableType:
        """The results of a run as tables.

        Raises:
            PlaceError: as `results`.
        """
        from coldstart.report import results_table  # noqa: PLC0415 - as above

        return self._reported(name, results_table)

    def page(
        self,
        name: str,
        query: PageQuery,
        tell: Callable[[str], None],  # noqa: ARG002 - as above
    ) -> Path:
        """Write a run's report beside it, and to where it is asked for.

        Raises:
            PlaceError: as `results`, or it cannot be written.
        """
        from coldstart.report import write_report  # noqa: PLC0415 - as above

        written = self._reported(name, write_report)
        if query.output is None:
            return written
        try:
            write_atomic(query.output, written.read_bytes())
        except OSError as error:
            raise PlaceError(f"{query.output}: cannot be written: {error.strerror}") from error
        return query.output

    def _reported(self, name: str, what: Callable[[Path], Result]) -> Result:
        try:
            return what(self.root(name))
        except (ValueError, OSError) as error:
            raise PlaceError(str(error)) from error

    def start(self, run: ReasoningRun) -> bool:
        """Refuse.

        Raises:
            PlaceError: a run on this machine lives with the command that started it.
        """
        raise PlaceError(f"{run.metadata.name}: `coldstart run` starts a run on this machine")

    def file(
        self,
        name: str,
        path: str,
        seconds: int,  # noqa: ARG002 - it is here
        tell: Callable[[str], None],  # noqa: ARG002 - as above
    ) -> bytes:
        """A file of a run's directory.

        Raises:
            PlaceError: it cannot be read.
        """
        where = self.root(name) / path
        try:
            return where.read_bytes()
        except OSError as error:
            raise PlaceError(f"{where}: cannot be read: {error.strerror}") from error

    def suspend(self, name: str, *, value: bool) -> str:  # noqa: ARG002 - refused either way
        """Refuse.

        Raises:
            PlaceError: a run on this machine is stopped by its `coldstart run`.
        """
        raise PlaceError(
            f"{self.root(name)}: is a run on this machine: Ctrl-C on its `coldstart run` stops it, "
            "the same command goes on"
        )


def _notes(layout: RunLayout, status: RunStatus) -> tuple[str, ...]:
    moves = any(entry.state in _MOVING for entry in status.stages)
    if moves and not status.finished and not _held(layout.lock, fcntl.LOCK_SH):
        return ("No `coldstart run` works on it: the same command goes on from here.",)
    return ()


def _lives(stage: StageLayout, entry: StageStatus, number: int) -> bool:
    """Whether an attempt may still write: it is the latest, and processes hold its lock."""
    return number == entry.attempt and _held(stage.alive, fcntl.LOCK_EX)


def _held(path: Path, how: int) -> bool:
    """Whether somebody holds a lock on a file that keeps us from locking it so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks: nobody can be asked
    finally:
        os.close(descriptor)
    return False


def _tail(stream: BinaryIO, lines: int) -> int:
    """Where the last so many lines begin."""
    size = stream.seek(0, os.SEEK_END)
    if not size or not lines:
        return size
    stream.seek(size - 1)
    needed = lines + (stream.read(1) == b"\n")
    place = size
    while place:
        start = max(0, place - _BLOCK)
        stream.seek(start)
        data = stream.read(place - start)
        at = len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            needed -= 1
            if not needed:
                return start + at + 1
        place = start
    return 0


def _progress(layout: RunLayout, status: RunStatus) -> RunProgress | None:
    """Where the running stage is, by the last lines that it wrote."""
    entry = next((item for item in status.stages if item.state is StageState.RUNNING), None)
    if entry is None:
        return None
    lines = [line for line in _last_lines(layout, entry) if line.attempt == entry.attempt]
    if not lines:
        return None
    last = lines[-1]
    rewards = [value for line in lines if (value := line.values.get("reward_total_mean"))]
    where = f"{last.done}/{last.total}" if last.total else str(last.done)
    return RunProgress(
        stage=entry.name,
        done=last.done,
        total=last.total,
        text=f"{last.phase} {where}" if last.phase != "train" else where,
        reward=rewards[-1] if rewards and entry.name == "grpo" else None,
    )


def _last_lines(layout: RunLayout, entry: StageStatus) -> Iterator[Progress]:
    try:
        with layout.stage(entry.name).metrics.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _BLOCK))
            data = stream.read()
    except OSError:
        return
    for raw in data.splitlines():
        try:
            yield Progress.parse(parsed(raw))
        except (ValueError, ValidationError):  # the first and the last may be torn
            continue
