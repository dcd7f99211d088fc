"""`coldstart run`: what the user sees of a run on this machine, and the exit code it ends with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from coldstart.cli.options import (
    DIRECTORY,
    FAILED,
    INTERRUPTED,
    MISTAKE,
    RUN_FILE,
    STAGES,
    load,
    mistake,
)
from coldstart.cli.results import conclude

if TYPE_CHECKING:
    from rich.console import Console

    from coldstart.local import LocalRun
    from coldstart.run import ReasoningRun
    from coldstart.spec import Stage
    from coldstart.status import RunStatus


@click.command()
@RUN_FILE
@DIRECTORY
@click.option("--stage", "stages", multiple=True, type=STAGES, help="Only this stage; repeatable.")
@click.option(
    "--fresh", is_flag=True, help="Begin again (the named stages, or all); the old is moved aside."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve the running stage's /metrics and /healthz here; without it, they are not served.",
)
def run(
    file: Path, directory: Path, stages: tuple[str, ...], fresh: bool, metrics_port: int | None
) -> None:
    """Take FILE through its stages on this machine.

    Stopped by Ctrl-C or a kill, the same command goes on from the last checkpoint.
    """
    from rich.console import Console

    from coldstart.layout import RunLayout
    from coldstart.local import Interrupted, LocalRun
    from coldstart.record import LocalRunError, locked, prepared
    from coldstart.spec import Stage

    wanted = load(file)
    only = frozenset(Stage(name) for name in stages)
    if metrics_port:
        _check_free(metrics_port)
    _check_runnable(wanted, only, file)
    layout = RunLayout(directory / wanted.metadata.name)
    console = Console()
    try:
        with locked(layout):
            first = min(only, key=list(Stage).index) if only else None
            ready = prepared(wanted, layout, fresh=(first or True) if fresh else False)
            local = LocalRun(ready, layout, file.resolve().parent, metrics_port=metrics_port)
            _execute(local, only, console)
    except Interrupted:
        console.print("stopped; the same command goes on from here")
        sys.exit(INTERRUPTED)
    except (LocalRunError, TimeoutError, OSError) as error:
        mistake(str(error))


def _execute(local: LocalRun, only: frozenset[Stage], console: Console) -> None:
    from coldstart.follow import Follower

    with Follower(console) as follower:
        local.observer = follower
        status = local.execute(only)
    if status.holds("Failed"):
        _fail(local, status)
    if status.holds("Succeeded"):
        conclude(local.layout.root, console)


def _fail(local: LocalRun, status: RunStatus) -> NoReturn:
    """Say which stage failed and why, with the end of its log where the reason alone is thin."""
    from coldstart.process import log_tail
    from coldstart.status import ErrorCode, StageState

    entry = next(stage for stage in status.stages if stage.state is StageState.FAILED)
    assert entry.error is not None
    directory = local.layout.stage(entry.name).attempt(entry.attempt)
    known = not entry.error.code.retryable and entry.error.code is not ErrorCode.INTERNAL
    if not known and (tail := log_tail(directory)):
        click.echo(f"the end of {directory / 'log.txt'}:\n{tail}\n", err=True)
    click.echo(f"{entry.name} failed ({entry.error.code}): {entry.error.message}", err=True)
    click.echo(f"log: {directory / 'log.txt'}", err=True)
    sys.exit(MISTAKE if known else FAILED)


def _check_runnable(wanted: ReasoningRun, only: frozenset[Stage], file: Path) -> None:
    """Refuse what cannot work on this machine, before anything is written."""
    from coldstart.preflight import mistakes

    for stage in sorted(only):
        if stage not in wanted.spec.stages:
            mistake(f"--stage {stage.value}: {file} has no spec.{stage.value}")
    if found := mistakes(wanted.spec, file.resolve().parent):
        mistake("\n".join(f"{file}: {line}" for line in found))


def _check_free(port: int) -> None:
    """Refuse a port that a stage could not listen on."""
    import socket

    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        mistake(
            f"--metrics-port {port}: {error.strerror}; end what listens there, or choose another"
        )
