"""What a parser does with an input: how it ends, what it costs, which files it touches; judges it.

Files that C code opens (pyarrow, safetensors) raise no audit event, and are not seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SLOW_SECONDS = 2.0
"""Processor time that no input may take."""

HANGING_SECONDS = 60
"""Wall time after which an input is given up, on a machine that may be busy."""

_ROOT = Path(__file__).resolve().parents[1]
_CODE = tuple(
    str(Path(place).resolve())
    for place in {sys.prefix, sys.base_prefix, *sys.path, str(_ROOT), "/usr", "/lib", "/lib64"}
    if place
)
_SYSTEM = ("/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/shm", "/etc/mime.types")
_WRITES = frozenset(
    {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
    | {"os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"}
)
_TWO = frozenset({"os.rename", "os.link", "shutil.move"})
_STARTS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"})
_CALLS = frozenset({"socket.connect", "socket.getaddrinfo", "socket.sendto"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Hanging(BaseException):
    """An input takes longer than anybody waits."""


@dataclass
class Seen:
    """What became of one input."""

    refused: str = ""
    """The documented error that it ended with."""
    crash: str = ""
    """Any other one, with where it was raised."""
    seconds: float = 0.0
    """Of processor time."""
    escapes: list[str] = field(default_factory=list)
    """Files outside of its directory, processes and addresses that it reached for."""

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        slow = [f"took {self.seconds:.1f} s"] if self.seconds > SLOW_SECONDS else []
        return [*([self.crash] if self.crash else []), *slow, *self.escapes]


class Watch:
    """Looks at one input at a time; its audit hook stays, and is deaf in between."""

    def __init__(self) -> None:
        self._home: tuple[str, ...] = ()
        self._escapes: list[str] | None = None
        sys.addaudithook(self._heard)

    def __call__(
        self,
        feed: Callable[[bytes, Path], object],
        data: bytes,
        home: Path,
        documented: tuple[type[BaseException], ...],
    ) -> Seen:
        """Feed an input to a parser.

        Args:
            feed: the parser; it gets the input, and the directory that it may use.
            data: the input.
            home: that directory.
            documented: the errors that it may raise.
        """
        seen = Seen()
        self._home = (str(home.resolve()), str(home))
        begun = time.process_time()
        self._escapes = seen.escapes
        try:
            with _given_up():
                feed(data, home)
        except documented as error:
            seen.refused = f"{type(error).__name__}: {error}"[:200]
        except (Exception, Hanging) as error:  # noqa: BLE001 - any is what is looked for
            seen.crash = f"{type(error).__name__}: {str(error)[:200]} {_where(error)}"
        finally:
            self._escapes = None
        seen.seconds = time.process_time() - begun
        return seen

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        escapes = self._escapes
        if escapes is None:
            return
        if event == "open" and not self._may_open(*arguments):
            escapes.append(f"opened {arguments[0]!r:.200}")
        elif event in _WRITES and not _is_below(arguments):
            named = arguments[: 2 if event in _TWO else 1]
            escapes += [f"{event} {each!r:.200}" for each in named if not self._is_home(each)]
        elif event in _STARTS or event in _CALLS:
            escapes.append(f"{event} {arguments!r:.200}")

    def _may_open(self, path: Any, mode: Any, flags: int) -> bool:
        del mode
        if isinstance(path, int) or self._is_home(path):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return (not flags & _WRITING and real.startswith((*_CODE, *_SYSTEM))) or real == os.devnull

    def _is_home(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a descriptor
        try:
            # Its directory alone: the last part may be a link that is about to be removed.
            text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - resolves no links
            folder, name = os.path.split(text)
            real = os.path.realpath(text)
        except ValueError:
            return True  # no such file can be
        inside = (*self._home, "/dev/null")
        return os.path.join(os.path.realpath(folder), name).startswith(inside) and (  # noqa: PTH118
            real.startswith(inside)
        )


def _is_below(arguments: tuple[Any, ...]) -> bool:
    """Whether a name is that of a file in a directory which is open already."""
    return any(isinstance(each, int) and each >= 0 for each in arguments[-1:]) and (
        not os.path.dirname(os.fsdecode(arguments[0]))  # noqa: PTH120
    )


@contextlib.contextmanager
def _given_up() -> Iterator[None]:
    """End what hangs in Python; C code that hangs is for the test's own time-out."""

    def ring(*_: object) -> None:
        raise Hanging(f"no end within {HANGING_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    left, again = signal.setitimer(signal.ITIMER_REAL, HANGING_SECONDS)
    try:
        yield
    finally:
        # The clock of a test's own time-out goes on.
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, again)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame for frame in frames if "coldstart" in frame.filename and "tests" not in frame.name
    ]
    last = ours[-1] if ours else frames[-1]
    return f"({Path(last.filename).name}:{last.lineno} {last.name})"
