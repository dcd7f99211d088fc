"""What GitHub runs: pinned, with no right in excess, and of what is there; nothing of it is run."""

import pytest
from workflows import workflows, wrong

ALL = workflows()
RELEASE = ALL["release.yml"]


@pytest.mark.parametrize("name", ALL)
def test_a_workflow_is_pinned_and_asks_for_what_is_there(name):
    assert list(wrong(name, ALL[name])) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "is not pinned"),
        ("permissions: {}", "permissions: write-all", "gives every job permissions"),
        ("make --silent version", "make --silent versions", "there is no make versions"),
        ("make wheel sbom", "make wheel sbum", "there is no make sbum"),
        ("persist-credentials: false", "persist-credentials: true", "leaves its token"),
        ("contents: read # to check out", "contents: write", "may write contents"),
        ("timeout-minutes: 15", "continue-on-error: true", "may hang"),
        ('--target "$TARGET"', "--target ${{ matrix.target }}", "what others wrote"),
    ],
)
def test_what_is_wrong_with_a_workflow_is_seen(old, new, said):
    assert old in RELEASE
    found = list(wrong("release.yml", RELEASE.replace(old, new)))
    assert found
    assert all(said in one for one in found)


def test_a_path_that_is_not_there_is_seen():
    text = ALL["kind.yml"].replace("- charts/**", "- chart/**")
    assert list(wrong("kind.yml", text)) == ["there is no chart/**"]


def test_ci_is_what_a_change_must_pass():
    assert "run: .ci/run\n" in ALL["ci.yml"]
    assert list(wrong("ci.yml", ALL["ci.yml"].replace(".ci/run", ".ci/go"))) == [
        "checks: there is no .ci/go"
    ]
