"""Inputs that are kept: what once broke a parser, and one of each kind, by parser."""

from __future__ import annotations

import re
from pathlib import Path

CORPUS = Path(__file__).parent / "faults" / "corpus"


def slug(name: str) -> str:
    """A parser's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def kept(name: str) -> dict[str, bytes]:
    """The inputs that are kept for a parser, by the names of their files."""
    folder = CORPUS / slug(name)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}
