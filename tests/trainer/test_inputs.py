"""What an order's models must be before torch is imported: each broken once."""

import json
import shutil
import subprocess
import sys
import threading

import pytest
from stage_attempts import order

from coldstart.checkpoint import CheckpointError, manifest_digest
from coldstart.layout import output
from coldstart.stage import MANIFEST
from coldstart.status import ErrorCode
from coldstart_trainer import checkpoint, inputs
from coldstart_trainer.architecture import ModelError
from coldstart_trainer.inputs import resolve


@pytest.fixture
def base(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "base")


@pytest.fixture
def final(base, tmp_path):
    """A finished SFT checkpoint whose weights are those of the base model."""
    given = order("sft", tmp_path / "runs", base, "rows.jsonl")
    layout = output(given)
    shutil.copytree(base, layout.root / "final.partial")
    (source,) = resolve(given)
    origin = checkpoint.Origin(given, source, ())
    checkpoint.finish(layout.root / "final.partial", layout, origin, 12, {"loss": 1.0})
    return layout.final


def grpo_from(final, base, tmp_path, **changes):
    taken = {"name": "sft", "location": "run/sft/final", "digest": manifest_digest(final)}
    return order("grpo", tmp_path / "runs", base, "rows.jsonl", inputs=[taken], **changes)


def refusal(given, **how):
    with pytest.raises((CheckpointError, ModelError)) as caught:
        resolve(given, **how)
    return caught.value.code, str(caught.value)


def test_a_base_model_beside_the_run_file(base, tmp_path):
    (found,) = resolve(order("sft", tmp_path / "runs", base, "rows.jsonl"))
    assert found.directory == base
    assert found.digest is None
    assert found.manifest is None


def test_a_name_is_relative_to_the_working_directory(base, tmp_path):
    given = order("sft", tmp_path / "runs", "base", "rows.jsonl")
    (found,) = resolve(given.model_copy(update={"workdir": str(tmp_path)}))
    assert found.directory == base


def test_a_checkpoint_of_the_storage(final, base, tmp_path):
    (found,) = resolve(grpo_from(final, base, tmp_path))
    (start,) = resolve(order("sft", tmp_path / "runs", base, "rows.jsonl"))
    assert found.directory == final
    assert found.manifest.step == 12
    assert found.fingerprints == start.fingerprints


def test_the_names_of_what_the_base_model_may_not_be(base, tmp_path):
    config = base / "config.json"
    original = config.read_text()
    given = order("sft", tmp_path / "runs", base, "rows.jsonl")
    config.write_text(json.dumps({"model_type": "llama"}))
    assert refusal(given)[0] is ErrorCode.MODEL_INVALID
    assert "'llama' is not supported" in refusal(given)[1]
    config.unlink()
    assert "no config.json" in refusal(given)[1]
    config.write_text(original)
    (base / "model.safetensors").unlink()
    assert "no *.safetensors" in refusal(given)[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "spec.model.name: there is no directory"),
        ("./no/where", "spec.model.name: there is no directory"),
        ("/no/where", "spec.model.name: there is no directory"),
        ("org/model", "spec.model.name: 'org/model' cannot be fetched from the hub"),
    ],
)
def test_a_base_model_that_is_not_there(tmp_path, name, message):
    code, said = refusal(order("sft", tmp_path / "runs", name, "rows.jsonl"))
    assert code is ErrorCode.MODEL_INVALID
    assert message in said


def test_a_base_model_from_the_hubs_cache(tiny_model, tmp_path, monkeypatch):
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    given = order("sft", tmp_path / "runs", "org/tiny", "rows.jsonl")
    pinned = [item.model_copy(update={"revision": commit}) for item in given.inputs]
    (found,) = resolve(given.model_copy(update={"inputs": tuple(pinned)}))
    assert found.directory == repository / "snapshots" / commit


@pytest.mark.fault(36)
def test_a_checkpoint_that_was_torn(final, base, tmp_path):
    given = grpo_from(final, base, tmp_path)
    with (final / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)
    code, said = refusal(given)
    assert code is ErrorCode.CHECKPOINT_INVALID
    assert "has 1000 bytes" in said


@pytest.mark.fault(36)
def test_a_checkpoint_that_was_tampered_with(final, base, tmp_path):
    given = grpo_from(final, base, tmp_path)
    weights = final / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, said = refusal(given)
    assert code is ErrorCode.CHECKPOINT_INVALID
    assert "SHA-256" in said


