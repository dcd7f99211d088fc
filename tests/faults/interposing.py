"""Real processes whose file operations are recorded, killed at, or refused, and whose clock jumps.

The interposer is C, loaded before libc: torch, safetensors and Arrow write without Python.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, partial
from multiprocessing import forkserver
from pathlib import Path

import forked

SOURCE = Path(__file__).with_name("interposer.c")


class Action(IntEnum):
    """What befalls an operation; the numbers are the interposer's."""

    RECORD = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_WITHIN = 3
    """Half of what is to be written is."""
    FAIL_ONCE = 4
    FAIL_ON = 5
    """And everything after it: a disk stays full, and what is read-only stays so."""
    JUMP = 6
    """The wall clock, by so many seconds."""


@dataclass(frozen=True)
class Operation:
    """The n-th of its kind on a file, below the directory that is watched."""

    kind: str
    path: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.path} ({self.number})"


@dataclass(frozen=True)
class Fault:
    """What befalls which operation."""

    operation: Operation
    action: Action
    error: int = 0
    seconds: int = 0

    def __str__(self) -> str:
        return f"{self.action.name.lower()} {self.operation}"


NONE = Fault(Operation("", ""), Action.RECORD)
"""Only record."""


@cache
def library() -> Path:
    """The interposer, compiled once for each version of its source."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"coldstart-interposer-{digest}.so"
    if not built.exists():
        partial_ = built.with_suffix(f".{os.getpid()}")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", partial_, SOURCE, "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
        partial_.rename(built)
    return built


@cache
def loaded() -> None:
    """Start the server that attempts are forked from, with the interposer in it."""
    os.environ["LD_PRELOAD"] = str(library())
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["LD_PRELOAD"]


def arm(fault: Fault, directory: Path, record: Path) -> None:
    """Called in the process that is to suffer it."""
    kind, path, number = vars(fault.operation).values()
    ctypes.CDLL(None).faults_arm(
        *(os.fsencode(text) for text in (directory, kind, path)),
        number,
        int(fault.action),
        fault.error,
        ctypes.c_long(fault.seconds),
        os.fsencode(record),
    )


def suffered(given, result: Path, fault: Fault = NONE, directory: Path | None = None) -> int:
    """The exit code of an attempt that meets a fault below the storage, or another directory."""
    loaded()
    prepare = partial(arm, fault, directory or Path(given.storage), Path(f"{result}.operations"))
    (code,) = forked.ended(forked.ranks(given, result, prepare=prepare))
    return code


def recorded(result: Path) -> list[Operation]:
    """The operations of an attempt, each with its number."""
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in Path(f"{result}.operations").read_text().splitlines():
        kind, path, _ = line.split("\t")
        if kind != "fault":
            counts[kind, path] = counts.get((kind, path), 0) + 1
            found.append(Operation(kind, path, counts[kind, path]))
    return found


def happened(result: Path) -> bool:
    """Whether the fault that an attempt was to meet befell it."""
    return "fault\t" in Path(f"{result}.operations").read_text()
