"""Fixtures: a tiny untrained Qwen2.5-VL and a few rows with pictures, made by code."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

# Set before torch is imported: beside a busy neighbour two threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
ROWS = 24


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The directory of the quickstart's model before its pre-training; random, made in seconds."""
    sys.path.insert(0, str(QUICKSTART))
    try:
        import tiny_model as recipe
    finally:
        sys.path.remove(str(QUICKSTART))
    directory = tmp_path_factory.mktemp("tiny-model")
    processor = recipe.built_processor(0)
    recipe.built_model(processor.tokenizer, 0).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory) -> Path:
    """`rows.jsonl` with a picture beside it per row; `rows.parquet` next to it holds the same."""
    import datasets

    directory = tmp_path_factory.mktemp("tiny-rows")
    rows = []
    for number in range(ROWS):
        name = f"{number}.png"
        (directory / name).write_bytes(png(28 * (1 + number % 3), 28, number))
        rows.append(
            {
                "id": f"q{number}",
                "images": [name],
                "problem": "What is the sum of the digits?",
                "answer": str(number),
                "response": f"I read {number}. The sum is \\boxed{{{number}}}.",
            }
        )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "rows.jsonl").write_text(lines)
    features = datasets.Features(
        {key: datasets.Value("string") for key in rows[0]}
        | {"images": datasets.List(datasets.Image())}
    )
    embedded = [
        row | {"images": [{"bytes": (directory / row["images"][0]).read_bytes(), "path": None}]}
        for row in rows
    ]
    datasets.Dataset.from_list(embedded, features=features).to_parquet(directory / "rows.parquet")
    return directory / "rows.jsonl"


def png(width: int, height: int, seed: int = 0, mode: str = "RGB") -> bytes:
    """A picture of coloured noise."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()
