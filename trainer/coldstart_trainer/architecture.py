"""Which models are supported, told from `config.json` alone; torch is not needed for it."""

from __future__ import annotations

import json
from pathlib import Path

from coldstart.status import ErrorCode

ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}
"""The model types that are supported, with the stock class of their processor."""


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
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{directory} holds no config.json: it is no model directory") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"{path}: model_type {kind!r} is not supported; it must be a vision-language model "
            f"of one of: {known}"
        )
    return str(kind)
