"""The numbered list of faults against the tests that show them; as a program, writes the table.

A test says which faults it shows by `@pytest.mark.fault(number, ...)`, wherever it stands; what
no test can show has a line of its own in README.md. Nothing is run here: sources are read.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- made by numbered.py -->\n", "<!-- until here -->\n"

FAULTS = {
    1: "killed between the creation of a job and the status",
    2: "killed between a job's success and the gate's verdict",
    3: "killed between the deletion of a job and the status",
    4: "killed while a retry is counted",
    5: "killed in a suspension, after one of two deletions",
    6: "killed after the decision to delete a run whose time is up",
    7: "409 on every patch once",
    8: "429 with Retry-After, 500 and 503 on each call site, once and ten times in a row",
    9: "no answer after the commit of a creation",
    10: "the name of a job is somebody else's",
    11: "403 on a creation: rights, quota, PodSecurity",
    12: "404 on a job between list and get",
    13: "the backend's definition is missing, or removed in the middle",
    14: "the status is refused by the schema",
    15: "an admission webhook of others is down",
    16: "the event of a job's success is lost",
    17: "events twice and out of order",
    18: "410 Gone",
    19: "a watch stream is silent for minutes",
    20: "a list of the past after a restart",
    21: "a run deleted and created again under its name",
    22: "a run deleted while the operator is down",
    23: "the operator is down for the whole of a stage",
    24: "the operator is down while job and time to live are gone",
    25: "two operators at once",
    26: "a job without a status, with warnings",
    27: "a job suspended by somebody else",
    28: "evicted and admitted again by Kueue",
    29: "suspended by its user, and admitted by Kueue",
    30: "the node is lost",
    31: "failures told apart",
    32: "the master is done and workers run on",
    33: "a job deleted by a person",
    34: "a job edited by a person or by Kueue",
    35: "a last condition `Suspended` that is False",
    36: "success without a checkpoint, or with one that is not what it should be",
    37: "storage full, read-only, slow, or with a listing of the past",
    38: "resumed from the last valid checkpoint",
    39: "random valid specs",
    40: "random edits of a spec in every phase",
    41: "objects of an older schema",
    42: "huge and strange specs",
    43: "names at their limits, 200 runs at once",
    44: "clocks that are wrong",
    45: "hostile metrics of a pod",
    46: "deleted in each phase",
    47: "the chart installed, upgraded, rolled back and uninstalled",
    48: "another version of the operator takes over in the middle of GRPO",
    49: "the rights of the chart, none missing and none unused",
    50: "kept to some namespaces",
    51: "PodSecurity restricted",
    52: "kubectl wait, apply, diff and server-side apply",
}


def marked() -> dict[int, list[str]]:
    """The tests that show each fault, as file and name."""
    found = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for function, numbers in _marks(ast.parse(path.read_text())):
            for number in numbers:
                found[number].append(f"{path.relative_to(TESTS)}::{function}")
    return dict(found)


def _marks(tree: ast.Module) -> Iterator[tuple[str, list[int]]]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".fault"):
                yield node.name, [ast.literal_eval(argument) for argument in decorator.args]


def excused(text: str) -> dict[int, str]:
    """What README.md says does not apply, with its reason."""
    lines = re.findall(r"^- (\d+) does not apply: (.+)$", text, re.MULTILINE)
    return {int(number): reason for number, reason in lines}


def table(shown: dict[int, list[str]], left_out: dict[int, str]) -> str:
    """The table of README.md."""
    rows = ["| | fault | shown by |", "|---|---|---|"]
    for number, fault in FAULTS.items():
        files = defaultdict(list)
        for place in shown.get(number, ()):
            file, name = place.split("::")
            files[file].append(f"`{name.removeprefix('test_')}`")
        cells = [f"{file}: {', '.join(names)}" for file, names in files.items()]
        cells += ["does not apply, see below"] if number in left_out else []
        rows.append(f"| {number} | {fault} | {'<br>'.join(cells)} |")
    return "\n".join(rows) + "\n"


def written(text: str) -> str:
    """README.md with the table as it should be."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}{table(marked(), excused(text))}{END}{tail}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
