"""`coldstart compare`: the scores of several runs side by side, and whether they differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coldstart.report.pairing import paired
from coldstart.report.reading import RunRecord, read_run
from coldstart.report.scores import Score, scores
from coldstart.report.words import MISSING, interval, p_value, percent, points
from coldstart.schema import Contract


class Row(Contract):
    """One checkpoint of one run."""

    run: str
    """The run."""
    checkpoint: str
    """`base`, `sft` or `grpo`."""
    label: str
    """What people call the checkpoint."""
    accuracy: float
    """Unweighted mean over the benchmarks."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    n: int
    """Responses."""


class Pair(Contract):
    """The final checkpoints of two runs, response by response."""

    first: str
    """One run."""
    second: str
    """The other."""
    comparable: bool
    """Whether both answered the same problems; else the rest is absent."""
    message: str = ""
    """Why they are not comparable."""
    difference: float | None = None
    """Accuracy of the second minus that of the first, as in the rows."""
    only_first: int | None = None
    """Responses that only the first got right."""
    only_second: int | None = None
    """Responses that only the second got right."""
    n: int | None = None
    """Pairs."""
    p: float | None = None
    """Two-sided p of the exact McNemar test, for this pair alone; it counts all responses alike,
    whatever their benchmark. Where problems have several responses, or belong together, it is that
    of the exact randomization test over them."""
    clustered: bool = False
    """Whether it is the latter."""


class Comparison(Contract):
    """What `coldstart compare --json` prints; rich prints it as tables."""

    rows: tuple[Row, ...]
    """The checkpoints of each run, in the order in which the runs were named."""
    pairs: tuple[Pair, ...]
    """Every two runs."""

    def __rich__(self) -> RenderableType:
        """The comparison as tables for the terminal."""
        return _tables(self)


def compare(run_dirs: Sequence[Path]) -> Comparison:
    """The scores of evaluated runs, and a paired test between every two final checkpoints.

    The test is the exact McNemar test over responses paired by benchmark, problem and sample
    number, or the exact randomization test over problems where several responses belong together.
    Its p values are not corrected for how many pairs there are.

    Raises:
        ValueError: fewer than two runs, a run twice, or one that is missing or has no whole
            evaluation; the message names it and says what is missing.
    """
    if len(run_dirs) < 2:  # noqa: PLR2004 - a comparison is between two
        raise ValueError("compare needs at least two runs")
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise ValueError("compare was given the same run twice")
    runs = [_evaluated(path) for path in run_dirs]
    names = _names(run_dirs, runs)
    return Comparison(
        rows=tuple(row for name, run in zip(names, runs, strict=True) for row in _rows(name, run)),
        pairs=tuple(_pair(one, two) for one, two in combinations(zip(names, runs, strict=True), 2)),
    )


def _evaluated(run_dir: Path) -> RunRecord:
    found = read_run(run_dir)
    if not found.checkpoints:
        raise ValueError(
            f"run {found.name!r} ({run_dir}) has no evaluation: add one to its file and run it"
        )
    lacking = [name for name in found.checkpoints if name not in found.complete]
    if lacking:
        stage = found.status.stage("evaluation")
        state = stage.state.value if stage else "Waiting"
        raise ValueError(
            f"run {found.name!r} ({run_dir}) is not evaluated: results of "
            f"{', '.join(lacking)} are missing (evaluation is {state}); "
            "finish it with `coldstart run`"
        )
    return found


def _names(run_dirs: Sequence[Path], runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names; where two are alike, their directories."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(path) for path in run_dirs]


def _rows(name: str, found: RunRecord) -> list[Row]:
    return [
        Row(run=name, checkpoint=checkpoint, label=found.label(checkpoint), **score.model_dump())
        for checkpoint, score in scores(found).checkpoints.items()
    ]


def _pair(one: tuple[str, RunRecord], two: tuple[str, RunRecord]) -> Pair:
    (first, a), (second, b) = one, two
    try:
        found = paired((a, a.checkpoints[-1]), (b, b.checkpoints[-1]))
    except ValueError as error:
        return Pair(first=first, second=second, comparable=False, message=str(error))
    return Pair(
        first=first,
        second=second,
        comparable=True,
        difference=_final(b).accuracy - _final(a).accuracy,
        only_first=found.counts["lost"],
        only_second=found.counts["gained"],
        n=found.n,
        p=found.p,
        clustered=found.clustered,
    )


def _final(found: RunRecord) -> Score:
    return scores(found).checkpoints[found.checkpoints[-1]]


def _tables(comparison: Comparison) -> RenderableType:
    table = Table(
        title="Accuracy",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for heading in ("run", "checkpoint"):
        table.add_column(heading)
    for heading in ("accuracy", "95 % CI", "n"):
        table.add_column(heading, justify="right")
    before = None
    for row in comparison.rows:
        if before not in (None, row.run):
            table.add_section()
        table.add_row(
            Text("" if row.run == before else row.run),
            row.label,
            percent(row.accuracy),
            interval(row.low, row.high),
            str(row.n),
        )
        before = row.run
    return Group(table, Text(), _pair_table(comparison.pairs))


def _pair_table(pairs: Sequence[Pair]) -> RenderableType:
    table = Table(
        title="Final checkpoints, response by response",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption=_caption(pairs),
        caption_justify="left",
    )
    for heading in ("runs", "difference", "only 1st right", "only 2nd right", "p"):
        table.add_column(heading, justify="left" if heading == "runs" else "right")
    for pair in pairs:
        names = Text(f"{pair.first} → {pair.second}")
        if pair.p is None or pair.difference is None:
            table.add_row(names, *[MISSING] * 4)
            continue
        table.add_row(
            names,
            points(pair.difference),
            str(pair.only_first),
            str(pair.only_second),
            p_value(pair.p),
        )
    return table


def _caption(pairs: Sequence[Pair]) -> Text:
    lines = [
        f"{pair.first} and {pair.second} cannot be paired: {pair.message}."
        for pair in pairs
        if not pair.comparable
    ]
    tests = {
        "Exact randomization test over problems" if pair.clustered else "Exact McNemar test"
        for pair in pairs
        if pair.comparable
    }
    lines += [
        f"{test}, two-sided, not corrected for the number of pairs." for test in sorted(tests)
    ]
    return Text("\n".join(lines))
