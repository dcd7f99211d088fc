"""What a study has found, as a document: `<study>.json`; computes nothing."""

from __future__ import annotations

from coldstart.benchmarks.figures import Figure
from coldstart.schema import Contract


class SeedScore(Contract):
    """The accuracy of one seed."""

    seed: int | None
    """It; none where the study names no seeds."""
    run: str
    """The run that has it."""
    accuracy: float
    """Share of right responses."""


class OverSeeds(Contract):
    """How the accuracies of several seeds spread."""

    deviation: float
    """Their standard deviation."""
    low: float
    """Lower end of Student's 95 % interval of their mean, which holds the luck of training."""
    high: float
    """Upper end."""


class Measure(Contract):
    """What an arm has on one benchmark, or in the unweighted mean over all."""

    benchmark: str | None
    """Which; none for the mean."""
    accuracy: float
    """Mean over the seeds."""
    low: float
    """Lower end of its 95 % interval over problems, for these trained models."""
    high: float
    """Upper end."""
    responses: int
    """Of all seeds."""
    problems: int
    """How many were asked."""
    partial: bool
    """Whether they are not the whole published split, or of no published benchmark."""
    seeds: tuple[SeedScore, ...]
    """Each seed."""
    over_seeds: OverSeeds | None = None
    """Where there are several."""


class ArmRow(Contract):
    """One arm, or a base model."""

    arm: str
    """Its name."""
    stages: str
    """`base`, `sft`, `grpo` or `sft+grpo`."""
    model: str
    """Its base model."""
    measures: tuple[Measure, ...]
    """One for each benchmark; empty if no seed has come to its end."""
    mean: Measure | None = None
    """Over the benchmarks."""
    missing: tuple[str, ...] = ()
    """Why seeds are missing, a sentence each."""


class ArmPair(Contract):
    """Two arms, response by response, over the seeds that both have."""

    first: str
    """One arm."""
    second: str
    """The other."""
    message: str = ""
    """Why they cannot be compared; else the rest is there."""
    difference: float | None = None
    """Mean accuracy of the second less that of the first."""
    p: float | None = None
    """Two-sided, exact, for these trained models: the randomization test over problems, which is
    McNemar's where each has one response."""
    seeds: int = 0
    """How many seeds both have."""
    better: int = 0
    """In how many of them the second is better."""
    low: float | None = None
    """Lower end of Student's 95 % interval of the difference over seeds."""
    high: float | None = None
    """Upper end."""


class StudyTable(Contract):
    """All of it; `<study>.json`."""

    study: str
    """Its name."""
    rows: tuple[ArmRow, ...]
    """Base models, then the arms in the order of the matrix."""
    pairs: tuple[ArmPair, ...]
    """Every two arms."""
    published: tuple[Figure, ...] = ()
    """Published figures of those benchmarks whose whole split every row was scored on."""
    source: str = ""
    """Where they were published."""
    notes: tuple[str, ...] = ()
    """What has to be known before any of it is believed."""
