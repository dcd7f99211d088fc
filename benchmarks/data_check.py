"""What a check of data costs and finds: made problems with line drawings, some of them leaked.

Usage: python benchmarks/data_check.py [--rows N] [--model DIRECTORY] [--json]

A fifth of the rows ask the same question about drawings of their own, which must not be taken for
each other. Of the test rows, 20 are copies of training rows, and 20 have other words and a JPEG.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from data_rows import drawing  # noqa: E402

from coldstart.datacheck import check  # noqa: E402
from coldstart.findings import CheckRequest  # noqa: E402
from coldstart.stage import StageOrder  # noqa: E402
from coldstart_trainer.check import gate  # noqa: E402

PLANTED = 20
"""Leaked rows of each kind."""

_SYLLABLES = [a + b for a in "bcdfglmnprst" for b in "aeiou"]


def problem(seed: int, kind: str = "PNG", extra: str = "") -> dict[str, Any]:
    """A row: made words, two numbers, a triangle with numbers at its corners."""
    chosen = random.Random(seed)  # noqa: S311
    words = ("".join(chosen.choices(_SYLLABLES, k=3)) for _ in range(chosen.randint(20, 60)))
    asked = f"{' '.join(words)} {chosen.randint(1, 99)} and {chosen.randint(1, 99)}?"
    answer = str(seed % 17)
    return {
        "problem": extra + ("Find the value of x." if seed % 5 == 0 else asked),
        "answer": answer,
        "response": "We look, and think. " * 10 + f"\\boxed{{{answer}}}",
        "images": [{"bytes": drawing(seed, kind), "path": None}],
    }


def write(folder: Path, rows: int) -> None:
    """Half of the rows for SFT, four tenths for GRPO, a tenth to test, and what has leaked."""
    half, most = rows // 2, rows * 9 // 10
    leaked = [problem(seed) for seed in range(1, 5 * PLANTED, 5)]
    nearly = [problem(seed, "JPEG", "Look closely: ") for seed in range(2, 5 * PLANTED, 5)]
    sets = {"sft": range(half), "grpo": range(half, most), "test": range(most, rows)}
    for name, seeds in sets.items():
        made = [problem(seed) for seed in seeds]
        made += [*leaked, *nearly] if name == "test" else []
        pq.write_table(pa.Table.from_pylist(made), folder / f"{name}.parquet", row_group_size=1000)


def seconds(who: int) -> float:
    """Processor time of this process, or of those that it has waited for."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def measured(folder: Path, model: str) -> dict[str, Any]:
    """Seconds of the check and of the gate, the check's memory, and what was found."""
    benchmarks = [{"name": "test", "dataset": {"name": "test.parquet"}}]
    spec = {
        "model": {"name": model},
        "conversation": {"minPixels": 784, "maxPixels": 50_176},
        "sft": {"dataset": {"name": "sft.parquet"}},
        "grpo": {"dataset": {"name": "grpo.parquet"}},
        "evaluation": {"benchmarks": benchmarks},
    }
    order = {"run": {"name": "r", "uid": "u"}, "stage": "sft", "attempt": 1, "spec": spec}
    place = {"inputs": [{"name": "base", "location": "m"}], "storage": "runs"}
    begun = seconds(resource.RUSAGE_SELF)
    gate.judge(StageOrder.parse(order | place | {"workdir": str(folder)}))
    judged = seconds(resource.RUSAGE_SELF) - begun
    report = check(CheckRequest.parse({"spec": spec, "workdir": str(folder)}))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rows": sum(item.rows for item in report.datasets),
        "check_seconds": round(seconds(resource.RUSAGE_CHILDREN), 1),
        "check_peak_mb": used.ru_maxrss // 1000,
        "gate_seconds": round(judged, 1),
        "unit": report.datasets[0].lengths[0].unit,
        "found": {
            f"{item.kind} {' in '.join(item.datasets)}": item.rows for item in report.findings
        },
    }


def main() -> None:
    """Make the sets, check them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--model", default="no/model", help="whose tokenizer counts")
    parser.add_argument("--json", action="store_true", help="the last line is the result")
    wanted = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), wanted.rows)
        result = measured(Path(directory), wanted.model)
    print(json.dumps(result) if wanted.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
