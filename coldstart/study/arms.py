"""The arms of a study: every combination of its matrix as a validated run; starts none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coldstart.distill import Distill, YieldGate
from coldstart.run import RunSpec
from coldstart.runfile import RunFileError, mapping, validated
from coldstart.schema import MAX_PROBLEMS, problems
from coldstart.spec import Gate, Stage
from coldstart.study.identity import keys
from coldstart.study.spec import Matrix, Study

Values = dict[str, str]
"""What an arm has on each axis."""


@dataclass(frozen=True)
class Arm:
    """One combination of the matrix, with all its seeds."""

    name: str
    """What the table calls it, such as `sft+grpo, kl=none`."""
    values: Values
    """Its value on each axis, seeds aside; an axis that it does not feel is left out."""
    specs: dict[int | None, RunSpec]
    """The spec of each seed; None where the study names no seeds."""


@dataclass(frozen=True)
class Loaded:
    """A study's file and what follows from it."""

    study: Study
    workdir: Path
    """The directory of the run's file, which its paths are relative to."""
    arms: tuple[Arm, ...]
    scored: frozenset[str]
    """The checkpoints that the run has scored; those that arms end with always are."""


def load(path: Path) -> Loaded:
    """The study in a file, its arms validated.

    Raises:
        RunFileError: every mistake that was found in it, in its run's file and in its arms.
    """
    document = mapping(path, "Study")
    try:
        study = Study.parse(document)
    except ValidationError as error:
        raise RunFileError(problems(error, f"{path}: ", Study)) from error
    assert isinstance(study, Study)
    file = path.parent / study.spec.run
    base = mapping(file, "ReasoningRun")
    run = validated(base, f"{file}: ").spec
    if lines := list(_unfit(study.spec.matrix, run)):
        raise RunFileError([f"{path}: {line}" for line in lines])
    wanted = run.evaluation.checkpoints if run.evaluation else ()
    base["spec"].get("evaluation", {}).pop("checkpoints", None)  # an arm may lack some of them
    found = tuple(_merged(_combinations(study, base, run, path)))
    return Loaded(study, file.resolve().parent, found, frozenset(wanted or run.checkpoint_names))


def _unfit(matrix: Matrix, run: RunSpec) -> Iterator[str]:
    """What the matrix asks of a run that does not have it."""
    if run.evaluation is None:
        yield "spec.run: has no evaluation, so that its arms could not be compared: add one"
    elif run.evaluation.from_:
        yield "spec.run: has evaluation.from, but a study scores its own checkpoints: leave it out"
    if not any(stage in run.stages for stage in (Stage.SFT, Stage.GRPO)):
        yield "spec.run: has neither sft nor grpo, so that there is nothing to vary"
    for stages in matrix.stages:
        for name in stages.split("+"):
            if Stage(name) not in run.stages:
                yield f"spec.matrix.stages: {stages}: the run has no {name}"
    for axis in ("patterns", "teachers"):
        if getattr(matrix, axis) and run.distill is None:
            yield f"spec.matrix.{axis}: the run has no distill"


def _opened(spec: RunSpec) -> RunSpec:
    """A spec without the thresholds of its gates; that a checkpoint is whole is always checked."""
    empty = {stage: spec.stage(stage) for stage in spec.stages if stage is not Stage.EVALUATION}
    return spec.model_copy(
        update={
            stage.value: section.model_copy(
                update={"gate": YieldGate() if isinstance(section, Distill) else Gate()}
            )
            for stage, section in empty.items()
        }
    )


@dataclass(frozen=True)
class _Combination:
    values: Values
    specs: dict[int | None, RunSpec]

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for combinations of which every seed trains the same."""
        return tuple(keys(spec)[-1].digest for spec in self.specs.values())


def _combinations(
    study: Study, base: dict[str, Any], run: RunSpec, path: Path
) -> Iterator[_Combination]:
    """Every combination, seeds aside.

    Raises:
        RunFileError: the mistakes of all that are not valid.
    """
    lines: list[str] = []
    matrix = study.spec.matrix
    axes = _axes(matrix, run)
    for chosen in product(*(axis.items() for axis in axes.values())):
        values = {axis: value for axis, (value, _) in zip(axes, chosen, strict=True)}
        specs: dict[int | None, RunSpec] = {}
        for seed in matrix.seeds or (None,):
            document = _patched(base, [patch for _, patch in chosen], values["stages"], seed)
            document["metadata"] = {"name": study.metadata.name}
            try:
                spec = validated(document, f"{path}: arm {_name(values)}: ").spec
            except RunFileError as error:
                lines += error.lines
                break
            specs[seed] = spec if study.spec.gates == "keep" else _opened(spec)
        else:
            yield _Combination(values, specs)
    if lines:
        raise RunFileError(list(dict.fromkeys(lines))[:MAX_PROBLEMS])


def _axes(matrix: Matrix, run: RunSpec) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Each axis with its values, and what each value changes in the spec; seeds aside."""
    own = "+".join(stage.value for stage in run.stages if stage in (Stage.SFT, Stage.GRPO))
    axes: dict[str, dict[str, Mapping[str, Any]]] = {
        "stages": {name: {} for name in matrix.stages or (own,)}
    }
    if matrix.patterns:
        axes["patterns"] = {
            name: {"distill": {"patterns": [{"name": part} for part in name.split("+")]}}
            for name in matrix.patterns
        }
    if matrix.teachers:
        models = [teacher.model for teacher in matrix.teachers]
        axes["teachers"] = {
            teacher.model
            if models.count(teacher.model) == 1
            else f"{teacher.model} at {teacher.base_url}": {
                "distill": {"teacher": teacher.document()}
            }
            for teacher in matrix.teachers
        }
    return axes | {axis: dict(patches) for axis, patches in matrix.variants.items()}


def _patched(
    base: dict[str, Any], patches: list[Mapping[str, Any]], stages: str, seed: int | None
) -> dict[str, Any]:
    """The run's document as an arm has it; sections are taken away last, so that none comes back.

    What no arm could ask for is left to the validation, which knows the fields.
    """
    document = deepcopy(base)
    spec = document["spec"]
    for patch in patches:
        spec = _over(spec, patch)
    for stage in ("sft", "grpo"):
        if stage not in stages.split("+"):
            spec.pop(stage, None)
        elif seed is not None and isinstance(spec.get(stage), dict):
            spec[stage] = spec[stage] | {"seed": seed}
    if "sft" not in spec:
        spec.pop("distill", None)
    return document | {"spec": spec}


def _over(value: Any, patch: Any) -> Any:
    """A value with a patch over it, as RFC 7396 merges them."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, item in patch.items():
        if item is None:
            merged.pop(key, None)
        else:
            merged[key] = _over(merged.get(key), item)
    return merged


def _merged(combinations: Iterator[_Combination]) -> Iterator[Arm]:
    """The arms: combinations that train the same are one, named by what they have in common."""
    groups: dict[tuple[str, ...], list[_Combination]] = {}
    for item in combinations:
        groups.setdefault(item.identity, []).append(item)
    common = [_common([item.values for item in group]) for group in groups.values()]
    for group, values in zip(groups.values(), common, strict=True):
        told = values if common.count(values) == 1 else group[0].values
        yield Arm(_name(told), told, group[0].specs)


def _common(values: list[Values]) -> Values:
    return {
        axis: value
        for axis, value in values[0].items()
        if all(other[axis] == value for other in values)
    }


def _name(values: Values) -> str:
    told = [f"{axis}={value}" for axis, value in values.items() if axis != "stages"]
    return ", ".join([values["stages"], *told]) if "stages" in values else ", ".join(told)