@pytest.mark.fault(36)
def test_a_checkpoint_that_was_replaced(final, base, tmp_path):
    given = grpo_from(final, base, tmp_path)
    document = json.loads((final / MANIFEST).read_bytes())
    del document["checksum"]
    (final / MANIFEST).write_text(json.dumps(document | {"step": 13}))
    for hashes in (True, False):
        assert refusal(given, hashes=hashes)[0] is ErrorCode.CHECKPOINT_MISMATCH


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("name", "words"), [(MANIFEST, "holds no coldstart.json"), ("config.json", "is missing")]
)
def test_a_checkpoint_that_is_not_there(final, base, tmp_path, monkeypatch, name, words):
    monkeypatch.setenv(inputs.IN_A_POD, "10.0.0.1")
    monkeypatch.setattr(inputs, "APPEARS_SECONDS", 0.1)
    monkeypatch.setattr(inputs, "_LOOK_SECONDS", 0.01)
    given = grpo_from(final, base, tmp_path)
    (final / name).unlink()
    code, said = refusal(given)
    assert code is ErrorCode.CHECKPOINT_INVALID
    assert words in said


@pytest.mark.fault(37)
@pytest.mark.parametrize("late", ["final", f"final/{MANIFEST}", "final/model.safetensors"])
def test_a_checkpoint_that_a_pod_sees_late_is_waited_for(final, base, tmp_path, monkeypatch, late):
    monkeypatch.setenv(inputs.IN_A_POD, "10.0.0.1")
    given = grpo_from(final, base, tmp_path)
    path = final.parent / late
    hidden = path.rename(final.parent / "not-yet")
    threading.Timer(1.0, hidden.rename, [path]).start()
    (found,) = resolve(given)
    assert found.directory == final


@pytest.mark.fault(36)
def test_a_checkpoint_of_another_base_model(final, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    code, said = refusal(grpo_from(final, other, tmp_path))
    assert code is ErrorCode.CHECKPOINT_MISMATCH
    assert said.startswith("spec.model: ")
    assert "'run'" in said


def test_a_checkpoint_of_a_base_model_that_changed_since(final, base, tmp_path):
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").write_text(json.dumps(config | {"note": "edited"}))
    code, said = refusal(grpo_from(final, base, tmp_path))
    assert code is ErrorCode.CHECKPOINT_MISMATCH
    assert said.startswith("spec.model: ")


@pytest.mark.fault(36)
def test_a_checkpoint_of_another_conversation(final, base, tmp_path):
    given = grpo_from(final, base, tmp_path, conversation={"suffix": " Think."})
    code, said = refusal(given)
    assert code is ErrorCode.CHECKPOINT_MISMATCH
    assert said.startswith("spec.conversation: ")
    assert "suffix" in said


def test_an_input_whose_stage_has_not_finished(base, tmp_path):
    waiting = [{"name": "sft", "location": "run/sft/final"}]
    given = order("grpo", tmp_path / "runs", base, "rows.jsonl", inputs=waiting)
    assert refusal(given)[0] is ErrorCode.INVALID_ORDER


def test_another_process_only_looks_at_the_manifest(final, base, tmp_path):
    given = grpo_from(final, base, tmp_path)
    with (final / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    (found,) = resolve(given, hashes=False)
    assert found.directory == final


def test_torch_is_not_needed():
    code = (
        "import sys, coldstart_trainer.__main__; "
        "sys.exit(bool({'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def referring(given, models, **inputs):
    """The order with an evaluation of models that have nothing to do with the run's own."""
    benchmark = {"name": "b", "dataset": {"name": "rows.jsonl"}}
    references = [{"name": name, "model": str(model)} for name, model in models.items()]
    spec = given.spec.document() | {
        "evaluation": {"benchmarks": [benchmark], "references": references}
    }
    taken = [{"name": name, "location": str(model)} for name, model in models.items()]
    changed = {"stage": "evaluation", "spec": spec, "inputs": taken}
    return type(given).parse(given.document() | changed)


def test_a_reference_is_any_model_by_path(final, base, tiny_qwen3, tmp_path, caplog):
    """Verified where there is a manifest, whatever base model and conversation it has."""
    short = {"maxCompletionTokens": 8}
    given = order("sft", tmp_path / "runs", tiny_qwen3, "rows.jsonl", conversation=short)
    ours, plain = resolve(referring(given, {"ours": final, "plain": base}))
    assert (ours.name, ours.directory, ours.digest) == ("ours", final, manifest_digest(final))
    assert ours.manifest.step == 12
    assert (plain.name, plain.directory, plain.digest) == ("plain", base, None)
    assert plain.fingerprints.base_model == ours.fingerprints.base_model
    assert f"{final} was trained with another conversation" in caplog.text


def test_a_reference_that_is_damaged_or_absent_is_named(final, base, tmp_path):
    given = order("sft", tmp_path / "runs", base, "rows.jsonl")
    referred = referring(given, {"ours": final})
    (final / "model.safetensors").write_bytes(b"torn")
    code, said = refusal(referred)
    assert (code, "it is torn" in said) == (ErrorCode.CHECKPOINT_INVALID, True)
    (final / MANIFEST).unlink()
    (final / "model.safetensors").unlink()
    code, said = refusal(referred)
    assert code is ErrorCode.MODEL_INVALID
    assert said.startswith("spec.evaluation.references (ours).model: ")
    assert (
        "spec.evaluation.references (gone).model: there is no directory"
        in (refusal(referring(given, {"gone": "nowhere"}))[1])
    )
