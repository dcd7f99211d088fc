"""`coldstart run` as a process that meets a fault; a stand-in for the trainer takes a second."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import forked
import yaml
from faults.interposing import NONE, Fault, arm, loaded

from coldstart.layout import RunLayout

TESTS = Path(__file__).parents[1]

STAGE = {"dataset": {"name": "rows.jsonl"}, "resources": {"gpusPerNode": 0}}
RUN = {
    "apiVersion": "coldstart.dev/v1alpha1",
    "kind": "ReasoningRun",
    "metadata": {"name": "r"},
    "spec": {
        "model": {"name": "m"},
        "sft": STAGE | {"timeoutSeconds": 3600},
        "grpo": STAGE,
        "retry": {"limit": 2, "backoffSeconds": 1, "maxBackoffSeconds": 5},
    },
}


class Project:
    """A directory with a run.yaml, whose run can be disturbed."""

    def __init__(self, folder: Path, script: dict[str, Any] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
        (folder / "rows.jsonl").touch()
        (folder / "script.json").write_text(json.dumps(script or {}))

    @property
    def layout(self) -> RunLayout:
        """Where the run is."""
        return RunLayout(self.folder / "runs" / "r")

    @property
    def record(self) -> Path:
        """What the last command did, and printed."""
        return self.folder / "command"

    def start(self, *options: str, fault: Fault = NONE) -> forked.Rank:
        """Start the command; a fault befalls it below the run's directory."""
        loaded()
        Path(f"{self.record}.operations").unlink(missing_ok=True)
        Path(f"{self.record}.log").unlink(missing_ok=True)
        prepare = partial(arm, fault, self.layout.root, Path(f"{self.record}.operations"))
        path = [str(TESTS / "stand_in_trainer"), str(TESTS), os.environ.get("PYTHONPATH", "")]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(path), "COLUMNS": "160"}
        process = forked.Rank(target=_command, args=(self, variables, options, prepare))
        process.start()
        return process

    def run(self, *options: str, fault: Fault = NONE) -> int:
        """The exit code of the command."""
        (code,) = forked.ended([self.start(*options, fault=fault)], 120)
        return code

    def said(self) -> str:
        """What the last command printed."""
        return Path(f"{self.record}.log").read_text()

    def stages(self) -> dict[str, dict[str, Any]]:
        """The status of each stage."""
        status = json.loads(self.layout.status.read_bytes())["status"]
        return {entry["name"]: entry for entry in status["stages"]}

    def at_work(self) -> list[str]:
        """The stages in whose directory a process works."""
        found = []
        for stage in ("sft", "grpo"):
            path = self.layout.stage(stage).alive
            if path.exists():
                with path.open("rb") as stream:
                    try:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        found.append(stage)
        return found


def _command(
    project: Project, variables: dict[str, str], options: tuple[str, ...], prepare
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(project.folder)
    stream = os.open(f"{project.record}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    from coldstart.cli import main

    prepare()
    sys.exit(main(["run", "run.yaml", *options]))
