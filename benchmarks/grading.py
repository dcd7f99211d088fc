"""Grading of many outputs against math-verify in a loop on one core: outputs per second of both.

Usage: python benchmarks/grading.py [--outputs 10000] [--baseline 10000] [--kind KIND] [--json]

Outputs are some sentences that end in a box; two thirds are right, none comes twice. `mixed` are
40 % whole numbers, 10 % decimals, 20 % option letters, 10 % each of fractions, units and roots;
every other kind is one of these alone, `polynomials`, or `equations`, which only computer algebra
compares. Starting the workers counts for us; math-verify is loaded already. `--baseline` fewer
outputs, evenly drawn, shorten math-verify's turn. The second ratio is that of the processor times,
those of the workers included: what else the machine does changes it less.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Self

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
    "side",
    "is",
    "known",
]
RIGHT = 2 / 3
MIXED = ["wholes"] * 4 + ["decimals", "options", "options", "fractions", "units", "roots"]

Answer = tuple[str, Gold]


def _options(draw: random.Random, value: int) -> Answer:
    options = tuple(f"{value + step}" for step in range(4))
    place = draw.randrange(4)
    return "ABCD"[place], Gold(options[place], options)


KINDS: dict[str, Callable[[random.Random, int], Answer]] = {
    "wholes": lambda _, value: (f"{value:,}", Gold(str(value))),
    "decimals": lambda _, value: (f"{value / 8}", Gold(f"{value / 8}")),
    "options": _options,
    "fractions": lambda _, value: (
        rf"\frac{{{2 * value}}}{{14}}",
        Gold(rf"\frac{{{value}}}{{7}}"),
    ),
    "units": lambda _, value: (rf"{value}\text{{ cm}}", Gold(str(value))),
    "roots": lambda _, value: (rf"\sqrt{{{value * value * 3}}}", Gold(rf"{value}\sqrt{{3}}")),
    "polynomials": lambda _, value: (
        f"(x-{value})(x+1)",
        Gold(f"x^2-{value - 1}x-{value}"),
    ),
    "equations": lambda _, value: (f"2x - y = {value}", Gold(f"y = 2x - {value}")),
}
"""An answer that is right, and its gold."""


def answer(kind: str, draw: random.Random, number: int) -> Answer:
    """An answer that is right, and its gold."""
    found = MIXED[number % len(MIXED)] if kind == "mixed" else kind
    return KINDS[found](draw, number + 2)


def outputs(kind: str, count: int, seed: int) -> list[Case]:
    """Responses with their golds."""
    draw = random.Random(seed)  # noqa: S311
    made = []
    for number in range(count):
        span, gold = answer(kind, draw, number)
        if draw.random() > RIGHT:
            # The answer to another question of the same kind.
            span = "E" if span.isalpha() else answer(kind, draw, number + 10)[0]
        reasoning = " ".join(draw.choices(WORDS, k=draw.randrange(40, 200)))
        made.append(Case(rf"{reasoning}. The answer is $\boxed{{{span}}}$.", gold))
    return made


class Spent:
    """Wall and processor seconds of a block; the processes that it has started and ended count."""

    def __enter__(self) -> Self:
        self._wall, self._processor = time.perf_counter(), self._used()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.processor = self._used() - self._processor

    @staticmethod
    def _used() -> float:
        each = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(used.ru_utime + used.ru_stime for used in each)


def ours(cases: Sequence[Case]) -> Spent:
    """What all take, from a cold start."""
    with Spent() as spent, Grader() as grader:
        grader.grade_all(cases)
    return spent


def theirs(cases: Sequence[Case]) -> Spent:
    """What math-verify takes in a loop, loaded already."""
    found = importlib.import_module("math_verify")
    found.verify(found.parse("$(x-1)^2$"), found.parse("$x^2-2x+1$"))
    with Spent() as spent:
        for each in cases:
            found.verify(found.parse(f"${each.gold.text}$"), found.parse(each.response))
    return spent


def measured(kind: str, count: int, baseline: int, seed: int) -> dict[str, float]:
    """Rates of both, and how many times as many outputs we grade in a second."""
    cases = outputs(kind, count, seed)
    fewer = random.Random(0).sample(cases, min(count, baseline))  # noqa: S311
    taken, loop = ours(cases), theirs(fewer)
    more = count / len(fewer)
    return {
        "ratio": round(loop.wall * more / taken.wall, 3),
        "coldstart_per_second": round(count / taken.wall, 1),
        "math_verify_per_second": round(len(fewer) / loop.wall, 1),
        "processor_ratio": round(loop.processor * more / taken.processor, 3),
    }


def main() -> None:
    """Measure, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--outputs", type=int, default=10_000, help="how many are graded")
    parser.add_argument("--baseline", type=int, help="how many math-verify grades; absent: all")
    parser.add_argument(
        "--kind", default="mixed", choices=["mixed", "each", *KINDS], help="each: one after another"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the outputs")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    kinds = ["mixed", *KINDS] if options.kind == "each" else [options.kind]
    all_found = {}
    for kind in kinds:
        baseline = options.baseline or options.outputs
        found = measured(kind, options.outputs, baseline, options.seed)
        print(
            f"{kind:12} {found['coldstart_per_second']:9.1f} outputs/s, math-verify "
            f"{found['math_verify_per_second']:7.1f}: {found['ratio']:6.2f} times as many, "
            f"{found['processor_ratio']:6.2f} by processor time",
            flush=True,
        )
        all_found[kind] = found
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    if options.json:
        shown = all_found if options.kind == "each" else all_found[options.kind]
        print(json.dumps({**shown, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
