"""run.yaml at the edge: what is accepted, what is refused, and in which words."""

import json
from pathlib import Path

import pytest
import yaml

from coldstart.run import ReasoningRun, RunSpec
from coldstart.runfile import RunFileError, load
from coldstart.spec import Stage

GOOD = {
    "apiVersion": "coldstart.dev/v1alpha1",
    "kind": "ReasoningRun",
    "metadata": {"name": "r"},
    "spec": {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "sft.jsonl"}},
        "grpo": {"dataset": {"name": "rl.jsonl"}},
        "evaluation": {"benchmarks": [{"dataset": {"name": "test.jsonl"}}]},
    },
}


def changed(path: str, value) -> dict:
    """The good document with one field set, or removed where the value is `...`."""
    document = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    node = document
    for key in parents:
        node = node.setdefault(key, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return document


def loaded(tmp_path: Path, document) -> ReasoningRun:
    path = tmp_path / "run.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load(path)


def mistakes(tmp_path: Path, document) -> str:
    with pytest.raises(RunFileError) as error:
        loaded(tmp_path, document)
    return str(error.value)


def test_a_good_file_gives_the_stages_in_order(tmp_path):
    run = loaded(tmp_path, GOOD)
    assert run.spec.stages == (Stage.SFT, Stage.GRPO, Stage.EVALUATION)
    assert run.spec.evaluated == ("base", "sft", "grpo")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.sft.epoch", 3, "spec.sft.epoch: unknown key; did you mean epochs?"),
        ("spec.sft.learning_rate", 1e-5, "unknown key; did you mean learningRate?"),
        ("spec.sft.dataset.columns.image", "x", "columns.image: unknown key; did you mean images?"),
        (
            "spec.evaluation.responseKinds",
            [{"name": "a", "pattern": "b", "patern": "c"}],
            "did you mean pattern?",
        ),
        (
            "spec.evaluation.responseKinds",
            [{"name": "a", "pattern": "b", "patern": "c"}],
            "pattern?",
        ),
        ("spec.zebra", 1, "spec.zebra: unknown key"),
        ("spec.sft.epochs", 0, "spec.sft.epochs: should be greater than 0 (is 0)"),
        ("spec.sft.epochs", "three", "spec.sft.epochs: should be a valid number"),
        ("spec.sft.learningRate", float("nan"), "spec.sft.learningRate: should be"),
        ("spec.sft.dataset", ..., "spec: sft.dataset is required where no distill makes the rows"),
        ("spec.grpo.dataset", ..., "spec.grpo.dataset: is required"),
        ("spec.sft.freeze", ["eyes"], "spec.sft.freeze[0]: should be 'vision'"),
        ("spec.sft.freeze", ["vision", "aligner", "language"], "nothing would be trained"),
        ("spec.sft.microBatchSize", 7, "batchSize 64 is not a multiple of microBatchSize"),
        ("spec.sft.gate", {"minAccuracy": 1.5}, "spec.sft.gate.minAccuracy: should be less"),
        ("spec.grpo.groupSize", 1, "spec.grpo.groupSize: should be greater than or equal to 2"),
        ("spec.grpo.promptsPerStep", 7, "promptsPerStep 7 is not a multiple of updatesPerStep 4"),
        ("spec.grpo.microBatchSize", 7, "is not a multiple of microBatchSize x processes = 7 x 1"),
        ("spec.grpo.rewards", [{"name": "accuracy"}] * 2, "names a reward twice"),
        ("spec.grpo.rewards", [{"name": "os; rm"}], "spec.grpo.rewards[0].name: String should"),
        ("spec.grpo.rewards", [], "spec.grpo.rewards: "),
        ("spec.grpo.from", {"run": "other"}, "but this run has its own sft"),
        (
            "spec.evaluation.checkpoints",
            ["sft", "ppo"],
            "spec: evaluation.checkpoints names ppo, but this run has no such stage and no such",
        ),
        ("spec.evaluation.responseKinds", [{"name": "a", "pattern": "("}], "not a regular"),
        ("spec.conversation", {"minPixels": 9000, "maxPixels": 8000}, "minPixels must not be"),
        ("spec.model", ..., "spec.model: is required"),
        ("spec.preset", "paper-70b", "paper-70b"),
        ("metadata.name", "A", "metadata.name: String should match"),
        ("metadata.name", "a" * 41, "metadata.name: String should have at most 40"),
        ("kind", "Run", "kind: should be 'ReasoningRun' (is 'Run')"),
        ("status", {"phase": 1}, "status.phase: should be a valid string"),
    ],
)
def test_each_mistake_names_its_field_and_what_it_may_be(tmp_path, path, value, message):
    document = changed(path, value)
    text = mistakes(tmp_path, document)
    assert message in text
    assert text.startswith(f"{tmp_path}/run.yaml: ")
    assert len(text.splitlines()) <= 2


def test_all_mistakes_are_told_at_once(tmp_path):
    document = changed("spec.sft.epochs", 0)
    document["spec"]["grpo"]["groupSize"] = 0
    assert len(mistakes(tmp_path, document).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be a mapping, is a list"),
        ("just words", "must be a mapping, is a str"),
        ("", "holds 0 documents"),
        (yaml.safe_dump(GOOD) + "---\n" + yaml.safe_dump(GOOD), "holds 2 documents"),
        ("a: [1,\n", "is not YAML"),
        ("a: 1\na: 2\n", "the key 'a' is there twice"),
        ("a: !!python/object/apply:os.system [true]\n", "is not YAML"),
        ("spec: {}\n", "apiVersion: is required"),
    ],
)
def test_what_is_no_run_file_is_refused(tmp_path, text, message):
    assert message in mistakes(tmp_path, text)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(RunFileError, match="cannot be read: No such file"):
        load(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunFileError, match="is not UTF-8"):
        load(tmp_path / "binary.yaml")


def test_no_stage_at_all_is_refused(tmp_path):
    document = changed("spec", {"model": {"name": "m"}})
    assert "spec: has no stage" in mistakes(tmp_path, document)


def test_a_gate_on_the_probe_needs_a_probe(tmp_path):
    gate = {"dataset": {"name": "d"}, "gate": {"minAccuracy": 0.1}}
    assert "probe.size is 0" in mistakes(
        tmp_path, changed("spec.sft", gate | {"probe": {"size": 0}})
    )
    assert "heldOut is 0" in mistakes(tmp_path, changed("spec.sft", gate | {"heldOut": 0}))


def test_the_resolved_document_reads_back_as_the_same_run(tmp_path):
    run = loaded(tmp_path, changed("spec.preset", "paper-7b"))
    assert ReasoningRun.parse(run.document()) == run


def test_every_field_has_a_docstring():
    def models(model, seen):
        seen.add(model)
        for info in model.model_fields.values():
            for inner in _inner(info.annotation):
                if inner not in seen:
                    models(inner, seen)
        return seen

    bare = [
        f"{model.__name__}.{name}"
        for model in models(ReasoningRun, set())
        for name, info in model.model_fields.items()
        if not info.description
    ]
    assert bare == []
    assert RunSpec in models(ReasoningRun, set())


def _inner(annotation):
    from typing import get_args

    from coldstart.schema import Contract

    if isinstance(annotation, type) and issubclass(annotation, Contract):
        yield annotation
    for argument in get_args(annotation):
        yield from _inner(argument)
