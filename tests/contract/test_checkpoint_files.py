"""A checkpoint is whole or it is none: every way to damage one is seen, and named."""

import json
from pathlib import Path

import pytest
from builders import make_run
from sample_checkpoint import ZERO, make_checkpoint

from coldstart.checkpoint import (
    CheckpointError,
    check_lineage,
    manifest_digest,
    order_hash,
    read_manifest,
    resumable,
    verify,
)
from coldstart.files import append_json_line, json_lines, write_atomic
from coldstart.order import build_order
from coldstart.spec import Stage
from coldstart.status import ErrorCode


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def edit_manifest(directory: Path) -> None:
    document = json.loads((directory / "coldstart.json").read_text())
    document["metrics"] = {"probe_accuracy": 1.0}
    (directory / "coldstart.json").write_text(json.dumps(document))


def link_out(directory: Path) -> None:
    outside = directory.parent / "outside"
    outside.write_bytes(b"weights")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to(outside)


def test_a_whole_checkpoint_verifies_and_has_a_stable_digest(tmp_path):
    digest = make_checkpoint(tmp_path / "c")
    manifest = verify(tmp_path / "c", digest)
    assert [f.path for f in manifest.files] == ["model.safetensors", "nested/state.bin"]
    assert manifest_digest(tmp_path / "c") == digest
    (tmp_path / "c" / "PINNED").touch()
    verify(tmp_path / "c", digest)


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "coldstart.json").unlink(), "holds no coldstart.json"),
        (lambda d: (d / "coldstart.json").write_text("{"), "is not JSON"),
        (lambda d: (d / "coldstart.json").write_text("{}"), "is required"),
        (lambda d: (d / "coldstart.json").write_bytes(b"\xff"), "is not JSON"),
        (edit_manifest, "is not the manifest that was reported"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: (d / "model.safetensors").write_bytes(b"wei"), "has 3 bytes"),
        (lambda d: flip(d / "nested" / "state.bin"), "SHA-256 differs"),
        (lambda d: (d / "extra.bin").touch(), "extra.bin is not in the manifest"),
        (lambda d: (d / "nested" / "extra.bin").touch(), "nested/extra.bin is not in the manifest"),
        (link_out, "model.safetensors is missing"),
    ],
)
def test_every_damage_is_seen_and_named(tmp_path, damage, message):
    digest = make_checkpoint(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message) as error:
        verify(tmp_path / "c", digest)
    assert error.value.code in (ErrorCode.CHECKPOINT_INVALID, ErrorCode.CHECKPOINT_MISMATCH)


@pytest.mark.parametrize(
    ("spec", "base", "message"),
    [
        ({}, ZERO, None),
        ({}, None, None),
        ({"model": {"name": "other"}}, None, r"spec\.model: .*'m'.*'other'"),
        ({}, "sha256:" + "1" * 64, r"spec\.model"),
        ({"conversation": {"maxPixels": 300000}}, None, r"spec\.conversation: .*maxPixels"),
    ],
)
def test_a_checkpoint_of_another_base_model_or_conversation_is_refused(
    tmp_path, spec, base, message
):
    make_checkpoint(tmp_path / "c")
    manifest, wanted = read_manifest(tmp_path / "c"), make_run(**spec).spec
    if message is None:
        check_lineage(manifest, wanted, base)
        return
    with pytest.raises(CheckpointError, match=message) as error:
        check_lineage(manifest, wanted, base)
    assert error.value.code is ErrorCode.CHECKPOINT_MISMATCH


def test_a_changed_manifest_is_seen_without_anybody_who_knows_its_digest(tmp_path):
    make_checkpoint(tmp_path / "c", step=2)
    manifest = tmp_path / "c" / "coldstart.json"
    manifest.write_text(manifest.read_text().replace('"step": 2', '"step": 3'))
    with pytest.raises(CheckpointError, match="its checksum differs"):
        verify(tmp_path / "c")


@pytest.mark.fault(38)
def test_only_whole_checkpoints_of_the_same_recipe_are_resumed_newest_first(tmp_path):
    run = make_run()
    order = build_order(run, Stage.SFT, 2, {}, storage="/runs", workdir="/work")
    for step in (2, 10, 9):
        make_checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    make_checkpoint(tmp_path / "checkpoint-11", step=11, order_hash=ZERO)
    (tmp_path / "checkpoint-12").mkdir()
    found = [path.name for path in resumable(tmp_path, order)]
    assert found == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]


@pytest.mark.parametrize(
    ("section", "same"),
    [
        ({"saveSteps": 3, "gate": {"maxLoss": 9}, "probe": {"size": 3}}, True),
        ({"timeoutSeconds": 3, "keepCheckpoints": 9}, True),
        ({"learningRate": 0.1}, False),
        ({"seed": 7}, False),
    ],
)
def test_the_order_hash_sees_what_decides_the_weights_and_nothing_else(section, same):
    def hashed(**section):
        run = make_run(sft={"dataset": {"name": "d.jsonl"}} | section)
        return order_hash(build_order(run, Stage.SFT, 1, {}, storage="/r", workdir="/w"))

    assert (hashed() == hashed(**section)) is same


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, b"old")
    path.with_name("f.partial").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_json_lines_pass_over_a_torn_line_and_appending_goes_on_after_it(tmp_path):
    path = tmp_path / "f.jsonl"
    append_json_line(path, {"a": 1})
    with path.open("ab") as stream:
        stream.write(b'{"a": 2, "b')
    append_json_line(path, {"a": 3})
    assert [item["a"] for item in json_lines(path)] == [1, 3]


@pytest.mark.parametrize("path", ["a\0b", "a" * 300, "loop", "../outside", "/etc/hostname", "."])
def test_a_path_that_is_made_up_is_a_file_that_is_missing(tmp_path, path):
    make_checkpoint(tmp_path / "c")
    (tmp_path / "outside").write_bytes(b"weights")
    (tmp_path / "c" / "loop").symlink_to("loop")
    document = json.loads((tmp_path / "c" / "coldstart.json").read_text())
    document["files"][0]["path"] = path
    del document["checksum"]
    (tmp_path / "c" / "coldstart.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="is missing"):
        verify(tmp_path / "c")


@pytest.mark.parametrize("order", [{}, {"spec": {"model": 5}}])
def test_a_checkpoint_whose_order_cannot_be_read_is_refused(tmp_path, order):
    make_checkpoint(tmp_path / "c", order=order)
    with pytest.raises(CheckpointError, match=r"order\.spec\."):
        check_lineage(read_manifest(tmp_path / "c"), make_run().spec, None)


def test_a_manifest_nested_beyond_reason_is_none(tmp_path):
    make_checkpoint(tmp_path / "c")
    (tmp_path / "c" / "coldstart.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="nested more than"):
        read_manifest(tmp_path / "c")
