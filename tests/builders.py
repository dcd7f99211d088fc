"""Runs, results and children for tests, with what does not matter filled in."""

from datetime import UTC, datetime

from coldstart.plan import Child
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.stage import RunRef, StageResult
from coldstart.status import CheckpointRef, StageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64


def make_run(**spec) -> ReasoningRun:
    spec = {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "d.jsonl"}},
        "grpo": {"dataset": {"name": "d.jsonl"}},
        "retry": {"limit": 2, "backoffSeconds": 10, "maxBackoffSeconds": 15},
    } | spec
    return ReasoningRun.parse(
        {
            "apiVersion": "coldstart.dev/v1alpha1",
            "kind": "ReasoningRun",
            "metadata": {"name": "r", "uid": "u"},
            "spec": {key: value for key, value in spec.items() if value is not None},
        }
    )


def result(stage=Stage.SFT, attempt=1, *, uid="u", error=None, checkpoint=True, **metrics):
    return StageResult(
        run=RunRef(name="r", uid=uid),
        stage=stage,
        attempt=attempt,
        checkpoint=CheckpointRef(location=f"r/{stage}/final", digest=DIGEST, step=3)
        if checkpoint and not error
        else None,
        metrics=metrics,
        error=StageError(code=error, message="because") if error else None,
    )


def child(state, stage=Stage.SFT, attempt=1, **more) -> Child:
    return Child(stage, attempt, state, **more)
