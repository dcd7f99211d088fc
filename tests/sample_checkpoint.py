"""A checkpoint of two small files, with its manifest."""

from pathlib import Path

from builders import NOW, make_run

from coldstart.checkpoint import (
    conversation_fingerprint,
    file_entries,
    order_hash,
    write_manifest,
)
from coldstart.order import build_order
from coldstart.spec import Stage
from coldstart.stage import CheckpointManifest, Fingerprints

ZERO = "sha256:" + "0" * 64


def make_checkpoint(directory: Path, run=None, *, step=1, **changes) -> str:
    """Make the directory a checkpoint of the run; the digest of its manifest."""
    run = run or make_run()
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "nested").mkdir()
    (directory / "nested" / "state.bin").write_bytes(b"state")
    order = build_order(run, Stage.SFT, 1, {}, storage="/runs", workdir="/work")
    manifest = CheckpointManifest(
        run=order.run,
        stage=Stage.SFT,
        attempt=1,
        step=step,
        final=False,
        files=file_entries(directory),
        fingerprints=Fingerprints(
            base_model=ZERO,
            tokenizer=ZERO,
            processor=ZERO,
            conversation=conversation_fingerprint(run.spec.conversation),
        ),
        seed=1,
        order=order.document(),
        order_hash=order_hash(order),
        created_at=NOW,
    )
    return write_manifest(directory, manifest.model_copy(update=changes))
