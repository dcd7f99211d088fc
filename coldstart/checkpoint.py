"""Checkpoints as directories with a manifest: written last, checked before use; without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from coldstart.documents import read_document
from coldstart.files import digest_of, sha256, sync, write_atomic
from coldstart.run import RunSpec
from coldstart.schema import problems
from coldstart.spec import Conversation
from coldstart.stage import (
    MANIFEST,
    PINNED,
    CheckpointManifest,
    FileEntry,
    StageOrder,
)
from coldstart.status import ErrorCode

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What makes text into tokens; copied from checkpoint to checkpoint byte for byte."""

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""What makes images into pixels; copied likewise."""


class CheckpointError(ValueError):
    """A checkpoint that must not be used, with the error code that says why."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def file_entries(directory: Path) -> tuple[FileEntry, ...]:
    """Every file of a checkpoint but its manifest, with size and hash, brought to the disk."""
    entries = []
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            # Else a crash of the machine may lose the files of which the manifest tells.
            sync(path)
        if not path.is_file() or path.name in (MANIFEST, PINNED, f"{MANIFEST}.partial"):
            continue
        sync(path)
        entries.append(
            FileEntry(
                path=path.relative_to(directory).as_posix(),
                size=path.stat().st_size,
                sha256=sha256(path),
            )
        )
    return tuple(entries)


def write_manifest(directory: Path, manifest: CheckpointManifest) -> str:
    """Make a directory a checkpoint: its manifest is the last thing written.

    Returns:
        The digest that the next stage must find.
    """
    sealed = manifest.model_copy(update={"checksum": _checksum(manifest)})
    data = json.dumps(sealed.document(), indent=1, ensure_ascii=False).encode()
    write_atomic(directory / MANIFEST, data)
    return manifest_digest(directory)


def manifest_digest(directory: Path) -> str:
    """`sha256:…` of the manifest file."""
    return f"sha256:{sha256(directory / MANIFEST)}"


def _checksum(manifest: CheckpointManifest) -> str:
    return digest_of(manifest.model_copy(update={"checksum": None}).document())


