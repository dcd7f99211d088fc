"""Grading of many outputs against math-verify in a loop on one core: outputs per second of both.

Usage: python benchmarks/grading.py [--outputs 10000] [--baseline 10000] [--json]

Outputs are some sentences that end in a box: whole numbers, decimals, option letters, fractions and
units, and expressions that only computer algebra compares; two thirds are right, none comes twice.
Starting the workers counts. `--baseline` fewer outputs, evenly drawn, shorten math-verify's turn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import time
from collections.abc import Sequence

from coldstart.grading import Case, Gold, Grader

WORDS = [
    "so",
    "we",
    "see",
    "that",
    "the",
    "angle",
    "of",
    "a",
    "triangle",
    "and",
    "its",
    "side",
    "is",
    "known",
]
RIGHT = 2 / 3


def answer(draw: random.Random, number: int) -> tuple[str, Gold]:
    """An answer that is right, and its gold."""
    kind = number % 10
    value = number + 2
    if kind < 4:  # noqa: PLR2004  (four of ten)
        return f"{value:,}", Gold(str(value))
    if kind == 4:  # noqa: PLR2004
        return f"{value / 8}", Gold(f"{value / 8}")
    if kind in (5, 6):
        options = tuple(f"{value + step}" for step in range(4))
        place = draw.randrange(4)
        return "ABCD"[place], Gold(options[place], options)
    if kind == 7:  # noqa: PLR2004
        return rf"\frac{{{2 * value}}}{{14}}", Gold(rf"\frac{{{value}}}{{7}}")
    if kind == 8:  # noqa: PLR2004
        return rf"{value}\text{{ cm}}", Gold(str(value))
    return rf"\sqrt{{{value * value * 3}}}", Gold(rf"{value}\sqrt{{3}}")


def outputs(count: int, seed: int) -> list[Case]:
    """Responses with their golds."""
    draw = random.Random(seed)  # noqa: S311
    made = []
    for number in range(count):
        span, gold = answer(draw, number)
        if draw.random() > RIGHT:
            # The answer to another question of the same kind.
            span = "E" if span.isalpha() else answer(draw, number + 10)[0]
        reasoning = " ".join(draw.choices(WORDS, k=draw.randrange(40, 200)))
        made.append(Case(rf"{reasoning}. The answer is $\boxed{{{span}}}$.", gold))
    return made


def ours(cases: Sequence[Case]) -> float:
    """Seconds for all, from a cold start."""
    begun = time.perf_counter()
    with Grader() as grader:
        grader.grade_all(cases)
        return time.perf_counter() - begun


def theirs(cases: Sequence[Case]) -> float:
    """Seconds of math-verify, loaded already, in a loop."""
    found = importlib.import_module("math_verify")
    found.verify(found.parse("$1$"), found.parse("$1$"))
    begun = time.perf_counter()
    for each in cases:
        found.verify(found.parse(f"${each.gold.text}$"), found.parse(each.response))
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--outputs", type=int, default=10_000, help="how many are graded")
    parser.add_argument("--baseline", type=int, help="how many math-verify grades; absent: all")
    parser.add_argument("--seed", type=int, default=0, help="draws the outputs")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    cases = outputs(options.outputs, options.seed)
    fewer = random.Random(0).sample(cases, min(len(cases), options.baseline or len(cases)))  # noqa: S311
    taken, loop = ours(cases), theirs(fewer)
    found = {
        "ratio": round((loop / len(fewer)) / (taken / len(cases)), 3),
        "coldstart_per_second": round(len(cases) / taken, 1),
        "math_verify_per_second": round(len(fewer) / loop, 1),
        "cores": os.cpu_count(),
    }
    for name, value in found.items():
        print(f"{name:24} {value:g}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
