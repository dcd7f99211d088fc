"""The quickstart's study as a user runs it: both stages against each alone, three seeds."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from quickstart_build import EXAMPLE

SECONDS = 7200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS + 60),
    pytest.mark.skipif(
        not os.environ.get("COLDSTART_WHOLE_STUDY"),
        reason="takes about 15 minutes: make test-study runs it",
    ),
]


@pytest.fixture(scope="module")
def table(quickstart_build, tmp_path_factory):
    """What the study has found."""
    folder = tmp_path_factory.mktemp("study")
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copytree(quickstart_build, folder / "build")
    command = [sys.executable, "-m", "coldstart", "study", "study.yaml"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "runs/quickstart-study.json").read_text())


@pytest.mark.parametrize("alone", ["sft", "grpo"])
def test_both_stages_together_are_better_than_either_alone(table, alone):
    pair = next(p for p in table["pairs"] if (p["first"], p["second"]) == (alone, "sft+grpo"))
    assert (pair["better"], pair["seeds"]) == (3, 3)
    assert pair["p"] < 0.001
    assert pair["low"] > 0


def test_every_seed_of_every_arm_was_scored_on_all_problems(table):
    arms = {row["arm"]: row["measures"][0] for row in table["rows"]}
    assert {name: arm["responses"] for name, arm in arms.items()} == {
        "base": 400,
        "sft": 1200,
        "grpo": 1200,
        "sft+grpo": 1200,
    }
    assert not any("reproduces" in note for note in table["notes"])
