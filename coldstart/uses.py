"""Which data sets a run uses, and for what; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coldstart.benchmarks import Published, published
from coldstart.dataset import Dataset
from coldstart.distill import Distill
from coldstart.run import RunSpec
from coldstart.spec import Stage, TrainingSpec

Role = Literal["distill", "sft", "grpo", "probe", "evaluation"]
"""What a data set is for."""


_ROLES: dict[Stage, Role] = {Stage.DISTILL: "distill", Stage.SFT: "sft", Stage.GRPO: "grpo"}


@dataclass(frozen=True)
class Use:
    """A data set in its place in a spec."""

    role: Role
    label: str
    """What a person calls it: `sft`, `probe of sft`, `benchmark test`."""
    field: str
    """Its path, for errors."""
    dataset: Dataset
    known: Published | None = None
    """The published benchmark that it is, in its released layout."""

    @property
    def target(self) -> Literal["response", "answer"]:
        """The column that its rows must have besides the problem."""
        return "response" if self.role == "sft" else "answer"

    @property
    def learnt(self) -> bool:
        """Whether a model is trained on it, or on what a teacher makes of it.

        The others are held against models.
        """
        return self.role in ("distill", "sft", "grpo")


def uses(spec: RunSpec) -> Iterator[Use]:
    """Every data set of a spec, in the order of its stages."""
    for stage in spec.stages:
        section, field = spec.stage(stage), f"spec.{stage.value}"
        if isinstance(section, Distill | TrainingSpec) and section.dataset:
            role = _ROLES[stage]
            yield Use(role, role, f"{field}.dataset", section.dataset)
        if isinstance(section, TrainingSpec) and section.probe.dataset:
            label = f"probe of {stage.value}"
            yield Use("probe", label, f"{field}.probe.dataset", section.probe.dataset)
    for number, benchmark in enumerate(spec.evaluation.benchmarks if spec.evaluation else ()):
        field = f"spec.evaluation.benchmarks[{number}].dataset"
        yield Use(
            "evaluation",
            f"benchmark {benchmark.name}",
            field,
            benchmark.rows,
            published(benchmark.name),
        )
