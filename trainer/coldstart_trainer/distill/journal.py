"""Every answer of a teacher, appended as it comes, so that a killed stage asks for none again.

An answer is found by the digest of what was asked. A torn last line, as a kill or a full disk
leaves it, is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coldstart.chat import Answer
from coldstart.files import MAX_LINE, sync
from coldstart.foreign import parsed


@dataclass(frozen=True)
class Place:
    """Where an answer stands in the file."""

    offset: int
    length: int


class Journal:
    """The file of answers; one process writes."""

    def __init__(self, path: Path) -> None:
        """Open the file, and learn what is there.

        Raises:
            OSError: it cannot be read or written.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._places = _read(path)
        self._end = os.fstat(self._file).st_size
        if self._end and os.pread(self._file, 1, self._end - 1) != b"\n":
            self._write(b"\n")
        sync(path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        """How many answers there are."""
        return len(self._places)

    def place(self, key: str) -> Place | None:
        """Where the answer to a request is, if it is there."""
        return self._places.get(key)

    def answer(self, place: Place) -> Answer:
        """The answer at a place.

        Raises:
            OSError: the file cannot be read.
        """
        return _answer(parsed(os.pread(self._file, place.length, place.offset)))

    def append(self, key: str, answer: Answer) -> Place:
        """Add an answer; a kill of this process no longer loses it.

        Raises:
            OSError: the disk is full; the file is as it was.
        """
        line = json.dumps({"key": key, **vars(answer)}, ensure_ascii=False).encode() + b"\n"
        place = Place(self._end, len(line))
        self._write(line)
        self._places[key] = place
        return place

    def sync(self) -> None:
        """Bring what was appended to the disk: a crash of the machine no longer loses it.

        Raises:
            OSError: the disk is full, or fails.
        """
        os.fsync(self._file)

    def _write(self, line: bytes) -> None:
        done = 0
        try:
            while done < len(line):
                done += os.pwrite(self._file, line[done:], self._end + done)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)


def _read(path: Path) -> dict[str, Place]:
    places, offset = {}, 0
    with path.open("rb") as stream:
        # What is longer than any line of ours comes in pieces, which are no answers.
        while line := stream.readline(MAX_LINE):
            try:
                document = parsed(line)
                _answer(document)
                places[document["key"]] = Place(offset, len(line))
            except (ValueError, KeyError, TypeError):
                pass
            offset += len(line)
    return places


def _answer(document: Mapping[str, Any]) -> Answer:
    texts = [document[key] for key in ("text", "finish")]
    counts = [document[key] for key in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    if not all(isinstance(count, int) for count in counts):
        raise TypeError("a number of tokens is none")
    return Answer(*texts, *counts)
