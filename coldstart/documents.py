"""JSON files that hold one document of the contract, read with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from coldstart.foreign import parsed
from coldstart.schema import Contract, problems

MAX_BYTES: Final = 64 << 20
"""The longest document that is read."""

Document = TypeVar("Document", bound=Contract)


def read_document(path: Path, model: type[Document]) -> Document | None:
    """The document in a file; None if there is no file.

    Raises:
        ValueError: it is not JSON, or not such a document; the message names the file and what is
            wrong in it.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: is longer than {MAX_BYTES:,} bytes, as no document of ours is")
    try:
        content = parsed(data)
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error
    try:
        document = model.parse(content)
    except ValidationError as error:
        raise ValueError(problems(error, f"{path}: ")[0]) from error
    assert isinstance(document, model)
    return document
