"""The commands about the results of runs on this machine: compare them, grade them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldstart.cli.options import DIRECTORY, RUN, mistake, run_root

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def compare(names: tuple[str, ...], directory: Path, as_json: bool) -> None:
    """Set the results of several runs side by side, with paired tests where problems agree."""
    from rich.console import Console

    from coldstart import report

    roots = [run_root(name, directory) for name in names]
    try:
        table = report.compare(roots)
        if as_json:
            click.echo(json.dumps(table.document()))
        else:
            Console().print(table)
    except (ValueError, OSError) as error:
        mistake(str(error))


@click.command()
@RUN
@DIRECTORY
def regrade(name: str, directory: Path) -> None:
    """Grade the kept responses of RUN again, without the model, and write its report."""
    from rich.console import Console

    from coldstart.summary import regrade_run

    root = run_root(name, directory)
    try:
        regrade_run(root)
        conclude(root, Console())
    except (ValueError, OSError, ImportError) as error:
        mistake(str(error))


def conclude(root: Path, console: Console) -> None:
    """Show a run's results and write its report.

    Raises:
        ValueError: one of its documents is damaged.
        OSError: the report cannot be written.
    """
    from coldstart.report import results_table, write_report

    console.print(results_table(root))
    console.print(f"report: {write_report(root)}", soft_wrap=True)
