"""Rows as the checks read them: all of them, one after another, wrong ones too; nothing is judged.

Two rows hold the same problem if their texts are equal but for case, white space, Unicode forms and
`<image>` marks, and the labels of options, and the files of their images are equal byte for byte.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from coldstart.benchmarks.rows import options
from coldstart.status import ErrorCode
from coldstart.uses import Use
from coldstart_trainer import benchmarks, sources
from coldstart_trainer.conversation import IMAGE_MARK, TEXTS
from coldstart_trainer.images import ImageError
from coldstart_trainer.images import opened as opened_image
from coldstart_trainer.sources import DataError, Source

BATCH = 64
"""Rows whose images are held at once."""

_OPTIONS = re.compile(r"\n\s*(?:(?:choices|options)\s*:|\(?A[).:]\s)", re.IGNORECASE)
"""Where the options of a problem begin, if it lists them."""

Stored = dict[str, Any] | None
"""An image as `images.STORAGE` has it."""


@dataclass(frozen=True)
class Row:
    """One row, with its images as they are stored."""

    number: int
    id: str
    problem: str
    answer: str | None
    response: str | None
    choices: tuple[str, ...]
    images: tuple[Stored, ...]

    @cached_property
    def marks(self) -> tuple[bytes, ...]:
        """The content digest of each image."""
        return tuple(content_digest(value) for value in self.images)

    @property
    def asked(self) -> str:
        """The problem and its options, which every set writes in a way of its own."""
        problem = self.problem.replace(IMAGE_MARK, " ")
        begin = _OPTIONS.search(problem)
        inside = options(problem[begin.start() :]) if begin else ()
        if begin and inside:
            problem = problem[: begin.start()]
        return "\n".join((problem, *(self.choices or inside)))

    @cached_property
    def text(self) -> str:
        """What is asked, as it is compared."""
        return normalised(self.asked)

    @cached_property
    def problem_key(self) -> bytes:
        """The same for rows that hold the same problem."""
        return _digest(self.text.encode(), *self.marks)

    @cached_property
    def row_key(self) -> bytes:
        """The same for rows that teach the same: several responses to one problem are several."""
        return _digest(self.problem_key, normalised(self.response or "").encode())


def opened(use: Use, workdir: Path) -> Source:
    """The rows of a data set.

    Raises:
        DataError: as the stage would raise it before it looks at rows.
    """
    if use.known:
        return benchmarks.read(use.known, use.dataset, workdir, use.field)
    source = sources.read(use.dataset, ("problem", use.target), workdir, use.field)
    if not source.table.num_rows:
        message = f"{use.field}.name: {use.dataset.name} is empty"
        raise DataError(ErrorCode.DATASET_INVALID, message)
    for name in TEXTS:
        if name in source.table.column_names:
            kind = source.table.schema.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_binary(kind):
                message = f"{use.field}.columns.{name}: the column holds {kind}, not text"
                raise DataError(ErrorCode.DATASET_INVALID, message)
    return source


def every(source: Source) -> Iterator[Row]:
    """All rows; the images of a few are held at once.

    Raises:
        DataError: a text is not UTF-8.
    """
    for start in range(0, source.table.num_rows, BATCH):
        try:
            batch = source.table.slice(start, BATCH).to_pylist()
        except UnicodeDecodeError as error:
            message = f"{source.place(start)} or one of the {BATCH - 1} rows after it: {error}"
            raise DataError(ErrorCode.DATASET_INVALID, message) from error
        for offset, values in enumerate(batch):
            yield _row(start + offset, values)


def one(source: Source, number: int) -> Row:
    """A row by its number."""
    return _row(number, source.table.slice(number, 1).to_pylist()[0])


def normalised(text: str) -> str:
    """A text without what does not change what it says."""
    # Not NFKC, which takes the square of 3 for 32.
    plain = unicodedata.normalize("NFC", text)
    return " ".join(plain.casefold().split())


def content_digest(value: Stored) -> bytes:
    """A digest of the bytes of an image's file; one of its path where there is no file."""
    if value is None:
        return b""
    if value["bytes"] is not None:
        return _digest(value["bytes"])
    try:
        with opened_image(Path(value["path"] or "")) as stream:
            return hashlib.file_digest(stream, _hasher).digest()
    except (ImageError, OSError):
        return _digest(b"missing", str(value["path"]).encode())


def _row(number: int, values: dict[str, Any]) -> Row:
    name = values.get("id")
    choices = values.get("choices")
    return Row(
        number=number,
        id=str(number) if name is None else str(name),
        problem=_text(values.get("problem")) or "",
        answer=_text(values.get("answer")),
        response=_text(values.get("response")),
        choices=tuple(map(str, choices)) if isinstance(choices, list) else (),
        images=tuple(values.get("images") or ()),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=16)


def _digest(*parts: bytes) -> bytes:
    made = _hasher()
    if len(parts) == 1:
        made.update(parts[0])
        return bytes(made.digest())
    for part in parts:
        made.update(b"%d," % len(part))
        made.update(part)
    return bytes(made.digest())