def read_manifest(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, its files not yet looked at.

    Raises:
        CheckpointError: there is none, it cannot be read, or is not what was written.
    """
    manifest = _parsed(directory)
    if manifest.checksum not in (None, _checksum(manifest)):
        raise CheckpointError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{directory / MANIFEST} is not what was written: its checksum differs",
        )
    return manifest


def _parsed(directory: Path) -> CheckpointManifest:
    try:
        manifest = read_document(directory / MANIFEST, CheckpointManifest)
    except ValueError as error:
        raise CheckpointError(ErrorCode.CHECKPOINT_INVALID, str(error)) from error
    if manifest is None:
        raise CheckpointError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{directory} holds no {MANIFEST}: it was never finished, or is no checkpoint",
        )
    return manifest


def verify(directory: Path, digest: str | None = None) -> CheckpointManifest:
    """The manifest of a checkpoint whose files are all there, as long and with the content it says.

    Args:
        directory: the checkpoint.
        digest: what the manifest's own digest must be; None takes any.

    Raises:
        CheckpointError: something is missing, foreign, or not what it was; the message names it.
    """
    manifest = read_manifest(directory) if digest is None else _parsed(directory)
    if digest is not None and manifest_digest(directory) != digest:
        raise CheckpointError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"{directory / MANIFEST} is not the manifest that was reported ({digest}): "
            "the checkpoint was replaced or edited",
        )
    for entry in manifest.files:
        _verify_file(directory, entry)
    files = {directory / entry.path for entry in manifest.files}
    known = files | {path for file in files for path in file.parents}
    known |= {directory / MANIFEST, directory / PINNED}
    if foreign := set(directory.rglob("*")) - known:
        raise CheckpointError(
            ErrorCode.CHECKPOINT_INVALID, f"{min(foreign)} is not in the manifest: remove it"
        )
    return manifest


def _verify_file(directory: Path, entry: FileEntry) -> None:
    path = directory / entry.path
    if not _is_inside(path, directory):
        raise CheckpointError(ErrorCode.CHECKPOINT_INVALID, f"{path} is missing")
    size = path.stat().st_size
    if size != entry.size:
        raise CheckpointError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{path} has {size} bytes, the manifest says {entry.size}: it is torn",
        )
    if sha256(path) != entry.sha256:
        raise CheckpointError(
            ErrorCode.CHECKPOINT_INVALID, f"{path} is not what was saved: its SHA-256 differs"
        )


def _is_inside(path: Path, directory: Path) -> bool:
    """Whether a path, which a manifest may make up, is that of a file in a directory."""
    try:
        return path.resolve().is_relative_to(directory.resolve()) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        return False


def ordered_spec(manifest: CheckpointManifest) -> RunSpec:
    """The spec of the order that a checkpoint was made by.

    Raises:
        CheckpointError: this version cannot read it.
    """
    try:
        spec = RunSpec.parse(manifest.order.get("spec"))
    except ValidationError as error:
        where = f"the checkpoint of run {manifest.run.name!r}: order.spec."
        raise CheckpointError(ErrorCode.CHECKPOINT_INVALID, problems(error, where)[0]) from error
    assert isinstance(spec, RunSpec)
    return spec


def check_lineage(manifest: CheckpointManifest, spec: RunSpec, base: str | None) -> None:
    """Refuse a checkpoint of another base model or another conversation.

    Args:
        manifest: the parent's.
        spec: the spec of the run that wants to start from it.
        base: fingerprint of the run's base model, where it can be had.

    Raises:
        CheckpointError: with both values.
    """
    theirs = ordered_spec(manifest)
    if theirs.model != spec.model or (base and base != manifest.fingerprints.base_model):
        raise CheckpointError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"spec.model: the checkpoint of run {manifest.run.name!r} was made from base model "
            f"{theirs.model.name!r} ({manifest.fingerprints.base_model[:19]}), this run has "
            f"{spec.model.name!r} ({(base or 'unknown')[:19]})",
        )
    if manifest.fingerprints.conversation != conversation_fingerprint(spec.conversation):
        ours, other = spec.conversation.document(), theirs.conversation.document()
        keys = sorted(key for key in ours if ours[key] != other.get(key))
        raise CheckpointError(
            ErrorCode.CHECKPOINT_MISMATCH,
            f"spec.conversation: the checkpoint of run {manifest.run.name!r} was trained with "
            f"another {' and '.join(keys)}; one conversation holds for all stages",
        )


def conversation_fingerprint(conversation: Conversation) -> str:
    """What changes when the conversation spec does."""
    return digest_of(conversation.document())


def files_fingerprint(directory: Path, names: tuple[str, ...]) -> str:
    """What changes when one of these files does, is added or goes."""
    present = [name for name in names if (directory / name).is_file()]
    return digest_of({name: sha256(directory / name) for name in present})


def base_fingerprint(directory: Path) -> str:
    """What tells one base model from another: its configuration and weights.

    A hub snapshot is named by its commit, so its gigabytes need not be read.
    """
    if directory.parent.name == "snapshots":
        return digest_of({"repository": directory.parent.parent.name, "commit": directory.name})
    names = ["config.json", *(path.name for path in directory.glob("*.safetensors"))]
    return files_fingerprint(directory, tuple(names))


def order_hash(order: StageOrder) -> str:
    """Hash of what decides the weights: model, conversation, the stage's section, its input.

    A checkpoint of an earlier attempt is resumed from only if this is the same.
    """
    spec = order.spec
    return digest_of(
        {
            "model": spec.model.document(),
            "conversation": spec.conversation.document(),
            "section": spec.stage(order.stage).recipe(),
            "inputs": [item.digest for item in order.inputs],
        }
    )


def resumable(directory: Path, order: StageOrder) -> Iterator[Path]:
    """Checkpoints of this stage that are marked whole and of the same recipe, newest first.

    Their files are not yet hashed: the caller verifies them one by one until one is right.
    """
    found: list[tuple[int, Path]] = []
    for path in directory.glob("checkpoint-*"):
        if path.is_symlink():
            continue  # what it leads to is not this stage's
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue
        if manifest.run == order.run and manifest.order_hash == order_hash(order):
            found.append((manifest.step, path))
    yield from (path for _, path in sorted(found, reverse=True))
