"""What reads files of models and data sets: parsers that need torch or its friends, as the others.

The model is the tests' tiny one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import hostile_server
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiny
import transformers
from hostile_parsers import Parser
from PIL import Image

from coldstart.dataset import Dataset
from coldstart.spec import Conversation
from coldstart_trainer import data, sources
from coldstart_trainer.architecture import ModelError
from coldstart_trainer.check.licences import _named
from coldstart_trainer.check.near import Problems
from coldstart_trainer.check.pictures import look, small_copy
from coldstart_trainer.check.rows import every
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.images import ImageError, facts
from coldstart_trainer.model import load_model, load_processor
from coldstart_trainer.plain import require_plain
from coldstart_trainer.sources import DataError

CONVERSATION = Conversation(
    min_pixels=784, max_pixels=16 * 784, max_prompt_tokens=200, max_completion_tokens=40
)
FIELD = "spec.sft.dataset"


class _Folders:
    """Makes folders as pytest's factory does."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def mktemp(self, name: str) -> Path:
        (self.root / name).mkdir(parents=True)
        return self.root / name


@cache
def _place() -> Path:
    """Where the tiny model is, and what `datasets` keeps; gone with the process."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    kept = tempfile.TemporaryDirectory()
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[Any] = []


@cache
def _model() -> Path:
    return tiny.tiny_model.__wrapped__(_Folders(_place() / "model"))


@cache
def _processor() -> Any:
    return load_processor(_model(), CONVERSATION)


def _pictured(home: Path) -> None:
    """A picture, one outside of the directory, and what looks like one."""
    (home / "1.png").write_bytes(tiny.png(28, 28))
    (home.parent / "secret.png").write_bytes(tiny.png(28, 28))
    os.mkfifo(home / "fifo")
    (home / "link").symlink_to("link")


def _modelled(home: Path) -> None:
    """A model's directory."""
    shutil.copytree(_model(), home / "model")


# Rows


def _json_rows() -> list[bytes]:
    row = {"problem": "What is 3 + 4?", "answer": "7", "response": "So \\boxed{7}.", "id": "a"}
    many = [row | {"id": n, "answer": n, "images": ["1.png"]} for n in range(3)]
    embedded = row | {"images": [{"bytes": None, "path": "1.png"}], "choices": ["7", "8"]}
    return [
        "\n".join(map(json.dumps, many)).encode(),
        json.dumps([row, embedded]).encode(),
        json.dumps(row | {"images": "secret.png"}).encode(),
    ]


def _load(home: Path, name: str, target: str = "response") -> object:
    cache = home / "cache"
    datasets.config.HF_DATASETS_CACHE = cache
    try:
        found = data.load(
            Dataset(name=name),
            target=target,  # type: ignore[arg-type]
            conversation=CONVERSATION,
            processor=_processor(),
            workdir=home,
            seed=1,
            field=FIELD,
        )
        return data.conversations(found.data, CONVERSATION)[:2]
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _rows(content: bytes, home: Path) -> object:
    (home / "rows.jsonl").write_bytes(content)
    return _load(home, "./rows.jsonl")


def _checked(content: bytes, home: Path) -> object:
    """The rows as `coldstart data check` looks at them."""
    (home / "rows.jsonl").write_bytes(content)
    source = sources.read(Dataset(name="./rows.jsonl"), ("problem",), home, FIELD)
    problems = Problems()
    for row in every(source):
        row.row_key, [look(value) for value in row.images]
        problems.add_text(row.asked)
    return problems


@cache
def _parquets() -> list[bytes]:
    png = tiny.png(28, 28)
    columns = {
        "problem": ["What?", "Who?"],
        "answer": ["1", "2"],
        "response": ["\\boxed{1}", "\\boxed{2}"],
        "images": [[{"bytes": png, "path": None}], [{"bytes": None, "path": "1.png"}]],
    }
    made = []
    plain = pa.table(columns)
    features = {"images": {"feature": {"_type": "Image"}, "_type": "List"}}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in list(columns)[:3]}
    named = plain.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    for table in (plain, named):
        stream = io.BytesIO()
        pq.write_table(table, stream, compression="none")
        made.append(stream.getvalue())
    return made


