"""The `coldstart` command; every heavy import waits until a command needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

    from coldstart.local import LocalRun
    from coldstart.run import ReasoningRun
    from coldstart.spec import Stage
    from coldstart.status import RunStatus

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130
"""Exit codes: the run failed; the user has to change something; the user stopped it."""

_WIDTH = 100_000
"""Lines of YAML are not folded before this column: an order is one line."""

_STAGES = click.Choice(["sft", "grpo", "evaluation"])

_RUN_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))

_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where runs are kept, each in a directory of its name.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coldstart-operator", prog_name="coldstart")
def main() -> None:
    """Train vision-language models that reason: SFT cold start, GRPO, evaluation, from one file."""


@main.command()
@_RUN_FILE
@_DIRECTORY
@click.option("--stage", "stages", multiple=True, type=_STAGES, help="Only this stage; repeatable.")
@click.option(
    "--fresh", is_flag=True, help="Begin again (the named stages, or all); the old is moved aside."
)
def run(file: Path, directory: Path, stages: tuple[str, ...], fresh: bool) -> None:
    """Take FILE through its stages on this machine.

    Stopped by Ctrl-C or a kill, the same command goes on from the last checkpoint.
    """
    from rich.console import Console

    from coldstart.layout import RunLayout
    from coldstart.local import Interrupted, LocalRun
    from coldstart.record import LocalRunError, locked, prepared
    from coldstart.spec import Stage

    wanted = _load(file)
    only = frozenset(Stage(name) for name in stages)
    _check_runnable(wanted, only, file)
    layout = RunLayout(directory / wanted.metadata.name)
    console = Console()
    try:
        with locked(layout):
            first = min(only, key=list(Stage).index) if only else None
            ready = prepared(wanted, layout, fresh=(first or True) if fresh else False)
            local = LocalRun(ready, layout, file.resolve().parent)
            _execute(local, only, console)
    except Interrupted:
        console.print("stopped; the same command goes on from here")
        sys.exit(INTERRUPTED)
    except (LocalRunError, TimeoutError, OSError) as error:
        _mistake(str(error))


def _execute(local: LocalRun, only: frozenset[Stage], console: Console) -> None:
    from coldstart.follow import Follower

    with Follower(console) as follower:
        local.observer = follower
        status = local.execute(only)
    if status.holds("Failed"):
        _fail(local, status)
    if status.holds("Succeeded"):
        _conclude(local.layout.root, console)


def _conclude(root: Path, console: Console) -> None:
    from coldstart.report import results_table, write_report

    console.print(results_table(root))
    console.print(f"report: {write_report(root)}", soft_wrap=True)


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
            _mistake(f"--stage {stage.value}: {file} has no spec.{stage.value}")
    if found := mistakes(wanted.spec, file.resolve().parent):
        _mistake("\n".join(f"{file}: {line}" for line in found))


@main.command()
@_RUN_FILE
def validate(file: Path) -> None:
    """Check FILE; print its mistakes, or what it will do."""
    wanted = _load(file)
    stages = " -> ".join(stage.value for stage in wanted.spec.stages)
    click.echo(f"{file}: valid: run {wanted.metadata.name!r}, {stages}")


@main.command()
@_RUN_FILE
@_DIRECTORY
@click.option(
    "--backend",
    type=click.Choice(["PyTorchJob", "Job"]),
    help="What runs a stage; by default spec.backend, and PyTorchJob where that is Auto.",
)
@click.option("--image", help="The trainer's image where FILE names none.")
@click.option("--orders", is_flag=True, help="Print what one machine would be told instead.")
def render(
    file: Path, directory: Path, backend: str | None, image: str | None, orders: bool
) -> None:
    """Print the objects that a cluster would get for FILE, as YAML.

    They are those of each stage's first attempt. With --orders: what the trainer is told, one
    document for each stage, with every default and preset value. A checkpoint that is not made
    yet has a location and no digest.
    """
    import yaml

    wanted = _load(file)
    if orders:
        documents = _orders(wanted, file, directory)
    else:
        documents = _manifests(wanted, file, backend or wanted.spec.backend, image)
    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=_WIDTH)
    click.echo(text, nl=False)


def _manifests(
    wanted: ReasoningRun, file: Path, name: str, image: str | None
) -> list[dict[str, Any]]:
    from coldstart.children.backend import BACKENDS, backend
    from coldstart.children.pod import IMAGE, STORAGE
    from coldstart.order import build_order

    found = BACKENDS[0] if name == "Auto" else backend(name)
    documents: list[dict[str, Any]] = []
    try:
        for stage in wanted.spec.stages:
            order = build_order(wanted, stage, 1, {}, storage=STORAGE, workdir=STORAGE)
            documents += found.manifests(wanted, order, image or IMAGE)
    except ValueError as error:
        _mistake(f"{file}: {error}")
    return documents


def _orders(wanted: ReasoningRun, file: Path, directory: Path) -> list[dict[str, Any]]:
    from coldstart.layout import RunLayout
    from coldstart.local import parents
    from coldstart.order import build_order
    from coldstart.record import LocalRunError, read

    layout = RunLayout(directory / wanted.metadata.name)
    try:
        recorded = read(layout)
    except LocalRunError as error:
        _mistake(str(error))
    if recorded:
        wanted = recorded.model_copy(update={"spec": wanted.spec})
    return [
        build_order(
            wanted,
            stage,
            1,
            parents(wanted, directory),
            storage=str(directory.absolute()),
            workdir=str(file.resolve().parent),
        ).document()
        for stage in wanted.spec.stages
    ]


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("run.yaml"))
@click.option(
    "--preset",
    type=click.Choice(["paper-7b", "paper-3b"]),
    default="paper-3b",
    show_default=True,
    help="The recipe whose values the file starts from.",
)
@click.option("--force", is_flag=True, help="Write over FILE.")
def init(file: Path, preset: str, force: bool) -> None:
    """Write a commented FILE to start from."""
    from coldstart.files import write_atomic
    from coldstart.preset import starter

    if file.exists() and not force:
        _mistake(f"{file} exists; choose another name, or --force to write over it")
    try:
        write_atomic(file, starter(preset).encode())
    except OSError as error:
        _mistake(f"{file}: cannot be written: {error.strerror}")
    click.echo(f"wrote {file}; next: edit it, then coldstart validate {file}")


@main.command()
@click.argument("name", metavar="RUN")
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def report(name: str, directory: Path, as_json: bool) -> None:
    """Show the results of RUN (a name below --dir, or a path) and write its report.html."""
    from rich.console import Console

    from coldstart.report import run_results

    root = _run_root(name, directory)
    try:
        if as_json:
            click.echo(json.dumps(run_results(root).document()))
        else:
            _conclude(root, Console())
    except (ValueError, OSError) as error:
        _mistake(str(error))


@main.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def compare(names: tuple[str, ...], directory: Path, as_json: bool) -> None:
    """Set the results of several runs side by side, with paired tests where problems agree."""
    from rich.console import Console

    from coldstart import report

    roots = [_run_root(name, directory) for name in names]
    try:
        table = report.compare(roots)
        if as_json:
            click.echo(json.dumps(table.document()))
        else:
            Console().print(table)
    except (ValueError, OSError) as error:
        _mistake(str(error))


@main.command()
@click.argument("name", metavar="RUN")
@_DIRECTORY
def regrade(name: str, directory: Path) -> None:
    """Grade the kept responses of RUN again, without the model, and write its report."""
    from rich.console import Console

    from coldstart.summary import regrade_run

    root = _run_root(name, directory)
    try:
        regrade_run(root)
        _conclude(root, Console())
    except (ValueError, OSError, ImportError) as error:
        _mistake(str(error))


def _run_root(name: str, directory: Path) -> Path:
    found = [root for root in (directory / name, Path(name)) if (root / "status.json").is_file()]
    if not found:
        _mistake(f"{name}: no such run in {directory}, and no directory with a status.json")
    return found[0]


def _load(file: Path) -> ReasoningRun:
    from coldstart.runfile import RunFileError, load

    try:
        return load(file)
    except RunFileError as error:
        _mistake("\n".join(error.lines))


def _mistake(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(MISTAKE)
