"""Amounts of memory as Kubernetes writes them, and as people read them."""

from __future__ import annotations

import re

GIB = 2**30

_UNITS = {"M": 10**6, "G": 10**9, "T": 10**12, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parsed(quantity: str) -> int:
    """The bytes of a quantity as `resources.gpuMemory` takes it."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", quantity)
    assert found
    return int(float(found[1]) * _UNITS[found[2]])


def shown(size: float) -> str:
    """Bytes in GiB, with one place behind the point."""
    return f"{size / GIB:.1f} GiB"
