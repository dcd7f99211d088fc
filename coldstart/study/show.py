"""A study's plan and table in words: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coldstart.report.words import MISSING, interval, p_value, percent, points
from coldstart.study.plan import SharedRun, StudyPlan
from coldstart.study.results import ArmPair, ArmRow, Measure, StudyTable

_LEFT = ("arm", "benchmark", "arms", "run", "starts from", "part of")


@dataclass(frozen=True)
class Grid:
    """A table with its headings and what stands below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()


def planned_grids(plan: StudyPlan) -> list[Grid]:
    """The runs of a study, and what is shared."""
    head = f"{plan.study}-"
    rows = [
        (
            run.name.removeprefix(head),
            (run.needs or "the base model").removeprefix(head),
            of(plan, run),
        )
        for run in plan.runs.values()
    ]
    told = (
        f"{len(plan.cells)} arms, {len(plan.runs)} runs, called {head}…: {plan.stages} trainings "
        f"and distillations, {plan.stages_of_arms} if nothing were shared."
    )
    return [Grid(f"Study {plan.study}", ("run", "starts from", "part of"), tuple(rows), (told,))]


def of(plan: StudyPlan, run: SharedRun) -> str:
    """The arms that a run is part of."""
    return "all arms" if len(run.arms) == plan.everywhere else "; ".join(run.arms)


def grids(table: StudyTable) -> list[Grid]:
    """What a study has found."""
    missing = [f"{row.arm}: {text}" for row in table.rows for text in row.missing]
    below = (*missing, *table.notes)
    if table.published:
        below = (*below, f"Published: {table.source}; the authors' matcher is not known.")
    found = [Grid("Accuracy, with 95 % intervals", _HEADINGS, tuple(_accuracies(table)), below)]
    if table.pairs:
        found.append(
            Grid("Between arms, with 95 % intervals", _BETWEEN, tuple(map(_between, table.pairs)))
        )
    return found


_HEADINGS = (
    "arm",
    "benchmark",
    "accuracy",
    "over problems",
    "each seed",
    "sd",
    "over seeds",
)
_BETWEEN = ("arms", "difference", "p", "better in", "over seeds")


def _accuracies(table: StudyTable) -> Iterator[tuple[str, ...]]:
    for row in table.rows:
        for place, measure in enumerate(_shown(row)):
            yield _accuracy("" if place else row.arm, measure)
        if not row.measures:
            yield (row.arm, *[MISSING] * (len(_HEADINGS) - 1))
    for figure in table.published:
        for place, (name, value) in enumerate(figure.accuracy.items()):
            told = "" if place else f"{figure.name} (published)"
            yield (told, name, percent(value / 100), "published", *[""] * 3)


def _shown(row: ArmRow) -> tuple[Measure, ...]:
    """The benchmarks, and their mean where there are several."""
    several = row.mean is not None and len(row.measures) > 1
    return (*row.measures, row.mean) if several and row.mean else row.measures


def _accuracy(arm: str, measure: Measure) -> tuple[str, ...]:
    over = measure.over_seeds
    return (
        arm,
        measure.benchmark or "mean",
        percent(measure.accuracy),
        interval(measure.low, measure.high),
        ", ".join(f"{100 * seed.accuracy:.1f}" for seed in measure.seeds) if over else MISSING,
        f"{100 * over.deviation:.1f}" if over else MISSING,
        interval(over.low, over.high) if over else MISSING,
    )


def _between(pair: ArmPair) -> tuple[str, ...]:
    names = f"{pair.first} → {pair.second}"
    if pair.difference is None or pair.p is None:
        return (f"{names}: {pair.message}", *[MISSING] * (len(_BETWEEN) - 1))
    bounds = MISSING if pair.low is None or pair.high is None else _signed(pair.low, pair.high)
    better = f"{pair.better} of {pair.seeds} seeds" if pair.seeds > 1 else MISSING
    return (names, points(pair.difference), p_value(pair.p), better, bounds)


def _signed(low: float, high: float) -> str:
    return f"{points(low).removesuffix(' pts')} to {points(high)}"


def terminal(grids: Sequence[Grid]) -> RenderableType:
    """Grids for the terminal."""
    shown: list[RenderableType] = []
    for grid in grids:
        table = Table(
            title=grid.title,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        for heading in grid.headings:
            side: Literal["left", "right"] = "left" if heading in _LEFT else "right"
            table.add_column(heading, justify=side, overflow="fold")
        for row in grid.rows:
            table.add_row(*map(Text, row))
        shown += [table, Text("\n".join(grid.below)), Text()]
    return Group(*shown)


def markdown(title: str, grids: Sequence[Grid]) -> str:
    """Grids as Markdown."""
    parts = [f"# {title}"]
    for grid in grids:
        rule = "|".join("---" if name in _LEFT else "---:" for name in grid.headings)
        lines = [f"## {grid.title}", "", _line(grid.headings), f"|{rule}|"]
        parts.append("\n".join([*lines, *map(_line, grid.rows)]))
        if grid.below:
            parts.append("\n".join(f"- {text}" for text in grid.below))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
