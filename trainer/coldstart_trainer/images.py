"""Images in data sets: one shape for all that they come in, and what their headers tell.

Nothing here decodes pixels, but where a file looks cut off.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

STORAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""How `datasets` stores an image."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Pillow knows some forty more, one of which has Ghostscript run the file."""

_EDGE = 4096
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}

# PNG, JPEG, GIF and WebP in base64. A path begins like this at most by accident, and has a suffix.
_BASE64_HEADS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, RuntimeError),
    struct.error,
)
"""What Pillow raises for files that are not, or not quite, images."""


class ImageError(ValueError):
    """An image that cannot be used; the message says why, the caller adds where it is."""


class HugeImageError(ImageError):
    """An image of more pixels than are ever decoded."""


@dataclass(frozen=True)
class Home:
    """Where the images of a data set's file are that are named by their paths."""

    folder: Path
    """What the paths are relative to."""
    roots: tuple[Path, ...]
    """Directories that they may lead into. Links in them are whose they are: a row makes none."""

    def placed(self, path: str) -> str:
        """A path made absolute.

        Raises:
            ImageError: it leads elsewhere.
        """
        found = _plain(self.folder / path)
        if not any(Path(found).is_relative_to(_plain(root)) for root in self.roots):
            raise ImageError(
                f"names the image {path!r:.100}, which is in none of "
                f"{', '.join(map(str, dict.fromkeys(self.roots)))}: move or link it there, or "
                "name its directory in imageDir"
            )
        return found


def _plain(path: Path) -> str:
    """A path without `..`, its links as they are."""
    return os.path.normpath(path.absolute())


@dataclass(frozen=True)
class ImageFacts:
    """What a look at an image's header tells."""

    width: int
    height: int
    mark: bytes
    """Its length, head and tail: what a fingerprint takes of it."""


def image_lists(column: pa.ChunkedArray, home: Callable[[int], Home]) -> pa.ChunkedArray:
    """A column of images, however they are given, as lists of `STORAGE`; bytes are not copied.

    Args:
        column: one image or a list of them in each row, as bytes, base64, paths or
            structs of bytes and path.
        home: where the images of a row are.

    Raises:
        ImageError: the column's type holds no images, or a path leads elsewhere.
    """
    chunks, row = [], 0
    for chunk in column.chunks:
        chunks.append(_list_chunk(chunk, row, home))
        row += len(chunk)
    return pa.chunked_array(chunks, type=pa.list_(STORAGE))


