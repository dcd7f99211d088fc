"""How often each matcher judges pairs of answers rightly, and how long a call takes.

Usage: python benchmarks/matchers.py FILE [--only NAME] [--wrong] [--save] [--json]

FILE has a pair a line: `prediction` (a whole response), `gold`, `should_match` and, if the data
declare any, `meta` (`choices`, `precision`). Matchers, each in a process of its own, one call at a
time: `coldstart`, as an evaluation calls it; `math-verify`, with the gold between dollars, which it
reads better than raw golds; `mathruler`, as EasyR1 calls it; `trl`, TRL's `accuracy_reward`, with
the raw gold. Only `coldstart` reads `meta`. A call that takes 20 seconds is ended and counts as no
match. What mathruler and the others run on the pairs is not guarded: trust FILE.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from coldstart.grading import Grader, case

LIMIT_SECONDS, START_SECONDS = 20.0, 120.0
INSTALL = "pip install --group benchmarks"
SHOWN = 60
RESULT = Path(__file__).parent / "results" / "matchers.md"
HEAD = """\
# How often matchers are right

`python benchmarks/matchers.py FILE --save`: each matcher on the same pairs, one call at a time, in
a process of its own; what each reads of a pair is in the script. The pairs are meant to be hard,
and `coldstart` was made with both files at hand: the figures do not say how often a matcher is
right on a benchmark.
"""

Pair = dict[str, Any]
Matcher = Callable[[Pair], bool]


def coldstart() -> Matcher:
    """The rule matcher, with unboxed answers read as in an evaluation."""
    grader = Grader(workers=1, boxed_only=False)

    def matches(pair: Pair) -> bool:
        asked = case(pair["prediction"], pair["gold"], **(pair.get("meta") or {}))
        return grader.grade_all([asked])[0].correct

    return matches


def math_verify() -> Matcher:
    """math-verify with its own extraction; its own time limits work in this main thread."""
    found = importlib.import_module("math_verify")

    def matches(pair: Pair) -> bool:
        gold = pair["gold"]
        wrapped = gold if gold.strip().startswith(("$", "\\boxed")) else f"${gold}$"
        return bool(found.verify(found.parse(wrapped), found.parse(pair["prediction"])))

    return matches


def mathruler() -> Matcher:
    """The grader of mathruler on the last box, as EasyR1's accuracy reward has it."""
    grader = importlib.import_module("mathruler.grader")

    def matches(pair: Pair) -> bool:
        answer = grader.extract_boxed_content(pair["prediction"])
        return bool(grader.grade_answer(answer, pair["gold"]))

    return matches


def trl() -> Matcher:
    """TRL's reward; a gold that it cannot read, which it skips, is no match."""
    reward = importlib.import_module("trl.rewards").accuracy_reward

    def matches(pair: Pair) -> bool:
        completion = [{"role": "assistant", "content": pair["prediction"]}]
        return reward([completion], [pair["gold"]])[0] == 1.0

    return matches


MATCHERS: dict[str, tuple[Callable[[], Matcher], tuple[str, ...]]] = {
    "coldstart": (coldstart, ()),
    "math-verify": (math_verify, ("math_verify",)),
    "mathruler": (mathruler, ("mathruler", "pylatexenc", "sympy")),
    "trl": (trl, ("trl", "math_verify")),
}
"""Each with what it needs."""

WARM_UP: Pair = {"prediction": r"So it is $\boxed{|-5|}$.", "gold": "5"}
"""Only computer algebra compares it."""


def serve(name: str, pipe: Connection) -> None:
    """Answers pairs until there are no more: whether they match, and the seconds that it took."""
    matches = MATCHERS[name][0]()
    matches(WARM_UP)
    pipe.send(None)
    while True:
        try:
            pair = pipe.recv()
        except EOFError:
            return
        begun = time.perf_counter()
        try:
            matched = matches(pair)
        except Exception:  # noqa: BLE001  (what other matchers raise on odd pairs is their answer)
            matched = False
        pipe.send((matched, time.perf_counter() - begun))


