"""The benchmark of the operator's endurance in short: all of its faults, and a rest after them."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "endurance.py"
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
