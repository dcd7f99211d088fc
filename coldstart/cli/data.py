"""The commands about the data of a run, before it is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coldstart.cli.options import FAILED, INTERRUPTED, RUN_FILE, load, mistake

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from coldstart.findings import DataReport, DatasetFacts, Finding

_SHOWN = 70
"""Characters of a row's name."""


@click.group()
def data() -> None:
    """Look at the data sets of a run before it is started."""


@data.command()
@RUN_FILE
@click.option("--json", "as_json", is_flag=True, help="Print one object, for programs.")
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the examples, their images, and lengths.",
)
@click.option(
    "--limit",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    help="Examples of each finding.",
)
def check(file: Path, as_json: bool, page: Path | None, limit: int) -> None:
    """Check all data sets of FILE together; exit code 1 if there are mistakes.

    Looks for rows that are equal or nearly so, in one set or in two, for evaluation rows in
    training data, images that cannot be used, answers and boxes that are missing or wrong, texts
    that are too long, and licences. It takes minutes for 50,000 rows.
    """
    from rich.console import Console

    from coldstart.datacheck import CheckError
    from coldstart.datacheck import check as checked
    from coldstart.files import write_atomic
    from coldstart.findings import CheckRequest
    from coldstart.report.data_page import render

    wanted = load(file)
    if page and not page.absolute().parent.is_dir():
        mistake(f"--report {page}: there is no directory {page.absolute().parent}")
    request = CheckRequest(
        spec=wanted.spec,
        workdir=str(file.resolve().parent),
        limit=limit,
        pictures=page is not None,
    )
    try:
        found = checked(request)
        if page:
            write_atomic(page, render(wanted.metadata.name, found).encode())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except CheckError as error:
        mistake(f"{file}: {error}")
    except OSError as error:
        mistake(f"{error.filename or page}: {error.strerror}")
    if as_json:
        click.echo(json.dumps(_document(found)))
    else:
        _show(found, Console())
    sys.exit(FAILED if found.mistakes else 0)


def _document(found: DataReport) -> object:
    """The report without images, which are for the page."""
    document = found.model_dump(mode="json", exclude_none=True)
    for finding in document["findings"]:
        for example in finding["examples"]:
            for row in example["rows"]:
                row.pop("images", None)
    return document


def _show(found: DataReport, console: Console) -> None:
    console.print(_sets(found.datasets))
    for finding in found.findings:
        _show_finding(finding, console)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    count = len(found.findings)
    said = f"{count} finding{'' if count == 1 else 's'}, mistakes: {found.mistakes}"
    console.print(f"\n{said}", highlight=False)


def _sets(datasets: tuple[DatasetFacts, ...]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=None)
    for name in ("data set", "rows", "images", "longest prompt", "longest response", "licence"):
        number = name in ("rows", "images") or name.startswith("longest")
        made.add_column(name, justify="right" if number else "left")
    for item in datasets:
        longest = {length.what: f"{length.longest:,} {length.unit}" for length in item.lengths}
        made.add_row(
            escape(item.label),
            f"{item.rows:,}",
            f"{item.images:,}",
            longest.get("prompt", ""),
            longest.get("response", ""),
            escape(_line(item.licence)),
        )
    return made


def _show_finding(finding: Finding, console: Console) -> None:
    head = f"\n{finding.level}: {' in '.join(finding.datasets)}: {_line(finding.sentence)}"
    console.print(head, soft_wrap=True, markup=False, highlight=False)
    for example in finding.examples:
        names = " = ".join(f"{row.place} (id {_line(row.id)[:_SHOWN]})" for row in example.rows)
        note = f": {_line(example.note)}" if example.note else ""
        line = f"  {_line(names)}{note}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _line(text: str) -> str:
    """Foreign words on one line, without what no terminal should get."""
    from coldstart.schema import printable

    return printable(" ".join(text.split()), 400)
