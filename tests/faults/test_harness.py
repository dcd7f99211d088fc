"""The harness' own promises: what it draws, what it holds worlds to, what a failure says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.proxied import faulty

NAME = re.compile(r"test_suite[.]py::\S+")

SUITE = """
import pytest

@pytest.mark.parametrize("n", range(30))
def test_many(n):
    assert n != {wrong}

def test_one(seed):
    pass
"""


@pytest.fixture
def suite(tmp_path):
    """Run a suite that has this folder's conftest; its exit code and what it said."""
    folder = Path(__file__).parent

    def run(*options, wrong=-1):
        (tmp_path / "conftest.py").write_text((folder / "conftest.py").read_text())
        (tmp_path / "test_suite.py").write_text(SUITE.format(wrong=wrong))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder.parent), *sys.path])},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def passed(said):
    """The names of the items that ran well."""
    return {word for line in said.splitlines() if "PASSED" in line for word in NAME.findall(line)}


def test_a_share_has_items_of_every_function_and_a_seed_draws_the_same(suite):
    said = [suite("--share", "0.1", "--seed", seed)[1] for seed in ("1", "1", "2")]
    first, again, other = map(passed, said)
    assert first == again != other
    assert len(first) == 3 + 1
    assert "test_suite.py::test_one" in first
    assert "4 of    31 points (--share 0.1 --seed 1)" in said[0]


def test_every_worker_draws_the_same(suite):
    code, said = suite("--share", "0.1", "-n2")
    assert code == 0
    assert len(passed(said)) == 4
    assert "4 of    31 points" in said


def test_a_failure_says_how_it_is_repeated_alone(suite):
    code, said = suite("--seed", "5", wrong=17)
    command = "pytest 'test_suite.py::test_many[17]' --seed 5"
    assert code == 1
    assert f"\n{command}\n" in said
    assert f"\nrepeat one: {command}\n" in said


@pytest.mark.parametrize("share", ["0", "2", "many"])
def test_a_share_is_a_part(suite, share):
    code, said = suite("--share", share)
    assert code == 4
    assert "--share" in said


def test_what_breaks_a_safety_rule_fails_the_test(tmp_path):
    labels = {"run": "r", "stage": "sft", "attempt": "1", "run-uid": "u"}
    labels = {f"coldstart.dev/{key}": value for key, value in labels.items()}
    job = {"metadata": {"name": "r-sft-1", "labels": labels}, "spec": {"pytorchReplicaSpecs": {}}}
    with pytest.raises(AssertionError, match="made without its owner"), faulty(tmp_path) as w:
        w.server.create("pytorchjobs", job)
