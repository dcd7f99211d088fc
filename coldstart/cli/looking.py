"""The commands about one run wherever it is: status, logs, report, suspend and resume."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldstart.cli.options import (
    FAILED,
    INTERRUPTED,
    RUN,
    STAGES,
    Selection,
    in_place,
    refuse,
    remark,
)

if TYPE_CHECKING:
    from rich.console import Console

    from coldstart.places import Place, RunView

WATCH_SECONDS = 2.0
"""How often a run that is watched is looked at."""

PATIENCE_SECONDS = 120.0
"""How long a place may give no answer until a watch ends."""


@click.command()
@RUN
@in_place
@click.option("-w", "--watch", is_flag=True, help="Go on until the end; exit code 1 if it failed.")
@click.option("--conditions", is_flag=True, help="Show every condition with its reason.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch, one a line.")
def status(name: str, where: Selection, watch: bool, conditions: bool, as_json: bool) -> None:
    """Show how far RUN is."""
    from rich.console import Console

    from coldstart.overview import overview

    with where.place_of(name) as place:
        if watch:
            _watch(place, name, Console(), conditions, as_json)
        view = place.view(name)
        if as_json:
            click.echo(json.dumps(view.status.document()))
        else:
            Console().print(overview(view, conditions=conditions))


def _watch(place: Place, name: str, console: Console, conditions: bool, as_json: bool) -> None:
    """Show a run until it has ended, and end the program as it did."""
    from rich.live import Live

    from coldstart.overview import overview, summary

    last = None
    try:
        if as_json or not console.is_terminal:
            said = ""
            for last in _views(place, name):
                text = json.dumps(last.status.document()) if as_json else summary(last)
                if text != said:
                    click.echo(text)
                said = text
        else:
            with Live(console=console, auto_refresh=False) as live:
                for last in _views(place, name):
                    live.update(overview(last, conditions=conditions), refresh=True)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    assert last is not None
    if not (as_json or console.is_terminal):
        console.print(overview(last, conditions=conditions))
    sys.exit(FAILED if last.status.holds("Failed") else 0)


def _views(place: Place, name: str) -> Iterator[RunView]:
    """The run again and again until it has ended; a place may be silent for a while."""
    from coldstart.places import NoAnswer

    heard, silent = time.monotonic(), False
    while True:
        try:
            view = place.view(name)
        except NoAnswer as error:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            if not silent:
                remark(f"{error}; asks again")
            silent = True
        else:
            heard, silent = time.monotonic(), False
            yield view
            if view.status.finished:
                return
        time.sleep(WATCH_SECONDS)


@click.command()
@RUN
@in_place
@click.option("--stage", type=STAGES, help="Else the one that runs, or ran last.")
@click.option("--attempt", type=click.IntRange(min=1), help="Else the latest.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt ends.")
@click.option("--tail", type=click.IntRange(min=0), help="So many lines of what is there.")
@click.option(
    "--node",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which of an attempt's pods.",
)
@click.option("--all-nodes", is_flag=True, help="All pods, each line with its node's number.")
def logs(
    name: str,
    where: Selection,
    stage: str | None,
    attempt: int | None,
    follow: bool,
    tail: int | None,
    node: int,
    all_nodes: bool,
) -> None:
    """Print the log of RUN's latest attempt."""
    from coldstart.places import LogQuery

    wanted = LogQuery(stage, attempt, None if all_nodes else node, follow, tail)
    with where.place_of(name) as place:
        try:
            for piece in place.logs(name, wanted, remark):
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.command()
@RUN
@in_place
@click.option("--json", "as_json", is_flag=True, help="One JSON object, and no report.html.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where report.html goes; else beside the run, or as RUN-report.html from a cluster.",
)
@click.option("--table", "table_only", is_flag=True, help="The table alone, and no report.html.")
@click.option(
    "--timeout",
    "seconds",
    type=click.IntRange(min=1, max=3600),
    default=180,
    show_default=True,
    help="Seconds that a cluster may take to hand out report.html.",
)
def report(
    name: str,
    where: Selection,
    as_json: bool,
    output: Path | None,
    table_only: bool,
    seconds: int,
) -> None:
    """Show the results of RUN and write its report.html.

    In a cluster the page is on the run's storage: a pod of yours that mounts it read-only, and is
    deleted again, hands it out.
    """
    from rich.console import Console

    from coldstart.places import NoPage, PageQuery

    with where.place_of(name) as place:
        if as_json:
            click.echo(json.dumps(place.results(name).document()))
            return
        console = Console()
        console.print(place.table(name))
        if table_only:
            return
        try:
            path = place.page(name, PageQuery(output, seconds), remark)
        except NoPage as error:
            refuse(error, "report: ")
        console.print(f"report: {path}", soft_wrap=True, markup=False)


@click.command()
@RUN
@in_place
def suspend(name: str, where: Selection) -> None:
    """Stop RUN in a cluster after its stage has saved, until it is resumed."""
    with where.place_of(name) as place:
        click.echo(place.suspend(name, value=True))


@click.command()
@RUN
@in_place
def resume(name: str, where: Selection) -> None:
    """Let RUN in a cluster go on."""
    with where.place_of(name) as place:
        click.echo(place.suspend(name, value=False))