class Served:
    """One matcher's process, which is replaced when a call takes too long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start()

    def start(self) -> None:
        """Wait until the process has answered one pair, which does not count."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.name, theirs))
        self.process.start()
        theirs.close()
        if not self.pipe.poll(START_SECONDS):
            raise SystemExit(f"{self.name} does not start")
        self.pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join(timeout=5)
        self.process.kill()
        self.process.join()

    def ask(self, pair: Pair) -> tuple[bool, float]:
        """Whether the pair matches, and the seconds."""
        self.pipe.send(pair)
        if self.pipe.poll(LIMIT_SECONDS):
            try:
                found: tuple[bool, float] = self.pipe.recv()
            except EOFError:  # it has died of the pair
                found = False, LIMIT_SECONDS
            else:
                return found
        self.process.kill()
        self.stop()
        self.start()
        return False, LIMIT_SECONDS


def measured(name: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy and milliseconds per call of one matcher, and the pairs that it gets wrong."""
    missing = [each for each in MATCHERS[name][1] if importlib.util.find_spec(each) is None]
    if missing:
        return {"accuracy": None, "ms": None, "missing": ", ".join(missing)}
    served = Served(name)
    answers = [served.ask(pair) for pair in pairs]
    served.stop()
    right = [
        matched == pair["should_match"] for (matched, _), pair in zip(answers, pairs, strict=True)
    ]
    return {
        "accuracy": round(sum(right) / len(pairs), 4),
        "ms": round(1e3 * statistics.fmean(seconds for _, seconds in answers), 3),
        "wrong": [pair for pair, good in zip(pairs, right, strict=True) if not good],
    }


def save(file: Path, pairs: Sequence[Pair], found: dict[str, dict[str, Any]]) -> None:
    """Add a table to the kept results."""
    matching = sum(pair["should_match"] for pair in pairs)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("math-verify", "mathruler", "trl", "sympy")
    )
    rows = "".join(
        f"| `{name}` | {result['accuracy']:.1%} | {result['ms']:.1f} |\n"
        for name, result in found.items()
    )
    table = (
        f"\n## {file.name}: {len(pairs)} pairs, of which {matching} match\n\n{versions}; "
        f"{os.cpu_count()} CPU cores, load average {os.getloadavg()[0]:.1f}.\n\n"
        f"| matcher | right | ms per call |\n|---|---|---|\n{rows}"
    )
    head = RESULT.read_text() if RESULT.exists() else HEAD
    RESULT.write_text(head + table)


def main() -> None:
    """Measure every matcher in turn, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("file", type=Path, help="pairs, JSON lines")
    parser.add_argument("--only", action="append", choices=MATCHERS, help="repeatable; absent: all")
    parser.add_argument("--save", action="store_true", help=f"add the table to {RESULT.name}")
    parser.add_argument("--wrong", action="store_true", help="list the pairs that ours gets wrong")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    lines = options.file.read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines if line.strip()]
    if not pairs:
        raise SystemExit(f"{options.file}: holds no pairs")
    found = {name: measured(name, pairs) for name in options.only or MATCHERS}
    print(f"{len(pairs)} pairs, of which {sum(pair['should_match'] for pair in pairs)} match")
    for name, result in found.items():
        if "missing" in result:
            print(f"{name:12} not installed: {result['missing']}; {INSTALL}")
        else:
            print(f"{name:12} {result['accuracy']:7.1%} right {result['ms']:9.3f} ms per call")
    if options.wrong:
        for pair in found["coldstart"].get("wrong", ()) if "coldstart" in found else ():
            print(f"wrong: {pair['prediction'][:SHOWN]!r} against {pair['gold'][:SHOWN]!r}")
    if options.save:
        save(options.file, pairs, found)
    if options.json:
        print(
            json.dumps({n: {k: v for k, v in r.items() if k != "wrong"} for n, r in found.items()})
        )


if __name__ == "__main__":
    main()
