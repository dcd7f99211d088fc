"""The models that an order names, as checked local directories; torch is not needed for it."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from coldstart.checkpoint import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    CheckpointError,
    base_fingerprint,
    check_lineage,
    conversation_fingerprint,
    files_fingerprint,
    manifest_digest,
    read_manifest,
    verify,
)
from coldstart.files import digest_of
from coldstart.stage import MANIFEST, CheckpointManifest, Fingerprints, StageInput, StageOrder
from coldstart.status import ErrorCode
from coldstart_trainer.architecture import model_type
from coldstart_trainer.hub import without_token
from coldstart_trainer.plain import require_plain

APPEARS_SECONDS = 60.0
"""So long a checkpoint that was reported may take to be seen in a pod: a file system that machines
share may answer for a while with what it knew of a directory before."""

IN_A_POD = "KUBERNETES_SERVICE_HOST"
"""What every container of a cluster has in its environment."""

_LOOK_SECONDS = 2.0

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
"""What a model needs; pickled weights are neither fetched nor loaded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """A model on this machine that may be used."""

    name: str
    """`base`, `sft`, `grpo`, a reference's name; `distill` for the rows of that stage."""
    directory: Path
    """Where its files are."""
    fingerprints: Fingerprints
    """What must stay the same from stage to stage."""
    digest: str | None = None
    """Of its manifest; None for a model that has none."""
    manifest: CheckpointManifest | None = None
    """None for a model that has none."""


def resolve(order: StageOrder, *, hashes: bool = True) -> tuple[Input, ...]:
    """Every input of an order, in its order, fetched where need be and checked.

    Args:
        order: the order.
        hashes: hash the checkpoints' files. One process of a stage is enough: the others need
            only know that it is the same manifest.

    Raises:
        CheckpointError, ModelError: a model cannot be had, or must not be used; the message says
            which.
        OSError: a file cannot be read or written.
    """
    return tuple(_resolve(order, item, hashes=hashes) for item in order.inputs)


def _resolve(order: StageOrder, item: StageInput, *, hashes: bool) -> Input:
    reference = order.spec.reference(item.name)
    if reference and reference.model:
        return _reference(order, item, hashes=hashes)
    if item.name != "base":
        return _checkpoint(order, item, hashes=hashes)
    directory = model_directory(item.location, item.revision, Path(order.workdir))
    return Input(item.name, directory, _base_fingerprints(directory, order))


def _reference(order: StageOrder, item: StageInput, *, hashes: bool) -> Input:
    """A model that need not have anything to do with the run's own."""
    field = f"spec.evaluation.references ({item.name})"
    workdir = Path(order.workdir)
    directory = model_directory(item.location, item.revision, workdir, field)
    if not (directory / MANIFEST).is_file():
        return Input(item.name, directory, _base_fingerprints(directory, order, field))
    manifest = verify(directory) if hashes else read_manifest(directory)
    if manifest.fingerprints.conversation != conversation_fingerprint(order.spec.conversation):
        log.warning("%s was trained with another conversation than it is asked in", directory)
    found = _fingerprints(directory, order, manifest.fingerprints.base_model)
    return Input(item.name, directory, found, manifest_digest(directory), manifest)


def model_directory(
    name: str, revision: str | None, workdir: Path, field: str = "spec.model"
) -> Path:
    """The directory of a model: as it is beside the run.yaml, or fetched from the hub.

    Raises:
        CheckpointError: there is neither (ModelInvalid).
    """
    local = workdir / name
    if local.is_dir():
        return local
    if not _HUB_ID.fullmatch(name) or local.exists():
        raise _model_error(f"there is no directory {local}, and {name!r} is no hub id", field)
    return _download(name, revision, field)


