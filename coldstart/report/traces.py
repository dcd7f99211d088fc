"""A run as its files tell it, for where nobody keeps a status beside them: on a cluster.

There the status is the API server's, and what an evaluation has is its order and the storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from coldstart.checkpoint import CheckpointError, manifest_digest, read_manifest
from coldstart.conditions import conditions, phase
from coldstart.distill import Distill
from coldstart.layout import RunLayout, StageLayout
from coldstart.plan import replace_status
from coldstart.report.curves import attempts
from coldstart.report.reading import RunRecord, read_progress
from coldstart.run import Metadata, ReasoningRun
from coldstart.spec import Stage, TrainingSpec
from coldstart.stage import CheckpointManifest, StageOrder, StageResult, gate
from coldstart.status import CheckpointRef, RunStatus, StageState, StageStatus


def traced_run(order: StageOrder, metrics: Mapping[str, float], now: datetime) -> ReasoningRun:
    """The run of an evaluation that has come to its end, with a status put together from files.

    What no file tells (failures, GPU-seconds, names of jobs) is absent.

    Args:
        order: the evaluation's.
        metrics: what the evaluation measured.
        now: when it ended.

    Raises:
        OSError: a file cannot be read.
    """
    layout = RunLayout(Path(order.storage) / order.run.name)
    run = ReasoningRun(
        api_version="coldstart.dev/v1alpha1",
        kind="ReasoningRun",
        metadata=Metadata(name=order.run.name, uid=order.run.uid),
        spec=order.spec,
    )
    found = RunRecord(layout, run, {})
    entries = [
        _evaluation(found, order, metrics, now)
        if stage is Stage.EVALUATION
        else _training(found, stage)
        for stage in order.spec.stages
    ]
    starts = [entry.started_at for entry in entries if entry.started_at]
    status = RunStatus(
        message="all stages have succeeded",
        stages=tuple(entries),
        started_at=min(starts, default=None),
        finished_at=now,
    )
    status = replace_status(
        status,
        phase=phase(run, status),
        conditions=conditions(run, status, status.message, now),
    )
    return run.model_copy(update={"status": status})


def _evaluation(
    found: RunRecord, order: StageOrder, metrics: Mapping[str, float], now: datetime
) -> StageStatus:
    return StageStatus(
        name="evaluation",
        state=StageState.SUCCEEDED,
        attempt=order.attempt,
        started_at=_began(found, "evaluation"),
        finished_at=now,
        metrics=dict(metrics),
    )


def _training(found: RunRecord, stage: Stage) -> StageStatus:
    """A stage by its final checkpoint; it has succeeded, or the evaluation were not there."""
    layout = found.layout.stage(stage.value)
    try:
        manifest = read_manifest(layout.final)
    except CheckpointError:
        return StageStatus.model_validate({"name": stage.value, "state": StageState.SUCCEEDED})
    reference = _reference(found, layout, manifest)
    spec = found.run.spec.stage(stage)
    assert isinstance(spec, Distill | TrainingSpec)
    result = StageResult(
        run=manifest.run,
        stage=stage,
        attempt=manifest.attempt,
        checkpoint=reference,
        metrics=manifest.metrics,
    )
    return StageStatus.model_validate(
        {
            "name": stage.value,
            "state": StageState.SUCCEEDED,
            "attempt": manifest.attempt,
            "started_at": _began(found, stage.value),
            "finished_at": manifest.created_at,
            "checkpoint": reference,
            "metrics": manifest.metrics,
            "gates": gate(spec.gate, result),
        }
    )


def _reference(
    found: RunRecord, layout: StageLayout, manifest: CheckpointManifest
) -> CheckpointRef:
    return CheckpointRef(
        location=f"{found.name}/{layout.root.name}/{layout.final.name}",
        digest=manifest_digest(layout.final),
        step=manifest.step,
    )


def _began(found: RunRecord, stage: str) -> datetime | None:
    """When the first attempt of a stage wrote its first line."""
    told = attempts(read_progress(found, stage))
    return min((attempt.began for attempt in told), default=None)
