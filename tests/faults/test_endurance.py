"""The benchmark of the operator's endurance in short: all of its faults, and a rest after them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "endurance.py"
SIZE = ["--minutes", "0.33", "--runs", "60", "--stage-seconds", "2", "--resync", "10"]


@pytest.mark.parametrize("seed", [1, 2])
def test_an_operator_that_was_under_faults_for_a_while_comes_to_rest(seed):
    done = subprocess.run(
        [sys.executable, SCRIPT, *SIZE, "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept" in done.stdout
    assert "MISSED" not in done.stdout


def entries(how, minute):
    """How long a table is: as the work, the runs, or what is not heard of yet; or it leaks."""
    return {
        "leaks": 1000 + 20 * minute,
        "works": 1000 * (minute % 3),
        "holds": 1000,
        "hears late": 1000 + (minute > 20) * 100 * (minute % 5),
        "begins anew": 1000 * (minute not in (12, 13)),
    }[how]


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("leaks", True),
        ("works", False),
        ("holds", False),
        ("hears late", False),
        ("begins anew", False),
    ],
)
def test_a_table_that_grows_is_told_from_one_that_is_busy(monkeypatch, how, seen):
    monkeypatch.syspath_prepend(BENCHMARKS)
    endured = importlib.import_module("endured")
    options = endured.Options(minutes=30.0, runs=1000, seed=1, stage=120.0, resync=300.0)
    found = endured.Endured()
    for minute in range(31):
        counts = {"tables": {"a.Table.b": entries(how, minute)}, "classes": {}, "series": {}}
        found.samples.append(endured.Sample(60.0 * minute, memory=100, objects=3000, counts=counts))
    assert bool(found.grown(options)) is seen
