"""What each checkpoint of a run scores over all its benchmarks; reads results, grades nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from coldstart.report.reading import RunRecord, read_run
from coldstart.results import BenchmarkResult
from coldstart.schema import Contract
from coldstart.status import RunStatus


class Interval(Protocol):
    """Anything that has an accuracy with its interval."""

    @property
    def accuracy(self) -> float:
        """Share of right responses."""
        ...

    @property
    def low(self) -> float:
        """Lower end of its 95 % interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of its 95 % interval."""
        ...


class Score(Contract):
    """The accuracy of one checkpoint over all benchmarks of its run."""

    accuracy: float
    """Unweighted mean of the benchmarks' accuracies."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    n: int
    """Responses, over all benchmarks."""


class RunResults(Contract):
    """What `coldstart report RUN --json` prints."""

    checkpoints: dict[str, Score]
    """By name, from the base on; those that were not evaluated on every benchmark are left out."""


def run_results(run_dir: Path) -> RunResults:
    """The scores of a run's checkpoints.

    Raises:
        ValueError: there is no run, or one of its documents is damaged.
    """
    return scores(read_run(run_dir))


def scores(found: RunRecord) -> RunResults:
    """The scores of the checkpoints that have a result on every benchmark of the spec.

    A mean over some of the benchmarks would be compared with one over all of them, so there is
    none. The interval of the mean is put together from those of the benchmarks, as `mean_interval`
    says.
    """
    return RunResults(checkpoints={name: _score(found, name) for name in found.complete})


def told_results(status: RunStatus) -> RunResults:
    """The scores that a status tells, for where the files of the run are out of reach.

    They are the same numbers: the evaluation reports them (`score_metrics`). A checkpoint of which
    the interval is not told is left out.
    """
    entry = status.stage("evaluation")
    told = entry.metrics if entry else {}
    return RunResults(
        checkpoints={
            name: Score(accuracy=values[0], low=values[1], high=values[2], n=int(values[3]))
            for name in ("base", "sft", "grpo")
            if (values := [told[key] for key in _keys(name) if key in told])[3:]
        }
    )


def score_metrics(name: str, results: Sequence[BenchmarkResult]) -> dict[str, float]:
    """The score of a checkpoint over its benchmarks as metrics of the evaluation's result."""
    score = _mean(results)
    return dict(zip(_keys(name), (score.accuracy, score.low, score.high, score.n), strict=True))


def _keys(name: str) -> tuple[str, str, str, str]:
    """What the evaluation calls accuracy, ends of the interval and responses of a checkpoint.

    No checkpoint is called `low`, so none of these is that of a benchmark,
    `accuracy_<checkpoint>_<benchmark>`.
    """
    return (
        f"accuracy_{name}",
        f"accuracy_low_{name}",
        f"accuracy_high_{name}",
        f"responses_{name}",
    )


def _score(found: RunRecord, checkpoint: str) -> Score:
    return _mean([found.results[checkpoint, benchmark] for benchmark in found.benchmarks])


def _mean(results: Sequence[BenchmarkResult]) -> Score:
    low, high = mean_interval(results)
    return Score(
        accuracy=math.fsum(item.accuracy for item in results) / len(results),
        low=low,
        high=high,
        n=sum(item.n for item in results),
    )


def mean_interval(parts: Sequence[Interval]) -> tuple[float, float]:
    """The interval of the unweighted mean of independent accuracies, from their own intervals.

    Each side is the root of the sum of the squared distances of that side, divided by the number
    of accuracies: the method of variance estimates recovery (Zou and Donner, Statistics in
    Medicine 27, 2008), which keeps the intervals' asymmetry near 0 and 1. One accuracy keeps its
    own interval.
    """
    k = len(parts)
    mean = math.fsum(item.accuracy for item in parts) / k
    below = math.hypot(*(item.accuracy - item.low for item in parts)) / k
    above = math.hypot(*(item.high - item.accuracy for item in parts)) / k
    return mean - below, mean + above
