"""Makes the data and the base model of the quickstart; it trains no stage of the run.

Usage: python prepare.py [--out DIR] [--seed N] [--force]
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# One thread: a model this small gains next to nothing from a second, and beside a busy neighbour
# two threads wait for each other ten times as long. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

HERE = Path(__file__).resolve().parent
SOURCES = ("digits.py", "tiny_model.py", "prepare.py")
STAMP = ".prepared.json"
STARTED = time.monotonic()


def report(line: str) -> None:
    """Say what is done, and when."""
    print(f"[{time.monotonic() - STARTED:5.1f} s] {line}", flush=True)


def stamp(seed: int) -> str:
    """Describe what a folder was made from; a folder with another stamp is made again."""
    code = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES))
    return json.dumps({"seed": seed, "code": code.hexdigest()}) + "\n"


def readable(folder: Path) -> None:
    """Let everybody read it: `mkdtemp` and safetensors keep to the owner, pods are another user."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def make(folder: Path, expected: str, write: Callable[[Path], None], force: bool) -> None:
    """Write a folder under another name and rename it: a folder that has its name is complete."""
    mark = folder / STAMP
    if not force and mark.is_file() and mark.read_text() == expected:
        report(f"{folder} is complete")
        return
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(draft)
        (draft / STAMP).write_text(expected)
        readable(draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report(f"{folder} is written")


def main() -> None:
    """Read the command line and make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "build", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="make complete folders again")
    arguments = parser.parse_args()
    seed = arguments.seed

    # Imported where work is to be done: `--help` and complete folders need not wait for torch.
    def write_data(folder: Path) -> None:
        from digits import write_splits  # noqa: PLC0415

        write_splits(folder, seed)

    def write_model(folder: Path) -> None:
        from digits import split_sources  # noqa: PLC0415
        from tiny_model import write_base_model  # noqa: PLC0415

        train, _ = split_sources(seed)
        write_base_model(folder, train, seed, report)

    arguments.out.mkdir(parents=True, exist_ok=True)
    expected = stamp(seed)
    make(arguments.out / "data", expected, write_data, arguments.force)
    make(arguments.out / "model", expected, write_model, arguments.force)


if __name__ == "__main__":
    main()
