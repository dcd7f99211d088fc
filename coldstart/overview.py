"""A run's status as a terminal shows it, whichever place it is from; reads and decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from coldstart.children.documents import line
from coldstart.places import Event, RunView
from coldstart.report.words import MISSING, moment, number, percent, span
from coldstart.status import Condition, RunProgress, RunStatus, StageState, StageStatus, Verdict

EVENTS = 5
"""Events that are shown, the latest."""

_LONG = ("checkpoint", "job", "message", "verdict")
"""Columns that may take several lines."""

_TITLES = {"distill": "Distillation", "sft": "SFT", "grpo": "GRPO", "evaluation": "Evaluation"}

_STYLES = {
    StageState.SUCCEEDED: "green",
    StageState.FAILED: "red",
    StageState.BACKOFF: "yellow",
    StageState.SUSPENDED: "yellow",
    StageState.RUNNING: "cyan",
}

_METRICS = {
    "distill": {"rows": "rows"},
    "sft": {"loss": "loss"},
    "grpo": {"probe_accuracy": "probe", "reward_total_mean": "reward"},
    "evaluation": {f"accuracy_{name}": name for name in ("grpo", "sft", "base")},
}
"""The main metric of a stage that has ended, the first of these that it reported, and its word."""


def overview(view: RunView, *, conditions: bool = False) -> RenderableType:
    """Everything that the status of a run says.

    Args:
        view: the run.
        conditions: show each condition with its reason, not only which of them hold.
    """
    status = view.status
    parts: list[RenderableType] = [_head(view)]
    if status.stages:
        parts += [_stages(status), _jobs(status)]
    if any(entry.gates for entry in status.stages):
        parts.append(_gates(status))
    parts += [_error(entry) for entry in status.stages if entry.error]
    parts.append(_conditions(status) if conditions else _holding(status))
    if view.events:
        parts.append(_events(view.events[-EVENTS:]))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def summary(view: RunView) -> str:
    """The same in one line, for where there is no terminal."""
    status = view.status
    where = f" ({line(status.progress.text)})" if status.progress and not status.finished else ""
    return f"{line(view.name)}: {line(status.phase)}{where}: {line(status.message) or MISSING}"


def main_metric(entry: StageStatus, progress: RunProgress | None) -> str:
    """The one number of a stage that tells most; a dash if there is none."""
    if progress and progress.stage == entry.name and entry.state is StageState.RUNNING:
        return MISSING if progress.reward is None else f"reward {number(progress.reward)}"
    for name, word in _METRICS[entry.name].items():
        if name in entry.metrics:
            value = entry.metrics[name]
            return f"{word} {percent(value) if 'accuracy' in name else number(value)}"
    return MISSING


def _head(view: RunView) -> RenderableType:
    status = view.status
    style = "red" if status.holds("Failed") else "green" if status.holds("Succeeded") else "cyan"
    head = Text.assemble(
        (line(view.name), "bold"), f"  {view.place}  ", (line(status.phase), f"bold {style}")
    )
    if status.backend:
        head.append(f"  {status.backend}")
    lines = [head]
    if status.message:
        lines.append(Text(line(status.message, 4096)))
    if status.started_at:
        ended = f", ended {moment(status.finished_at)}" if status.finished_at else ""
        lines.append(Text(f"started {moment(status.started_at)}{ended}", style="dim"))
    lines += [Text(line(note, 4096), style="yellow") for note in view.notes]
    return Group(*lines)


def _table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            overflow="fold",
            no_wrap=heading not in _LONG,
        )
    return table


def _stages(status: RunStatus) -> Table:
    numbers = ("attempt", "GPU time", "wasted")
    table = _table("stage", "state", "attempt", "progress", "metric", *numbers[1:], right=numbers)
    for entry in status.stages:
        table.add_row(
            _TITLES[entry.name],
            Text(entry.state.value, style=_STYLES.get(entry.state, "")),
            str(entry.attempt) if entry.attempt else MISSING,
            Text(_progress(entry, status.progress)),
            main_metric(entry, status.progress),
            _gpu_time(entry.gpu_seconds),
            _gpu_time(entry.wasted_gpu_seconds),
        )
    return table


def _progress(entry: StageStatus, progress: RunProgress | None) -> str:
    if progress and progress.stage == entry.name and entry.state is StageState.RUNNING:
        return line(progress.text)
    return f"{entry.checkpoint.step:,}" if entry.checkpoint else MISSING


def _gpu_time(seconds: float) -> str:
    return span(timedelta(seconds=seconds)) if seconds else MISSING


def _jobs(status: RunStatus) -> Table:
    """What an attempt is and leaves: job, times, checkpoint."""
    table = _table("stage", "job", "started (UTC)", "ended (UTC)", "checkpoint")
    for entry in status.stages:
        found = entry.checkpoint
        table.add_row(
            _TITLES[entry.name],
            Text(line(entry.child or MISSING)),
            _time(entry.started_at),
            _time(entry.finished_at),
            Text(f"{line(found.location)} ({found.digest[7:19]})" if found else MISSING),
        )
    return table


def _time(time: datetime | None) -> str:
    return moment(time).removesuffix(" UTC")


def _gates(status: RunStatus) -> Table:
    numbers = ("observed", "threshold")
    table = _table("gate after", "check", *numbers, "verdict", right=numbers)
    for entry in status.stages:
        for verdict in entry.gates:
            table.add_row(
                _TITLES[entry.name],
                Text(line(verdict.name)),
                number(verdict.observed),
                number(verdict.threshold),
                _verdict(verdict),
            )
    return table


def _verdict(verdict: Verdict) -> Text:
    if verdict.passed:
        return Text("passed", style="green")
    return Text(f"refused: {line(verdict.message)}", style="red")


def _error(entry: StageStatus) -> Text:
    assert entry.error is not None
    ended = entry.state is StageState.FAILED
    what = "failed" if ended else f"attempt {entry.attempt} ended"
    text = f"{_TITLES[entry.name]} {what} ({entry.error.code}): {line(entry.error.message, 4096)}"
    return Text(text, style="red" if ended else "yellow")


def _holding(status: RunStatus) -> Text:
    """The conditions that are True; one that should be and is not stands out."""
    holding = [item.type for item in status.conditions if item.status == "True"]
    text = Text(f"conditions: {', '.join(map(line, holding)) or 'none holds'}")
    for item in status.conditions:
        if item.type == "Accepted" and item.status != "True":
            text.append(f"; not Accepted ({line(item.reason)}): {line(item.message)}", style="red")
    return text


def _conditions(status: RunStatus) -> Table:
    table = _table("condition", "status", "since (UTC)", "reason", "message")
    for item in status.conditions:
        table.add_row(*map(Text, _condition(item)))
    return table


def _condition(item: Condition) -> Iterator[str]:
    yield from (line(item.type), item.status, _time(item.last_transition_time))
    yield from (line(item.reason), line(item.message))


def _events(events: tuple[Event, ...]) -> Table:
    table = _table("event (UTC)", "reason", "message")
    for event in events:
        table.add_row(
            event.time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if event.time else MISSING,
            Text(line(event.reason), style="yellow" if event.warning else ""),
            Text(line(event.message, 1024)),
        )
    return table
