"""The commands about a run's file: write one, check one, show what would come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coldstart.cli.options import DIRECTORY, RUN_FILE, load, mistake

if TYPE_CHECKING:
    from coldstart.run import ReasoningRun

_WIDTH = 100_000
"""Lines of YAML are not folded before this column: an order is one line."""


@click.command()
@RUN_FILE
@click.option("--json", "as_json", is_flag=True, help="Print one object, for programs.")
def validate(file: Path, as_json: bool) -> None:
    """Check FILE; print its mistakes, or what it will do and the memory that it will take.

    Memory is estimated from the model's config.json or, for models on the hub, its known shape. A
    stage that cannot fit GPUs of resources.gpuMemory is a mistake.
    """
    from rich.console import Console

    from coldstart.memory import forecast
    from coldstart.memory.table import show

    wanted = load(file)
    memory = forecast(wanted.spec, file.resolve().parent)
    names = [stage.value for stage in wanted.spec.stages]
    if as_json:
        document = {"run": wanted.metadata.name, "stages": names, "memory": memory.document()}
        click.echo(json.dumps(document))
    else:
        show(memory, Console())
        click.echo()
    if refused := memory.refusals:
        mistake("\n".join(f"{file}: {line}" for line in refused))
    if not as_json:
        click.echo(f"{file}: valid: run {wanted.metadata.name!r}, {' -> '.join(names)}")


@click.command()
@RUN_FILE
@DIRECTORY
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
    from coldstart.yamlfile import written

    wanted = load(file)
    if orders:
        documents = _orders(wanted, file, directory)
    else:
        documents = _manifests(wanted, file, backend or wanted.spec.backend, image)
    click.echo(written(documents, _WIDTH), nl=False)


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
        mistake(f"{file}: {error}")
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
        mistake(str(error))
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


@click.command()
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
        mistake(f"{file} exists; choose another name, or --force to write over it")
    try:
        write_atomic(file, starter(preset).encode())
    except OSError as error:
        mistake(f"{file}: cannot be written: {error.strerror}")
    click.echo(f"wrote {file}; next: edit it, then coldstart validate {file}")


COMMANDS = (validate, render, init)
