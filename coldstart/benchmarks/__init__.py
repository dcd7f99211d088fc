"""The published benchmarks that a run can name: what each is, and how its rows are read as ours.

It knows released schemas and texts; it opens no file and sees no image.
"""

from __future__ import annotations

from coldstart.benchmarks.published import NAMES, Published, published
from coldstart.benchmarks.rows import FACETS, Problem, RowError, problem

__all__ = ["FACETS", "NAMES", "Problem", "Published", "RowError", "problem", "published"]
