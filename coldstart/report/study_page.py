"""The page of a study: its arms side by side, and published figures; computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from coldstart.benchmarks.figures import figures
from coldstart.report.anchors import Anchor
from coldstart.report.page import environment, maker
from coldstart.study.results import ArmRow, Measure, StudyTable

_COLOURS = {"base": "base", "sft": "sft", "grpo": "accent", "sft+grpo": "grpo"}


@dataclass(frozen=True)
class Board:
    """One benchmark, or the mean over all of them, with every arm that was scored on it."""

    name: str
    rows: tuple[tuple[ArmRow, Measure | None], ...]
    anchors: tuple[Anchor, ...]


def render(table: StudyTable, now: datetime) -> str:
    """The page as HTML: one file that asks for no other, with no script.

    All that a user wrote reaches it through the template's escaping alone.
    """
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            table=table,
            boards=_boards(table),
            colours=_COLOURS,
            missing=[(row.arm, text) for row in table.rows for text in row.missing],
            made=now,
            maker=maker(),
        )
    )


def _boards(table: StudyTable) -> list[Board]:
    """The mean first, where there are several benchmarks."""
    names = dict.fromkeys(
        measure.benchmark for row in table.rows for measure in row.measures if measure.benchmark
    )
    boards = [
        Board(name, tuple((row, _of(row, name)) for row in table.rows), _anchors(table, name))
        for name in names
    ]
    if len(names) > 1:
        means = tuple((row, row.mean) for row in table.rows)
        boards.insert(0, Board("Mean of the benchmarks", means, _mean_anchors(table, set(names))))
    return boards


def _of(row: ArmRow, benchmark: str) -> Measure | None:
    return next((item for item in row.measures if item.benchmark == benchmark), None)


def _anchors(table: StudyTable, benchmark: str) -> tuple[Anchor, ...]:
    return tuple(
        Anchor(figure.name, figure.accuracy[benchmark] / 100)
        for figure in table.published
        if benchmark in figure.accuracy
    )


def _mean_anchors(table: StudyTable, benchmarks: set[str]) -> tuple[Anchor, ...]:
    """Published means, where they are means of just these benchmarks."""
    whole = {figure.name: figure.accuracy.keys() for figure in figures().figures}
    return tuple(
        Anchor(figure.name, figure.mean / 100)
        for figure in table.published
        if figure.accuracy.keys() == benchmarks == whole[figure.name]
    )
