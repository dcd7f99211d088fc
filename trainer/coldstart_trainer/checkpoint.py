"""A training stage's checkpoints: sealed when complete, chosen to resume from, rotated, made final.

What a checkpoint is (`coldstart.checkpoint`) and how it is filled (the Trainer) stand elsewhere.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coldstart.checkpoint import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    CheckpointError,
    file_entries,
    manifest_digest,
    order_hash,
    ordered_spec,
    read_manifest,
    resumable,
    verify,
    write_manifest,
)
from coldstart.files import sync
from coldstart.layout import StageLayout
from coldstart.run import RunSpec
from coldstart.spec import Stage, TrainingSpec
from coldstart.stage import (
    MANIFEST,
    PINNED,
    CheckpointManifest,
    DatasetEntry,
    FileEntry,
    StageOrder,
    StageResult,
)
from coldstart.status import CheckpointRef, ErrorCode
from coldstart_trainer.inputs import Input

PREFIX = "checkpoint-"
"""What the Trainer names its checkpoints, before the step."""

LIBRARIES = (
    "coldstart-operator",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "deepspeed",
    "vllm",
)
"""Libraries whose versions a manifest records, where they are installed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where a stage's checkpoints come from: all that a manifest says besides step and files."""

    order: StageOrder
    source: Input
    datasets: tuple[DatasetEntry, ...]

    def manifest(
        self, files: Iterable[FileEntry], step: int, *, final: bool, metrics: dict[str, float]
    ) -> CheckpointManifest:
        """The manifest of one checkpoint."""
        section = self.order.spec.stage(self.order.stage)
        return CheckpointManifest(
            run=self.order.run,
            stage=self.order.stage,
            attempt=self.order.attempt,
            step=step,
            final=final,
            files=tuple(files),
            parent=self.source.digest,
            fingerprints=self.source.fingerprints,
            world_size=section.resources.world_size,
            seed=section.seed,
            datasets=self.datasets,
            metrics=metrics,
            versions=versions(),
            order=self.order.document(),
            order_hash=order_hash(self.order),
            created_at=datetime.now(UTC),
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that make checkpoints."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def seal(directory: Path, origin: Origin, step: int, metrics: dict[str, float]) -> None:
    """Make what the Trainer saved a checkpoint, if an exact resume can be made from it.

    Raises:
        CheckpointError: a file is missing that the Trainer would silently do without.
        OSError: the disk is full, or a file cannot be read.
    """
    section = origin.order.spec.stage(origin.order.stage)
    if lacking := missing(directory, section.resources.world_size):
        raise CheckpointError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{directory} was saved without {', '.join(lacking)}: nothing could resume from it",
        )
    files = file_entries(directory)
    write_manifest(directory, origin.manifest(files, step, final=False, metrics=metrics))
    # Before an older one is removed: a crash of the machine must leave one of the two.
    sync(directory.parent)


def missing(directory: Path, world_size: int) -> list[str]:
    """What an exact resume needs and a directory lacks.

    The Trainer goes on without most of these, with exit code 0 (measured with transformers 5.19).
    """
    ranks = [f"rng_state_{rank}.pth" for rank in range(world_size)]
    needed = ["config.json", "scheduler.pt", "trainer_state.json"]
    needed += ranks if world_size > 1 else ["rng_state.pth"]
    lacking = [name for name in needed if not (directory / name).is_file()]
    if not any(directory.glob("*.safetensors")):
        lacking.append("*.safetensors")
    latest = directory / "latest"
    if not latest.is_file():
        return lacking if (directory / "optimizer.pt").is_file() else [*lacking, "optimizer.pt"]
    # DeepSpeed keeps the optimizer's shards in a directory that this file names.
    name = latest.read_text(encoding="utf-8").strip()
    shards = len(list((directory / name).glob("*_optim_states.pt")))
    if shards < world_size:
        lacking.append(f"{name}/*_optim_states.pt ({shards} of {world_size})")
    return lacking


def remove_torn(directory: Path) -> None:
    """Remove checkpoints that were never finished: those without a manifest."""
    for path in directory.glob(f"{PREFIX}*"):
        if path.is_dir() and not path.is_symlink() and not (path / MANIFEST).is_file():
            log.warning("%s was never finished: removed", path)
            shutil.rmtree(path)


def choose(directory: Path, order: StageOrder) -> Path | None:
    """The checkpoint to resume from: the newest of the same recipe whose files are all right.

    Torn ones are removed, and damaged ones renamed, since the Trainer would take the highest
    number whatever is in it.

    Raises:
        CheckpointError: it was written by another number of processes, or under another ZeRO.
        OSError: the directory cannot be read or changed.
    """
    remove_torn(directory)
    _set_others_aside(directory, order)
    for path in resumable(directory, order):
        try:
            manifest = verify(path)
        except CheckpointError as error:
            log.warning("%s; renamed to %s", error, set_aside(path, "damaged"))
            continue
        _require_same_shards(path, manifest, order)
        return path
    return None


def _require_same_shards(path: Path, manifest: CheckpointManifest, order: StageOrder) -> None:
    """Refuse optimizer states that are cut up in another way than this attempt's.

    Offloading leaves them as they are, so that it may be switched on to go on.
    """
    theirs = ordered_spec(manifest)
    was, now = (_shards(spec, order.stage) for spec in (theirs, order.spec))
    if was != now:
        raise CheckpointError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"{path} was written by {was}, this attempt has {now}: an exact resume needs the same; "
            f"restore spec.{order.stage.value}.resources and .parallelism, or move the checkpoints "
            "away to start anew",
        )