def _download(name: str, revision: str | None, field: str) -> Path:
    if revision is None:
        log.warning("%s.revision is not set: %s may change between attempts", field, name)
    fetch = partial(snapshot_download, name, revision=revision, allow_patterns=_HUB_FILES)
    try:
        try:
            return Path(fetch())
        except (OfflineModeIsEnabled, httpx.TransportError):
            return Path(fetch(local_files_only=True))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = " ".join(without_token(str(error)).split())[:300]
        at = f" at revision {revision}" if revision else ""
        message = f"{name!r}{at} cannot be fetched from the hub: {reason}"
        raise _model_error(message, field) from error


def _base_fingerprints(
    directory: Path, order: StageOrder, field: str = "spec.model"
) -> Fingerprints:
    model_type(directory)
    if not any(directory.glob("*.safetensors")):
        message = (
            f"{directory} holds no *.safetensors file; pickled weights (*.bin, *.pt) are never "
            "loaded: save the model as safetensors"
        )
        raise _model_error(message, field)
    return _fingerprints(directory, order, base_fingerprint(directory))


def _checkpoint(order: StageOrder, item: StageInput, *, hashes: bool) -> Input:
    if item.digest is None:
        raise CheckpointError(
            ErrorCode.INVALID_ORDER,
            f"inputs: {item.name} has no digest: its stage has not finished",
        )
    directory = Path(order.storage) / item.location
    if IN_A_POD in os.environ:
        _await(directory)
    if hashes:
        manifest = verify(directory, item.digest)
    else:
        manifest = read_manifest(directory)
        if manifest_digest(directory) != item.digest:
            raise CheckpointError(
                ErrorCode.CHECKPOINT_MISMATCH, f"{directory} is not the checkpoint of the order"
            )
    check_lineage(manifest, order.spec, _known_base(order))
    if item.name == "distill":
        return Input(item.name, directory, manifest.fingerprints, item.digest, manifest)
    found = _fingerprints(directory, order, manifest.fingerprints.base_model)
    _check_files_of(directory, manifest.fingerprints, found)
    return Input(item.name, directory, found, item.digest, manifest)


def _await(directory: Path) -> None:
    """Wait until all files of a checkpoint are there, but not for ever: what lacks is told then."""
    end = time.monotonic() + APPEARS_SECONDS
    while not _is_there(directory) and time.monotonic() < end:
        log.warning("%s is not there as a whole yet; waits for it", directory)
        time.sleep(_LOOK_SECONDS)


def _is_there(directory: Path) -> bool:
    try:
        manifest = read_manifest(directory)
    except CheckpointError:
        return (directory / MANIFEST).is_file()
    return all((directory / entry.path).is_file() for entry in manifest.files)


def _check_files_of(directory: Path, expected: Fingerprints, found: Fingerprints) -> None:
    """A checkpoint carries the tokenizer and processor of its base model, byte for byte."""
    for kind in ("tokenizer", "processor"):
        if getattr(expected, kind) != getattr(found, kind):
            raise CheckpointError(
                ErrorCode.CHECKPOINT_MISMATCH,
                f"{directory}: its {kind} files are not those of its base model",
            )


def _known_base(order: StageOrder) -> str | None:
    """The fingerprint of the run's base model, where it can be had without fetching the model."""
    model = order.spec.model
    local = Path(order.workdir) / model.name
    if local.is_dir():
        return base_fingerprint(local)
    if _HUB_ID.fullmatch(model.name) and model.revision and _COMMIT.fullmatch(model.revision):
        folder = "models--" + model.name.replace("/", "--")
        return digest_of({"repository": folder, "commit": model.revision})
    return None


def _fingerprints(directory: Path, order: StageOrder, base: str) -> Fingerprints:
    require_plain(directory)
    return Fingerprints(
        base_model=base,
        tokenizer=files_fingerprint(directory, TOKENIZER_FILES),
        processor=files_fingerprint(directory, PROCESSOR_FILES),
        conversation=conversation_fingerprint(order.spec.conversation),
    )


def _model_error(message: str, field: str) -> CheckpointError:
    part = "name" if field == "spec.model" else "model"
    return CheckpointError(ErrorCode.MODEL_INVALID, f"{field}.{part}: {message}")
