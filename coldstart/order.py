"""The order that starts an attempt, built from the run and its status; pure."""

from __future__ import annotations

from coldstart.plan import Parent
from coldstart.run import ReasoningRun
from coldstart.spec import From, FromDistill, Stage
from coldstart.stage import RunRef, StageInput, StageOrder
from coldstart.status import CheckpointRef

Source = From | FromDistill


def build_order(
    run: ReasoningRun,
    stage: Stage,
    attempt: int,
    parents: dict[tuple[str, str], Parent],
    *,
    storage: str,
    workdir: str,
) -> StageOrder:
    """What one attempt of a stage is told.

    An input whose stage has not finished has its location, but no digest yet: such an order can
    be shown, not carried out.
    """
    return StageOrder(
        run=RunRef(name=run.metadata.name, uid=run.metadata.uid or "none"),
        stage=stage,
        attempt=attempt,
        spec=run.spec,
        inputs=tuple(_input(run, name, source, parents) for name, source in _inputs(run, stage)),
        storage=storage,
        workdir=workdir,
    )


def _inputs(run: ReasoningRun, stage: Stage) -> tuple[tuple[str, Source | None], ...]:
    """Each thing that a stage reads, and the other run's stage that it comes from, if any."""
    spec = run.spec
    if stage is Stage.EVALUATION:
        return tuple((name, spec.borrowed.get(name)) for name in spec.evaluated)
    if stage is Stage.SFT and spec.sft and (spec.distill or spec.sft.from_):
        return (("base", None), ("distill", spec.sft.from_))
    if stage is Stage.GRPO and spec.grpo and spec.grpo.from_:
        return ((spec.grpo.from_.stage, spec.grpo.from_),)
    return (("sft" if stage is Stage.GRPO and spec.sft else "base", None),)


def _input(
    run: ReasoningRun,
    name: str,
    source: Source | None,
    parents: dict[tuple[str, str], Parent],
) -> StageInput:
    if name == "base":
        model = run.spec.model
        return StageInput(name="base", location=model.name, revision=model.revision)
    reference = run.spec.reference(name)
    if reference and reference.model:
        return StageInput(name=name, location=reference.model, revision=reference.revision)
    stage = source.stage if source else name
    owner = source.run if source else run.metadata.name
    checkpoint = _checkpoint(run, name, source, parents)
    return StageInput.model_validate(
        {
            "name": name,
            "location": checkpoint.location if checkpoint else f"{owner}/{stage}/final",
            "digest": checkpoint.digest if checkpoint else None,
        }
    )


def _checkpoint(
    run: ReasoningRun,
    name: str,
    source: Source | None,
    parents: dict[tuple[str, str], Parent],
) -> CheckpointRef | None:
    if source:
        parent = parents.get((source.run, source.stage))
        return parent.checkpoint if parent else None
    entry = run.status.stage(name) if run.status else None
    return entry.checkpoint if entry else None
