"""How far a stage is, as lines that people, the engine and the exporter read while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coldstart.files import append_json_line
from coldstart.metrics import Progress

Phase = Literal["load", "train", "probe", "save", "evaluate"]


@dataclass(frozen=True)
class ProgressLog:
    """The stage's `metrics.jsonl`; written by rank 0 only."""

    path: Path
    attempt: int
    enabled: bool = True

    def write(
        self,
        phase: Phase,
        done: int = 0,
        total: int = 0,
        *,
        label: str = "",
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Append a line; numbers that are not finite, which JSON does not have, are left out.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        if not self.enabled:
            return
        finite = {key: value for key, value in (values or {}).items() if math.isfinite(value)}
        line = Progress(
            time=time.time(),
            attempt=self.attempt,
            phase=phase,
            done=done,
            total=total,
            label=label,
            values=finite,
        )
        append_json_line(self.path, line.document())
