"""What a run's directory remembers of it, and how a changed run.yaml may go on from there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from coldstart.documents import read_document
from coldstart.files import write_atomic
from coldstart.layout import RunLayout
from coldstart.plan import reopened
from coldstart.process import earlier, end_orphans
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.status import RunStatus, StageState, StageStatus


class LocalRunError(ValueError):
    """A run that cannot be started or continued here, and what to do about it."""


def read(layout: RunLayout) -> ReasoningRun | None:
    """The run recorded in a directory, if there is one.

    Raises:
        LocalRunError: its status file is damaged.
    """
    try:
        return read_document(layout.status, ReasoningRun)
    except ValueError as error:
        raise LocalRunError(f"{error}; mend it, or move it away") from error


def save(run: ReasoningRun, layout: RunLayout) -> None:
    """Write the run with its status, whole or not at all."""
    write_atomic(layout.status, json.dumps(run.document(), indent=1, ensure_ascii=False).encode())


@contextlib.contextmanager
def locked(layout: RunLayout) -> Iterator[None]:
    """Work on a run's directory alone; what a killed `coldstart run` has left at work is ended.

    Raises:
        LocalRunError: another `coldstart run` works there, or the directory is not writable.
        TimeoutError: what has been left could not be ended.
    """
    descriptor = _held(layout)
    try:
        for stage in Stage:
            end_orphans(layout.stage(stage.value))
        yield
    finally:
        os.close(descriptor)


def _held(layout: RunLayout) -> int:
    """The descriptor of a run's lock, which says whose it is; closed, it is anybody's."""
    with contextlib.ExitStack() as undo:
        try:
            layout.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
            undo.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise LocalRunError(
                f"{layout.root}: another coldstart run works here (process {holder or '?'})"
            ) from None
        except OSError as error:
            raise LocalRunError(
                f"{layout.root}: cannot be written ({error.strerror}); choose another --dir"
            ) from error
        undo.pop_all()
        return descriptor


def prepared(wanted: ReasoningRun, layout: RunLayout, fresh: Stage | bool) -> ReasoningRun:
    """The run to go on with: the recorded one where there is one, under the wanted spec.

    It is recorded before anything is done for it: its attempts are known by its UID. A run that
    failed goes on from its last checkpoint. With `fresh`, the stage and those behind it (or the
    whole run) begin again; what they had is moved into `old-<n>`.

    Raises:
        LocalRunError: a stage that has begun is asked for differently; the message names the
            fields.
    """
    recorded = read(layout)
    if recorded is None or fresh is True:
        # The status goes first, so that after a kill it tells of nothing that has been moved.
        names = [path.name for path in _contents(layout)]
        _move_aside(layout, sorted(names, key=lambda name: name != layout.status.name))
        metadata = wanted.metadata.model_copy(update={"uid": str(uuid.uuid4()), "generation": 1})
        run = wanted.model_copy(update={"metadata": metadata, "status": None})
    else:
        run = _continued(recorded, wanted, layout, fresh or None)
    if run != recorded:
        save(run, layout)
    return run


def _continued(
    recorded: ReasoningRun, wanted: ReasoningRun, layout: RunLayout, first: Stage | None
) -> ReasoningRun:
    """The recorded run under the wanted spec, its stages from `first` on begun again.

    Raises:
        LocalRunError: as `prepared`.
    """
    status = recorded.status or RunStatus()
    if first:
        later = list(Stage)[list(Stage).index(first) :]
        status = reopened(status, first)
        # First, so that after a kill it tells of nothing that has been moved.
        save(recorded.model_copy(update={"status": status}), layout)
        _move_aside(layout, [s.value for s in later if (layout.root / s.value).exists()])
    elif status.holds("Failed"):
        status = reopened(status)
    changed = recorded.spec != wanted.spec
    if changed:
        status = _reconciled(recorded, wanted, status, layout)
    generation = recorded.metadata.generation + changed
    metadata = wanted.metadata.model_copy(
        update={"uid": recorded.metadata.uid, "generation": generation}
    )
    return wanted.model_copy(update={"metadata": metadata, "status": status})


def _reconciled(
    recorded: ReasoningRun, wanted: ReasoningRun, status: RunStatus, layout: RunLayout
) -> RunStatus:
    """The status under a changed spec, if the change leaves what has begun as it was.

    Raises:
        LocalRunError: it does not.
    """
    begun = [stage for stage in recorded.spec.stages if _has_begun(stage, status, layout)]
    differences = list(_differences(recorded, wanted, begun))
    if differences:
        raise LocalRunError(
            f"run {wanted.metadata.name!r} has begun with another spec: {'; '.join(differences)}. "
            "Undo the change, choose another metadata.name, or begin again with --fresh"
        )
    old, new = recorded.spec, wanted.spec
    if new.evaluation and any(
        getattr(old, name) != getattr(new, name)
        for name in ("evaluation", "reflection", "checkpoint_names")
    ):
        status = reopened(status, Stage.EVALUATION)
    return reopened(status) if status.finished else status


def _has_begun(stage: Stage, status: RunStatus, layout: RunLayout) -> bool:
    """Whether a stage is under way or done; a kill may have come before the status told of it."""
    entry = status.stage(stage.value) or StageStatus(name=stage.value)
    if entry.state not in (StageState.WAITING, StageState.FAILED):
        return True
    left = earlier(layout.stage(stage.value), stage, skip=None)
    return any(child.attempt > entry.attempt for child in left)


def _differences(recorded: ReasoningRun, wanted: ReasoningRun, begun: list[Stage]) -> Iterator[str]:
    pairs = []
    if begun:
        pairs += [
            ("spec.model", recorded.spec.model.document(), wanted.spec.model.document()),
            (
                "spec.conversation",
                recorded.spec.conversation.document(),
                wanted.spec.conversation.document(),
            ),
        ]
    for stage in begun:
        if stage is Stage.EVALUATION:
            continue
        new = wanted.spec.stage(stage).recipe() if stage in wanted.spec.stages else {}
        pairs.append((f"spec.{stage.value}", recorded.spec.stage(stage).recipe(), new))
    for path, old, new in pairs:
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield f"{path}.{key} was {old.get(key)!r:.60}, is {new.get(key)!r:.60}"


def _contents(layout: RunLayout) -> list[Path]:
    if not layout.root.exists():
        return []
    return [p for p in layout.root.iterdir() if p != layout.lock and not p.name.startswith("old-")]


def _move_aside(layout: RunLayout, names: list[str]) -> None:
    """Move what a fresh start would write over into the first free `old-<n>`."""
    if not names:
        return
    number = 1
    while (layout.root / f"old-{number}").exists():
        number += 1
    old = layout.root / f"old-{number}"
    old.mkdir()
    for name in names:
        (layout.root / name).rename(old / name)
