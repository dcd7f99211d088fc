"""The results of one run as tables for the terminal, from its files or from its status alone."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from coldstart.children.documents import line
from coldstart.report.gain import kind_shares
from coldstart.report.reading import RunRecord, label, read_run
from coldstart.report.scores import scores, told_results
from coldstart.report.words import MISSING, interval, number, percent
from coldstart.results import BenchmarkResult
from coldstart.status import RunStatus


def results_table(run_dir: Path) -> RenderableType:
    """Accuracy of each checkpoint on each benchmark, response kinds, and the gates' verdicts.

    What the run does not have yet is left out; a run without anything says what it waits for.

    Raises:
        ValueError: there is no run, or one of its documents is damaged.
    """
    found = read_run(run_dir)
    tables = []
    if found.results:
        tables.append(_accuracies(found))
    if any(result.kinds for result in found.results.values()):
        tables.append(_kinds(found))
    if any(stage.gates for stage in found.status.stages):
        tables.append(_gates(found.status))
    parts: list[RenderableType] = [Padding(table, (0, 0, 1, 0)) for table in tables]
    parts += [Text(note) for note in found.notes]
    if not found.status.holds("Succeeded"):
        parts.append(Text(f"{found.name}: {found.status.message or 'has not started'}"))
    return Group(*parts)


def told_table(name: str, status: RunStatus) -> RenderableType:
    """The results that a status tells, as `results_table` shows those in the files."""
    parts: list[RenderableType] = []
    if told_results(status).checkpoints:
        parts.append(_told(name, status))
    if any(stage.gates for stage in status.stages):
        parts.append(_gates(status))
    shown: list[RenderableType] = [Padding(table, (0, 0, 1, 0)) for table in parts]
    if not status.holds("Succeeded"):
        shown.append(Text(f"{name}: {line(status.message) or 'has not started'}"))
    return Group(*shown)


def _told(name: str, status: RunStatus) -> Table:
    headings = ("checkpoint", "accuracy", "95 % CI", "n", "boxed", "tokens")
    table = _table(f"{name}: accuracy", *headings)
    entry = status.stage("evaluation")
    assert entry is not None
    scored = told_results(status).checkpoints
    for checkpoint, score in scored.items():
        tokens = entry.metrics.get(f"mean_tokens_{checkpoint}")
        table.add_row(
            label(checkpoint, scored),
            Text(percent(score.accuracy), style="bold"),
            interval(score.low, score.high),
            str(score.n),
            percent(entry.metrics.get(f"boxed_share_{checkpoint}"), 0),
            MISSING if tokens is None else f"{tokens:.1f}",
        )
    return table


def _table(title: str, *headings: str, left: int = 1) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for place, heading in enumerate(headings):
        name = place < left
        table.add_column(
            heading, justify="left" if name else "right", overflow="fold", no_wrap=not name
        )
    return table


def _accuracies(found: RunRecord) -> Table:
    several = len(found.benchmarks) > 1
    table = _table(
        f"{found.name}: accuracy",
        *("checkpoint", "benchmark", "accuracy", "95 % CI", "n"),
        *("boxed", "tokens", "trunc.", "reflect"),
        left=2,
    )
    overall = scores(found).checkpoints
    for checkpoint in (*found.references, *found.checkpoints):
        for benchmark in found.benchmarks:
            result = found.results.get((checkpoint, benchmark))
            if result is not None:
                table.add_row(found.label(checkpoint), benchmark, *_numbers(result))
        score = overall.get(checkpoint)
        if score and several:
            table.add_row(
                found.label(checkpoint),
                Text("mean", style="italic"),
                Text(percent(score.accuracy), style="bold"),
                interval(score.low, score.high),
                str(score.n),
            )
            table.add_section()
    return table


def _numbers(result: BenchmarkResult) -> tuple[RenderableType, ...]:
    return (
        Text(percent(result.accuracy), style="bold"),
        interval(result.low, result.high),
        str(result.n),
        percent(result.boxed_share, 0),
        f"{result.mean_tokens:.1f}",
        percent(result.truncated_share, 0),
        percent(result.reflection.reflecting / result.n),
    )


def _kinds(found: RunRecord) -> Table:
    table = _table(
        "What the gain is made of: responses by kind",
        *("checkpoint", "benchmark", "kind", "share", "accuracy", "n"),
        left=3,
    )
    for (checkpoint, benchmark), result in found.results.items():
        for kind in kind_shares(result):
            table.add_row(
                found.label(checkpoint),
                benchmark,
                kind.name,
                percent(kind.share),
                percent(kind.accuracy),
                str(kind.n),
            )
        table.add_section()
    return table


def _gates(status: RunStatus) -> Table:
    table = _table("Gates", "stage", "check", "observed", "asked for", "verdict", left=2)
    for stage in status.stages:
        for verdict in stage.gates:
            table.add_row(
                stage.name.upper(),
                verdict.name,
                number(verdict.observed),
                number(verdict.threshold),
                Text("passed", style="green")
                if verdict.passed
                else Text(f"refused: {verdict.message}", style="red"),
            )
    return table
