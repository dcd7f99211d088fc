"""Files that are whole or absent: atomic writes, hashes, append-only JSON lines."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from coldstart.foreign import parsed

MAX_LINE: Final = 64 << 20
"""The longest line that is read; a response of a whole context takes less than one MiB."""

_CHUNK = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a restart, sees the old content or the new, never a part.

    Raises:
        OSError: the disk is full, or the directory is missing or not writable; the old content
            is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with _named(path), partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error say where it was: a write or an fsync that fails does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync(path: Path) -> None:
    """Bring a file's content, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(document: Any) -> str:
    """`sha256:…` of a JSON document, whatever the order of its keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


class LongLine(ValueError):
    """A line that nobody means."""


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that somebody else may have written.

    Raises:
        LongLine: one is longer than `MAX_LINE`; the message has its number.
    """
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), start=1):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise LongLine(
                f"line {number} is longer than {MAX_LINE:,} bytes, as no row or record is: see "
                "what wrote it, and remove it"
            )
        yield line


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn last line, as a kill leaves it, is passed over.

    So is a line that no writer of ours leaves: `coldstart.foreign` says what that is.

    Raises:
        LongLine: a line is longer than `MAX_LINE`; the message names the file and the line.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        try:
            for line in lines(stream):
                try:
                    item = parsed(line.decode(errors="replace"))
                except ValueError:
                    continue
                if isinstance(item, dict):
                    yield item
        except LongLine as error:
            raise LongLine(f"{path}: {error}") from error


def append_json_line(path: Path, document: dict[str, Any]) -> None:
    """Append one object as a line; after a torn last line it begins a new one."""
    line = json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"
    with _named(path), path.open("ab+") as stream:
        if stream.tell() and not _ends_with_newline(stream):
            line = "\n" + line
        stream.write(line.encode())


def _ends_with_newline(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


def is_full(error: OSError) -> bool:
    """Whether an error says that the disk, or a quota, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