def facts(value: dict[str, Any] | None) -> ImageFacts:
    """Size and mark of a stored image, from its header and tail.

    Raises:
        ImageError: it is absent, no image, cut off, or too large to be decoded.
    """
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise ImageError("is null")
    if value["bytes"] is not None:
        return _read(io.BytesIO(value["bytes"]), len(value["bytes"]))
    with opened(Path(value["path"])) as stream:
        return _read(stream, os.fstat(stream.fileno()).st_size)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file of an image, of which only the path is known.

    Raises:
        ImageError: there is none; what is no plain file could keep its reader waiting for ever.
    """
    try:
        mode = path.stat().st_mode
        stream = path.open("rb") if stat.S_ISREG(mode) else None
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"is missing: there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be read: {error}") from error
    if stream is None:
        what = "a directory" if stat.S_ISDIR(mode) else "no plain file"
        raise ImageError(f"is missing: {path} is {what}")
    with stream:
        yield stream


def _list_chunk(chunk: pa.Array, row: int, home: Callable[[int], Home]) -> pa.Array:
    if pa.types.is_null(chunk.type):
        lengths, values = np.zeros(len(chunk), dtype=np.int64), pa.array([], STORAGE)
    elif _is_list(chunk.type):
        lengths = np.asarray(chunk.value_lengths().fill_null(0), dtype=np.int64)
        values = chunk.flatten()
    else:
        lengths = np.asarray(chunk.is_valid(), dtype=bool).astype(np.int64)
        values = chunk.drop_null()
    owners = np.repeat(np.arange(row, row + len(chunk)), lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _stored(values, owners, home))


def _stored(values: pa.Array, owners: np.ndarray, home: Callable[[int], Home]) -> pa.Array:
    """Images as `STORAGE`, with absolute paths; `owners` has the row of each."""
    kind = values.type
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        names = {field.name for field in kind}
        data = values.field("bytes") if "bytes" in names else pa.nulls(len(values), pa.binary())
        paths = values.field("path") if "path" in names else pa.nulls(len(values), pa.string())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        data, paths = values, pa.nulls(len(values), pa.string())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data, paths = _embedded(values)
    elif pa.types.is_null(kind):
        data, paths = pa.nulls(len(values), pa.binary()), pa.nulls(len(values), pa.string())
    else:
        raise _no_images(kind)
    try:
        data, paths = data.cast(pa.binary()), paths.cast(pa.string())
    except pa.ArrowException:
        raise _no_images(kind) from None
    if data.null_count:
        paths = _absolute(paths, data, owners, home)
    return pa.StructArray.from_arrays([data, paths], names=["bytes", "path"])


def _no_images(kind: pa.DataType) -> ImageError:
    return ImageError(
        f"holds {kind!s:.200}, not images: bytes, paths or {{bytes, path}} are needed"
    )


def _embedded(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Texts as bytes where they are base64 of an image, and as paths where they are not."""
    decoded = [_from_base64(text) for text in texts.to_pylist()]
    inside = pa.array([data is not None for data in decoded], pa.bool_())
    paths = pc.if_else(inside, pa.scalar(None, texts.type), texts)
    return pa.array(decoded, pa.binary()), paths


def _from_base64(text: str | None) -> bytes | None:
    head, _, rest = (text or "").partition("base64,")
    text = rest if head.startswith("data:image/") else text or ""
    if not text.startswith(_BASE64_HEADS) or "." in text:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _absolute(
    paths: pa.Array, data: pa.Array, owners: np.ndarray, home: Callable[[int], Home]
) -> pa.Array:
    """Paths that must be read, made absolute; beside embedded bytes a path is but a name."""
    embedded = np.asarray(data.is_valid(), dtype=bool)
    return pa.array(
        [
            path if path is None or inside else home(int(owner)).placed(path)
            for path, inside, owner in zip(paths.to_pylist(), embedded, owners, strict=True)
        ],
        pa.string(),
    )


def _is_list(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _read(stream: BinaryIO, size: int) -> ImageFacts:
    try:
        with warnings.catch_warnings():
            # Its limit is checked below, as an error: a warning per row helps nobody.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise ImageError(f"cannot be decoded: it is no image of a known kind ({kinds})") from None
    except Image.DecompressionBombError as error:
        raise HugeImageError(f"is too large to be decoded ({error}): scale it down") from error
    except UNREADABLE as error:
        raise ImageError(f"cannot be decoded: {error}") from error
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise HugeImageError(f"has {width} x {height} pixels, more than {limit}: scale it down")
    stream.seek(0)
    head = stream.read(_EDGE)
    stream.seek(max(0, size - _EDGE))
    tail = stream.read(_EDGE)
    if _looks_cut(image.format, head, tail, size):
        _decode(image, stream)
    return ImageFacts(width, height, b"%d:" % size + head + tail)


def _looks_cut(kind: str | None, head: bytes, tail: bytes, size: int) -> bool:
    if kind == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    return kind in _ENDS and _ENDS[kind] not in tail


def _decode(image: Image.Image, stream: BinaryIO) -> None:
    """Decode pixels: only this tells a cut file from one with an unusual end."""
    stream.seek(0)
    try:
        image.load()
    except UNREADABLE as error:
        raise ImageError(f"cannot be decoded: {error}") from error
