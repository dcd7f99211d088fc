"""Where graded responses are kept: appended, never lost, never mixed; nothing is graded here."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from coldstart import layout
from coldstart.files import append_json_line, write_atomic
from coldstart.results import Sample
from coldstart.summary import ORIGIN, Origin, read_origin, read_samples

THUMBNAIL_SIDE = 384
"""Pixels of a thumbnail's longest side."""


class SampleStore:
    """The responses of one checkpoint on one benchmark.

    Only one process writes. What is there of another origin is moved aside, to
    `evaluation/superseded`, when the store is opened for writing.
    """

    def __init__(self, directory: Path, origin: Origin) -> None:
        self.directory = directory
        self.origin = origin

    def open(self) -> None:
        """Make the directory ready for responses of this origin.

        Raises:
            OSError: the storage is full or cannot be written.
            ValueError: a stored line of this origin is no sample.
        """
        if self.directory.exists() and read_origin(self.directory) != self.origin:
            self._move_aside()
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.directory / ORIGIN).exists():
            write_atomic(self.directory / ORIGIN, self.origin.model_dump_json(indent=1).encode())

    def samples(self) -> list[Sample]:
        """The responses that are there.

        Raises:
            ValueError: a stored line is no sample.
        """
        if read_origin(self.directory) != self.origin:
            return []
        return read_samples(self.directory)

    def append(self, samples: Iterable[Sample]) -> None:
        """Add responses; each is there, or not, but never half.

        Raises:
            OSError: the storage is full or cannot be written.
        """
        path = layout.samples(self.directory)
        for sample in samples:
            append_json_line(path, sample.document())

    def _move_aside(self) -> None:
        if not any(self.directory.iterdir()):
            return
        checkpoint, benchmark = self.directory.parent.name, self.directory.name
        shelf = self.directory.parents[1] / "superseded" / checkpoint
        shelf.mkdir(parents=True, exist_ok=True)
        number = 1
        while (target := shelf / f"{benchmark}-{number}").exists():
            number += 1
        self.directory.rename(target)


class Thumbnails:
    """Small copies of images, each in a file named by its content, written once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self, images: Iterable[Any]) -> tuple[str, ...]:
        """The SHA-256 of each image's thumbnail, `<hash>.png`, written where it is not there yet.

        Raises:
            OSError: the storage is full or cannot be written.
        """
        return tuple(self._name(image) for image in images)

    def _name(self, image: Image.Image) -> str:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, format="PNG")
        content = buffer.getvalue()
        name = hashlib.sha256(content).hexdigest()
        path = self.directory / f"{name}.png"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        return name
