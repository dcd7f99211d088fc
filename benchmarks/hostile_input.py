"""Every reader of foreign words under inputs that mean no good: what crashes, is slow, or escapes.

Usage: python benchmarks/hostile_input.py [--inputs 4000] [--seed 0] [--only NAME] [--save] [--json]

The parsers, and good inputs for each, are those of `tests/hostile_parsers.py` and
`tests/hostile_models.py`; `tests/hostile_inputs.py` changes them, by a seed, and each file of
`tests/faults/corpus` is fed as it is and changed, too. `--inputs` is the usual number for a parser:
one that costs more gets fewer. An input that does harm is written to `--found`, for the corpus.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import hostile_models  # noqa: E402 - the tests' own
import hostile_parsers  # noqa: E402
import hostile_storage  # noqa: E402
from hostile_corpus import kept, slug  # noqa: E402
from hostile_inputs import mutated  # noqa: E402
from hostile_watch import SLOW_SECONDS, Watch  # noqa: E402
from setting import machine_class, setting  # noqa: E402

PARSERS = (*hostile_parsers.PARSERS, *hostile_storage.PARSERS, *hostile_models.PARSERS)
RESULT = ROOT / "benchmarks" / "results" / "hostile_input.md"
LEAST = 50
"""Inputs that every parser gets."""


@dataclass
class Row:
    """What became of the inputs of one parser."""

    name: str
    inputs: int = 0
    refused: int = 0
    crashes: int = 0
    slow: int = 0
    escapes: int = 0
    slowest: float = 0.0
    memory: float = 0.0
    """MiB that the process grew by at its peak."""
    first: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Inputs that did harm."""
        return self.crashes + self.slow + self.escapes

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.name,
            f"{self.inputs:,}",
            f"{self.refused:,}",
            str(self.crashes),
            str(self.escapes),
            f"{self.slowest:.2f} s",
            f"{self.memory:.0f} MiB",
        )


HEADS = ("parser", "inputs", "refused", "crashes", "escapes", "slowest", "memory")


def fed(task: tuple[int, int, int, Path]) -> Row:
    """Feed a parser what is kept for it, and so many inputs more.

    Args:
        task: which parser, how many inputs are usual, the seed, and where bad ones go.
    """
    place, usual, seed, found = task
    parser, watch = PARSERS[place], Watch()
    count = max(LEAST, usual * parser.weight // 100)
    row = Row(parser.name)
    seeds = [*parser.seeds(), *kept(parser.name).values()]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        parser.prepare(home)
        for good in parser.seeds()[:5]:  # what is loaded and cached once is nobody's fault
            watch(parser.feed, good, home, parser.documented)
        before = _peak()
        for number in range(-len(seeds), count):
            chance = random.Random(f"{parser.name}/{seed}/{number}")  # noqa: S311
            data = seeds[number] if number < 0 else mutated(chance, seeds, parser.form)
            seen = watch(parser.feed, data, home, parser.documented)
            escapes = [each for each in seen.escapes if not (parser.starts and "Popen" in each)]
            row.inputs += 1
            row.refused += bool(seen.refused)
            row.crashes += bool(seen.crash)
            row.slow += seen.seconds > SLOW_SECONDS
            row.escapes += bool(escapes)
            row.slowest = max(row.slowest, seen.seconds)
            if seen.crash or escapes or seen.seconds > SLOW_SECONDS:
                row.first.append(f"input {number}: {(seen.faults or escapes)[0]}")
                found.mkdir(parents=True, exist_ok=True)
                (found / f"{slug(parser.name)}.{seed}.{number}").write_bytes(data)
    row.memory = _peak() - before
    return row


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    total = Row("all")
    for row in rows:
        for name in ("inputs", "refused", "crashes", "escapes"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
        total.slowest = max(total.slowest, row.slowest)
        total.memory = max(total.memory, row.memory)
    lines = [HEADS, ("---",) * len(HEADS), *(row.cells() for row in (*rows, total))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


PAGE = """\
# Hostile input

`{command}`: good inputs of every parser that reads what a pod, a user without rights, a data set, a
model or an endpoint sends, changed by a seed in a place or a few (bytes, JSON values and keys,
words), and all that is kept in `tests/faults/corpus`. *Refused* are those that ended with the error
that the parser documents; the others were read. A *crash* is any other error, or no end; an
*escape* a file outside of the input's directory, a process or an address that was reached for.
*Slowest* is the processor time of one input, of which {slow:g} s are the bound; *memory* what the
parser's process grew by. Files that C code opens (pyarrow, safetensors) are not seen. The chat
template's own process, which has bounds of its own, is no escape.

Measured on {day} on {machine} (load average {load:.1f}) in {minutes:.0f} minutes, with Python
{python}, {versions}.

{table}
"""


def page(rows: list[Row], command: str, minutes: float) -> str:
    """The kept result."""
    names = ("pydantic", "pillow", "pyarrow", "datasets", "transformers", "safetensors", "jinja2")
    return PAGE.format(
        command=command,
        slow=SLOW_SECONDS,
        **setting(*names),
        machine=machine_class(),
        minutes=minutes,
        table=table(rows),
    )


def main() -> int:
    """Feed, show, and keep what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--inputs", type=int, default=4_000, help="for a usual parser")
    parser.add_argument("--seed", type=int, default=0, help="chooses the changes")
    parser.add_argument("--only", default="", help="parsers with this in their names")
    parser.add_argument("--found", type=Path, default=Path("hostile-found"), help="for bad inputs")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parsers at a time")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    tasks = [
        (place, options.inputs, options.seed, options.found.absolute())
        for place, each in enumerate(PARSERS)
        if options.only in each.name
    ]
    rows = []
    # A process for each parser, so that memory is its own; what is loaded here is loaded there.
    with multiprocessing.get_context("fork").Pool(options.workers, maxtasksperchild=1) as pool:
        for row in pool.imap(fed, tasks):
            rows.append(row)
            print("  ".join(row.cells()), *row.first[:3], sep="\n    ", flush=True)
    print(table(rows))
    if options.save:
        command = f"python benchmarks/hostile_input.py --inputs {options.inputs} --save"
        RESULT.write_text(page(rows, command, (time.monotonic() - begun) / 60), encoding="utf-8")
    found: dict[str, Any] = {"inputs": sum(row.inputs for row in rows)}
    found |= {"faults": sum(row.faults for row in rows), "slowest": max(r.slowest for r in rows)}
    if options.json:
        print(json.dumps(found))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
