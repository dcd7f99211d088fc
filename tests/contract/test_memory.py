"""What each GPU will hold: shapes, estimates, refusals and the settings that would fit."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from coldstart import preset
from coldstart.cli import main
from coldstart.memory import estimate, fit, forecast, quantity, shapes
from coldstart.memory.quantity import GIB
from coldstart.run import ReasoningRun

SEVEN = shapes.shape(shapes.published()["Qwen/Qwen2.5-VL-7B-Instruct"])
BENCHMARKS = [{"name": "a", "dataset": {"name": "org/d"}}]


def document(model=None, **spec):
    named = {"model": {"name": model}} if model else {}
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": "r"},
        "spec": {"preset": "paper-7b", **named, **spec},
    }


def stage(name, section, *, model=None, **spec):
    run = ReasoningRun.parse(preset.resolve(document(model, **{name: section}, **spec)))
    shape = shapes.shape(shapes.published()[run.spec.model.name])
    return estimate.stage(getattr(run.spec, name), shape, run.spec.conversation)


def part(of, phase, name):
    (found,) = [item for item in of.phases if item.name == phase]
    return found.parts.get(name, 0)


def test_published_counts():
    """As the hub gives them for the files of these models."""
    counts = {
        "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
        "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
        "Qwen/Qwen2.5-VL-72B-Instruct": 73_410_777_344,
        "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
        "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
        "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    }
    assert {name: shapes.shape(shapes.published()[name]).parameters for name in counts} == counts


def test_the_presets_models_are_known():
    names = {preset.load(name)["model"]["name"] for name in preset.names()}
    assert names <= set(shapes.published())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "holds no mapping"),
        ("{", "cannot be read"),
        ('{"model_type": "llama"}', "models of type llama are not estimated"),
        ('{"model_type": ["qwen2"]}', r"models of type \['qwen2'\] are not estimated"),
        ('{"model_type": "qwen2"}', "hidden_size must be a whole number above 0"),
        ('{"model_type": "qwen2", "hidden_size": true}', "hidden_size must be a whole number"),
        ('{"model_type": "qwen2_5_vl", "text_config": 7}', "text_config must be a mapping"),
    ],
)
def test_a_config_that_says_no_shape_is_named(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(shapes.ShapeError, match=message):
        shapes.known(".", tmp_path)


def test_a_local_directory_goes_before_the_published_shape(tmp_path):
    name = "Qwen/Qwen3-0.6B"
    (tmp_path / name).mkdir(parents=True)
    config = shapes.published()["Qwen/Qwen3-1.7B"]
    (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert shapes.known(name, tmp_path) == shapes.shape(config)
    assert shapes.known(name, tmp_path / "elsewhere") != shapes.shape(config)


def test_states_of_the_papers_sft():
    """ZeRO-2 on four GPUs, the tower frozen: each number by hand."""
    found = stage("sft", {})
    total, trained = 8_292_166_656, 8_292_166_656 - SEVEN.parts["vision"]
    assert part(found, "backward", "weights") == 2 * total
    assert part(found, "backward", "optimizer states") == 12 * (trained // 4)
    assert part(found, "backward", "gradients") == 2 * (trained // 4) + 2 * 500_000_000
    assert part(found, "backward", "reference model") == 0
    assert part(found, "backward", "pixels") == 1536 * 4 * 1176 * 4
    # No checkpoint keeps less than 28 inputs of layers, of 4,096 tokens each, in bf16.
    assert part(found, "backward", "activations") > 28 * 4096 * 3584 * 2


def test_states_without_deepspeed_are_those_of_adamw_in_fp32():
    one = stage("sft", {"parallelism": {"zero": 0}, "freeze": [], "resources": {"gpusPerNode": 1}})
    four = stage("sft", {"parallelism": {"zero": 0}, "freeze": []})
    total = 8_292_166_656
    assert part(one, "backward", "weights") == 4 * total
    assert part(one, "backward", "optimizer states") == 8 * total
    assert part(one, "backward", "gradients") == 4 * total
    assert part(four, "backward", "gradients") == 8 * total  # DistributedDataParallel's buckets


@pytest.mark.parametrize("offload", [False, True])
def test_each_zero_stage_holds_no_more_than_the_one_before(offload):
    peaks = []
    for zero in (1, 2, 3):
        section = {"parallelism": {"zero": zero, "offload": offload}}
        found = stage("grpo", section)
        peaks.append([phase.total for phase in found.phases if phase.name == "optimizer"])
    assert peaks == sorted(peaks, reverse=True)


def test_offload_moves_states_to_the_host():
    there, away = (
        stage("sft", {"parallelism": {"zero": 3, "offload": offload}}) for offload in (False, True)
    )
    assert part(away, "backward", "optimizer states") == part(away, "backward", "weights") == 0
    kept = 16 * (there.states.optimizer // 12) + there.states.weights
    assert away.host - there.host == pytest.approx(4 * kept, rel=1e-6)


def test_a_shared_prompt_is_counted_once_for_its_group():
    shared, apart = (stage("grpo", {"sharedPrompt": switch}) for switch in (True, False))
    assert shared._load(shared.spec).tokens == 2047 + 10 * 2048
    assert shared._load(shared.spec).seen == 2047 + 10 * (2047 + 2048)
    assert apart._load(apart.spec).tokens == 10 * 4096
    assert part(apart, "backward", "pixels") == 10 * part(shared, "backward", "pixels")
    assert part(apart, "backward", "activations") > part(shared, "backward", "activations")


def test_packed_rows_have_no_mask():
    packed, padded = (
        stage("sft", {"packing": switch, "microBatchSize": 2}) for switch in (True, False)
    )
    assert packed._load(packed.spec).masked == 0
    assert padded._load(padded.spec).masked == 2 * 4096**2


def test_a_reference_model_is_there_with_a_kl_term_alone():
    section = {"parallelism": {"zero": 2}}
    with_kl = stage("grpo", section)
    without = stage("grpo", section | {"loss": {"kl": 0}})
    assert part(with_kl, "backward", "reference model") == 2 * 8_292_166_656
    assert part(without, "backward", "reference model") == 0


def test_vllm_sleeps_during_the_update_unless_told_otherwise():
    asleep, awake = (stage("grpo", {"rollout": {"sleep": switch}}) for switch in (True, False))
    share = int(0.6 * 80 * GIB)
    assert part(asleep, "sampling", "vLLM") == part(awake, "sampling", "vLLM") == share
    assert part(asleep, "backward", "vLLM") < 2 * GIB
    assert part(awake, "backward", "vLLM") == share
    server = {"mode": "server", "serverUrl": "http://vllm:8000"}
    assert part(stage("grpo", {"rollout": server}), "sampling", "vLLM") == 0


def test_generate_holds_the_whole_model_and_all_completions_of_the_process():
    found = stage("grpo", {"rollout": {"engine": "transformers"}})
    assert part(found, "sampling", "copies of weights") == 2 * 8_292_166_656
    cache = 28 * 2 * 4 * 128 * 2 * 4096
    assert part(found, "sampling", "key-value cache") == 512 * 10 // 8 * cache


def test_evaluation_in_fp32_is_twice_as_wide():
    half, full = (
        stage("evaluation", {"benchmarks": BENCHMARKS, "precision": precision})
        for precision in ("bf16", "fp32")
    )
    for name in ("weights", "key-value cache"):
        assert part(full, "sampling", name) == 2 * part(half, "sampling", name)


def test_evaluation_by_vllm_holds_its_share_and_nothing_else():
    found = stage("evaluation", {"benchmarks": BENCHMARKS, **VLLM})
    assert part(found, "sampling", "vLLM") == int(0.9 * 80 * GIB)
    assert part(found, "sampling", "key-value cache") == 0


def test_a_model_of_text_has_no_pixels():
    found = stage("sft", {"freeze": []}, model="Qwen/Qwen3-1.7B")
    assert part(found, "backward", "pixels") == 0


def test_a_stage_on_the_cpu_is_never_refused_and_holds_no_cuda():
    section = {"resources": {"gpusPerNode": 0, "gpuMemory": "1Gi"}, "parallelism": {"zero": 0}}
    found = stage("sft", section)
    assert fit.refusal(found, "spec.sft") is None
    assert part(found, "backward", "CUDA and libraries") == 0


BIG = "resources.gpuMemory: a GPU of {} GiB cannot hold phase {!r}, which takes"
VLLM = {"engine": "vllm"}
MANY = {"gradientCheckpointing": False, "microBatchSize": 4}


@pytest.mark.parametrize(
    ("name", "section", "card", "problem", "advice"),
    [
        ("sft", MANY, 80, BIG.format("80.0", "backward"), "gradientCheckpointing: true ("),
        (
            "sft",
            {"parallelism": {"zero": 0}},
            80,
            BIG.format("80.0", "optimizer"),
            "parallelism.zero: 1 (",
        ),
        ("sft", {}, 40, BIG.format("40.0", "optimizer"), "parallelism.offload: true ("),
        (
            "sft",
            {},
            24,
            BIG.format("24.0", "optimizer"),
            "parallelism.zero: 3 and parallelism.offload: true (",
        ),
        ("grpo", {}, 20, BIG.format("20.0", "backward"), "microBatchSize: 5 ("),
        (
            "grpo",
            {"rollout": {"sleep": False, "gpuMemoryUtilization": 0.9}, "microBatchSize": 1},
            80,
            BIG.format("80.0", "probe"),
            "rollout.sleep: true (",
        ),
        (
            "grpo",
            {"rollout": {"gpuMemoryUtilization": 0.98}},
            80,
            BIG.format("80.0", "sampling"),
            "rollout.gpuMemoryUtilization: 0.95 (",
        ),
        (
            "grpo",
            {"rollout": {"gpuMemoryUtilization": 0.1}},
            80,
            "rollout.gpuMemoryUtilization: 8.0 GiB of a GPU's 80.0 GiB are too little for vLLM",
            "rollout.gpuMemoryUtilization: 0.15 (",
        ),
        (
            "grpo",
            {"rollout": {"engine": "transformers"}},
            80,
            BIG.format("80.0", "sampling"),
            "rollout.engine: vllm (",
        ),
        (
            "sft",
            {"parallelism": {"zero": 3, "offload": True}, "resources": {"gpusPerNode": 1}},
            8,
            BIG.format("8.0", "probe"),
            "take GPUs of 16 GiB, or shorten",
        ),
        (
            "evaluation",
            {"benchmarks": BENCHMARKS, "batchSize": 256},
            80,
            BIG.format("80.0", "sampling"),
            "batchSize: 42 (",
        ),
        (
            "evaluation",
            {"benchmarks": BENCHMARKS, **VLLM, "gpuMemoryUtilization": 0.2},
            80,
            "gpuMemoryUtilization: 16.0 GiB of a GPU's 80.0 GiB are too little for vLLM",
            "gpuMemoryUtilization: 0.25 (",
        ),
        (
            "evaluation",
            {"benchmarks": BENCHMARKS, **VLLM, "gpuMemoryUtilization": 0.99},
            80,
            BIG.format("80.0", "sampling"),
            "gpuMemoryUtilization: 0.95 (",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_nearest_setting_that_does(
    name, section, card, problem, advice
):
    found = replace(stage(name, section), card=card * GIB)
    refusal = fit.refusal(found, f"spec.{name}")
    assert refusal.startswith(f"spec.{name}.{problem}"), refusal
    assert advice in refusal, refusal
    remedy = fit.remedy(found)
    if remedy:
        assert fit.fits(remedy.stage)
        assert fit.refusal(remedy.stage, "") is None


def test_an_enormous_batch_is_answered_at_once():
    found = replace(stage("sft", {"microBatchSize": 10**8, "batchSize": 4 * 10**8}), card=80 * GIB)
    assert "it fits with microBatchSize: 1 (" in fit.refusal(found, "spec.sft")


def test_every_change_of_a_remedy_is_needed():
    found = replace(stage("sft", {}), card=24 * GIB)
    changes = fit.remedy(found).changes
    assert len(changes) > 1
    for change in changes:
        fewer = tuple(item for item in changes if item != change)
        assert not fit.fits(fit._changed(found, fewer))


def test_more_machines_are_the_last_resort():
    found = stage("sft", {"parallelism": {"zero": 3}}, model="Qwen/Qwen2.5-VL-72B-Instruct")
    found = replace(found, card=24 * GIB)
    remedy = fit.remedy(found)
    assert remedy is None or all("nodes" not in path for path, _ in remedy.changes[:-1])


def test_nothing_is_refused_where_the_gpus_size_is_not_known():
    found = stage("sft", {"resources": {"gpuMemory": None, "gpusPerNode": 1}})
    free = replace(found, card=None)
    assert fit.refusal(free, "spec.sft") is None
    assert fit.smallest_card(free) > 80 * GIB


@pytest.mark.parametrize(
    ("text", "size"), [("80Gi", 80 * GIB), ("79.6Gi", int(79.6 * GIB)), ("80G", 80 * 10**9)]
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text, size):
    assert quantity.parsed(text) == size


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(here, command, *options, **spec):
    (here / "run.yaml").write_text(yaml.safe_dump(document(**spec)))
    return CliRunner().invoke(main, [command, "run.yaml", *options])


def test_validate_shows_a_table_for_each_stage(here):
    result = call(here, "validate", sft={}, grpo={}, evaluation={"benchmarks": BENCHMARKS})
    assert result.exit_code == 0, result.stderr
    lines = result.output.splitlines()
    for name in ("sft", "grpo", "evaluation"):
        assert f"{name}: GiB in each GPU, at most" in lines
    assert "optimizer states" in result.output
    assert "fits GPUs of 80.0 GiB; smallest common one: 80 GiB" in lines
    assert lines[-1] == "run.yaml: valid: run 'r', sft -> grpo -> evaluation"


def test_validate_refuses_what_cannot_fit(here):
    result = call(here, "validate", sft=MANY)
    assert result.exit_code == 2
    assert result.stderr.startswith("run.yaml: spec.sft.resources.gpuMemory: a GPU of 80.0 GiB")
    assert "it fits with gradientCheckpointing: true" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "valid" not in result.stdout


def test_run_refuses_it_before_anything_is_written(here):
    result = call(here, "run", sft=MANY)
    assert result.exit_code == 2
    assert "spec.sft.resources.gpuMemory: a GPU of 80.0 GiB cannot hold" in result.stderr
    assert not (here / "runs").exists()


def test_validate_names_the_smallest_gpu_where_none_is_given(here):
    resources = {"gpusPerNode": 8}
    spec = {
        "preset": None,
        "sft": {"dataset": {"name": "org/d"}, "batchSize": 64, "resources": resources},
    }
    result = call(here, "validate", model="Qwen/Qwen2.5-VL-3B-Instruct", **spec)
    assert result.exit_code == 0, result.stderr
    assert "smallest common GPU that it fits: 80 GiB (resources.gpuMemory is not set)" in (
        result.output
    )


def test_an_unknown_model_is_valid_and_not_estimated(here):
    result = call(here, "validate", model="org/unheard-of", sft={})
    assert result.exit_code == 0
    assert "memory: not estimated: there is no" in result.output
    assert "the shape of org/unheard-of is not known" in result.output


def test_validate_prints_one_object_for_programs(here):
    result = call(here, "validate", "--json", sft={}, grpo={})
    memory = json.loads(result.stdout)["memory"]
    assert memory["sft"]["phases"]["backward"]["weights"] == 2 * 8_292_166_656
    assert memory["sft"]["refusal"] is None
    assert memory["grpo"]["gpuBytes"] == 80 * GIB
    refused = call(here, "validate", "--json", sft=MANY)
    assert refused.exit_code == 2
    assert "gradientCheckpointing" in json.loads(refused.stdout)["memory"]["sft"]["refusal"]


def test_the_forecast_of_a_run_has_its_stages_alone(tmp_path):
    run = ReasoningRun.parse(preset.resolve(document(sft={})))
    assert list(forecast(run.spec, tmp_path).stages) == ["sft"]


def test_the_guides_example_is_what_the_estimate_says():
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    (block,) = re.findall(
        r"```text\n(run\.yaml: spec\.sft\.resources\.gpuMemory.*?)```", guide, re.DOTALL
    )
    found = replace(stage("sft", {}), card=40 * GIB)
    assert " ".join(block.split()) == f"run.yaml: {fit.refusal(found, 'spec.sft')}"
