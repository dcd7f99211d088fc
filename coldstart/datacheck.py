"""A check of a run's data sets, carried out by the trainer's package in a process of its own.

The contract must not import what reads data: the process writes a `DataReport`, which this reads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from coldstart.findings import CheckRequest, DataReport
from coldstart.preflight import missing_packages


class CheckError(RuntimeError):
    """The check could not be carried out; the message says why."""


def check(request: CheckRequest) -> DataReport:
    """What the checker finds; where it is, it says on the standard error.

    Raises:
        CheckError: the trainer's package is not installed, or its process failed.
        OSError: it cannot be started, or there is no room for its report.
    """
    for line in missing_packages():
        raise CheckError(line)
    with tempfile.TemporaryDirectory(prefix="coldstart-check-") as directory:
        path = Path(directory) / "report.json"
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "coldstart_trainer.check", str(path)],
            input=request.model_dump_json(exclude_none=True).encode(),
            # Else a file beside the run.yaml that is called as a library is would be taken for it.
            env=os.environ | {"PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode or not path.exists():
            raise CheckError(f"the check ended with exit code {done.returncode}; see above")
        try:
            return DataReport.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise CheckError(f"the check's report is damaged: {error}") from error
