"""The benchmarks of grading at a tiny size: that they work, not how anything compares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAIRS = [
    {"prediction": r"\boxed{\frac{1}{2}}", "gold": "0.5", "should_match": True},
    {"prediction": r"\boxed{6}", "gold": "5", "should_match": False},
    {
        "prediction": r"\boxed{A}",
        "gold": "12",
        "should_match": True,
        "meta": {"choices": ["12", "13"]},
    },
]


@pytest.fixture(autouse=True)
def libraries():
    pytest.importorskip("math_verify")
    pytest.importorskip("pebble")


def measured(script, *arguments):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_matchers_are_measured_and_missing_ones_named(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    told, found = measured("matchers.py", file, "--only", "coldstart", "--only", "mathruler")
    assert found["coldstart"]["accuracy"] == 1.0
    assert found["coldstart"]["ms"] > 0
    if "missing" in found["mathruler"]:
        assert "mathruler    not installed" in told
        assert found["mathruler"]["accuracy"] is None
    else:
        # It knows of no options.
        assert found["mathruler"]["accuracy"] == 0.6667


def test_grading_is_measured_against_a_loop():
    _, found = measured("grading.py", "--outputs", "30", "--baseline", "10", "--kind", "each")
    assert found.pop("cores") > 0
    rates = {"ratio", "coldstart_per_second", "math_verify_per_second", "processor_ratio"}
    for kind in ("mixed", "wholes", "decimals", "options", "fractions", "units", "roots"):
        assert set(found[kind]) == rates
        assert all(rate > 0 for rate in found[kind].values())
    assert (
        found["mixed"]["processor_ratio"] > 1
    )  # about 20; so few answers of one kind may be near 1
