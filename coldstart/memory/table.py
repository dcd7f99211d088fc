"""The forecast as tables, one for each stage, and the sentence below each."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from coldstart.memory import Forecast
from coldstart.memory.estimate import Stage
from coldstart.memory.fit import fits, smallest_card
from coldstart.memory.quantity import GIB, shown


def show(forecast: Forecast, console: Console) -> None:
    """Print what each stage holds."""
    if forecast.unknown:
        console.print(f"memory: not estimated: {forecast.unknown}", soft_wrap=True, markup=False)
    for name, stage in forecast.stages.items():
        where = "each GPU" if stage.gpu else "the process"
        console.print(f"\n{name.value}: GiB in {where}, at most", highlight=False)
        console.print(table(stage))
        for line in sentences(stage):
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def table(stage: Stage) -> Table:
    """A row for each part, a column for each phase, in GiB; parts below 0.05 are left out."""
    made = Table(box=None)
    made.add_column("")
    for phase in stage.phases:
        made.add_column(phase.name, justify="right")
    for part in rows(stage):
        sizes = [phase.parts.get(part, 0) for phase in stage.phases]
        made.add_row(part, *(_cell(size) for size in sizes))
    made.add_row("sum", *(_cell(phase.total) for phase in stage.phases), style="bold")
    return made


def rows(stage: Stage) -> Iterator[str]:
    """The parts that are worth a row, in the order in which phases have them, overhead last."""
    names = dict.fromkeys(part for phase in stage.phases for part in phase.parts)
    last = [name for name in names if name in _LAST]
    for name in [*(name for name in names if name not in _LAST), *last]:
        if any(phase.parts.get(name, 0) >= GIB / 20 for phase in stage.phases):
            yield name


def sentences(stage: Stage) -> Iterator[str]:
    """What follows: host memory, and whether the stage fits."""
    if not stage.gpu:
        return
    yield f"host memory of a node, at most: {shown(stage.host)}"
    smallest = smallest_card(stage)
    common = f"{smallest // GIB} GiB" if smallest else "none"
    if stage.card is None:
        yield f"smallest common GPU that it fits: {common} (resources.gpuMemory is not set)"
    elif fits(stage):
        yield f"fits GPUs of {shown(stage.card)}; smallest common one: {common}"


_LAST = ("CUDA and libraries", "libraries", "allocator's waste")


def _cell(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 20 else ""
