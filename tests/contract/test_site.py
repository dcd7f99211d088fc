"""The site of the docs: every page of the repository is in it, and what is broken fails its build.

The builds here are of a small repository with a plain theme; `make docs` builds the real one.
"""

import shutil

import pytest
from doc_pages import PAGES, ROOT, name

pytest.importorskip("mkdocs")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

SETTINGS = """
site_name: t
docs_dir: docs
theme: {name: mkdocs, highlightjs: false}
plugins: []
hooks: [docs/hooks.py]
validation: {anchors: warn, omitted_files: warn}
nav: [README.md, docs/guide.md, Reference: docs/reference/, Later: docs/later/]
"""


@pytest.fixture
def built(tmp_path):
    """Builds a repository of these files, strictly; gives the directory of its site."""

    def make(files):
        start = {"README.md": "# Start\n\n[Guide](docs/guide.md#data)"}
        guide = {"docs/guide.md": "# Guide\n\n## Data\n\n[Back](../README.md)"}
        tables = {
            "docs/reference/a.md": "<!-- made -->\n\n# Table A",
            "docs/reference/README.md": "# Tables",
        }
        for path, text in {**start, **guide, **tables, "mkdocs.yml": SETTINGS, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        shutil.copy(ROOT / "docs/hooks.py", tmp_path / "docs")
        build(load_config(str(tmp_path / "mkdocs.yml"), strict=True))
        return tmp_path / "site"

    return make


def test_pages_keep_their_paths_and_folders_are_in_the_navigation(built):
    site = built({})
    start = (site / "index.html").read_text()
    assert 'href="docs/guide/#data"' in start
    assert start.index("docs/reference/") < start.index("docs/reference/a/")
    assert "Table A" in start
    assert "Later" not in start


@pytest.mark.parametrize(
    "broken",
    [
        {"docs/guide.md": "# Guide\n\n[no page](../elsewhere.md)"},
        {"docs/guide.md": "# Guide\n\nThe heading that the start links to is gone."},
        {"docs/guide.md": "# Guide\n\n## Data\n\n![fetched](https://example.org/a.png)"},
        {"docs/guide.md": "# Guide\n\n## Data\n\nA list without a blank line:\n- one"},
        {"docs/forgotten.md": "# In no navigation"},
    ],
)
def test_what_is_broken_fails_the_build(built, broken):
    with pytest.raises(Abort):
        built(broken)


def test_the_real_navigation_has_every_page():
    config = load_config(
        str(ROOT / "mkdocs.yml"), theme="mkdocs", plugins=[], markdown_extensions=[]
    )
    config = config.plugins.on_config(config)
    assert {name(page) for page in PAGES} <= set(listed(config.nav))


def listed(entries):
    for entry in entries:
        content = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from listed(content) if isinstance(content, list) else [content]
