"""What every test of the trainer starts from: the tiny model, its processor, rows, pictures."""

import pytest
from tiny import (
    png,
    tiny_model,
    tiny_qwen2,
    tiny_qwen3,
    tiny_qwen3_vl,
    tiny_rows,
    tiny_texts,
)

__all__ = [
    "tiny_model",
    "tiny_qwen2",
    "tiny_qwen3",
    "tiny_qwen3_vl",
    "tiny_rows",
    "tiny_texts",
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep what `datasets` caches out of the user's home."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def conversation():
    """Lengths and pixels that suit the tiny model."""
    from coldstart.spec import Conversation

    return Conversation(
        min_pixels=784, max_pixels=16 * 784, max_prompt_tokens=200, max_completion_tokens=40
    )


@pytest.fixture(scope="session")
def processor(tiny_model, conversation):
    from coldstart_trainer.model import load_processor

    return load_processor(tiny_model, conversation)


@pytest.fixture(scope="session")
def picture():
    """The function that makes a picture: width, height, seed -> PNG bytes."""
    return png
