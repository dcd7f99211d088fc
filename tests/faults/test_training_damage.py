"""Checkpoints with a flipped bit, a missing, foreign or outside file: seen, named, nothing lost."""

import random
import shutil
from pathlib import Path

import pytest
from faults import undisturbed
from stage_attempts import again

from coldstart.checkpoint import CheckpointError, verify
from coldstart.layout import output
from coldstart.stage import MANIFEST, StageInput
from coldstart.status import ErrorCode
from coldstart_trainer import checkpoint, inputs

MODEL = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    MANIFEST,
}
STATE = {
    "counters_0.json",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
}
FILES = {
    ("sft", "checkpoints/checkpoint-3"): MODEL | STATE,
    ("grpo", "checkpoints/checkpoint-3"): MODEL | STATE | {"rollout_0.pt"},
    ("sft", "final"): MODEL,
    ("distill", "final"): {"rows.parquet", "card.json", "README.md", MANIFEST},
}
PLACES = [(*key, name) for key, names in FILES.items() for name in sorted(names)]
NAMES = [f"{stage}-{Path(place).name}-{name}" for stage, place, name in PLACES]


def flipped(path, _outside):
    """One bit, anywhere."""
    content = bytearray(path.read_bytes())
    generator = random.Random(path.name)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def cut(path, _outside):
    path.write_bytes(path.read_bytes()[:-1])


def removed(path, _outside):
    path.unlink()


def linked(path, outside):
    """The same content, but not the checkpoint's."""
    target = outside / path.name
    path.rename(target)
    path.symlink_to(target)


HARMS = (flipped, cut, removed, linked)


@pytest.fixture
def stored(disturb, tmp_path):
    """A function: a stage's order in a storage with what it left when nothing befell it."""

    def found(stage):
        case, whole = disturb(stage)
        shutil.copytree(whole.storage, tmp_path / "runs")
        return case.order(tmp_path / "runs")

    return found


@pytest.fixture
def outside(tmp_path):
    """A directory that is none of the stage's."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "kept").write_text("kept")
    yield directory
    assert (directory / "kept").read_text() == "kept"


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize(("stage", "place", "name"), PLACES, ids=NAMES)
def test_what_was_damaged_is_neither_resumed_from_nor_taken_over(
    stage, place, name, harm, stored, outside, caplog
):
    """By the stage itself when it starts again, and by the stage that comes next."""
    given = stored(stage)
    directory = output(given).root / place
    assert {path.name for path in directory.iterdir()} == FILES[stage, place]
    verify(directory)
    order = following(given, directory)
    if name == MANIFEST and harm is linked:
        return  # the same bytes behind another name: it is what was reported
    harm(directory / name, outside)
    if place == "final":
        with pytest.raises(CheckpointError, match=name) as caught:
            inputs.resolve(order)
        assert not caught.value.code.retryable
        assert checkpoint.finished(output(given), again(given), rank=0) is None
        aside = directory.with_name("damaged-final")
        # Without its manifest it was never finished: the stage makes another.
        assert aside.is_dir() or (name == MANIFEST and harm is removed)
    else:
        assert checkpoint.choose(directory.parent, again(given)) is None
        assert name in caplog.text or harm is removed
        assert not directory.exists()
    if harm is linked:
        assert (outside / name).exists()


def following(given, directory):
    """The order of a stage that starts from a checkpoint."""
    digest = checkpoint.manifest_digest(directory)
    location = f"{given.output}/final"
    source = StageInput(name=given.stage.value, location=location, digest=digest)
    return given.model_copy(update={"inputs": (source,)})


FOREIGN = ("file", "directory", "link", "link to a directory")


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("within", [".", "nested"])
def test_what_is_not_of_the_checkpoint_is_named_and_left(kind, within, stored, outside, caplog):
    given = stored("sft")
    directory = output(given).checkpoints / "checkpoint-3"
    foreign = directory / within / "foreign"
    foreign.parent.mkdir(exist_ok=True)
    if kind == "file":
        foreign.touch()
    elif kind == "directory":
        foreign.mkdir()
    else:
        foreign.symlink_to(outside / ("kept" if kind == "link" else "."))
    assert checkpoint.choose(directory.parent, again(given)) is None
    assert "is not in the manifest" in caplog.text
    assert (directory.with_name("damaged-checkpoint-3") / within / "foreign").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_that_lies_elsewhere_is_not_resumed_from_and_not_removed(
    whole, stored, outside, caplog
):
    given = stored("sft")
    directory = output(given).checkpoints / "checkpoint-3"
    target = outside / "checkpoint"
    directory.rename(target)
    directory.symlink_to(target)
    if not whole:
        (target / MANIFEST).unlink()
    before = sorted(target.iterdir())
    assert checkpoint.choose(directory.parent, again(given)) is None
    assert "is a link" in caplog.text
    assert sorted(target.iterdir()) == before


@pytest.mark.parametrize("name", ["checkpoint-1", "final.partial"])
def test_what_a_link_leads_to_is_not_removed_while_a_stage_runs(name, disturb, outside, tmp_path):
    """A link in the place of what a stage writes and then rotates away, or begins with."""
    case, whole = disturb("sft")
    given = case.order(tmp_path / "runs")
    root = output(given).root
    place = root / name if name == "final.partial" else root / "checkpoints" / name
    place.parent.mkdir(parents=True)
    (outside / MANIFEST).write_text("{}")
    place.symlink_to(outside)
    undisturbed.goes_on(case, given, whole)
    assert (outside / MANIFEST).exists()
    assert len(list(outside.iterdir())) == 2


def test_a_damaged_manifest_beside_it_does_not_keep_a_checkpoint_from_being_sealed(stored, caplog):
    given = stored("sft")
    directory = output(given).checkpoints
    shutil.copytree(directory / "checkpoint-3", directory / "checkpoint-2")
    flipped(directory / "checkpoint-2" / MANIFEST, None)
    checkpoint.rotate(directory, keep=1)
    verify(directory / "checkpoint-3")
    assert "checkpoint-2" in caplog.text


def test_of_two_checkpoints_a_damaged_one_leaves_the_other(disturb, tmp_path):
    """A real attempt, which goes on from the one before and ends as ever."""
    case, whole = disturb("sft")
    given = case.order(tmp_path / "runs", keepCheckpoints=2)
    undisturbed.goes_on(case, given, whole)
    shutil.rmtree(output(given).final)
    flipped(output(given).checkpoints / "checkpoint-3" / "optimizer.pt", None)
    undisturbed.goes_on(case, again(given), whole)
    assert (output(given).checkpoints / "damaged-checkpoint-3").is_dir()
    assert ErrorCode.CHECKPOINT_INVALID.retryable is False
