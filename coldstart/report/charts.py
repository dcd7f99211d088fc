"""Line charts as plain geometry, which a template draws as SVG; knows nothing of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 34
"""The plot's margins, in the units of the view box."""

POINTS = 160
"""A series of more points is averaged down to as many: no screen shows more."""

_SMOOTH_FROM = 24
_NEAR_ZERO = 0.55

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    """What the legend calls it; empty where the title says it."""
    points: tuple[Point, ...]
    """Step and value, by step."""
    colour: str = "ink"
    """The name of a colour of the page."""
    dashed: bool = False
    """Whether it is drawn dashed, so that colour is not all that tells it apart."""
    sparse: bool = False
    """Whether its points are few measurements, drawn as dots."""
    noisy: bool = True
    """Whether a moving average says more than the points themselves."""


@dataclass(frozen=True)
class Mark:
    """A vertical line."""

    step: float
    """Where."""
    label: str
    """What happened there."""


@dataclass(frozen=True)
class Chart:
    """What a chart shows, before it is laid out."""

    title: str
    """What is measured."""
    unit: str
    """Its unit, as the reader sees it."""
    series: tuple[Series, ...]
    """The lines, the most important one first."""
    marks: tuple[Mark, ...] = ()
    """Vertical lines."""
    band: tuple[tuple[float, float, float], ...] = ()
    """Step, least and greatest: an area behind the lines."""
    band_name: str = ""
    """What the legend calls the area."""
    note: str = ""
    """A sentence below the title."""
    shown: Callable[[float], str] = "{:.3g}".format
    """Words a value."""
    floor: float | None = None
    """The axis never goes below this."""
    ceiling: float | None = None
    """The axis never goes above this."""
    along: str = "optimizer update"
    """What the horizontal axis is labelled."""
    step: str = "update"
    """What a place on it is called."""


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class DrawnSeries:
    """A line in the view box."""

    source: Series
    raw: str
    """The path through every point; faint where there is a smooth one."""
    smooth: str
    """The path of the moving average; empty where there is none."""
    dots: tuple[Point, ...]
    """Places of the points of a sparse series."""


@dataclass(frozen=True)
class Stop:
    """What the pointer finds at one step."""

    at: float
    left: float
    width: float
    text: str
    dots: tuple[tuple[float, str], ...]
    """Height and colour."""


@dataclass(frozen=True)
class DrawnMark:
    """A vertical line in the view box."""

    at: float
    label: str
    end: bool
    """Whether its label stands on its left, since there is no room on its right."""


