"""A file as text that a pod's log can carry, and back; the same module packs and unpacks.

It needs the standard library alone: `source()` is what a pod runs, whatever its image has of this
project. The text is a line of head, gzip in base64, and a line with its length and SHA-256, so
that a log that was cut, or holds something else, is known.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import sys
import zlib
from pathlib import Path

HEAD = "-----BEGIN COLDSTART FILE-----"
TAIL = "-----END COLDSTART FILE {size} {digest}-----"
REFUSAL = "-----NO COLDSTART FILE: {reason}-----"

LINE = 4096
"""Characters in a line; container runtimes split those beyond 16 KiB."""

MAX_BYTES = 256 * 1024 * 1024
"""The longest file that is unpacked."""

_TAIL = re.compile(TAIL.format(size=r"(\d{1,12})", digest="([0-9a-f]{64})"))
_REFUSAL = re.compile(REFUSAL.format(reason="(.*)"))


class ParcelError(ValueError):
    """A text that carries no file, or not the whole of one; the message is a clause."""


def packed(data: bytes) -> str:
    """The text of a file."""
    small = gzip.compress(data, mtime=0)
    text = base64.b64encode(small).decode()
    lines = [text[at : at + LINE] for at in range(0, len(text), LINE)]
    tail = TAIL.format(size=len(small), digest=hashlib.sha256(small).hexdigest())
    return "\n".join([HEAD, *lines, tail, ""])


def unpacked(text: str) -> bytes:
    """The file in a text, which may hold other lines before and after it.

    Raises:
        ParcelError: there is none, its sender had none, or it is not whole.
    """
    lines = text.splitlines()
    refusals = [found[1] for line in lines if (found := _REFUSAL.fullmatch(line))]
    if refusals:
        raise ParcelError(refusals[0])
    if HEAD not in lines:
        raise ParcelError("the log holds no file")
    lines = lines[lines.index(HEAD) + 1 :]
    end = next((at for at, line in enumerate(lines) if _TAIL.fullmatch(line)), None)
    if end is None:
        raise ParcelError("the log was cut short: the end of the file is missing")
    told = _TAIL.fullmatch(lines[end])
    assert told is not None
    try:
        small = base64.b64decode("".join(lines[:end]), validate=True)
    except ValueError as error:
        raise ParcelError("the log is damaged: it is not base64") from error
    if len(small) != int(told[1]):
        raise ParcelError(f"the log was cut short: it holds {len(small)} of {told[1]} bytes")
    if hashlib.sha256(small).hexdigest() != told[2]:
        raise ParcelError("the log is damaged: the SHA-256 of the file differs")
    return _grown(small)


def _grown(small: bytes) -> bytes:
    """The content of gzip, up to a bound: few bytes may hold gigabytes."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(small, MAX_BYTES + 1)
    except zlib.error as error:
        raise ParcelError("the log is damaged: it is not gzip") from error
    if len(data) > MAX_BYTES:
        raise ParcelError(f"the file has more than {MAX_BYTES} bytes")
    if not inflater.eof:
        raise ParcelError("the log was cut short: the file has no end")
    return data


def refused(text: str) -> bool:
    """Whether a text says why there is no file."""
    return any(_REFUSAL.fullmatch(line) for line in text.splitlines())


def source() -> str:
    """The text of this module, a program: `python -c <source> PATH` prints the file at a path."""
    return Path(__file__).read_text(encoding="utf-8")


def main(path: str) -> int:
    """Print a file as a parcel, or why there is none."""
    try:
        text = packed(Path(path).read_bytes())
    except OSError as error:
        reason = f"{path}: {error.strerror}"
        print(REFUSAL.format(reason=reason), flush=True)  # noqa: T201 - a log is what it is for
        return 1
    print(text, end="", flush=True)  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