def _shards(spec: RunSpec, stage: Stage) -> str:
    section = spec.stage(stage)
    assert isinstance(section, TrainingSpec)
    return f"{section.resources.world_size} processes with zero {section.parallelism.zero}"


def _set_others_aside(directory: Path, order: StageOrder) -> None:
    """Make room for this recipe's checkpoints, which have the same names as an earlier one's."""
    ours = set(resumable(directory, order))
    for path in sorted(directory.glob(f"{PREFIX}*")):
        if path.is_symlink():
            log.warning("%s is a link; renamed to %s", path, set_aside(path, "damaged"))
            continue
        if not path.is_dir() or path in ours:
            continue
        try:
            read_manifest(path)
        except CheckpointError as error:
            log.warning("%s; renamed to %s", error, set_aside(path, "damaged"))
        else:
            log.warning("%s is of another recipe; renamed to %s", path, set_aside(path, "earlier"))


def cleared(partial: Path) -> None:
    """Remove what an earlier attempt has left where the final checkpoint is made.

    Raises:
        OSError: it cannot be removed.
    """
    if partial.is_symlink():
        partial.unlink()  # and nothing of what it leads to
    elif partial.exists():
        shutil.rmtree(partial)


def set_aside(path: Path, why: str) -> Path:
    """Rename a directory so that nothing takes it for a checkpoint, and nothing is lost."""
    target, number = path.with_name(f"{why}-{path.name}"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{why}-{path.name}.{number}")
    path.rename(target)
    return target


def rotate(directory: Path, keep: int) -> None:
    """Remove all whole checkpoints but the newest `keep`; pinned ones stay and do not count.

    The caller has just sealed the newest, which is therefore never removed.
    """
    assert keep >= 1, "the last whole checkpoint stays"
    whole: list[tuple[int, Path]] = []
    for path in directory.glob(f"{PREFIX}*"):
        if path.is_symlink() or not (path / MANIFEST).is_file() or (path / PINNED).exists():
            continue
        try:
            whole.append((read_manifest(path).step, path))
        except CheckpointError as error:
            log.warning("%s; it is left as it is", error)
    for _, path in sorted(whole)[:-keep]:
        # Without its manifest it is torn, whatever a kill leaves of it.
        (path / MANIFEST).unlink()
        shutil.rmtree(path)


def finish(
    partial: Path, layout: StageLayout, origin: Origin, step: int, metrics: dict[str, float]
) -> CheckpointRef:
    """Make a saved model the stage's final checkpoint.

    Args:
        partial: where the Trainer saved the model, beside the stage's `final`.
        layout: the stage's directory.
        origin: the stage's order and input.
        step: optimizer updates that made it.
        metrics: what the stage reports.

    Raises:
        CheckpointError: a weight is not finite (NonFinite).
        OSError: the disk is full.
    """
    _copy_preparation(origin.source.directory, partial)
    _require_finite(partial)
    return conclude(partial, layout, origin, step, metrics)


def conclude(
    partial: Path, layout: StageLayout, origin: Origin, step: int, metrics: dict[str, float]
) -> CheckpointRef:
    """Make a directory, as it is, what the stage ends with; the arguments are those of `finish`.

    Raises:
        OSError: the disk is full.
    """
    files = file_entries(partial)
    write_manifest(partial, origin.manifest(files, step, final=True, metrics=metrics))
    if layout.final.exists():
        log.warning(
            "%s is of another recipe; moved to %s", layout.final, set_aside(layout.final, "earlier")
        )
    partial.rename(layout.final)
    sync(layout.root)
    return _reference(origin.order, layout.final, step)


def finished(layout: StageLayout, order: StageOrder, *, rank: int) -> StageResult | None:
    """The result of a stage whose final checkpoint is already there, of this run and recipe.

    A stage that was killed between the last rename and its result ends so, without training. All
    processes ask and hash, since they must agree; rank 0 moves a damaged one out of the way.

    Raises:
        OSError: a file cannot be read, or a damaged directory not be renamed.
    """
    if not (layout.final / MANIFEST).is_file():
        return None
    try:
        manifest = verify(layout.final)
    except CheckpointError as error:
        if rank == 0:
            log.warning("%s; renamed to %s", error, set_aside(layout.final, "damaged"))
        return None
    same = manifest.run == order.run and manifest.order_hash == order_hash(order)
    if not (same and manifest.final):
        return None
    return StageResult(
        run=order.run,
        stage=order.stage,
        attempt=order.attempt,
        checkpoint=_reference(order, layout.final, manifest.step),
        metrics=manifest.metrics,
    )


def _reference(order: StageOrder, final: Path, step: int) -> CheckpointRef:
    return CheckpointRef(
        location=f"{order.output}/{final.name}", digest=manifest_digest(final), step=step
    )


def _copy_preparation(source: Path, target: Path) -> None:
    """Tokenizer and processor as the stage got them: a library's rewriting changes their bytes."""
    for name in (*TOKENIZER_FILES, *PROCESSOR_FILES):
        (target / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    (target / "training_args.bin").unlink(missing_ok=True)


def _require_finite(directory: Path) -> None:
    from safetensors import safe_open  # noqa: PLC0415 - it takes torch along

    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                if not bool(tensors.get_tensor(name).isfinite().all()):
                    raise CheckpointError(
                        ErrorCode.NON_FINITE,
                        f"weight {name} is not finite after training: lower learningRate, or set "
                        "maxGradNorm",
                    )
