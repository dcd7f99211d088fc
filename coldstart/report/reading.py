"""A run's directory as the report reads it: what is there, checked; nothing is computed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coldstart import layout, record
from coldstart.checkpoint import CheckpointError, read_manifest
from coldstart.documents import read_document
from coldstart.files import LongLine, json_lines
from coldstart.layout import RunLayout
from coldstart.metrics import Progress
from coldstart.results import BenchmarkResult, Sample
from coldstart.run import ReasoningRun
from coldstart.schema import problems
from coldstart.stage import CheckpointManifest
from coldstart.status import RunStatus

Key = tuple[str, int]
"""A response: the problem's id, and which of its responses."""


@dataclass(frozen=True)
class Grade:
    """What pairing two checkpoints needs of a response; the text stays on the disk."""

    correct: bool
    """Whether it counts as right."""
    question: int
    """Changes when the problem, its gold answer or its images do."""
    cluster: str
    """The problem, or what it belongs to: responses within it are no independent evidence."""


@dataclass(frozen=True)
class RunRecord:
    """One run: what was asked for, how far it is, and its results that are current."""

    layout: RunLayout
    run: ReasoningRun
    results: dict[tuple[str, str], BenchmarkResult]
    """By checkpoint and benchmark, in the order of the spec."""
    notes: tuple[str, ...] = field(default=())
    """What was passed over, and why; a sentence each."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.metadata.name

    @property
    def status(self) -> RunStatus:
        """How far the run is."""
        return self.run.status or RunStatus()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The run's own checkpoints that the spec wants evaluated, from the base on."""
        return tuple(name for name in self._evaluated if self.run.spec.reference(name) is None)

    @property
    def references(self) -> tuple[str, ...]:
        """The models beside the run's own that the spec wants evaluated."""
        return tuple(name for name in self._evaluated if self.run.spec.reference(name))

    @property
    def _evaluated(self) -> tuple[str, ...]:
        spec = self.run.spec
        if spec.evaluation is None:
            return ()
        return tuple(name for name in spec.checkpoint_names if name in spec.evaluated)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks of the spec."""
        evaluation = self.run.spec.evaluation
        return tuple(item.name for item in evaluation.benchmarks) if evaluation else ()

    @property
    def complete(self) -> tuple[str, ...]:
        """The checkpoints with a current result on every benchmark."""
        return tuple(
            checkpoint
            for checkpoint in self.checkpoints
            if all((checkpoint, benchmark) in self.results for benchmark in self.benchmarks)
        )

    def label(self, checkpoint: str) -> str:
        """What people call a checkpoint."""
        return label(checkpoint, self.run.spec.checkpoint_names)


def label(checkpoint: str, known: Collection[str]) -> str:
    """What people call a checkpoint among others: `Base`, `SFT`, `GRPO`, `SFT + GRPO`."""
    if checkpoint == "grpo" and "sft" in known:
        return "SFT + GRPO"
    return {"base": "Base", "sft": "SFT", "grpo": "GRPO"}.get(checkpoint, checkpoint)


def read_run(run_dir: Path, run: ReasoningRun | None = None) -> RunRecord:
    """The record of a run, finished or not.

    Args:
        run_dir: the run's directory.
        run: the run with its status, where the directory does not hold it: on a cluster.

    Raises:
        ValueError: there is no run, or one of its documents is damaged; the message names it.
    """
    where = RunLayout(run_dir)
    run = run or record.read(where)
    if run is None:
        raise ValueError(
            f"{run_dir}: is no run: it holds no {where.status.name}; "
            "name a directory that `coldstart run` has made"
        )
    results: dict[tuple[str, str], BenchmarkResult] = {}
    notes: list[str] = []
    found = RunRecord(where, run, results)
    for checkpoint in (*found.references, *found.checkpoints):
        for benchmark in found.benchmarks:
            result = _result(where, checkpoint, benchmark)
            if result is None:
                continue
            if _outdated(found, result):
                notes.append(
                    f"The results of {found.label(checkpoint)} on {benchmark} belong to another "
                    "checkpoint than the run has, and are left out: run the evaluation again."
                )
                continue
            results[checkpoint, benchmark] = result
    return RunRecord(where, run, results, tuple(notes))


def _result(where: RunLayout, checkpoint: str, benchmark: str) -> BenchmarkResult | None:
    path = layout.results(where.benchmark(checkpoint, benchmark))
    try:
        return read_document(path, BenchmarkResult)
    except ValueError as error:
        raise ValueError(f"{error}; remove it and evaluate again") from error


def _outdated(found: RunRecord, result: BenchmarkResult) -> bool:
    """Whether a result is of an earlier checkpoint of the same name, as `--fresh` leaves it."""
    stage = found.status.stage(result.checkpoint)
    if result.digest is None or stage is None:
        return False
    return stage.checkpoint is None or stage.checkpoint.digest != result.digest


def read_progress(found: RunRecord, stage: str) -> list[Progress]:
    """Every line of a stage's metrics, in the order in which they were written.

    Numbers that are not finite are left out, lines of another form are passed over, and a line
    that is longer than any is the last, since a report of what is there is worth more than none.
    """
    lines = []
    with contextlib.suppress(LongLine):
        for document in json_lines(found.layout.stage(stage).metrics):
            values = document.get("values")
            if isinstance(values, dict):
                document["values"] = {k: v for k, v in values.items() if _finite(v)}
            with contextlib.suppress(ValidationError):
                lines.append(Progress.parse(document))
    return lines


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def manifest(found: RunRecord, stage: str) -> CheckpointManifest | None:
    """The manifest of a stage's final checkpoint, if it has a whole one."""
    try:
        return read_manifest(found.layout.stage(stage).final)
    except CheckpointError:
        return None


def samples(found: RunRecord, checkpoint: str, benchmark: str) -> Iterator[Sample]:
    """The responses of a checkpoint on a benchmark, one at a time, as they were counted.

    Of two with the same key the one written first counts, as in `coldstart.summary`.

    Raises:
        ValueError: there are none, or a line is not a sample; the message names the file.
    """
    path = layout.samples(found.layout.benchmark(checkpoint, benchmark))
    if not path.exists():
        raise ValueError(f"{path}: is missing: evaluate run {found.name!r} again")
    seen: set[Key] = set()
    for document in json_lines(path):
        try:
            item = Sample.parse(document)
        except ValidationError as error:
            raise ValueError(problems(error, f"{path}: ")[0]) from error
        if (item.id, item.sample) not in seen:
            seen.add((item.id, item.sample))
            yield item


def grades(found: RunRecord, checkpoint: str, benchmark: str) -> dict[Key, Grade]:
    """Right or wrong for each response.

    Raises:
        ValueError: as `samples`.
    """
    return {
        (item.id, item.sample): Grade(
            item.correct,
            hash((item.problem, item.gold, item.images)),
            item.unit_of_evidence,
        )
        for item in samples(found, checkpoint, benchmark)
    }
