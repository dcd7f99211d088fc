"""JSON files that hold one document of the contract, read with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from coldstart.foreign import parsed
from coldstart.schema import Contract, problems

Document = TypeVar("Document", bound=Contract)


def read_document(path: Path, model: type[Document]) -> Document | None:
    """The document in a file; None if there is no file.

    Raises:
        ValueError: it is not JSON, or not such a document; the message names the file and what is
            wrong in it.
        OSError: it cannot be read.
    """
    try:
        content = parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error
    try:
        document = model.parse(content)
    except ValidationError as error:
        raise ValueError(problems(error, f"{path}: ")[0]) from error
    assert isinstance(document, model)
    return document
