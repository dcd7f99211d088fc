"""Published figures that may stand beside the results of a run; none is a result of ours."""

from __future__ import annotations

from dataclasses import dataclass

from coldstart.benchmarks.figures import Figure, figures
from coldstart.report.reading import RunRecord


@dataclass(frozen=True)
class Anchor:
    """One published figure."""

    name: str
    """Whose it is."""
    accuracy: float
    """A share, as ours are."""


def anchors(found: RunRecord) -> dict[str, tuple[Anchor, ...]]:
    """Published figures by benchmark, of those that were asked as a whole.

    They are those of the run's base model, or all where nothing is published for it.
    """
    whole = {result.benchmark for result in found.results.values() if result.whole}
    return {
        name: tuple(
            Anchor(figure.name, figure.accuracy[name] / 100)
            for figure in _of(found.run.spec.model.name)
            if name in figure.accuracy
        )
        for name in whole
    }


def mean_anchors(found: RunRecord) -> tuple[Anchor, ...]:
    """Published means, where the run's benchmarks are all those that they are means of."""
    if not all(result.whole for result in found.results.values()):
        return ()
    return tuple(
        Anchor(figure.name, figure.mean / 100)
        for figure in _of(found.run.spec.model.name)
        if figure.accuracy.keys() == set(found.benchmarks)
    )


def source() -> str:
    """Where the figures come from, and what they do not tell."""
    return (
        f"Published: {figures().source}. It tells neither intervals nor what graded the answers, "
        "and another matcher moves such numbers by several points."
    )


def _of(model: str) -> tuple[Figure, ...]:
    known = tuple(figure for figure in figures().figures if figure.model == model)
    return known or figures().figures
