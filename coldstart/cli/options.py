"""What the commands share: options, arguments, the place that is meant, how a mistake is told."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from coldstart.places import Place, PlaceError, Where
    from coldstart.run import ReasoningRun

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130
"""Exit codes: the run failed; the user has to change something; the user stopped it."""

RUNS = Path("runs")
"""Where runs are kept on one machine, if nothing else is said."""

_REMARK = 4096
"""The longest remark."""

STAGES = click.Choice(["distill", "sft", "grpo", "evaluation"])

RUN_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
RUN = click.argument("name", metavar="RUN")

DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=RUNS,
    show_default=True,
    help="Where runs are kept, each in a directory of its name.",
)

CLUSTER = (
    click.option("-n", "--namespace", help="The run is in this namespace of a cluster."),
    click.option("--context", help="The run is in the cluster of this context."),
    click.option(
        "--kubeconfig",
        type=click.Path(dir_okay=False),
        help="The file that tells of clusters; else as kubectl finds it.",
    ),
)
"""Options that say which cluster is meant."""

_ANY_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run is in this directory.",
)


@dataclass(frozen=True)
class Selection:
    """The place that the options name."""

    directory: Path | None
    namespace: str | None
    context: str | None
    kubeconfig: str | None

    @contextmanager
    def place_of(self, name: str) -> Iterator[Place]:
        """The place that has a run, to be asked; what it refuses ends the program in words.

        A run in the directory, or at a path, is one of this machine, unless options name a
        cluster; any other is looked for in the cluster.
        """
        from coldstart.places import NoAnswer, NoPlace, NoRun, PlaceError

        also = ""
        try:
            place, also = self._place(name)
            with place:
                yield place
        except PlaceError as error:
            nowhere = also and isinstance(error, (NoAnswer, NoPlace, NoRun))
            refuse(error, f"{also}; and in a cluster: " if nowhere else "")

    def _place(self, name: str) -> tuple[Place, str]:
        """The place, and in what other place the run is not."""
        from coldstart.places import NoPlace, PlaceError, bare, cluster
        from coldstart.places.directory import Directory

        where = self._where()
        if where.told and self.directory:
            raise PlaceError("--dir is on this machine, and the other options name a cluster")
        kubectl = click.get_current_context().find_root().obj is not None
        if where.told or (kubectl and not self.directory):
            return cluster(where), ""
        here = Directory(self.directory or RUNS)
        if here.find(name):
            return here, ""
        missing = here.missing(name)
        if "/" in bare(name):
            raise missing
        try:
            return cluster(where), str(missing)
        except NoPlace as error:
            raise NoPlace(f"{missing}; and {error}") from error

    def _where(self) -> Where:
        """The cluster; options of the command go before those of `kubectl coldstart` itself."""
        from coldstart.places import Where

        before: dict[str, str | None] = click.get_current_context().find_root().obj or {}
        return Where(
            self.namespace or before.get("namespace"),
            self.context or before.get("context"),
            self.kubeconfig or before.get("kubeconfig"),
        )


def in_place(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where its run is, as its parameter `where`."""

    @functools.wraps(command)
    def called(
        directory: Path | None,
        namespace: str | None,
        context: str | None,
        kubeconfig: str | None,
        **rest: Any,
    ) -> None:
        command(where=Selection(directory, namespace, context, kubeconfig), **rest)

    for option in reversed((_ANY_DIRECTORY, *CLUSTER)):
        called = option(called)
    return called


def in_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name a cluster, as its parameter `where`."""

    @functools.wraps(command)
    def called(
        namespace: str | None, context: str | None, kubeconfig: str | None, **rest: Any
    ) -> None:
        from coldstart.places import Where

        command(where=Where(namespace, context, kubeconfig), **rest)

    for option in reversed(CLUSTER):
        called = option(called)
    return called


def run_root(name: str, directory: Path) -> Path:
    """The directory of a run; ends the program if there is none."""
    from coldstart.places import NoRun
    from coldstart.places.directory import Directory

    try:
        return Directory(directory).root(name)
    except NoRun as error:
        refuse(error)


def load(file: Path) -> ReasoningRun:
    """The run in a file; ends the program with its mistakes."""
    from coldstart.runfile import RunFileError
    from coldstart.runfile import load as loaded

    try:
        return loaded(file)
    except RunFileError as error:
        mistake("\n".join(error.lines))


def tell(message: str) -> None:
    """Say something that is not the answer."""
    click.echo(message, err=True)


def remark(message: str) -> None:
    """Say something that a place has said: foreign words, on one line."""
    from coldstart.children.documents import line

    tell(line(message, _REMARK))


def mistake(message: str) -> NoReturn:
    """End the program: the user has to change something."""
    tell(message)
    sys.exit(MISTAKE)


def refuse(error: PlaceError, head: str = "") -> NoReturn:
    """End the program with what a place has refused."""
    remark(f"{head}{error}")
    sys.exit(error.exit_code)
