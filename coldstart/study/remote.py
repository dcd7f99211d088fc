"""A study's runs in a cluster: applied all at once, watched to their ends, their scores fetched.

Its plan starts a run when the one that it needs is there, so nothing is held back here. It asks a
place, and knows no Kubernetes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from coldstart import layout
from coldstart.documents import read_document
from coldstart.files import write_atomic
from coldstart.layout import RunLayout
from coldstart.places import NoAnswer, Place, PlaceError
from coldstart.record import save
from coldstart.results import BenchmarkResult
from coldstart.study.local import Ended, reason
from coldstart.study.plan import SharedRun, StudyPlan

LOOK_SECONDS = 5.0
"""How often the runs are looked at."""

PATIENCE_SECONDS = 600.0
"""How long a cluster may give no answer; the runs go on without us."""

FETCH_SECONDS = 180
"""How long a cluster may take to hand out one file."""

Tell = Callable[[str], None]


def apply(plan: StudyPlan, place: Place, tell: Tell) -> None:
    """Create the runs that are not there.

    Raises:
        PlaceError: one is refused; those before it are there.
    """
    if any(run.run.spec.storage.claim_name is None for run in plan.runs.values()):
        raise PlaceError(
            "spec.storage.claimName: is required on a cluster: set it in the run's file"
        )
    for run in plan.runs.values():
        begun = place.start(run.run)
        tell(f"{run.name}: {'created' if begun else 'is there already'}")


def awaited(
    plan: StudyPlan, place: Place, tell: Tell, look_seconds: float = LOOK_SECONDS
) -> dict[str, Ended]:
    """The runs after their ends, by name; what changes meanwhile is told.

    Raises:
        PlaceError: a run is gone, or the cluster has been silent for too long.
    """
    ended: dict[str, Ended] = {}
    told: dict[str, str] = {}
    heard = time.monotonic()
    while True:
        try:
            for run in plan.runs.values():
                if run.name not in ended and (found := _look(run, place, ended, told, tell)):
                    ended[run.name] = found
            heard = time.monotonic()
        except NoAnswer as error:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            tell(f"{error}; asks again")
        if len(ended) == len(plan.runs):
            return ended
        time.sleep(look_seconds)


def _look(
    run: SharedRun, place: Place, ended: dict[str, Ended], told: dict[str, str], tell: Tell
) -> Ended | None:
    """How a run has ended; None if it has not."""
    before = ended.get(run.needs or "")
    if before and not before.made:
        return Ended(run, message=f"waits for {run.needs}, which has failed")
    view = place.view(run.name)
    status, said = view.status, view.status.message or " ".join(view.notes)
    if said != told.get(run.name, ""):
        told[run.name] = said
        tell(f"{run.name}: {said}")
    accepted = status.condition("Accepted")
    if accepted and accepted.status == "False":
        return Ended(run, status, f"is not accepted: {accepted.message}")
    if not status.finished:
        return None
    return Ended(run, status, "" if status.holds("Succeeded") else reason(status))


def fetch(ended: Ended, place: Place, directory: Path, tell: Tell) -> None:
    """Bring a run's scores into a directory, as the table reads them.

    Raises:
        PlaceError: a file cannot be had.
        OSError: the directory cannot be written.
    """
    spec = ended.run.run.spec
    if spec.evaluation is None:
        return
    here = RunLayout(directory / ended.run.name)
    for benchmark in spec.evaluation.benchmarks:
        scores = here.benchmark(ended.run.stage, benchmark.name)
        if _current(ended, layout.results(scores)):
            continue
        scores.mkdir(parents=True, exist_ok=True)
        for path in (layout.samples(scores), layout.results(scores)):  # the latter says: whole
            name = str(path.relative_to(here.root))
            tell(f"{ended.run.name}: fetches {name}")
            write_atomic(path, place.file(ended.run.name, name, FETCH_SECONDS, tell))
    save(ended.run.run.model_copy(update={"status": ended.status}), here)


def _current(ended: Ended, path: Path) -> bool:
    """Whether results that were fetched earlier are those of the run's checkpoint."""
    try:
        found = read_document(path, BenchmarkResult)
    except ValueError:
        return False
    entry = ended.status.stage(ended.run.stage) if ended.status else None
    digest = entry.checkpoint.digest if entry and entry.checkpoint else None
    return found is not None and found.digest == digest


def fetched(
    plan: StudyPlan, ended: dict[str, Ended], place: Place, directory: Path, tell: Tell
) -> dict[str, str]:
    """Fetch the scores of all runs that have any; why others have none, by name.

    Raises:
        OSError: as `fetch`.
    """
    failures: dict[str, str] = {}
    for name in plan.runs:
        if ended[name].message:
            failures[name] = ended[name].message
            continue
        try:
            fetch(ended[name], place, directory, tell)
        except PlaceError as error:
            failures[name] = f"its scores cannot be fetched: {error}"
    return failures
