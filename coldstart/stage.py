"""What passes between whoever runs a stage and the stage: order in, result out, gate between."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from coldstart.distill import YieldGate
from coldstart.run import RunSpec
from coldstart.schema import Contract, Digest, Name, RunName
from coldstart.spec import Gate, Stage
from coldstart.status import CheckpointRef, ErrorCode, StageError, Verdict

ORDER_ENV = "COLDSTART_ORDER"
"""The environment variable that holds the StageOrder as JSON."""

RESULT_ENV = "COLDSTART_RESULT"
"""The environment variable that holds the path of the StageResult."""

METRICS_PORT_ENV = "COLDSTART_METRICS_PORT"
"""The environment variable that holds the port on which rank 0 serves its numbers; unset: none."""

RESULT_PATH = "/dev/termination-log"
"""Where a pod's StageResult goes: Kubernetes keeps it as the termination message."""

RESULT_BYTES = 4096
"""What Kubernetes keeps of a termination message."""

MANIFEST = "coldstart.json"
"""The manifest's file name; a directory without it is no checkpoint."""

PINNED = "PINNED"
"""A checkpoint directory that holds a file of this name is never rotated away."""


class RunRef(Contract):
    """Which run."""

    name: RunName
    """Its name."""
    uid: Name
    """What tells it from an earlier one of the same name."""


class StageInput(Contract):
    """A model, or distilled rows, that a stage reads."""

    name: RunName
    """What the run calls it: `base`, `distill`, `sft`, `grpo`, or a reference's name."""
    location: Name
    """A hub id or a path beside the run.yaml (the base model, a reference that names a model), or a
    directory in the storage."""
    revision: Name | None = None
    """The commit of a hub id."""
    digest: Digest | None = None
    """What its manifest must be; absent where the order names a model, not a stage."""


class StageOrder(Contract):
    """All that one attempt of one stage needs to know."""

    schema_version: Literal[1] = 1
    """The version of this document."""
    run: RunRef
    """Whose stage it is."""
    stage: Stage
    """Which stage."""
    attempt: Annotated[int, Field(ge=1)]
    """Which attempt; the directory and the name of the child hold it."""
    spec: RunSpec
    """The resolved spec."""
    inputs: Annotated[tuple[StageInput, ...], Field(min_length=1, max_length=11)]
    """Training: the one model to start from; for SFT after `distill` also the rows. Distillation:
    the base model, whose tokenizer says what fits. Evaluation: the checkpoints to score."""
    storage: Name
    """The directory that checkpoint locations are relative to."""
    workdir: Name
    """The directory that local data sets, models and rewards are relative to."""

    @property
    def output(self) -> str:
        """The stage's directory, relative to the storage."""
        return f"{self.run.name}/{self.stage.value}"


class StageResult(Contract):
    """What one attempt ended with; at most 4,096 bytes of JSON."""

    schema_version: Literal[1] = 1
    """The version of this document."""
    run: RunRef
    """Whose stage it was."""
    stage: Stage
    """Which stage."""
    attempt: Annotated[int, Field(ge=1)]
    """Which attempt."""
    checkpoint: CheckpointRef | None = None
    """What a training stage made, or the distilled rows."""
    metrics: Annotated[dict[str, float], Field(max_length=200)] = {}
    """The numbers that gates and people look at."""
    error: StageError | None = None
    """Why there is no checkpoint; absent on success."""

    def encode(self) -> bytes:
        """The result as JSON of at most 4,096 bytes.

        A long message is cut first, then metrics are left out from the last on, so that what the
        planner needs (identity, checkpoint, error code) always arrives.
        """
        document = self.document()
        data = _compact(document)
        error = document.get("error")
        if len(data) > RESULT_BYTES and error:
            error["message"] = _head(error["message"], 1024)
            data = _compact(document)
        while len(data) > RESULT_BYTES and document.get("metrics"):
            document["metrics"].popitem()
            data = _compact(document)
        assert len(data) <= RESULT_BYTES, "the identity of a result fits its bounds"
        return data


