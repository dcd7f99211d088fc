"""What the documents show is true: every run file in them is valid, every link leads somewhere."""

import re
from pathlib import Path

import pytest

from coldstart.runfile import load

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")]
EXAMPLES = [
    path for path in ROOT.glob("examples/**/*.yaml") if "kind: ReasoningRun" in path.read_text()
]
RUNS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
    if "kind: ReasoningRun" in block
]


@pytest.mark.parametrize("block", RUNS)
def test_a_run_file_in_a_page_is_valid(tmp_path, block):
    (tmp_path / "run.yaml").write_text(block)
    assert load(tmp_path / "run.yaml").spec.stages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_there_are_pages_to_check():
    assert len(RUNS) >= 2
    assert len(PAGES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_every_example_is_valid(path):
    assert load(path).spec.stages
