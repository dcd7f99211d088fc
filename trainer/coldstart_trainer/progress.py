"""How far a stage is, and its numbers: the lines of its file, and what its exporter shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coldstart.files import append_json_line
from coldstart.metrics import Progress
from coldstart_trainer.meter import Meter

Phase = Literal["load", "distill", "train", "probe", "save", "evaluate"]


@dataclass(frozen=True)
class ProgressLog:
    """The stage's `metrics.jsonl`; written by rank 0 only."""

    path: Path
    attempt: int
    enabled: bool = True
    meter: Meter = field(default_factory=Meter)
    """All numbers go through it, so that the file and the exporter have the same."""

    def write(
        self,
        phase: Phase,
        done: int = 0,
        total: int = 0,
        *,
        label: str = "",
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Append a line, and let the exporter see it.

        Args:
            phase: what the stage is doing.
            done: updates, questions or problems that are done.
            total: how many there will be; 0 if that is not known.
            label: what is evaluated.
            values: numbers; with them the line has everything that the meter was given since the
                last such line. Without, it only says how far the stage is.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        if not self.enabled:
            return
        if phase in ("distill", "train", "evaluate"):
            self.meter.put({"step": done} | ({"max_steps": total} if total else {}))
        self.meter.put(values or {})
        line = Progress(
            time=time.time(),
            attempt=self.attempt,
            phase=phase,
            done=done,
            total=total,
            label=label,
            values=self.meter.told() if values is not None else {},
        )
        self.meter.publish()
        append_json_line(self.path, line.document())
