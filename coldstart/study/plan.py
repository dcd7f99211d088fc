"""The runs of a study: one for each stage that is not the same as another's; pure.

Each is a run of its own, named by the digest of what decides its result. So arms share what they
have in common, an added arm changes no run that is there, and a stage that is told something else
is another run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from coldstart.run import Metadata, ReasoningRun, RunSpec
from coldstart.spec import Stage
from coldstart.study.arms import Arm, Loaded
from coldstart.study.identity import Key, base_key, keys

LABEL = "coldstart.dev/study"
"""The label of a study's runs; its value is the study's name."""

_DIGITS = 8
_OF_STAGES = ("distill", "sft", "grpo", "evaluation")


@dataclass
class SharedRun:
    """One stage, or the base model's scores, with what needs it."""

    run: ReasoningRun
    needs: str | None = None
    """The run that it starts from."""
    arms: list[str] = field(default_factory=list)
    """The arms that it is part of, with their seeds."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.metadata.name

    @property
    def stage(self) -> str:
        """What it does: `distill`, `sft`, `grpo` or `base`."""
        first = self.run.spec.stages[0]
        return "base" if first is Stage.EVALUATION else first.value


@dataclass(frozen=True)
class Cell:
    """One seed of an arm: whose checkpoint it is compared by."""

    seed: int | None
    run: str


@dataclass(frozen=True)
class StudyPlan:
    """What a study comes to."""

    study: str
    runs: dict[str, SharedRun]
    """By name, each after the one that it needs."""
    cells: dict[str, tuple[Cell, ...]]
    """By arm."""

    @property
    def everywhere(self) -> int:
        """In how many arms, seeds counted, a stage is that all of them have."""
        return sum(map(len, self.cells.values()))

    @property
    def stages_of_arms(self) -> int:
        """How many trainings and distillations there would be if nothing were shared."""
        return sum(len(run.arms) for run in self.runs.values() if run.stage != "base")

    @property
    def stages(self) -> int:
        """How many there are."""
        return sum(run.stage != "base" for run in self.runs.values())


def planned(loaded: Loaded) -> StudyPlan:
    """The runs of a study; those of the first seed come first, so that a part of it is a whole."""
    name = loaded.study.metadata.name
    runs: dict[str, SharedRun] = {}
    cells: dict[str, list[Cell]] = {arm.name: [] for arm in loaded.arms}
    for seed in loaded.arms[0].specs:
        for arm in loaded.arms:
            made = list(_runs(name, arm.specs[seed], scored=loaded.scored))
            for run in made:
                runs.setdefault(run.name, run).arms.append(_label(arm, seed))
            cells[arm.name].append(Cell(seed, made[-1].name))
            runs[made[-1].name].run = made[-1].run  # an arm that goes on may not have it scored
    return StudyPlan(name, runs, {arm: tuple(found) for arm, found in cells.items()})


def _label(arm: Arm, seed: int | None) -> str:
    return arm.name if seed is None else f"{arm.name}, seed={seed}"


def _runs(study: str, spec: RunSpec, *, scored: frozenset[str]) -> Iterator[SharedRun]:
    """The runs of one arm with one seed."""
    if "base" in scored:
        yield SharedRun(_run(study, "base", base_key(spec), spec, _scored(spec, "base")))
    before: SharedRun | None = None
    chain = keys(spec)
    for key in chain:
        sections = {key.stage.value: _section(spec, key, before)}
        if key is chain[-1] or key.stage.value in scored:
            sections |= _scored(spec, key.stage.value)
        run = _run(study, key.stage.value, key.digest, spec, sections)
        before = SharedRun(run, before.name if before else None)
        yield before


def _section(spec: RunSpec, key: Key, before: SharedRun | None) -> dict[str, Any]:
    section = spec.stage(key.stage).document()
    if before:
        section["from"] = {"run": before.name, "stage": before.stage}
    return section


def _scored(spec: RunSpec, checkpoint: str) -> dict[str, Any]:
    assert spec.evaluation is not None
    return {"evaluation": spec.evaluation.document() | {"checkpoints": [checkpoint]}}


def _run(
    study: str, what: str, digest: str, spec: RunSpec, sections: dict[str, Any]
) -> ReasoningRun:
    """A run of some stages of an arm; it outlives its end, since the study asks for its results."""
    document = spec.document()
    document.pop("ttlSecondsAfterFinished", None)
    shared = {key: value for key, value in document.items() if key not in _OF_STAGES}
    short = digest.removeprefix("sha256:")[:_DIGITS]
    metadata = Metadata(name=f"{study}-{what}-{short}", labels={LABEL: study})
    return ReasoningRun(
        api_version="coldstart.dev/v1alpha1",
        kind="ReasoningRun",
        metadata=metadata,
        spec=RunSpec.parse(shared | sections),
    )
