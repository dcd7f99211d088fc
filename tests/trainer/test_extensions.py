"""What torch compiles when a stage starts, by processes that are killed while they do."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stage_attempts import wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None, reason="compiling takes a C++ compiler (c++)"
)

MODULE = """
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "built", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit_built() { return PyModule_Create(&definition); }
"""

LOAD = """
import sys
from torch.utils import cpp_extension
from coldstart_trainer import extensions
extensions.build_in_turns()
print(cpp_extension.load("built", [sys.argv[1]]).__name__)
"""

SLOW_COMPILER = """#!/bin/sh
case "$*" in *-dumpfullversion*|*-v*) ;; *) touch compiling; sleep "${SLOWLY:-0}" ;; esac
exec c++ "$@"
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts a process which loads an extension, built in the test's directory."""
    (tmp_path / "built.cpp").write_text(MODULE)
    compiler = tmp_path / "slow-c++"
    compiler.write_text(SLOW_COMPILER)
    compiler.chmod(0o755)
    started = []

    def start(seconds=0):
        given = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "cache"), "CXX": str(compiler)}
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD, str(tmp_path / "built.cpp")],
            env=os.environ | given | {"SLOWLY": str(seconds)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_after_a_kill_in_a_build_the_next_process_builds(start, tmp_path):
    first = start(seconds=600)
    directory = tmp_path / "cache" / "built"
    wait_for(directory / "compiling", first, seconds=60)
    os.killpg(first.pid, signal.SIGKILL)
    assert (directory / "lock").exists()
    assert start().communicate(timeout=120)[0] == "built\n"
    assert not (directory / "lock").exists()


def test_processes_that_start_at_once_build_in_turns(start, tmp_path):
    processes = [start(seconds=1) for _ in range(3)]
    assert [one.communicate(timeout=120)[0] for one in processes] == ["built\n"] * 3
    log = Path(tmp_path / "cache" / "built" / ".ninja_log").read_text().splitlines()
    assert len(log) == 3, "a header, an object and a library, each made once"
