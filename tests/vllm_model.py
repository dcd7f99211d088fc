"""What the tests that need vLLM share: their marks, and the tiny model as vLLM loads it."""

import importlib.util
import json
import shutil

import pytest

DIGITS_BY_VLLM = {
    "benchmarks": [{"name": "digits", "dataset": {"name": "rows.jsonl"}}],
    "resources": {"gpusPerNode": 0},
    "precision": "fp32",
    "engine": "vllm",
    "concurrency": 4,
}
"""An evaluation of the tiny rows; how it decodes is left to say."""

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
    ),
]


@pytest.fixture(scope="module")
def vllm_model(tiny_model, tmp_path_factory):
    """The tiny model as vLLM loads it."""
    directory = tmp_path_factory.mktemp("vllm") / "model"
    return with_video_settings(tiny_model, directory, "Qwen2VLVideoProcessor")


def with_video_settings(model, directory, kind):
    """A copy of a model with the settings of its processor's video half, which vLLM asks for."""
    shutil.copytree(model, directory)
    settings = json.dumps({"video_processor_type": kind})
    (directory / "video_preprocessor_config.json").write_text(settings)
    return directory
