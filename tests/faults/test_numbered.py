"""Every fault of the numbered list is shown by a test, or README.md says why it is not."""

import pytest
from faults.numbered import FAULTS, README, excused, marked, table, written


def test_every_fault_is_shown_or_excused():
    shown, left_out = marked(), excused(README.read_text())
    assert sorted(FAULTS) == list(range(1, 53))
    assert shown.keys() | left_out.keys() == FAULTS.keys()
    assert not shown.keys() & left_out.keys()
    # A test that needs a cluster is no test where there is none.
    everywhere = {key for key, places in shown.items() if any("_cluster_" not in p for p in places)}
    assert everywhere == shown.keys()


def test_the_table_is_that_of_the_marks():
    text = README.read_text()
    assert written(text) == text, "run: python tests/faults/numbered.py"


def test_a_fault_that_nothing_shows_would_be_seen():
    rows = table({1: ["faults/test_a.py::test_b"]}, {2: "because"}).splitlines()
    assert rows[2].endswith("| faults/test_a.py: `b` |")
    assert rows[3].endswith("| does not apply, see below |")
    assert rows[4].endswith("|  |")


@pytest.mark.parametrize("line", ["- 5 does not apply:", "5 does not apply: x", "- 5: x"])
def test_a_line_without_a_reason_is_none(line):
    assert excused(line) == {}
    assert excused("- 5 does not apply: it is so.") == {5: "it is so."}
