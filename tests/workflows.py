"""GitHub's workflows as tests read them, and what is wrong with one; nothing is run."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
WRITES = {
    "release.yml": {
        "wheel": {"id-token"},
        "images": {"packages", "id-token"},
        "chart": {"packages", "id-token"},
        "publish": {"contents", "id-token"},
    }
}
"""What the jobs of a workflow may write; all others only read the repository."""


def workflows():
    """The text of every workflow by its file's name."""
    folder = ROOT / ".github" / "workflows"
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def make_targets():
    """What make can make here."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def wrong(name, text):
    """What is wrong with a workflow."""
    found = yaml.safe_load(text)
    for line in text.splitlines():
        if "uses:" in line and not PINNED.search(line):
            yield f"is not pinned: {line.strip()}"
    if found.get("permissions") != {}:
        yield "gives every job permissions"
    for pattern in _paths(found[True]):  # `on` is a truth value in YAML 1.1
        if not any(ROOT.glob(pattern.removesuffix("/**"))):
            yield f"there is no {pattern}"
    for job, about in found["jobs"].items():
        allowed = WRITES.get(name, {}).get(job, set())
        yield from (f"{job}: {one}" for one in _wrong_job(about, allowed))


def _paths(events):
    for event in events.values():
        yield from (event or {}).get("paths", ()) if isinstance(event, dict) else ()


def _wrong_job(job, allowed):
    if "timeout-minutes" not in job:
        yield "may hang for six hours"
    if not isinstance(job.get("permissions"), dict):
        yield "says no permissions"
    else:
        written = {key for key, value in job["permissions"].items() if value == "write"}
        yield from (f"may write {key}" for key in written - allowed)
    for step in job["steps"]:
        yield from _wrong_step(step)


def _wrong_step(step):
    if "actions/checkout" in step.get("uses", "") and (
        step.get("with", {}).get("persist-credentials") is not False
    ):
        yield "leaves its token in the clone"
    script = step.get("run", "")
    if "${{" in script:
        yield "puts what others wrote into a script"
    for target in re.findall(r"\bmake ((?:(?:--\w+|[a-z][a-z-]*) ?)+)", script):
        unknown = {one for one in target.split() if not one.startswith("--")} - make_targets()
        yield from (f"there is no make {one}" for one in sorted(unknown))
    for path in re.findall(r"(?<![\w/])(\.ci/\S+|examples/\S+|charts/\S+)", script):
        if not (ROOT / path).exists():
            yield f"there is no {path}"
