"""What mkdocs is told beyond mkdocs.yml: the site's pages are the repository's, at their own paths.

So a link works alike in a checkout, where the repository is hosted and in the site, and the strict
build refuses one that leads nowhere. It also refuses a page that would fetch something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PATTERNS = (
    "*.md",
    "benchmarks/results/*.md",
    "charts/*/README.md",
    "docs/*.css",
    "docs/**/*.md",
    "docs/images/*",
    "examples/*.yaml",
    "examples/*/*.md",
    "examples/*/*.yaml",
)
"""What is taken from the repository; `LICENSE` and code are not."""

_FETCHED = re.compile(
    r"<(?:img|script|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//"
)
_COMMENT = re.compile(r"\A<!--.*?-->\s*", re.DOTALL)
_RAW = re.compile(r"<p>(?:[^<]*\n)?(?:```|\|[ :-]*--|[-*] |\d+\. )")

log = get_plugin_logger("site")


def sources(root: Path) -> list[str]:
    """The site's files, as paths in the repository."""
    found = {path for pattern in PATTERNS for path in root.glob(pattern)}
    return sorted(path.relative_to(root).as_posix() for path in found)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names the folder."""
    config.nav = list(_expanded(config.nav or [], sources(_root(config))))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and the repository's instead of those of `docs_dir`."""
    root = _root(config)
    theme = [file for file in files if file.src_dir != config.docs_dir]
    own = [
        File(path, str(root), config.site_dir, config.use_directory_urls) for path in sources(root)
    ]
    return Files([*theme, *own])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page without the comment that generated ones begin with: a heading gives the title."""
    return _COMMENT.sub("", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Warn, which fails a strict build, of what would be fetched, or is shown as raw Markdown."""
    if found := _FETCHED.search(output):
        log.warning("%s: would be fetched: %s", page.file.src_uri, found[0])
    if found := _RAW.search(output):
        log.warning("%s: Markdown that is not read as such: %r", page.file.src_uri, found[0][:80])
    return output


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _expanded(entries: list[Any], paths: list[str]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, str):  # without a title: its pages' own
            yield from _pages(entry, paths)
            continue
        ((title, content),) = entry.items()
        if isinstance(content, list):
            yield {title: list(_expanded(content, paths))}
        elif not content.endswith("/"):
            yield entry
        elif pages := _pages(content, paths):
            yield {title: pages}


def _pages(entry: str, paths: list[str]) -> list[str]:
    """The page itself, or those below the folder; none where there is no such folder."""
    if not entry.endswith("/"):
        return [entry]
    below = [path for path in paths if path.startswith(entry) and path.endswith(".md")]
    return sorted(below, key=lambda path: (not path.endswith("README.md"), path))
