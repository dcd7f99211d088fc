"""Accuracy by subject, level and the like, as the page shows it; the numbers are the results'."""

from __future__ import annotations

from dataclasses import dataclass

from coldstart.benchmarks import FACETS
from coldstart.report.reading import RunRecord
from coldstart.results import GroupResult

SHOWN = ("subject", "level")
"""What is open on the page; the rest unfolds."""


@dataclass(frozen=True)
class GroupRow:
    """The problems of one subject, or one level."""

    value: str
    problems: int
    cells: tuple[tuple[str, GroupResult | None], ...]
    """By checkpoint."""


@dataclass(frozen=True)
class Facet:
    """One way to split a benchmark."""

    benchmark: str
    name: str
    rows: tuple[GroupRow, ...]

    @property
    def label(self) -> str:
        """What people call it."""
        return facet_label(self.name)


def facet_label(name: str) -> str:
    """What people call a facet: `Question type`."""
    return name.replace("_", " ").capitalize()


def facets(found: RunRecord) -> list[Facet]:
    """Every facet of every benchmark, by benchmark; what is shown first comes first.

    A facet with a single value splits nothing and is left out.
    """
    made = []
    for benchmark in found.benchmarks:
        results = {
            checkpoint: found.results[checkpoint, benchmark].breakdown
            for checkpoint in found.checkpoints
            if (checkpoint, benchmark) in found.results
        }
        names = {name for breakdown in results.values() for name in breakdown}
        for name in sorted(names, key=_place):
            rows = _rows({of: breakdown.get(name, {}) for of, breakdown in results.items()})
            if len(rows) > 1:
                made.append(Facet(benchmark, name, rows))
    return made


def _rows(groups: dict[str, dict[str, GroupResult]]) -> tuple[GroupRow, ...]:
    values = {value for of in groups.values() for value in of}
    rows = []
    for value in sorted(values, key=in_order):
        cells = tuple((checkpoint, of.get(value)) for checkpoint, of in groups.items())
        problems = max(cell.problems for _, cell in cells if cell)
        rows.append(GroupRow(value, problems, cells))
    return tuple(rows)


def in_order(value: str) -> tuple[float, str]:
    """Sorts levels as numbers and names as words."""
    return (float(value) if value.isdecimal() else float("inf"), value)


def _place(name: str) -> tuple[int, str]:
    order = (*SHOWN, *FACETS)
    return (order.index(name) if name in order else len(order), name)
