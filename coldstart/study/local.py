"""Carrying out a study's runs on this machine, one after another; shows nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coldstart.layout import RunLayout
from coldstart.local import LocalRun
from coldstart.process import launcher
from coldstart.record import LocalRunError, locked, prepared
from coldstart.stage import StageOrder
from coldstart.status import RunStatus, StageState
from coldstart.study.plan import SharedRun, StudyPlan


@dataclass(frozen=True)
class Ended:
    """How one of a study's runs ended."""

    run: SharedRun
    status: RunStatus | None = None
    """None: it could not be worked on."""
    message: str = ""
    """Why it has no result; empty if it has one."""

    @property
    def made(self) -> bool:
        """Whether what others start from is there, whatever became of its scores."""
        entry = self.status.stage(self.run.stage) if self.status else None
        return entry is not None and entry.state is StageState.SUCCEEDED


def carried_out(
    plan: StudyPlan,
    directory: Path,
    workdir: Path,
    begins: Callable[[SharedRun], Callable[[LocalRun], None]],
    command: Callable[[StageOrder], list[str]] = launcher,
) -> Iterator[Ended]:
    """Each run as it ends; what is finished is not done again, and a failure stops no other run.

    Args:
        plan: the runs.
        directory: where runs are kept.
        workdir: what the paths of the run's file are relative to.
        begins: called before each run; gives what observes it.
        command: what carries out an order.

    Raises:
        Interrupted: by the user, after the stage has saved.
        OSError: the directory cannot be written.
    """
    made: dict[str, bool] = {}
    for run in plan.runs.values():
        if run.needs and not made[run.needs]:
            ended = Ended(run, message=f"{run.needs} has failed, which it starts from")
        else:
            ended = _run(run, RunLayout(directory / run.name), workdir, begins(run), command)
        made[run.name] = ended.made
        yield ended


def _run(
    run: SharedRun,
    layout: RunLayout,
    workdir: Path,
    observer: Callable[[LocalRun], None],
    command: Callable[[StageOrder], list[str]],
) -> Ended:
    try:
        with locked(layout):
            ready = prepared(run.run, layout, fresh=False)
            status = LocalRun(ready, layout, workdir, observer, command).execute()
    except (LocalRunError, TimeoutError) as error:
        return Ended(run, message=str(error))
    return Ended(run, status, "" if status.holds("Succeeded") else reason(status))


def reason(status: RunStatus) -> str:
    """Why a run has not succeeded."""
    failed = next((entry for entry in status.stages if entry.error), None)
    if failed is None or failed.error is None:
        return status.message
    return f"{failed.name} failed ({failed.error.code}): {failed.error.message}"
