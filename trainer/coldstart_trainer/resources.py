"""The memory that this process uses; what it was given is in the spec."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch


def resources() -> dict[str, float]:
    """Memory of the host and the GPU, by metric; asking the GPU's waits for nothing."""
    found = {"host_rss_bytes": _resident_bytes()}
    if torch.cuda.is_available():
        found["gpu_memory_peak_bytes"] = float(torch.cuda.max_memory_allocated())
    return found


def _resident_bytes() -> float:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return math.nan
    return float(int(pages) * os.sysconf("SC_PAGE_SIZE"))
