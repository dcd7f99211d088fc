"""Whether a model's directory is one model and nothing else; torch is not needed for it.

A model is data, but its files may ask for more: weights in another directory, an adapter's base,
code of the hub for its attention, or more numbers than there is memory for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coldstart.foreign import parsed
from coldstart.memory import shapes
from coldstart_trainer.architecture import ModelError

_INDEX = "*.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")

_NUMBERS_PER_BYTE = 4
"""More than any file of weights packs into a byte."""

_MOST_LAYERS = 1_000


def require_plain(directory: Path) -> None:
    """Refuse a directory whose files lead elsewhere.

    Raises:
        ModelError: the message names the file, and what to do.
        OSError: a file cannot be read.
    """
    if (directory / _ADAPTER).exists():
        raise ModelError(
            f"{directory / _ADAPTER}: an adapter needs another model beneath it: merge the two, "
            "and save the result"
        )
    for index in sorted(directory.glob(_INDEX)):
        _require_inside(index)
    _require_known_attention(directory / "config.json")


def _require_inside(index: Path) -> None:
    """An index of weights may name the files beside it."""
    document = _document(index)
    named = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(named, dict):
        raise ModelError(f"{index}: has no weight_map: save the model again")
    for file in named.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise ModelError(f"{index}: names {file!r:.80}, which is no file beside it")


def _require_known_attention(path: Path) -> None:
    """`transformers` takes the name of a repository for an implementation, and runs its code."""
    for key, value in _attention(_document(path)):
        if "/" in str(value):
            raise ModelError(
                f"{path}: {key} is {value!r:.80}, code of the hub, which is not run: remove it"
            )


def _attention(config: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(config, dict):
        return
    yield from ((key, config[key]) for key in _ATTENTION if key in config)
    for value in config.values():
        yield from _attention(value)


def require_weights(directory: Path) -> None:
    """Refuse a config of another model than the weights: what it describes is made before.

    Raises:
        ModelError: it does not say what it describes, or more than the files can hold.
    """
    try:
        shape = shapes.read(directory / "config.json")
    except shapes.ShapeError as error:
        raise ModelError(str(error)) from error
    if max(shape.language.layers, shape.vision.depth if shape.vision else 0) > _MOST_LAYERS:
        raise ModelError(f"{directory / 'config.json'}: has more than {_MOST_LAYERS:,} layers")
    described = shape.parameters
    there = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    if there and described > _NUMBERS_PER_BYTE * there:
        raise ModelError(
            f"{directory / 'config.json'}: describes a model of {described:,} numbers, but its "
            f"*.safetensors files have {there:,} bytes: one of them is torn, or belongs to another "
            "model"
        )


def _document(path: Path) -> Any:
    try:
        return parsed(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
