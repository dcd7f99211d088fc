"""The pages of the docs and their fenced blocks, as tests read them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "examples/**/*.md", "charts/*/*.md")
PAGES = sorted({page for pattern in PATTERNS for page in ROOT.glob(pattern)})

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str | None = None) -> Iterator[Block]:
    """The blocks of a page, all or those of a language, without the indentation of their fence."""
    for indent, found, body in _FENCE.findall(text):
        if language in (None, found.strip()):
            yield Block(found.strip(), re.sub(f"^{indent}", "", body, flags=re.MULTILINE))
