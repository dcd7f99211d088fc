"""A study's file as a document: which run, and what is varied; `arms` makes runs' specs of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, field_validator, model_validator

from coldstart.distill import PatternName, Teacher
from coldstart.schema import Contract, Name, Open, Seed

PATTERNS = get_args(PatternName)

Stages = Literal["sft", "grpo", "sft+grpo"]
"""The training stages of an arm; `sft` brings the run's `distill` along."""

StudyName = Annotated[
    str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=23)
]
"""A DNS label that leaves room for what the names of a study's runs add."""

AxisName = Annotated[str, StringConstraints(pattern=r"^[a-z][-a-zA-Z0-9]*$", max_length=40)]
ValueName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9]([-+_.a-zA-Z0-9]*[a-zA-Z0-9])?$", max_length=40)
]

TAKEN = frozenset({"stages", "seeds", "patterns", "teachers"})
"""Names that no axis of one's own may have."""

SCORED_ALIKE = frozenset(
    {"evaluation", "reflection", "preset", "suspend", "ttlSecondsAfterFinished"}
)
"""What no variant changes of a spec: arms that are scored differently compare nothing, and the rest
is nothing to compare."""


class StudyMetadata(Contract):
    """What the study is called."""

    name: StudyName
    """The study's name; its runs are called `<name>-<stage>-<digest>`."""


class Matrix(Contract):
    """What is varied: every combination is an arm, and what is left out is as in the run.

    An axis that an arm does not feel, such as the teacher of one without SFT, makes no further arm.
    """

    stages: Annotated[tuple[Stages, ...], Field(max_length=3)] = ()
    """Training stages: `sft`, `grpo`, `sft+grpo`; absent: those of the run."""
    patterns: Annotated[tuple[Name, ...], Field(max_length=15)] = ()
    """Patterns of `distill`: `caption-cot`, or an even mixture, `distilled-cot+reflection-cot`."""
    teachers: Annotated[tuple[Teacher, ...], Field(max_length=20)] = ()
    """Teachers of `distill`."""
    seeds: Annotated[tuple[Seed, ...], Field(max_length=100)] = ()
    """Seeds of SFT and GRPO. Distillation and evaluation keep the run's, so that a teacher is asked
    and the base model scored once."""
    variants: Annotated[
        dict[AxisName, Annotated[dict[ValueName, dict[str, Open]], Field(max_length=50)]],
        Field(max_length=10),
    ] = {}
    """Axes of your own: for each its values by name, and for each value what it changes in the
    run's spec. Mappings are merged key by key, all else is replaced; null takes a key away."""

    @field_validator("stages", "seeds", "patterns")
    @classmethod
    def _values_differ(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError("names a value twice")
        return values

    @field_validator("patterns")
    @classmethod
    def _patterns_are_known(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            names = value.split("+")
            if unknown := [name for name in names if name not in PATTERNS]:
                raise ValueError(f"{unknown[0]!r} is no pattern (there are {', '.join(PATTERNS)})")
            if len(set(names)) != len(names):
                raise ValueError(f"{value!r} names a pattern twice")
        return values

    @field_validator("variants")
    @classmethod
    def _axes_are_free(
        cls, values: dict[str, dict[str, dict[str, object]]]
    ) -> dict[str, dict[str, dict[str, object]]]:
        for axis, patches in values.items():
            if axis in TAKEN:
                raise ValueError(f"{axis} is an axis of the matrix itself: choose another name")
            if not patches:
                raise ValueError(f"{axis} has no value")
            for value, patch in patches.items():
                if fixed := sorted(SCORED_ALIKE & patch.keys()):
                    raise ValueError(
                        f"{axis}.{value} changes {fixed[0]}, which is the same for all arms of a "
                        "study: change it in the run's file"
                    )
                if gone := [stage for stage in ("sft", "grpo") if patch.get(stage, patch) is None]:
                    raise ValueError(f"{axis}.{value} takes {gone[0]} away: let stages say that")
        return values

    @model_validator(mode="after")
    def _teachers_differ(self) -> Self:
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError("teachers names a teacher twice")
        return self


class StudySpec(Contract):
    """What is studied."""

    run: Name
    """The run.yaml, relative to this file; its own name plays no part."""
    matrix: Matrix
    """What is varied."""
    gates: Literal["open", "keep"] = "open"
    """`open`: thresholds of the run's gates are left out, since an arm that one seed in three fails
    would be counted by its better seeds only; `keep`: they hold, and an arm that fails one ends
    there, as do those that share the stage."""


class Study(Contract):
    """A run in several variants, and what they are compared by."""

    api_version: Literal["coldstart.dev/v1alpha1"]
    """The version of this document."""
    kind: Literal["Study"]
    """The kind of this document."""
    metadata: StudyMetadata
    """Its name."""
    spec: StudySpec
    """What is studied."""
