"""The SFT stage on the tiny model, in this process: what it trains, writes, reports and refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from stage_attempts import again, here, lines, losses, order

from coldstart.checkpoint import read_manifest, verify
from coldstart.layout import output
from coldstart.stage import PINNED
from coldstart.status import ErrorCode
from coldstart_trainer.data import DataError
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.model import part_of


@pytest.fixture(scope="module")
def trained(tiny_model, tiny_rows, tmp_path_factory):
    """One whole stage, every checkpoint kept: the order and the result."""
    storage = tmp_path_factory.mktemp("sft") / "runs"
    given = order("sft", storage, tiny_model, tiny_rows, evalSteps=5, keepCheckpoints=100)
    return given, here(given)


def changed_parts(before, after):
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    assert set(old) == set(new)
    return {part_of(name) for name in old if not torch.equal(old[name], new[name])}


def test_it_ends_with_a_whole_checkpoint_of_the_right_length(trained, tiny_model):
    given, result = trained
    final = output(given).final
    manifest = verify(final, result.checkpoint.digest)
    assert result.error is None
    assert result.checkpoint.step == manifest.step == 12
    assert manifest.final
    assert manifest.metrics == result.metrics
    (entry,) = manifest.datasets
    assert entry.rows == 24
    assert changed_parts(tiny_model, final) == {"aligner", "language"}


def test_it_reports_loss_and_probe(trained):
    given, result = trained
    found = losses(given)
    assert sorted(found) == list(range(1, 13))
    assert found[12][0] < found[1][0] / 1.5
    assert {"loss", "eval_loss", "token_accuracy_ratio", "probe_accuracy"} <= set(result.metrics)
    assert result.metrics["probe_n"] == 2
    assert found[12][0] < result.metrics["loss"] < found[1][0]
    phases = list(dict.fromkeys(line["phase"] for line in lines(given)))
    assert phases == ["train", "save", "probe"]
    assert {line["total"] for line in lines(given) if line["phase"] == "train"} == {12}
    evaluated = [line["done"] for line in lines(given) if "eval_loss" in line["values"]]
    assert evaluated == [5, 10, 12]


def test_the_loss_is_on_the_response_only(tiny_model, tiny_rows, tmp_path, monkeypatch):
    seen = []
    from coldstart_trainer import sft

    original = sft.Trainer.compute_loss

    def compute_loss(self, model, inputs, *rest, **more):
        seen.append((inputs["input_ids"].clone(), inputs["labels"].clone()))
        return original(self, model, inputs, *rest, **more)

    monkeypatch.setattr(sft.Trainer, "compute_loss", compute_loss)
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, maxSteps=1, probe={"size": 0})
    here(given)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for ids, labels in seen:
        for row, label in zip(ids, labels, strict=True):
            learnt = tokenizer.decode(row[label != -100])
            assert learnt.startswith("I read ")
            assert learnt.rstrip("\n").endswith("}.<|im_end|>")
            assert "sum of the digits?" in tokenizer.decode(row[label == -100])


@pytest.mark.slow
def test_from_any_checkpoint_it_goes_on_as_if_never_stopped(trained, tmp_path):
    given, result = trained
    for step in (2, 6, 8, 12):
        storage = tmp_path / str(step)
        copy = output(given).checkpoints / f"checkpoint-{step}"
        resumed = again(given, storage=str(storage))
        target = output(resumed).checkpoints / copy.name
        target.parent.mkdir(parents=True)
        shutil.copytree(copy, target)
        second = here(resumed)
        rest = {update: values for update, values in losses(given).items() if update > step}
        assert losses(resumed) == rest
        assert second.checkpoint.step == 12
        # Each attempt checks its own first update; what it finds is rounding.
        numbers, expected = (
            {name: value for name, value in each.items() if "selfcheck" not in name}
            for each in (second.metrics, result.metrics)
        )
        assert numbers == pytest.approx(expected)
        assert not changed_parts(output(given).final, output(resumed).final)


def test_only_the_newest_are_kept_and_the_pinned(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, maxSteps=4, probe={"size": 0})
    here(given)
    checkpoints = output(given).checkpoints
    (checkpoints / "checkpoint-2" / PINNED).touch()
    longer = given.spec.sft.model_copy(update={"max_steps": None})
    here(again(given, spec=given.spec.model_copy(update={"sft": longer})))
    found = sorted(path.name for path in checkpoints.iterdir())
    assert found == [
        "checkpoint-10",
        "checkpoint-12",
        "earlier-checkpoint-2",
        "earlier-checkpoint-4",
    ]
    assert read_manifest(checkpoints / "earlier-checkpoint-2").step == 2


def test_a_loss_that_is_no_number_stops_before_it_is_learnt(
    tiny_model, tiny_rows, tmp_path, monkeypatch
):
    from coldstart_trainer import sft

    original = sft.Trainer.compute_loss

    def compute_loss(self, *inputs, **more):
        loss = original(self, *inputs, **more)
        return loss * float("nan") if self.state.global_step == 4 else loss

    monkeypatch.setattr(sft.Trainer, "compute_loss", compute_loss)
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows)
    with pytest.raises(
        StageFailure, match=r"norm is nan in update 5: lower spec\.sft\.learning"
    ) as it:
        here(given)
    assert it.value.code is ErrorCode.NON_FINITE
    assert not output(given).final.exists()
    newest = output(given).checkpoints / "checkpoint-4"
    assert all(value.isfinite().all() for value in load_file(newest / "model.safetensors").values())


def test_an_infinite_loss_stops_it_though_its_gradient_is_finite_and_nothing_is_logged(
    tiny_model, tiny_rows, tmp_path, monkeypatch
):
    from coldstart_trainer import sft

    original = sft.Trainer.compute_loss

    def compute_loss(self, *inputs, **more):
        loss = original(self, *inputs, **more)
        return loss + float("inf") if self.state.global_step == 4 else loss

    monkeypatch.setattr(sft.Trainer, "compute_loss", compute_loss)
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, logSteps=100)
    with pytest.raises(StageFailure, match=r"the loss is inf in update 5: lower spec\.sft") as it:
        here(given)
    assert it.value.code is ErrorCode.NON_FINITE
    newest = max(output(given).checkpoints.iterdir(), key=lambda path: path.name)
    assert verify(newest).step == 4


def test_in_bf16_with_gradient_checkpointing(tiny_model, tiny_rows, tmp_path):
    """Computed in bf16, kept and saved in fp32."""
    section = {"precision": "bf16", "gradientCheckpointing": True, "maxSteps": 3}
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    exact = order("sft", tmp_path / "exact", tiny_model, tiny_rows, maxSteps=3)
    here(given)
    here(exact)
    for update, (loss, _, _) in losses(given).items():
        assert loss == pytest.approx(losses(exact)[update][0], rel=0.01)
        assert loss != losses(exact)[update][0]
    saved = load_file(output(given).final / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({"dataset": {"name": "gone.jsonl"}}, DataError, "spec.sft.dataset.name"),
        (
            {"probe": {"dataset": {"name": "gone.jsonl"}}},
            DataError,
            "spec.sft.probe.dataset.name",
        ),
        ({"trainerArgs": {"no_such": 1}}, StageFailure, "spec.sft.trainerArgs.no_such"),
    ],
)
def test_what_is_wrong_is_said_before_training(
    tiny_model, tiny_rows, tmp_path, section, error, message
):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    with pytest.raises(error, match=message):
        here(given)
    assert not any(line["phase"] == "train" for line in lines(given))


def test_a_manifest_of_a_running_checkpoint_has_the_numbers_so_far(trained):
    given, _ = trained
    manifest = read_manifest(output(given).checkpoints / "checkpoint-4")
    state = json.loads((output(given).checkpoints / "checkpoint-4/trainer_state.json").read_text())
    assert state["global_step"] == manifest.step == 4
    assert manifest.metrics["learning_rate"] == state["log_history"][-1]["learning_rate"]
