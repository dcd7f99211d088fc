"""The quickstart's data and base model, made once for all modules and workers of a test run."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "quickstart"


@pytest.fixture(scope="session")
def quickstart_build(tmp_path_factory) -> Path:
    """What `prepare.py` writes; to be copied, not changed.

    It takes a minute of one core, and another worker that asks meanwhile waits: of the modules
    that ask for it, all but the first should come late in the alphabet.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place = shared / "quickstart-build"
    command = [sys.executable, str(EXAMPLE / "prepare.py"), "--out", str(place)]
    with (shared / "quickstart-build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place
