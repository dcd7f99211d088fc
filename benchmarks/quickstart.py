"""The quickstart and its two ablation arms for several seeds, as one table.

Usage: python benchmarks/quickstart.py [--seeds 0 1 2] [--dir DIR] [--json]

Each seed makes its own data, base model and run. Finished parts are not done again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "quickstart"
FILES = {"SFT + GRPO": "run.yaml", "SFT only": "sft-only.yaml", "GRPO only": "grpo-only.yaml"}


def call(*arguments: str, cwd: Path) -> str:
    """What a command prints."""
    done = subprocess.run(arguments, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def coldstart(*arguments: str, cwd: Path) -> str:
    """What `coldstart` prints."""
    return call(sys.executable, "-m", "coldstart", *arguments, cwd=cwd)


def seeded(folder: Path, seed: int) -> None:
    """Copy the example with every seed in its files set."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in EXAMPLE.iterdir():
        if path.suffix == ".yaml":
            text = re.sub(r"^(\s+seed:) \d+", rf"\1 {seed}", path.read_text(), flags=re.MULTILINE)
            (folder / path.name).write_text(text)
        elif path.is_file():
            shutil.copy(path, folder)


def measured(folder: Path, seed: int) -> dict[str, dict]:
    """Accuracy of each checkpoint of each arm, and the seconds of the main run."""
    seeded(folder, seed)
    begun = time.monotonic()
    call(sys.executable, "prepare.py", "--seed", str(seed), cwd=folder)
    found: dict[str, dict] = {}
    for arm, file in FILES.items():
        coldstart("run", file, cwd=folder)
        if arm == "SFT + GRPO":
            found["seconds"] = {"prepare and run": round(time.monotonic() - begun)}
        name = re.search(r"^  name: (\S+)", (folder / file).read_text(), re.MULTILINE)
        assert name
        found[arm] = json.loads(coldstart("report", name[1], "--json", cwd=folder))["checkpoints"]
    return found


def table(results: dict[int, dict]) -> str:
    """The accuracies as a table, a row for each seed."""
    lines = [
        "| seed | base | SFT | SFT + GRPO | gain of GRPO | SFT only | GRPO only | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, found in results.items():
        whole = found["SFT + GRPO"]
        gain = whole["grpo"]["accuracy"] - whole["sft"]["accuracy"]
        cells = [
            str(seed),
            *(cell(whole[name]) for name in ("base", "sft", "grpo")),
            f"{100 * gain:+.1f} points",
            cell(found["SFT only"]["sft"]),
            cell(found["GRPO only"]["grpo"]),
            str(found["seconds"]["prepare and run"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(score: dict) -> str:
    """An accuracy with its interval."""
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['accuracy']:.1f} % [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dir", type=Path, default=Path("runs/benchmark-quickstart"))
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    arguments = parser.parse_args()
    results = {
        seed: measured((arguments.dir / f"seed-{seed}").absolute(), seed)
        for seed in arguments.seeds
    }
    print(table(results))
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
