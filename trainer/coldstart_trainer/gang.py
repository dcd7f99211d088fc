"""The processes of an attempt as a gang: how they meet, and how long one waits for another."""

from __future__ import annotations

from datetime import timedelta

from accelerate import PartialState

PATIENCE_SECONDS = 1800
"""How long a process waits for another, unless `trainerArgs.ddp_timeout` says so.

One of them may read all rows, grade, or hash the final checkpoint, while the others wait. Whoever
has waited so long ends as WorkerLost, and torchrun ends the rest.
"""


def meet(*, cpu: bool, seconds: int = PATIENCE_SECONDS) -> PartialState:
    """Meet the attempt's other processes; first of all, for who comes later cannot say how long."""
    return PartialState(cpu=cpu, timeout=timedelta(seconds=seconds))
