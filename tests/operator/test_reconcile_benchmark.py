"""The benchmark of the operator at a tiny size: that it works, not how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reconcile.py"
KEYS = [
    "handoff_p50_ratio",
    "handoff_p99_ratio",
    "writes_per_run",
    "rss_mib",
    "restart_seconds",
    "duplicate_children",
]


def test_it_measures_all_that_it_says_and_makes_no_job_twice():
    size = ["--runs", "5", "--finished", "8", "--rate", "20", "--stage-seconds", "0.2"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *size, "--soak", "0", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == KEYS
    assert all(value > 0 for key, value in found.items() if key != "duplicate_children")
    assert 10 <= found["writes_per_run"] <= 15
    assert found["duplicate_children"] == 0
