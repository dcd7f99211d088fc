"""The page of a check of data sets: the examples with their images, and how long the texts are."""

from __future__ import annotations

from coldstart.findings import DataReport, DatasetFacts, Histogram
from coldstart.report import charts
from coldstart.report.page import environment


def render(run: str, found: DataReport) -> str:
    """The page as HTML: one file that asks for no other, with no script.

    All that a data set says reaches it through the template's escaping alone.
    """
    return (
        environment()
        .get_template("data.html.j2")
        .render(
            run=run,
            found=found,
            levels=("mistake", "warning", "note"),
            drawings=[
                charts.drawing(_chart(item, lengths))
                for item in found.datasets
                for lengths in item.lengths
            ],
        )
    )


def _chart(item: DatasetFacts, lengths: Histogram) -> charts.Chart:
    points = tuple(
        ((number + 0.5) * lengths.width, float(count))
        for number, count in enumerate(lengths.counts)
    )
    limit = lengths.limit
    drawn = limit is not None and limit <= points[-1][0] + lengths.width / 2
    note = f"longest: {lengths.longest:,}"
    if limit is not None:
        note += f"; limit: {limit:,}"
    return charts.Chart(
        title=f"{item.label}: {lengths.what}s",
        unit="rows",
        series=(charts.Series("", points, colour=_COLOURS[item.role], noisy=False),),
        marks=(charts.Mark(min(limit, points[-1][0]), "limit"),) if drawn and limit else (),
        band=tuple((at, 0.0, count) for at, count in points),
        band_name="rows by length",
        note=note,
        shown="{:,.4g}".format,
        floor=0.0,
        along=lengths.unit,
        step=lengths.unit,
    )


_COLOURS = {
    "distill": "base",
    "sft": "sft",
    "grpo": "grpo",
    "probe": "base",
    "evaluation": "accent",
}
