"""The hands of the plan on one machine: sees processes and files, and does what the plan says."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from coldstart.layout import RunLayout
from coldstart.order import build_order
from coldstart.plan import (
    Action,
    Child,
    ChildState,
    Finished,
    Observation,
    Parent,
    Start,
    Stop,
    Wait,
    WaitsFor,
    next_step,
)
from coldstart.process import Attempt, earlier, launcher, start
from coldstart.record import LocalRunError, read, save
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.stage import StageOrder
from coldstart.status import RunStatus, StageState

TICK_SECONDS = 0.1


class Interrupted(Exception):
    """The user stopped the run; the stage has saved and ended, and the status says so."""


@dataclass
class LocalRun:
    """One run in its directory, worked on by this process alone while `locked`."""

    run: ReasoningRun
    layout: RunLayout
    workdir: Path
    observer: Callable[[LocalRun], None] = lambda _: None
    command: Callable[[StageOrder], list[str]] = launcher
    metrics_port: int | None = None
    attempt: Attempt | None = None
    interrupts: int = 0

    @property
    def status(self) -> RunStatus:
        """How far the run is."""
        return self.run.status or RunStatus()

    def execute(self, only: frozenset[Stage] = frozenset()) -> RunStatus:
        """Go on until the run, or the stages in `only`, have ended.

        Raises:
            Interrupted: by SIGINT, SIGTERM or SIGHUP, after the stage has saved.
            LocalRunError: the run waits for something that nobody on this machine is making.
            OSError: the run's directory cannot be written.
        """
        with self._signals():
            try:
                return self._carry_out(only)
            except OSError:
                self._end_unwatched()
                raise

    def _carry_out(self, only: frozenset[Stage]) -> RunStatus:
        while True:
            action = self._turn(only)
            if isinstance(action, Finished):
                return self.status
            if isinstance(action, Wait):
                if action.waits_for is WaitsFor.USER:
                    return self.status
                if action.waits_for is WaitsFor.RUN:
                    raise LocalRunError(self.status.message)
                self._rest(action.seconds)

    def _end_unwatched(self) -> None:
        """Have the attempt save and end, since this process ends and nobody would watch it."""
        if self.attempt is None:
            return
        self.attempt.stop()
        while self.attempt.process.poll() is None:
            self.attempt.enforce()
            time.sleep(TICK_SECONDS)

    def _turn(self, only: frozenset[Stage]) -> Action:
        """One look, one decision, one deed; the status is written last."""
        step = next_step(self.run, self.observation(), datetime.now(UTC))
        action = step.action
        if isinstance(action, Start):
            if self.interrupts:
                raise Interrupted
            if only and action.stage not in only:
                self._require_earlier(action.stage, only)
                return Finished()
            self._start(action)
        if isinstance(action, Stop) and self.attempt:
            self.attempt.stop()
        self._record(step.status)
        return action

    def observation(self) -> Observation:
        """What is there: this process's attempt, those that earlier ones left, other runs."""
        children: list[Child] = []
        for stage in self.run.spec.stages:
            mine = self.attempt if self.attempt and self.attempt.order.stage is stage else None
            skip = mine.order.attempt if mine else None
            children += earlier(self.layout.stage(stage.value), stage, skip)
            if mine:
                children.append(self._own(mine))
        return Observation(tuple(children), parents(self.run, self.layout.root.parent))

    def _own(self, attempt: Attempt) -> Child:
        """Our attempt; one that we interrupted was preempted, whatever code it ended with."""
        child = attempt.child()
        if child.state is ChildState.FAILED and self.interrupts:
            return Child(child.stage, child.attempt, ChildState.PREEMPTED, child.result)
        return child

    def _start(self, action: Start) -> None:
        order = build_order(
            self.run,
            action.stage,
            action.attempt,
            parents(self.run, self.layout.root.parent),
            storage=str(self.layout.root.parent.absolute()),
            workdir=str(self.workdir.absolute()),
        )
        layout = self.layout.stage(action.stage.value)
        self.attempt = start(order, layout, self.command(order), self.metrics_port)

    def _record(self, status: RunStatus) -> None:
        if status != self.run.status:
            self.run = self.run.model_copy(update={"status": status})
            save(self.run, self.layout)
        self.observer(self)

    def _require_earlier(self, stage: Stage, only: frozenset[Stage]) -> None:
        stages = self.run.spec.stages
        later = [name for name in stages[stages.index(stage) + 1 :] if name in only]
        if later:
            raise LocalRunError(
                f"--stage {later[0].value}: stage {stage.value} has not finished; "
                "run it first, or name it too"
            )

    def _rest(self, seconds: float | None) -> None:
        """Wait a little: for the time the plan named, at most until the next look is due."""
        if seconds is not None and seconds <= 0:
            return
        if self.attempt:
            self.attempt.enforce()
        time.sleep(min(TICK_SECONDS, seconds or TICK_SECONDS))
        if self.interrupts:
            self._interrupt()

    def _interrupt(self) -> None:
        running = self.attempt and self.attempt.process.poll() is None
        if not running or self.attempt is None:
            self._turn(frozenset())
            raise Interrupted
        if self.interrupts > 1:
            self.attempt.kill()
        else:
            self.attempt.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Count interrupts instead of dying by them: the stage saves first."""

        def count(_number: int, _frame: FrameType | None) -> None:
            self.interrupts += 1

        before = {
            s: signal.signal(s, count) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def parents(run: ReasoningRun, storage: Path) -> dict[tuple[str, str], Parent]:
    """The stages of other runs in the same storage that this run starts from."""
    found: dict[tuple[str, str], Parent] = {}
    for stage in run.spec.stages:
        for source in run.spec.sources(stage):
            other = read(RunLayout(storage / source.run))
            if other is None:
                continue
            entry = other.status.stage(source.stage) if other.status else None
            done = entry is not None and entry.state is StageState.SUCCEEDED
            found[source.run, source.stage] = Parent(
                finished=done, checkpoint=entry.checkpoint if entry else None
            )
    return found
