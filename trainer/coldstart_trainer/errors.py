"""What ended an attempt, as a code of the closed list and a sentence for people."""

from __future__ import annotations

import errno
import re
import shutil
import traceback
from pathlib import Path

from coldstart.files import is_full
from coldstart.status import ErrorCode
from coldstart_trainer.termination import Terminated

_FULL = re.compile(r"No space left|Disk quota exceeded|File too large|os error (28|122|27)\b")
_WRITE_FAILED = re.compile(
    r"PytorchStreamWriter failed|enforce fail at inline_container|file write failed|iostream error|"
    r"SerializationError|Error while serializing: I/O error"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator: (can't|not enough)", re.IGNORECASE)
_PEER_LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|gloo.*(timed out|timeout)", re.IGNORECASE
)

_UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ESTALE,
)

_NEARLY_FULL = 64 << 20


class StageFailure(ValueError):
    """An ending with a code of its own, raised where the stage knows it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def classify(error: BaseException, storage: Path) -> tuple[ErrorCode, str]:
    """The code and the sentence for what ended an attempt.

    Args:
        error: what was raised.
        storage: where the stage writes; asked for free space where a library does not say why a
            write failed.
    """
    text = str(error)
    code = getattr(error, "code", None)
    if isinstance(code, ErrorCode):
        return code, text
    if isinstance(error, Terminated | KeyboardInterrupt):
        return ErrorCode.TERMINATED, text or "was told to end"
    return (
        _storage_failure(error, text, storage)
        or _lost(error, text)
        or (ErrorCode.INTERNAL, traceback.format_exception_only(error)[-1].strip())
    )


def _storage_failure(
    error: BaseException, text: str, storage: Path
) -> tuple[ErrorCode, str] | None:
    where = getattr(error, "filename", None) or storage
    if (isinstance(error, OSError) and is_full(error)) or _FULL.search(text):
        return ErrorCode.STORAGE_FULL, f"{where} is full: {_line(text)}"
    refused = isinstance(error, OSError) and error.errno in _UNWRITABLE
    if not refused and not _WRITE_FAILED.search(text):
        return None
    # Torch says only that writing failed: the free space says why, as far as it can be told.
    if not refused and shutil.disk_usage(storage).free < _NEARLY_FULL:
        return ErrorCode.STORAGE_FULL, f"{storage} is full: {_line(text)}"
    told = _line(text)
    if refused and Path(str(where)).is_absolute() and str(where) in told:
        return ErrorCode.STORAGE_UNWRITABLE, told
    return ErrorCode.STORAGE_UNWRITABLE, f"{storage} cannot be written: {told}"


def _lost(error: BaseException, text: str) -> tuple[ErrorCode, str] | None:
    """Memory, or another process, that is gone."""
    if isinstance(error, MemoryError) or _is_out_of_memory(error, text):
        advice = "lower microBatchSize or maxPixels, or raise parallelism.zero"
        return ErrorCode.OUT_OF_MEMORY, f"{_line(text) or 'out of memory'}; {advice}"
    if _is_peer_loss(error, text):
        return (
            ErrorCode.WORKER_LOST,
            f"another process of the stage is gone or hangs: {_line(text)}",
        )
    return None


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    # torch.OutOfMemoryError by name: torch may not have been imported, and must not be here.
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(text))
    )


def _is_peer_loss(error: BaseException, text: str) -> bool:
    names = {base.__name__ for base in type(error).__mro__}
    return "DistError" in names or (
        isinstance(error, RuntimeError) and bool(_PEER_LOST.search(text))
    )


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
