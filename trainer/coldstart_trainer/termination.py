"""SIGTERM as a stage takes it: at once where nothing would be lost, after the step in training."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_PR_SET_PDEATHSIG = 1


class Terminated(BaseException):
    """The attempt was told to end; like KeyboardInterrupt, no library should catch it."""


class Termination:
    """Whether this process was told to end."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def install(self) -> None:
        """Take SIGTERM from now on."""
        self._deferred = False
        signal.signal(signal.SIGTERM, self._handle)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it SIGTERM only sets `requested`; who enters it looks at that and saves."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def settle(self) -> None:
        """From now on SIGTERM changes nothing: how the attempt ended is known, and gets written."""
        self._deferred = True

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        # torchrun passes on what it gets, and a process group gets it too: the second changes
        # nothing, not even the writing of the result of the first.
        if self.requested:
            return
        self.requested = True
        if not self._deferred:
            raise Terminated


TERMINATION = Termination()
"""The process's own: signals belong to a process."""


def end_with_parent() -> None:
    """Get SIGTERM when torchrun dies, so that a killed stage does not train on unseen."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the kernel was asked to watch it.
        os.kill(os.getpid(), signal.SIGTERM)
