"""Both training stages on one GPU: bf16, DeepSpeed, a vLLM engine that sleeps. Run where one is."""

import importlib.util
import math

import pytest
import torch
from stage_attempts import here, lines, losses, order
from vllm_model import vllm_model

from coldstart.engine import vllm_mistake

__all__ = ["vllm_model"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

ON_GPU = {
    "resources": {"gpusPerNode": 1},
    "precision": "bf16",
    "gradientCheckpointing": True,
    "maxSteps": 2,
    "saveSteps": 2,
}


def last(given, name):
    """The newest value of a metric."""
    return [line["values"][name] for line in lines(given) if name in line["values"]][-1]


def assert_trained(given):
    found = losses(given)
    assert sorted(found) == [1, 2]
    assert all(math.isfinite(number) for values in found.values() for number in values[:2])
    assert 0 <= last(given, "packed_selfcheck_nats") <= 0.05
    assert last(given, "gpu_memory_peak_bytes") > 0


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_plain(tiny_model, tiny_rows, tmp_path, stage):
    given = order(stage, tmp_path / "runs", tiny_model, tiny_rows, **ON_GPU)
    here(given)
    assert_trained(given)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="no deepspeed")
@pytest.mark.parametrize("parallelism", [{"zero": 2}, {"zero": 3, "offload": True}])
def test_deepspeed(tiny_model, tiny_rows, tmp_path, parallelism):
    given = order(
        "grpo", tmp_path / "runs", tiny_model, tiny_rows, parallelism=parallelism, **ON_GPU
    )
    here(given)
    assert_trained(given)


@pytest.mark.skipif(bool(vllm_mistake()), reason=vllm_mistake() or "vLLM is there")
def test_an_engine_that_sleeps(vllm_model, tiny_rows, tmp_path):
    rollout = {"engine": "vllm", "sleep": True, "gpuMemoryUtilization": 0.3}
    given = order("grpo", tmp_path / "runs", vllm_model, tiny_rows, rollout=rollout, **ON_GPU)
    here(given)
    assert_trained(given)
    assert last(given, "sampler_logp_diff_mean") < 0.3
