"""Where everything of a run lies below its storage; names only, nothing is read or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coldstart.spec import Stage
from coldstart.stage import StageOrder

ROWS = "rows.parquet"
"""The file of distilled rows, in what the stage ends with."""


@dataclass(frozen=True)
class RunLayout:
    """The directory of one run."""

    root: Path

    @property
    def status(self) -> Path:
        """The run with its spec and status."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Held by the one `coldstart run` that works here."""
        return self.root / "run.lock"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.html"

    @property
    def images(self) -> Path:
        """Thumbnails of evaluated problems, by content."""
        return self.root / "evaluation" / "images"

    def stage(self, stage: str) -> StageLayout:
        """The directory of one stage."""
        return StageLayout(self.root / stage)

    def benchmark(self, checkpoint: str, benchmark: str) -> Path:
        """Where the responses of one checkpoint on one benchmark are."""
        return self.root / "evaluation" / checkpoint / benchmark


@dataclass(frozen=True)
class StageLayout:
    """The directory of one stage."""

    root: Path

    @property
    def metrics(self) -> Path:
        """JSON lines of progress and metrics, over all attempts."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What an interrupted stage resumes from."""
        return self.root / "checkpoints"

    @property
    def final(self) -> Path:
        """What the stage ends with: model, tokenizer, processor, manifest; or distilled rows."""
        return self.root / "final"

    @property
    def answers(self) -> Path:
        """Every answer of a teacher, JSON lines; what is there is not asked again."""
        return self.root / "answers.jsonl"

    @property
    def alive(self) -> Path:
        """Locked, shared, by every process of a live attempt."""
        return self.root / "alive.lock"

    @property
    def writer(self) -> Path:
        """Locked by the one attempt that writes here."""
        return self.root / "writer.lock"

    def attempt(self, number: int) -> Path:
        """Order, result and log of one attempt."""
        return self.root / f"attempt-{number}"


def output(order: StageOrder) -> StageLayout:
    """The directory of the order's stage, for whoever carries it out."""
    return StageLayout(Path(order.storage) / order.output)


def samples(directory: Path) -> Path:
    """The raw responses on a benchmark, JSON lines."""
    return directory / "samples.jsonl"


def results(directory: Path) -> Path:
    """What the responses on a benchmark add up to."""
    return directory / "results.json"


def judgements(directory: Path) -> Path:
    """What a judge was asked about the responses on a benchmark, JSON lines."""
    return directory / "judge.jsonl"


__all__ = ["RunLayout", "Stage", "StageLayout", "judgements", "output", "results", "samples"]
