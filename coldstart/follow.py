"""What a person sees while a run goes on: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

from coldstart.files import MAX_LINE
from coldstart.foreign import parsed
from coldstart.local import LocalRun
from coldstart.metrics import Progress
from coldstart.status import RunStatus, StageState, StageStatus

PLAIN_SECONDS = 15.0
"""Where there is no terminal, a line about a running stage is printed this often."""

_PHASES = {
    "load": "loads",
    "train": "trains",
    "distill": "distils",
    "probe": "probes",
    "save": "saves",
    "evaluate": "evaluates",
}

_SHOWN = (
    ("reward_total_mean", "reward"),
    ("loss", "loss"),
    ("eval_loss", "eval loss"),
    ("completion_tokens_mean", "length"),
    ("accuracy", "accuracy"),
    ("yield_ratio", "yield"),
)


class Follower:
    """Shows a LocalRun; called after each of its turns."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[stage]}[/] {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._tail: _Tail | None = None
        self._key = ""
        self._message = ""
        self._printed = 0.0
        self._numbers: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, local: LocalRun) -> None:
        """Show what has changed since the last call."""
        status = local.status
        self._tell(status)
        running = next((s for s in status.stages if s.state is StageState.RUNNING), None)
        if running is None:
            self._end()
            return
        self._watch(local, running)
        assert self._tail is not None
        for line in self._tail.lines():
            if line.attempt == running.attempt:
                self._show(running, line)

    def _tell(self, status: RunStatus) -> None:
        """Print what has changed; the end is told, with more about it, by whoever ran this."""
        told = status.message == self._message or status.finished
        if not told and not status.message.endswith("is running"):
            line = f"{time.strftime('%H:%M:%S')} {status.message}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._message = status.message

    def _watch(self, local: LocalRun, running: StageStatus) -> None:
        key = f"{running.name}-{running.attempt}"
        if key == self._key:
            return
        self._end()
        self._key = key
        self._tail = _Tail(local.layout.stage(running.name).metrics)
        self._task = self._bars.add_task("starts", stage=running.name, numbers="", total=None)

    def _end(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task, self._key, self._numbers = None, "", {}

    def _show(self, running: StageStatus, line: Progress) -> None:
        self._numbers |= line.values
        numbers = "  ".join(
            f"{word} {self._numbers[name]:.3g}" for name, word in _SHOWN if name in self._numbers
        )
        doing = f"{_PHASES[line.phase]} {line.label}".strip()
        assert self._task is not None
        self._bars.update(
            self._task,
            description=doing,
            completed=line.done,
            total=line.total or None,
            numbers=numbers,
        )
        if not self._console.is_terminal and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            where = f" {line.done}/{line.total}" if line.total else ""
            self._console.print(
                f"  {running.name} {doing}{where}  {numbers}", highlight=False, markup=False
            )


class _Tail:
    """The new lines of a file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[Progress]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read(MAX_LINE)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) == MAX_LINE:
            whole = data  # no line of ours is so long: it is passed over
        self._offset += len(whole)
        return [line for raw in whole.splitlines() if (line := _progress(raw)) is not None]


def _progress(raw: bytes) -> Progress | None:
    try:
        line = Progress.parse(parsed(raw))
    except (ValueError, ValidationError):
        return None
    assert isinstance(line, Progress)
    return line
