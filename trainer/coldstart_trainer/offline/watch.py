"""What vLLM's worker processes do for us besides: end when the stage's process is gone.

vLLM loads it into each worker. It ends them when it is told to, not when whoever started it is
killed: the processes would go on holding the GPUs' memory.
"""

from __future__ import annotations

import os
import select
import signal
import threading


class Watch:
    """Methods that every worker gets (vLLM's `worker_extension_cls`)."""

    def coldstart_end_with(self, stage: int) -> None:
        """From now on end when this process ends, however it does."""
        engine = os.getppid()
        # A worker of its own is a child of the engine's process, else it is that process.
        processes = [os.getpid()] if engine == stage else [engine, os.getpid()]
        ended = os.pidfd_open(stage)
        threading.Thread(target=_end, args=(ended, processes), daemon=True).start()


def _end(ended: int, processes: list[int]) -> None:
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.poll()
    for process in processes:
        os.kill(process, signal.SIGKILL)
