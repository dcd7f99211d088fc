"""Which models are supported, told from `config.json` alone; torch is not needed for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from coldstart.foreign import parsed
from coldstart.spec import Part
from coldstart.status import ErrorCode

ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}
"""The vision-language models that are supported, with the stock class of their processor."""

TEXT_ARCHITECTURES = ("qwen2", "qwen3")
"""The text models that are supported; they have a tokenizer where the others have a processor."""

PARTS: tuple[Part, ...] = get_args(Part)
"""Every part of a vision-language model; each parameter belongs to exactly one."""

log = logging.getLogger(__name__)


class ModelError(ValueError):
    """A model directory that cannot be used, with the error code of the stage's result."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = ErrorCode.MODEL_INVALID


def model_type(directory: Path) -> str:
    """The model type that `config.json` names; nothing else is read.

    Raises:
        ModelError: there is no such directory or file, or its architecture is not supported.
    """
    path = directory / "config.json"
    try:
        config = parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{directory} holds no config.json: it is no model directory") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in (*ARCHITECTURES, *TEXT_ARCHITECTURES):
        raise ModelError(
            f"{path}: model_type {kind!r:.80} is not supported; it must be a vision-language model "
            f"({', '.join(ARCHITECTURES)}) or a text model ({', '.join(TEXT_ARCHITECTURES)})"
        )
    return str(kind)


def parts(kind: str) -> tuple[Part, ...]:
    """The parts that a model of this type has."""
    return PARTS if kind in ARCHITECTURES else ("language",)


def require_trainable(directory: Path, frozen: Iterable[Part], field: str) -> None:
    """Refuse to freeze all that a model has, before it is loaded.

    Args:
        directory: the model's.
        frozen: what the spec says. Parts that the model does not have are passed over: freezing
            them is the default, and changes nothing.
        field: the path of `freeze` in the spec, for errors.

    Raises:
        ModelError: nothing would be left to train.
    """
    kind = model_type(directory)
    own, named = parts(kind), tuple(frozen)
    if set(own) <= set(named):
        raise ModelError(
            f"{field}: freezes {', '.join(own)}, which is all that a {kind} model has: "
            "nothing would be trained"
        )
    if absent := [part for part in named if part not in own]:
        log.info("%s: a %s model has no %s", field, kind, " and no ".join(absent))