def _parquet(content: bytes, home: Path) -> object:
    (home / "rows.parquet").write_bytes(content)
    return _load(home, "./rows.parquet")


def _features(content: bytes, home: Path) -> object:
    """A good file whose metadata for `datasets` is foreign."""
    table = pq.read_table(io.BytesIO(_parquets()[0]))
    pq.write_table(table.replace_schema_metadata({"huggingface": content}), home / "rows.parquet")
    return _load(home, "./rows.parquet")


def _feature_seeds() -> list[bytes]:
    metadata = pq.read_schema(io.BytesIO(_parquets()[1])).metadata
    return [metadata[b"huggingface"]]


def _cards() -> list[bytes]:
    files = [{"split": "train", "path": "*.jsonl"}]
    card = {
        "license": ["mit"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": [{"name": "problem", "dtype": "string"}], "splits": []},
    }
    return [
        json.dumps(card).encode(),
        json.dumps({"license": "other", "license_name": "x"}).encode(),
    ]


def _carded(content: bytes, home: Path) -> object:
    """A directory of rows with a card, whose header is foreign."""
    text = content.decode("utf-8", "replace")
    folder = home / "set"
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"---\n{text}\n---\n")
    (folder / "rows.jsonl").write_bytes(_json_rows()[1])
    shutil.copy(home / "1.png", folder)
    _named(f"---\n{text}\n---\n")
    return _load(home, "./set")


# Images


@cache
def _images() -> list[bytes]:
    made = []
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    kinds: tuple[tuple[str, str, dict[str, Any]], ...] = (
        *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "P", "1", "LA", "I;16")),
        *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
        (
            "JPEG",
            "RGB",
            {
                "progressive": True,
                "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
            },
        ),
        *(("WEBP", mode, {}) for mode in ("RGB", "RGBA")),
        *(("TIFF", mode, {}) for mode in ("RGB", "CMYK", "F", "LAB")),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        *(
            (kind, "RGB", {})
            for kind in (
                "BMP",
                "GIF",
                "PPM",
                "JPEG2000",
                "AVIF",
                "ICO",
                "EPS",
                "PCX",
                "TGA",
                "SGI",
                "ICNS",
            )
        ),
    )
    for kind, mode, options in kinds:
        stream = io.BytesIO()
        image = (
            picture.convert("L").convert(mode)
            if mode == "I;16"
            else picture.convert("RGB").convert(mode)
            if mode != "LAB"
            else Image.new("LAB", (8, 8))
        )
        image.save(stream, kind, **options)
        made.append(stream.getvalue())
    stream = io.BytesIO()
    picture.save(stream, "GIF", save_all=True, append_images=[picture.rotate(90)] * 3)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    return [*made, stream.getvalue(), svg]


def _image(content: bytes, _: Path) -> object:
    value = {"bytes": content, "path": None}
    looked, small = look(value), small_copy(value)
    known = facts(value)
    if not looked.cells:
        raise ImageError(looked.wrong or "is too long")
    decoded = data._IMAGE.decode_example(value)
    _processor().image_processor(images=[decoded], return_tensors="pt")
    return known, small


def _paths() -> list[bytes]:
    return [b"1.png", b"folder/1.png", b"../home/1.png", b"../secret.png", b"fifo", b"link"]


def _path(content: bytes, home: Path) -> object:
    """An image that a row names."""
    row = {"problem": "What?", "answer": "1", "response": "\\boxed{1}"}
    named = content.decode("utf-8", "replace")
    (home / "rows.jsonl").write_text(json.dumps(row | {"images": [named]}))
    return _load(home, "./rows.jsonl")


# Models


def _model_file(*names: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(_model() / name).read_bytes() for name in names]


