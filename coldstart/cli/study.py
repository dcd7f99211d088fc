"""`coldstart study`: a matrix of runs on this machine or in a cluster, and their table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from coldstart.cli.options import (
    DIRECTORY,
    FAILED,
    INTERRUPTED,
    in_cluster,
    mistake,
    refuse,
    remark,
    tell,
)

if TYPE_CHECKING:
    from rich.console import Console

    from coldstart.local import LocalRun
    from coldstart.places import Where
    from coldstart.study.arms import Loaded
    from coldstart.study.plan import SharedRun, StudyPlan


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@DIRECTORY
@in_cluster
@click.option("--dry-run", is_flag=True, help="Show the runs and what they share; start none.")
@click.option("--render", is_flag=True, help="Print the runs as YAML; start none.")
@click.option("--no-wait", is_flag=True, help="In a cluster: create the runs, and show no table.")
def study(
    file: Path, directory: Path, where: Where, dry_run: bool, render: bool, no_wait: bool
) -> None:
    """Run every combination of FILE's matrix, and set the arms side by side.

    A stage that several arms have is run once. Stopped by Ctrl-C or a kill, the same command goes
    on; an arm that fails stops no other, and the exit code is 1. With --namespace, --context or
    --kubeconfig the runs are those of a cluster, else of this machine; the table goes to --dir.
    """
    from rich.console import Console

    from coldstart.runfile import RunFileError
    from coldstart.study.arms import load
    from coldstart.study.plan import planned
    from coldstart.study.show import planned_grids, terminal
    from coldstart.yamlfile import written

    try:
        loaded = load(file)
    except RunFileError as error:
        mistake("\n".join(error.lines))
    plan = planned(loaded)
    console = Console()
    if render:
        click.echo(written(run.run.document() for run in plan.runs.values()), nl=False)
    elif dry_run:
        console.print(terminal(planned_grids(plan)))
    elif where.told:
        _there(plan, loaded, where, directory, console, no_wait=no_wait)
    elif no_wait:
        mistake("--no-wait: is for runs in a cluster, and none is named")
    else:
        _check_runnable(plan, loaded, file)
        failures = _here(plan, loaded, directory, console)
        _conclude(plan, loaded, directory, directory, failures, console)


def _check_runnable(plan: StudyPlan, loaded: Loaded, file: Path) -> None:
    """Refuse what cannot work on this machine, before anything is written."""
    from coldstart.preflight import mistakes

    lines = {
        line: run.arms[0]
        for run in reversed(plan.runs.values())
        for line in mistakes(run.run.spec, loaded.workdir)
    }
    if lines:
        mistake("\n".join(f"{file}: arm {arm}: {line}" for line, arm in lines.items()))


def _here(plan: StudyPlan, loaded: Loaded, directory: Path, console: Console) -> dict[str, str]:
    """Carry out the runs on this machine; why some have no result."""
    from coldstart.follow import Follower
    from coldstart.local import Interrupted
    from coldstart.study.local import carried_out
    from coldstart.study.show import of

    failures: dict[str, str] = {}
    try:
        with Follower(console) as follower:

            def begins(run: SharedRun) -> Callable[[LocalRun], None]:
                number = list(plan.runs).index(run.name) + 1
                _say(console, f"[{number}/{len(plan.runs)}] {run.name}: {of(plan, run)}")
                return follower

            for ended in carried_out(plan, directory, loaded.workdir, begins):
                if ended.message:
                    failures[ended.run.name] = ended.message
                    _say(console, f"{ended.run.name}: {ended.message}")
    except Interrupted:
        console.print("stopped; the same command goes on from here")
        sys.exit(INTERRUPTED)
    except OSError as error:
        mistake(str(error))
    return failures


def _there(
    plan: StudyPlan,
    loaded: Loaded,
    where: Where,
    directory: Path,
    console: Console,
    *,
    no_wait: bool,
) -> None:
    """Have the runs carried out in a cluster, and show the table when they have ended."""
    from coldstart.places import PlaceError, cluster
    from coldstart.study import remote

    runs = directory / f"{plan.study}.cluster"
    try:
        with cluster(where) as place:
            remote.apply(plan, place, remark)
            if no_wait:
                tell("the same command without --no-wait waits for the runs and shows the table")
                return
            ended = remote.awaited(plan, place, remark)
            failures = remote.fetched(plan, ended, place, runs, remark)
    except KeyboardInterrupt:
        tell("the runs go on in the cluster; the same command waits for them again")
        sys.exit(INTERRUPTED)
    except PlaceError as error:
        refuse(error)
    except OSError as error:
        mistake(str(error))
    _conclude(plan, loaded, runs, directory, failures, console)


def _conclude(
    plan: StudyPlan,
    loaded: Loaded,
    runs: Path,
    directory: Path,
    failures: dict[str, str],
    console: Console,
) -> NoReturn:
    """Show the table, write it into a directory, and end the program."""
    from coldstart.files import write_atomic
    from coldstart.report.study_page import render
    from coldstart.study.show import grids, markdown, terminal
    from coldstart.study.table import tabulated

    try:
        table = tabulated(plan, loaded, runs, failures)
        found = grids(table)
        directory.mkdir(parents=True, exist_ok=True)
        page = directory / f"{plan.study}.html"
        write_atomic(page, render(table, datetime.now(UTC)).encode())
        text = markdown(f"Study {plan.study}", found)
        write_atomic(page.with_suffix(".md"), text.encode())
        write_atomic(page.with_suffix(".json"), json.dumps(table.document(), indent=1).encode())
    except (ValueError, OSError) as error:
        mistake(str(error))
    console.print(terminal(found))
    _say(console, f"report: {page}")
    sys.exit(FAILED if failures else 0)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
