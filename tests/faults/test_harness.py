"""The harness' own promises: what it draws, what it holds worlds to, what a failure says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.conftest import chosen_of
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


def test_a_share_is_spread_over_the_functions_and_drawn_by_the_seed():
    names = [f"test_many[{n}]" for n in range(30)] + [f"test_one_{n}" for n in range(20)]
    drawn = {seed: list(chosen_of(names, 0.1, seed)) for seed in range(200)}
    assert drawn[7] == list(chosen_of(names, 0.1, 7))
    assert all(len(set(some)) == len(some) == 5 for some in drawn.values())
    assert all(sum("many" in name for name in some) == 3 for some in drawn.values())
    assert set(names) == {name for some in drawn.values() for name in some}
    assert sorted(chosen_of(names, 1.0, 7)) == sorted(names)


def test_every_worker_draws_the_same(suite):
    code, said = suite("--share", "0.1", "-n2")
    assert code == 0
    assert len(passed(said)) == 3
    assert "3 of    31 points" in said


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
