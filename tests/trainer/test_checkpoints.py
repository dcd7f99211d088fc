"""Checkpoints of a stage: complete or none, the newest good one, rotated, made final."""

import json
import shutil

import pytest
from stage_attempts import again, order

from coldstart.checkpoint import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    CheckpointError,
    read_manifest,
    verify,
)
from coldstart.layout import output
from coldstart.spec import Parallelism, Resources
from coldstart.stage import MANIFEST, PINNED
from coldstart.status import ErrorCode
from coldstart_trainer import checkpoint
from coldstart_trainer.inputs import resolve

SAVED = (
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
)


@pytest.fixture
def given(tiny_model, tmp_path):
    return order("sft", tmp_path / "runs", tiny_model, "rows.jsonl")


@pytest.fixture
def origin(given):
    return checkpoint.Origin(given, resolve(given)[0], ())


def saved(origin, step, *, seal=True, leave_out=(), add=()):
    """What the Trainer leaves at a step, filled with a few bytes."""
    directory = output(origin.order).checkpoints / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    for name in {*SAVED, *add} - set(leave_out):
        (directory / name).write_text(f"{name} at {step}")
    if seal:
        checkpoint.seal(directory, origin, step, {"loss": 1.0})
    return directory


def names(origin):
    return sorted(path.name for path in output(origin.order).checkpoints.iterdir())


def test_a_sealed_checkpoint_says_all_that_a_resume_must_know(origin):
    manifest = verify(saved(origin, 4))
    assert (manifest.step, manifest.final, manifest.world_size) == (4, False, 1)
    assert manifest.seed == 42
    assert {entry.path for entry in manifest.files} == set(SAVED)
    assert manifest.metrics == {"loss": 1.0}
    assert {"python", "torch", "transformers", "trl"} <= set(manifest.versions)
    assert manifest.order == json.loads(json.dumps(origin.order.document()))


@pytest.mark.parametrize("name", SAVED)
def test_what_the_trainer_left_out_is_noticed(origin, name):
    directory = saved(origin, 4, seal=False, leave_out=[name])
    with pytest.raises(CheckpointError, match=r"nothing could resume from it") as caught:
        checkpoint.seal(directory, origin, 4, {})
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    assert not (directory / MANIFEST).exists()


def test_every_process_has_its_own_generators(tmp_path):
    directory = tmp_path / "checkpoint-1"
    directory.mkdir()
    for name in {*SAVED, "rng_state_0.pth"}:
        (directory / name).touch()
    assert checkpoint.missing(directory, 2) == ["rng_state_1.pth"]