@dataclass(frozen=True)
class Drawing:
    """A chart laid out: everything in units of the view box."""

    chart: Chart
    summary: str
    """What the chart shows, in words."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[DrawnSeries, ...]
    band: str
    marks: tuple[DrawnMark, ...]
    stops: tuple[Stop, ...]
    width: int = field(default=WIDTH)
    height: int = field(default=HEIGHT)
    left: int = field(default=LEFT)
    right: int = field(default=WIDTH - RIGHT)
    top: int = field(default=TOP)
    bottom: int = field(default=HEIGHT - BOTTOM)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        at = self.start + (value - self.low) / span * (self.end - self.start)
        return round(at, 1)


def drawing(chart: Chart) -> Drawing:
    """The chart laid out in its view box."""
    thinned = [_thinned(series) for series in chart.series]
    band = _thinned_band(chart.band)
    values = [y for series in thinned for _, y in series.points]
    values += [edge for _, low, high in band for edge in (low, high)]
    steps = [x for series in thinned for x, _ in series.points]
    y_values = _y_values(values, chart)
    x_values = _ticks(min(steps), max(steps), 5, whole=True)
    x = _Scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _Scale(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    return Drawing(
        chart=chart,
        summary=_summary(chart),
        x_ticks=tuple(
            Tick(x(value), f"{value:,.0f}") for value in x_values if x.low <= value <= x.high
        ),
        y_ticks=tuple(Tick(y(value), chart.shown(value)) for value in y_values),
        lines=tuple(_drawn(series, x, y) for series in thinned),
        band=_area(band, x, y),
        marks=tuple(
            DrawnMark(x(mark.step), mark.label, x(mark.step) > WIDTH * 0.8)
            for mark in chart.marks
            if x.low <= mark.step <= x.high
        ),
        stops=_stops(chart, thinned, x, y),
    )


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A centred moving average over about a twelfth of the points; the ends use what they have."""
    reach = max(1, len(points) // 24)
    found = []
    for place, (step, _) in enumerate(points):
        window = points[max(0, place - reach) : place + reach + 1]
        found.append((step, math.fsum(y for _, y in window) / len(window)))
    return found


def _buckets(count: int) -> list[range]:
    """Indices of neighbours that become one point."""
    if count <= POINTS:
        return [range(i, i + 1) for i in range(count)]
    edges = [round(i * count / POINTS) for i in range(POINTS + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def _thinned(series: Series) -> Series:
    points = tuple(
        (
            series.points[bucket[-1]][0],
            math.fsum(series.points[i][1] for i in bucket) / len(bucket),
        )
        for bucket in _buckets(len(series.points))
    )
    return replace(series, points=points)


def _thinned_band(
    band: tuple[tuple[float, float, float], ...],
) -> list[tuple[float, float, float]]:
    return [
        (band[bucket[-1]][0], min(band[i][1] for i in bucket), max(band[i][2] for i in bucket))
        for bucket in _buckets(len(band))
    ]


def _y_values(values: Sequence[float], chart: Chart) -> list[float]:
    """Round values from below the least to above the greatest."""
    low, high = min(values), max(values)
    if low > 0 and low < _NEAR_ZERO * high:
        low = 0.0
    if high - low < 1e-12:  # noqa: PLR2004 - a flat line still needs an axis
        reach = abs(high) * 0.5 or 1.0
        low, high = (0.0, high + reach) if low >= 0 else (low - reach, high + reach)
    if chart.floor is not None:
        low = max(low, chart.floor)
    if chart.ceiling is not None:
        high = min(high, chart.ceiling)
    return _ticks(low, high, 4, around=True)


def _ticks(
    low: float, high: float, count: int, *, whole: bool = False, around: bool = False
) -> list[float]:
    """About `count` round values between two, or (`around`) just enough to hold both."""
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, round(step))
    first = math.floor(low / step + 1e-9) if around else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if around else math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _path(points: Sequence[Point], x: _Scale, y: _Scale) -> str:
    return "M" + "L".join(f"{x(step):g} {y(value):g}" for step, value in points)


def _area(band: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> str:
    if not band:
        return ""
    above = [(step, high) for step, _, high in band]
    below = [(step, low) for step, low, _ in reversed(band)]
    return _path([*above, *below], x, y) + "Z"


def _drawn(series: Series, x: _Scale, y: _Scale) -> DrawnSeries:
    smooth = series.noisy and not series.sparse and len(series.points) >= _SMOOTH_FROM
    dotted = series.sparse or len(series.points) == 1
    return DrawnSeries(
        source=series,
        raw=_path(series.points, x, y),
        smooth=_path(smoothed(series.points), x, y) if smooth else "",
        dots=tuple((x(step), y(value)) for step, value in series.points) if dotted else (),
    )


def _stops(chart: Chart, thinned: Sequence[Series], x: _Scale, y: _Scale) -> tuple[Stop, ...]:
    """One strip for each step of any line, as wide as half the way to its neighbours."""
    values = [dict(series.points) for series in thinned]
    steps = sorted({step for found in values for step in found})
    places = [x(step) for step in steps]
    stops = []
    for i, step in enumerate(steps):
        left = (places[i - 1] + places[i]) / 2 if i else float(LEFT)
        right = (places[i] + places[i + 1]) / 2 if i + 1 < len(steps) else float(WIDTH - RIGHT)
        here = [(s, found[step]) for s, found in zip(thinned, values, strict=True) if step in found]
        words = [
            f"{chart.step} {step:,.0f}",
            *(f"{s.name or chart.title.lower()} {chart.shown(v)}" for s, v in here),
        ]
        stops.append(
            Stop(
                at=places[i],
                left=round(left, 1),
                width=round(max(right - left, 0.5), 1),
                text="\n".join(words),
                dots=tuple((y(v), s.colour) for s, v in here),
            )
        )
    return tuple(stops)


def _summary(chart: Chart) -> str:
    parts = []
    for series in chart.series:
        (first, start), (last, end) = series.points[0], series.points[-1]
        name = f"{series.name} " if series.name else ""
        parts.append(
            f"{name}from {chart.shown(start)} at {chart.step} {first:,.0f} "
            f"to {chart.shown(end)} at {chart.step} {last:,.0f}"
        )
    return f"{chart.title}: {'; '.join(parts)}."
