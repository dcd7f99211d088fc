"""Two sets of responses to the same problems, pair by pair: what was won and what was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from coldstart.intervals import sign_flip
from coldstart.report.reading import Grade, RunRecord, grades

Transition = Literal["gained", "lost", "kept", "missed"]
"""Wrong then right, right then wrong, right both times, wrong both times."""

TRANSITIONS: tuple[Transition, ...] = ("gained", "lost", "kept", "missed")

_TRANSITION: dict[tuple[bool, bool], Transition] = {
    (False, True): "gained",
    (True, False): "lost",
    (True, True): "kept",
    (False, False): "missed",
}


@dataclass(frozen=True)
class Paired:
    """A paired comparison of two checkpoints."""

    counts: dict[Transition, int]
    """Pairs by what became of them."""
    p: float
    """Two-sided and exact: McNemar's test where every problem stands alone and has one response,
    else the randomization test over problems, or clusters of them."""
    clustered: bool = False
    """Whether it is the latter."""

    @property
    def n(self) -> int:
        """Pairs."""
        return sum(self.counts.values())


def transition(before: Grade, after: Grade) -> Transition:
    """What became of one response."""
    return _TRANSITION[before.correct, after.correct]


def paired(first: tuple[RunRecord, str], second: tuple[RunRecord, str]) -> Paired:
    """Two checkpoints, of one run or of two, over all responses on all their benchmarks.

    Raises:
        ValueError: the benchmarks or their problems are not the same, or responses are missing;
            the message says in what they differ.
    """
    (one, checkpoint), (two, other) = first, second
    if odd := set(one.benchmarks) ^ set(two.benchmarks):
        raise ValueError(f"not the same problems: benchmark {min(odd)} is in one of them only")
    before, after = all_grades(one, checkpoint), all_grades(two, other)
    clusters = gains(before, after)
    counted = Counter(transition(grade, after[key]) for key, grade in before.items())
    return Paired(
        {name: counted[name] for name in TRANSITIONS},
        sign_flip(list(clusters.values())),
        clustered=len(clusters) < len(before),
    )


Place = tuple[str, str, int]
"""A response: its benchmark, problem and number."""


def all_grades(found: RunRecord, checkpoint: str) -> dict[Place, Grade]:
    """Right or wrong for each response of a checkpoint, on all its benchmarks.

    Raises:
        ValueError: responses are missing or damaged.
    """
    return {
        (benchmark, *key): grade
        for benchmark in found.benchmarks
        for key, grade in grades(found, checkpoint, benchmark).items()
    }


def gains(before: dict[Place, Grade], after: dict[Place, Grade]) -> Counter[tuple[str, str]]:
    """How many more responses the second has right, by benchmark and cluster of problems.

    Raises:
        ValueError: they are not responses to the same problems; the message says in what they
            differ.
    """
    if difference := _difference(before, after):
        raise ValueError(f"not the same problems: {difference}")
    clusters: Counter[tuple[str, str]] = Counter()
    for key, grade in before.items():
        clusters[key[0], grade.cluster] += after[key].correct - grade.correct
    return clusters


def _difference(before: dict[Place, Grade], after: dict[Place, Grade]) -> str:
    """In what two sets of problems differ; empty if in nothing."""
    if odd := before.keys() ^ after.keys():
        benchmark, problem, sample = min(odd)
        return (
            f"{len(odd)} responses have no partner, such as {benchmark}, problem {problem}, "
            f"sample {sample}"
        )
    changed = [key for key, grade in before.items() if grade.question != after[key].question]
    if changed:
        benchmark, problem, _ = min(changed)
        return f"{len(changed)} problems of the same id differ, such as {benchmark}, {problem}"
    return ""