def _with(name: str, use: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A model's directory with one file that is foreign."""

    def feed(content: bytes, home: Path) -> object:
        directory = home / "model"
        before = (directory / name).read_bytes() if (directory / name).exists() else None
        try:
            (directory / name).write_bytes(content)
            require_plain(directory)
            return use(directory)
        finally:
            (directory / name).unlink()
            if before is not None:
                (directory / name).write_bytes(before)

    return feed


def _processed(directory: Path) -> object:
    processor = load_processor(directory, CONVERSATION)
    return processor.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}], tokenize=True, add_generation_prompt=True
    )


def _weights(directory: Path) -> object:
    return load_model(directory, precision="fp32")


def _templates() -> list[bytes]:
    return [(_model() / "chat_template.jinja").read_bytes(), tiny.QWEN2_TEMPLATE.encode()]


@cache
def _safetensors() -> tuple[bytes, bytes]:
    """Header and tensors of the model's weights."""
    content = (_model() / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    return content[8:size], content[size:]


def _header(content: bytes, home: Path) -> object:
    """Weights whose header is foreign."""
    whole = len(content).to_bytes(8, "little") + content + _safetensors()[1]
    return _with("model.safetensors", _weights)(whole, home)


def _index(directory: Path) -> object:
    (directory / "model.safetensors").rename(directory / "part.safetensors")
    try:
        return _weights(directory)
    finally:
        (directory / "part.safetensors").rename(directory / "model.safetensors")


def _indexes() -> list[bytes]:
    return [
        json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "part.safetensors"}}).encode()
    ]


def _journals() -> list[bytes]:
    line = {
        "key": "k",
        "text": "So 7.",
        "finish": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 4,
    }
    return [b"".join(json.dumps(line | {"key": f"k{n}"}).encode() + b"\n" for n in range(3))]


def _journal(content: bytes, home: Path) -> object:
    (home / "answers.jsonl").write_bytes(content)
    with Journal(home / "answers.jsonl") as journal:
        return [journal.answer(place) for place in journal._places.values()]


_MODEL = (ModelError,)
_DATA = (DataError,)

PARSERS: tuple[Parser, ...] = (
    Parser("rows, JSON", "lines", _json_rows, _rows, _DATA, 20, prepare=_pictured),
    Parser("rows, JSON, checked", "lines", _json_rows, _checked, _DATA, 40, prepare=_pictured),
    Parser("rows, parquet", "bytes", _parquets, _parquet, _DATA, 3, prepare=_pictured),
    Parser(
        "rows, parquet's features", "json", _feature_seeds, _features, _DATA, 3, prepare=_pictured
    ),
    Parser("data set's card", "json", _cards, _carded, _DATA, 3, prepare=_pictured),
    Parser("images", "bytes", _images, _image, (ImageError,), 150),
    Parser("images' paths", "text", _paths, _path, _DATA, 10, prepare=_pictured),
    Parser(
        "tokenizer.json",
        "json",
        _model_file("tokenizer.json"),
        _with("tokenizer.json", _processed),
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser(
        "tokenizer_config.json",
        "json",
        _model_file("tokenizer_config.json"),
        _with("tokenizer_config.json", _processed),
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser(
        "processor_config.json",
        "json",
        _model_file("processor_config.json"),
        _with("processor_config.json", _processed),
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser(
        "config.json",
        "json",
        _model_file("config.json"),
        _with("config.json", _weights),
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser(
        "generation_config.json",
        "json",
        _model_file("generation_config.json"),
        _with("generation_config.json", _weights),
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser(
        "chat template",
        "text",
        _templates,
        _with("chat_template.jinja", _processed),
        _MODEL,
        2,
        starts=True,
        prepare=_modelled,
    ),
    Parser(
        "safetensors",
        "bytes",
        _model_file("model.safetensors"),
        _with("model.safetensors", _weights),
        _MODEL,
        2,
        prepare=_modelled,
    ),
    Parser(
        "safetensors' header",
        "json",
        lambda: [_safetensors()[0]],
        _header,
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser(
        "index of weights",
        "json",
        _indexes,
        _with("model.safetensors.index.json", _index),
        _MODEL,
        3,
        prepare=_modelled,
    ),
    Parser("teacher's answers", "lines", _journals, _journal, (), 150),
    *hostile_server.PARSERS,
)
