"""Where and with what a measurement was made, in the words of its kept page; measures nothing."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any


def machine_class() -> str:
    """The machine in words."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory_gib = round(pages * size / 2**30)
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {memory_gib} GiB of memory"


def setting(*packages: str) -> dict[str, Any]:
    """The day, the load of the last 15 minutes, Python's version and those of packages."""
    return {
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": os.getloadavg()[2],
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
    }
