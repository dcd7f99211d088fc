"""What DeepSpeed has torch compile when a stage starts: in turns that end with their processes."""

from __future__ import annotations

import fcntl
import importlib
import os
from contextlib import suppress
from pathlib import Path

from torch.utils.file_baton import FileBaton


class Turn(FileBaton):
    """A build's lock, which a killed process gives back.

    Torch's own is a file that only its maker removes: once that is killed, everybody waits for
    ever (pytorch/pytorch#189245, mended there by pytorch/pytorch#190543). Here each process builds
    in its turn, which takes no time where another one's build is whole.
    """

    def try_acquire(self) -> bool | None:
        """Wait for the turn; the file stays what it is for those who know only that."""
        self._turn = os.open(f"{self.lock_file_path}.turn", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        Path(self.lock_file_path).unlink(missing_ok=True)
        return super().try_acquire()

    def release(self) -> None:
        """End the turn."""
        with suppress(FileNotFoundError):
            super().release()
        os.close(self._turn)


def build_in_turns() -> None:
    """Have every extension that this process loads built so."""
    vars(importlib.import_module("torch.utils.cpp_extension"))["FileBaton"] = Turn