def _compact(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    # A message may hold half a character, which a name of a file is read with.
    return text.encode(errors="replace")


def _head(text: str, size: int) -> str:
    """The first `size` bytes of a text, whole characters only."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")


class FileEntry(Contract):
    """One file of a checkpoint."""

    path: Name
    """Relative to the checkpoint."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the content."""


class DatasetEntry(Contract):
    """A data set as it was read."""

    name: Name
    """Hub id or path, as the spec has it."""
    fingerprint: Name
    """Changes when the rows do."""
    rows: Annotated[int, Field(ge=0)]
    """Rows used."""
    dropped: dict[str, int] = {}
    """Rows not used, by reason."""


class Fingerprints(Contract):
    """What must stay the same from stage to stage."""

    base_model: Digest
    """The model that the run started from."""
    tokenizer: Digest
    """Vocabulary, special tokens and chat template."""
    processor: Digest
    """The image processor's settings."""
    conversation: Digest
    """The conversation spec."""


class CheckpointManifest(Contract):
    """`coldstart.json`: what a checkpoint holds and where it comes from; written last."""

    schema_version: Literal[1] = 1
    """The version of this document."""
    run: RunRef
    """Whose checkpoint it is."""
    stage: Stage
    """Which stage made it."""
    attempt: Annotated[int, Field(ge=1)]
    """Which attempt."""
    step: Annotated[int, Field(ge=0)]
    """Optimizer updates that made it; of distilled data, its rows."""
    final: bool
    """Whether the stage ended with it; the others are there to resume from."""
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]
    """Every other file of the directory."""
    parent: Digest | None = None
    """The manifest digest of the checkpoint that the stage started from; absent for the base."""
    fingerprints: Fingerprints
    """What must stay the same from stage to stage."""
    world_size: Annotated[int, Field(ge=1)] = 1
    """Processes that wrote it; DeepSpeed resumes with as many only."""
    seed: int
    """The stage's seed."""
    datasets: tuple[DatasetEntry, ...] = ()
    """What it was trained on."""
    metrics: dict[str, float] = {}
    """The stage's numbers when it was written."""
    versions: dict[str, str] = {}
    """Versions of the libraries that made it."""
    order: dict[str, JsonValue]
    """The StageOrder, with the resolved spec."""
    order_hash: Digest
    """Hash of the part of the order that decides what training does."""
    created_at: datetime
    """When it was written."""
    checksum: Digest | None = None
    """SHA-256 of all the rest; a checkpoint to resume from has no other witness."""


def gate(thresholds: Gate | YieldGate, result: StageResult) -> tuple[Verdict, ...]:
    """The verdicts on a stage's result; the next stage starts if all passed.

    Pure: it judges what the result tells. That the files are whole is checked by the stage that
    reads them (`coldstart.checkpoint.verify`). A number that was not reported does not pass.
    """
    present = Verdict(
        name="checkpoint",
        passed=result.checkpoint is not None,
        message="" if result.checkpoint else "the stage reported no checkpoint",
    )
    if isinstance(thresholds, YieldGate):
        return (
            present,
            *_at_least("minYield", thresholds.min_yield, result.metrics.get("yield_share")),
            *_at_least("minRows", thresholds.min_rows, result.metrics.get("rows")),
        )
    return (
        present,
        *_at_least("minAccuracy", thresholds.min_accuracy, result.metrics.get("probe_accuracy")),
        *_at_least(
            "minBoxedShare", thresholds.min_boxed_share, result.metrics.get("probe_boxed_share")
        ),
        *_at_most("maxLoss", thresholds.max_loss, result.metrics.get("loss")),
    )


def _at_least(name: str, threshold: float | None, observed: float | None) -> tuple[Verdict, ...]:
    return _verdict(name, threshold, observed, "below", lambda seen, bound: seen >= bound)


def _at_most(name: str, threshold: float | None, observed: float | None) -> tuple[Verdict, ...]:
    return _verdict(name, threshold, observed, "above", lambda seen, bound: seen <= bound)


def _verdict(
    name: str, threshold: float | None, observed: float | None, side: str, ok: Any
) -> tuple[Verdict, ...]:
    if threshold is None:
        return ()
    if observed is None or not math.isfinite(observed):
        message = "the stage reported no finite number for it"
        return (Verdict(name=name, threshold=threshold, passed=False, message=message),)
    passed = ok(observed, threshold)
    message = "" if passed else f"{observed:.4g} is {side} {threshold:.4g}"
    return (
        Verdict(name=name, observed=observed, threshold=threshold, passed=passed, message=message),
    )


def failure(order: StageOrder, code: ErrorCode, message: str) -> StageResult:
    """The result of an attempt that ended with an error."""
    return StageResult(
        run=order.run,
        stage=order.stage,
        attempt=order.attempt,
        error=StageError(code=code, message=_head(message, 2048)),
    )