def test_deepspeeds_shards_are_an_optimizer_if_there_is_one_of_each_process(origin):
    directory = saved(origin, 4, seal=False, leave_out=["optimizer.pt"])
    (directory / "latest").write_text("global_step4")
    (directory / "global_step4").mkdir()
    assert checkpoint.missing(directory, 1) == ["global_step4/*_optim_states.pt (0 of 1)"]
    (directory / "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    assert checkpoint.missing(directory, 1) == []
    assert "global_step4/*_optim_states.pt (1 of 2)" in checkpoint.missing(directory, 2)


@pytest.mark.fault(38)
def test_the_newest_is_chosen_by_step_not_by_name(origin):
    saved(origin, 8)
    newest = saved(origin, 12)
    saved(origin, 10)
    assert checkpoint.choose(newest.parent, origin.order) == newest
    assert checkpoint.choose(newest.parent, again(origin.order)) == newest


def test_without_a_checkpoint_there_is_nothing_to_choose(origin):
    assert checkpoint.choose(output(origin.order).checkpoints, origin.order) is None


@pytest.mark.fault(38)
def test_a_torn_one_is_removed(origin, caplog):
    good = saved(origin, 2)
    saved(origin, 4, seal=False)
    assert checkpoint.choose(good.parent, origin.order) == good
    assert names(origin) == ["checkpoint-2"]
    assert "checkpoint-4 was never finished: removed" in caplog.text


@pytest.mark.fault(38)
@pytest.mark.parametrize("harm", ["bytes", "length", "missing", "manifest"])
def test_a_damaged_one_is_renamed_and_not_resumed_from(origin, harm, caplog):
    good = saved(origin, 2)
    bad = saved(origin, 4)
    weights = bad / "model.safetensors"
    if harm == "bytes":
        weights.write_text("model.safetensors at 5")
    elif harm == "length":
        weights.write_text("")
    elif harm == "missing":
        weights.unlink()
    else:
        (bad / MANIFEST).write_text("{")
    assert checkpoint.choose(good.parent, origin.order) == good
    assert not bad.exists()
    assert names(origin) == ["checkpoint-2", "damaged-checkpoint-4"]
    assert "checkpoint-4" in caplog.text


def test_a_second_damaged_one_of_the_same_step_takes_no_ones_place(origin):
    for _ in range(2):
        (saved(origin, 4) / "optimizer.pt").unlink()
        checkpoint.choose(output(origin.order).checkpoints, origin.order)
    assert names(origin) == ["damaged-checkpoint-4", "damaged-checkpoint-4.2"]


def test_one_of_another_recipe_is_moved_away(origin, caplog):
    saved(origin, 4)
    sft = origin.order.spec.sft.model_copy(update={"learning_rate": 1e-4})
    other = again(origin.order, spec=origin.order.spec.model_copy(update={"sft": sft}))
    assert checkpoint.choose(output(other).checkpoints, other) is None
    assert names(origin) == ["earlier-checkpoint-4"]
    assert "is of another recipe" in caplog.text


def test_how_often_it_saves_is_no_part_of_the_recipe(origin):
    directory = saved(origin, 4)
    sft = origin.order.spec.sft.model_copy(update={"save_steps": 7, "keep_checkpoints": 9})
    other = again(origin.order, spec=origin.order.spec.model_copy(update={"sft": sft}))
    assert checkpoint.choose(directory.parent, other) == directory


def test_another_number_of_processes_is_refused_and_nothing_is_lost(origin):
    directory = saved(origin, 4)
    section = origin.order.spec.sft.model_copy(
        update={"resources": Resources(gpus_per_node=2), "parallelism": Parallelism()}
    )
    other = again(origin.order, spec=origin.order.spec.model_copy(update={"sft": section}))
    with pytest.raises(
        CheckpointError, match="written by 1 processes with zero 0, this attempt has 2 "
    ) as it:
        checkpoint.choose(directory.parent, other)
    assert it.value.code is ErrorCode.CHECKPOINT_MISMATCH
    verify(directory)


@pytest.mark.parametrize(("was", "now"), [(0, 2), (2, 0), (2, 3), (3, 2)])
def test_another_zero_is_refused_and_nothing_is_lost(was, now, tiny_model, tmp_path):
    written, wanted = (
        order("sft", tmp_path / "runs", tiny_model, "rows.jsonl", parallelism={"zero": zero})
        for zero in (was, now)
    )
    directory = saved(checkpoint.Origin(written, resolve(written)[0], ()), 4)
    assert checkpoint.choose(directory.parent, again(written)) == directory
    message = (
        f"written by 1 processes with zero {was}, this attempt has 1 processes with zero {now}"
    )
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.choose(directory.parent, again(wanted))
    assert caught.value.code is ErrorCode.CHECKPOINT_MISMATCH
    assert "restore spec.sft.resources and .parallelism, or move" in str(caught.value)
    verify(directory)


def test_offloading_may_change_between_attempts(tiny_model, tmp_path):
    written, wanted = (
        order("sft", tmp_path / "runs", tiny_model, "rows.jsonl", parallelism=setting)
        for setting in ({"zero": 2}, {"zero": 2, "offload": True})
    )
    directory = saved(checkpoint.Origin(written, resolve(written)[0], ()), 4)
    assert checkpoint.choose(directory.parent, again(wanted)) == directory


def test_rotation_keeps_the_newest_and_the_pinned(origin):
    for step in (2, 4, 6, 8, 10, 12):
        saved(origin, step)
    directory = output(origin.order).checkpoints
    (directory / "checkpoint-4" / PINNED).touch()
    saved(origin, 14, seal=False)
    checkpoint.rotate(directory, keep=2)
    kept = ["checkpoint-10", "checkpoint-12", "checkpoint-14", "checkpoint-4"]
    assert names(origin) == kept
    checkpoint.rotate(directory, keep=1)
    assert names(origin) == ["checkpoint-12", "checkpoint-14", "checkpoint-4"]
    verify(directory / "checkpoint-4")


def test_the_last_whole_checkpoint_is_never_rotated_away(origin):
    directory = saved(origin, 2).parent
    checkpoint.rotate(directory, keep=1)
    assert names(origin) == ["checkpoint-2"]
    with pytest.raises(AssertionError):
        checkpoint.rotate(directory, keep=0)


def made_final(origin, tiny_model, step=12):
    layout = output(origin.order)
    partial = layout.root / "final.partial"
    shutil.copytree(tiny_model, partial)
    (partial / "tokenizer_config.json").write_text("{}")
    (partial / "training_args.bin").touch()
    return checkpoint.finish(partial, layout, origin, step, {"loss": 0.5})


@pytest.mark.fault(36)
def test_final_carries_the_inputs_tokenizer_and_processor_byte_for_byte(origin, tiny_model):
    reference = made_final(origin, tiny_model)
    final = output(origin.order).final
    manifest = verify(final, reference.digest)
    assert reference.location == "run/sft/final"
    assert (reference.step, manifest.step, manifest.final) == (12, 12, True)
    for name in (*TOKENIZER_FILES, *PROCESSOR_FILES):
        if (tiny_model / name).exists():
            assert (final / name).read_bytes() == (tiny_model / name).read_bytes()
    assert manifest.fingerprints == origin.source.fingerprints
    assert not (final / "training_args.bin").exists()


@pytest.mark.fault(36)
def test_a_weight_that_is_not_finite_makes_no_final(origin, tiny_model):
    import torch
    from safetensors.torch import load_file, save_file

    layout = output(origin.order)
    partial = shutil.copytree(tiny_model, layout.root / "final.partial")
    weights = load_file(partial / "model.safetensors")
    name = sorted(weights)[3]
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name) as caught:
        checkpoint.finish(partial, layout, origin, 12, {})
    assert caught.value.code is ErrorCode.NON_FINITE
    assert not layout.final.exists()


