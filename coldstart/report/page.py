"""The page of a run: gathers what the template shows, and writes `report.html`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from coldstart.files import write_atomic
from coldstart.metrics import Progress
from coldstart.report import charts, curves, words
from coldstart.report.aha import aha
from coldstart.report.anchors import anchors, mean_anchors, source
from coldstart.report.browser import ROOM, Browser, Room, browser, script, script_hash
from coldstart.report.cases import CaseGroup, case_groups
from coldstart.report.confusion import confusions
from coldstart.report.gain import Gain, KindShare, gain, kind_shares
from coldstart.report.groups import SHOWN, facets
from coldstart.report.honesty import notes
from coldstart.report.pairing import Paired, paired
from coldstart.report.reading import RunRecord, manifest, read_progress, read_run
from coldstart.report.scores import Score, scores
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.stage import CheckpointManifest
from coldstart.status import StageStatus
from coldstart.yamlfile import written

DISTRIBUTION = "coldstart-operator"

_STAGE_TITLES = {
    "distill": "Distillation",
    "sft": "Supervised fine-tuning",
    "grpo": "Reinforcement learning (GRPO)",
    "evaluation": "Evaluation",
}


def write_report(run_dir: Path, run: ReasoningRun | None = None, room: Room = ROOM) -> Path:
    """Write a run's `report.html`, whole or not at all, from what the run has so far.

    Args:
        run_dir: the run's directory.
        run: the run with its status, where the directory does not hold it
            (`coldstart.report.traces`).
        room: how much the page holds.

    Returns:
        The page's path.

    Raises:
        ValueError: there is no run, or one of its documents is damaged.
        OSError: the page cannot be written.
    """
    found = read_run(run_dir, run)
    page = render(found, datetime.now(UTC), room)
    write_atomic(found.layout.report, page.encode())
    return found.layout.report


def render(found: RunRecord, now: datetime, room: Room = ROOM) -> str:
    """The page as HTML: one file that asks for no other; no script runs but our sample browser's.

    Everything that a model, a data set or a user wrote reaches it through the template's escaping,
    or packed, for the script to show as text.
    """
    return environment().get_template("page.html.j2").render(_context(found, now, room))


def environment() -> Environment:
    """What fills the templates: it escapes everything, and knows how we word numbers."""
    made = Environment(
        loader=PackageLoader("coldstart.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": words.percent,
        "points": words.points,
        "number": words.number,
        "moment": words.moment,
        "span": words.span,
        "p": words.p_value,
        "zip": zip,
        "coefficient": words.coefficient,
    }
    return made


@dataclass(frozen=True)
class Column:
    """One checkpoint of the scoreboard."""

    name: str
    label: str
    score: Score
    before: str
    """The checkpoint before it; empty for the first."""
    difference: float
    """The accuracy less that of the checkpoint before it."""
    change: Paired | None
    """Response by response; None for the first, or where they cannot be paired."""


@dataclass(frozen=True)
class KindBoard:
    """The kinds of responses on one benchmark."""

    benchmark: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, KindShare]], ...]
    """Checkpoint and its kinds."""
    gains: tuple[tuple[str, str, Gain], ...]
    """From one checkpoint to the next."""


@dataclass(frozen=True)
class StageView:
    """One stage of the run, as the page tells it."""

    title: str
    short: str
    status: StageStatus
    manifest: CheckpointManifest | None
    attempts: tuple[curves.Attempt, ...]
    drawings: tuple[charts.Drawing, ...]

    @property
    def took(self) -> Any:
        """From the first start to the end; None while it has not ended."""
        if self.status.started_at is None or self.status.finished_at is None:
            return None
        return self.status.finished_at - self.status.started_at

    @property
    def updates(self) -> str:
        """Optimizer updates: of the checkpoint, or how far a running attempt is."""
        if self.status.name == "distill":
            return words.MISSING
        if self.status.checkpoint:
            return words.number(self.status.checkpoint.step)
        if not self.attempts or self.attempts[-1].last is None:
            return words.MISSING
        last, total = self.attempts[-1].last, self.attempts[-1].total
        return f"{last:,} of {total:,}" if total else f"{last:,}"


def _context(found: RunRecord, now: datetime, room: Room) -> dict[str, Any]:
    problems: list[str] = list(found.notes)
    groups, held = _samples(found, room, problems)
    stages = [_stage_view(found, stage) for stage in found.run.spec.stages]
    return {
        "run": found.run,
        "record": found,
        "spec": found.run.spec,
        "status": found.status,
        "tone": _tone(found),
        "took": _took(found),
        "columns": _columns(found, problems),
        "anchors": anchors(found),
        "mean_anchors": mean_anchors(found),
        "anchor_source": source(),
        "facets": facets(found),
        "shown_facets": SHOWN,
        "confusions": confusions(found),
        "kind_boards": _kind_boards(found),
        "stages": stages,
        "training": [stage for stage in stages if stage.drawings],
        "aha": aha(found, problems),
        "groups": groups,
        "browser": held,
        "script": script,
        "script_hash": script_hash,
        "case_span": [found.label(name) for name in found.complete],
        "libraries": _libraries(stages),
        "resolved": _resolved(found),
        "commands": _commands(found, stages),
        "notes": notes(found),
        "problems": problems,
        "made": now,
        "maker": maker(),
    }


def _tone(found: RunRecord) -> str:
    if found.status.holds("Failed"):
        return "bad"
    return "good" if found.status.holds("Succeeded") else "open"


def _took(found: RunRecord) -> Any:
    status = found.status
    if status.started_at is None or status.finished_at is None:
        return None
    return status.finished_at - status.started_at


def _columns(found: RunRecord, problems: list[str]) -> list[Column]:
    made: list[Column] = []
    for name, score in scores(found).checkpoints.items():
        change, before, difference = None, "", 0.0
        if made:
            before = made[-1].name
            difference = score.accuracy - made[-1].score.accuracy
            try:
                change = paired((found, made[-1].name), (found, name))
            except ValueError as error:
                labels = f"{found.label(before)} and {found.label(name)}"
                problems.append(f"{labels} cannot be paired: {error}.")
        made.append(Column(name, found.label(name), score, before, difference, change))
    return made


def _kind_boards(found: RunRecord) -> list[KindBoard]:
    boards = []
    for benchmark in found.benchmarks:
        kinds = {
            checkpoint: kind_shares(found.results[checkpoint, benchmark])
            for checkpoint in found.checkpoints
            if (checkpoint, benchmark) in found.results
        }
        names = tuple(dict.fromkeys(kind.name for shares in kinds.values() for kind in shares))
        if not names:
            continue
        boards.append(
            KindBoard(
                benchmark=benchmark,
                names=names,
                rows=tuple(
                    (checkpoint, {kind.name: kind for kind in shares})
                    for checkpoint, shares in kinds.items()
                ),
                gains=tuple(
                    (found.label(one), found.label(two), gain(kinds[one], kinds[two]))
                    for one, two in pairwise(kinds)
                ),
            )
        )
    return boards


def _samples(
    found: RunRecord, room: Room, problems: list[str]
) -> tuple[list[CaseGroup], Browser | None]:
    """A few samples for readers without scripts, and all of them for the others."""
    if not found.complete:
        return [], None
    try:
        return case_groups(found, found.complete), browser(found, found.complete, room)
    except ValueError as error:
        problems.append(f"No samples are shown: {error}.")
        return [], None


def _stage_view(found: RunRecord, stage: Stage) -> StageView:
    lines: list[Progress] = read_progress(found, stage.value)
    drawn: tuple[charts.Drawing, ...] = ()
    if stage is not Stage.EVALUATION:
        drawn = tuple(charts.drawing(chart) for chart in curves.charts(stage.value, lines))
    return StageView(
        title=_STAGE_TITLES[stage.value],
        short={"sft": "SFT", "grpo": "GRPO"}.get(stage.value, stage.value.capitalize()),
        status=found.status.stage(stage.value) or StageStatus(name=stage.value),
        manifest=manifest(found, stage.value) if stage is not Stage.EVALUATION else None,
        attempts=tuple(curves.attempts(lines)),
        drawings=drawn,
    )


def _libraries(stages: list[StageView]) -> dict[str, dict[str, str]]:
    """Versions by library, then by stage."""
    made: dict[str, dict[str, str]] = {}
    for stage in stages:
        if stage.manifest is not None:
            for library, number in stage.manifest.versions.items():
                made.setdefault(library, {})[stage.status.name] = number
    return dict(sorted(made.items()))


def _resolved(found: RunRecord) -> str:
    """The run as a file that `coldstart run` takes, with every value that it used."""
    document = found.run.document()
    document.pop("status", None)
    document["metadata"] = {"name": found.name}
    return written([document], 96)


def _commands(found: RunRecord, stages: list[StageView]) -> list[str]:
    made = {
        library: number
        for stage in stages
        if stage.manifest
        for library, number in stage.manifest.versions.items()
    }
    own = made.get(DISTRIBUTION) or made.get("coldstart") or _own_version()
    exact = [
        f"{library}=={made[library].partition('+')[0]}"
        for library in ("torch", "transformers", "trl")
        if library in made
    ]
    directory = found.layout.root.resolve().parent.name or "runs"
    where = f"{directory}/{found.layout.root.resolve().name}"
    return [
        shlex.join(["pip", "install", f"{DISTRIBUTION}[trainer]=={own}", *exact]),
        shlex.join(["coldstart", "run", "run.yaml", "--dir", directory]),
        shlex.join(["coldstart", "report", where]),
    ]


def maker() -> str:
    """What writes the pages, with its version."""
    return f"{DISTRIBUTION} {_own_version()}"


def _own_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"
