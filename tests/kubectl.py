"""The real kubectl against a test's API server; nothing of it stands in."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

PROGRAM = shutil.which("kubectl") or shutil.which(
    "kubectl", path=os.environ.get("KUBEBUILDER_ASSETS", "/usr/local/kubebuilder/bin")
)
ABSENT = "no kubectl on PATH or in $KUBEBUILDER_ASSETS"

needs_kubectl = pytest.mark.skipif(PROGRAM is None, reason=ABSENT)
"""For tests whose fixtures would take long in vain; the others are skipped by `Kubectl`."""


class Kubectl:
    """Calls the program; everything that it keeps is below `directory`."""

    def __init__(self, server, directory: Path) -> None:
        if PROGRAM is None:
            pytest.skip(ABSENT)
        self.directory = directory
        config = server.kubeconfig(directory / "kubectl.config")
        self.environ = os.environ | {"KUBECONFIG": str(config), "HOME": str(directory)}

    def __call__(self, *arguments, given=None, code=0, seconds=60, **environ) -> str:
        """What it prints; it has to end with that code.

        Args:
            arguments: its command line.
            given: a document for its standard input.
            code: how it has to end.
            seconds: how long it may take.
            environ: variables beside those of this process.
        """
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            input=_text(given),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=self.environ | environ,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    @contextmanager
    def meanwhile(self, *arguments):
        """A call that goes on while the test does something; its end is awaited."""
        process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environ,
        )
        try:
            yield process
            text, _ = process.communicate(timeout=60)
            assert process.returncode == 0, text
        finally:
            process.kill()


def _text(given):
    """A document as YAML; text as it is."""
    return given if given is None or isinstance(given, str) else yaml.safe_dump(given)