def test_a_final_that_is_there_is_reported(origin, tiny_model):
    reference = made_final(origin, tiny_model)
    found = checkpoint.finished(output(origin.order), again(origin.order), rank=0)
    assert found.checkpoint == reference
    assert found.metrics == {"loss": 0.5}
    assert found.attempt == 2
    assert found.error is None


def test_a_damaged_final_is_moved_away_by_one_process(origin, tiny_model):
    made_final(origin, tiny_model)
    layout = output(origin.order)
    (layout.final / "config.json").write_text("{}")
    assert checkpoint.finished(layout, origin.order, rank=1) is None
    assert layout.final.exists()
    assert checkpoint.finished(layout, origin.order, rank=0) is None
    assert (layout.root / "damaged-final").is_dir()


def test_a_final_of_another_recipe_is_kept_aside_when_the_new_one_is_made(origin, tiny_model):
    made_final(origin, tiny_model)
    sft = origin.order.spec.sft.model_copy(update={"learning_rate": 1e-4})
    other = again(origin.order, spec=origin.order.spec.model_copy(update={"sft": sft}))
    layout = output(other)
    assert checkpoint.finished(layout, other, rank=0) is None
    made_final(checkpoint.Origin(other, origin.source, ()), tiny_model, step=5)
    assert read_manifest(layout.final).step == 5
    assert read_manifest(layout.root / "earlier-final").step == 12
