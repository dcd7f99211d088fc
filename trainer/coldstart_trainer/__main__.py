"""One attempt of a stage: order in by environment, result out by file; torch comes after the gate.

Started by torchrun, once per accelerator. The exit code is the error code's, but torchrun hides
it (it exits with 1 when a worker fails), so the result file decides. On SIGTERM torchrun passes
the signal on and kills what is left after 30 seconds: whoever starts it gives it as long as a save
may take, with `--shutdown-timeout` or `PET_SHUTDOWN_TIMEOUT`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from coldstart.checkpoint import resumable
from coldstart.documents import read_document
from coldstart.files import write_atomic
from coldstart.layout import StageLayout, output
from coldstart.process import GRACE_SECONDS, sign
from coldstart.schema import problems
from coldstart.spec import Stage
from coldstart.stage import ORDER_ENV, RESULT_ENV, RESULT_PATH, StageOrder, StageResult, failure
from coldstart.status import ErrorCode
from coldstart_trainer import checkpoint, errors, inputs, phases
from coldstart_trainer.exporter import exposed
from coldstart_trainer.hub import without_token
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.termination import TERMINATION, Terminated, end_with_parent

_LOOK_SECONDS = 0.2

_ENDED_BY_OTHERS = (ErrorCode.TERMINATED, ErrorCode.WORKER_LOST)

log = logging.getLogger("coldstart_trainer")


def main() -> int:
    """Carry out the order in the environment; the exit code says how it ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        order = read_order(os.environ.get(ORDER_ENV, ""))
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 - without an order there is no result
        return ErrorCode.INVALID_ORDER.exit_code
    rank = int(os.environ.get("RANK", "0"))
    result = attempt(order, rank)
    report(result, order, rank)
    return result.error.code.exit_code if result.error else 0


def read_order(text: str) -> StageOrder:
    """The order in the environment.

    Raises:
        ValueError: there is none, or it is not one.
    """
    if not text:
        raise ValueError(f"{ORDER_ENV} is not set: a stage is started with a StageOrder as JSON")
    try:
        order = StageOrder.parse(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{ORDER_ENV} is not JSON: {error}") from error
    except ValidationError as error:
        raise ValueError("\n".join(problems(error, f"{ORDER_ENV}: "))) from error
    assert isinstance(order, StageOrder)
    return order


def attempt(order: StageOrder, rank: int) -> StageResult:
    """Run the stage; every ending becomes a result."""
    layout = output(order)
    try:
        end_with_parent()
        TERMINATION.install()
        with _hold(layout):
            _sign(layout.attempt(order.attempt), rank)
            progress = ProgressLog(layout.metrics, order.attempt, enabled=rank == 0)
            with (
                _writing_alone(layout) if rank == 0 else contextlib.nullcontext(),
                exposed(order, progress.meter, rank),
                phases.recorded(progress.meter),
            ):
                result = _run(order, layout, progress, rank)
                TERMINATION.settle()
                return result
    except (Exception, Terminated, KeyboardInterrupt) as error:  # noqa: BLE001 - see docstring
        TERMINATION.settle()
        log.error("%s", without_token(traceback.format_exc()))  # noqa: TRY400 - it alone
        code, message = errors.classify(error, Path(order.storage))
        if code in (ErrorCode.INTERNAL, ErrorCode.WORKER_LOST) and TERMINATION.requested:
            # The signal also ended a helper of ours, such as a reader of rows, before the save.
            code, message = ErrorCode.TERMINATED, f"was told to end; nothing was saved: {message}"
        if code is ErrorCode.STORAGE_FULL and rank == 0:
            # What was being written is useless, and the result needs room.
            checkpoint.remove_torn(layout.checkpoints)
        return failure(order, code, message)


def _run(order: StageOrder, layout: StageLayout, progress: ProgressLog, rank: int) -> StageResult:
    progress.write("load")
    if done := checkpoint.finished(layout, order, rank=rank):
        return done
    models = inputs.resolve(order, hashes=rank == 0)
    if rank == 0 and _begins_training(order, layout):
        importlib.import_module("coldstart_trainer.check.gate").judge(order)
    if order.stage is Stage.EVALUATION:
        evaluation = importlib.import_module("coldstart_trainer.evaluation")
        metrics = evaluation.run(order, models, progress)
        return StageResult(run=order.run, stage=order.stage, attempt=order.attempt, metrics=metrics)
    stage = importlib.import_module(f"coldstart_trainer.{order.stage.value}")
    result = stage.run(order, models[0], progress)
    assert isinstance(result, StageResult)
    return result


def _begins_training(order: StageOrder, layout: StageLayout) -> bool:
    """Whether nothing has been trained yet in the run."""
    first = order.stage is order.spec.stages[0] and order.stage is not Stage.EVALUATION
    return first and not any(resumable(layout.checkpoints, order))


def _hold(layout: StageLayout) -> BinaryIO:
    """Lock the stage's `alive.lock`, shared, until this process ends.

    Raises:
        OSError: the stage's directory cannot be written.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    stream = layout.alive.open("ab")
    try:
        fcntl.flock(stream, fcntl.LOCK_SH)
    except OSError as error:
        # Some network file systems have no locks; on a cluster nobody asks for this one.
        log.warning("%s cannot be locked: %s", layout.alive, error.strerror)
    return stream


@contextlib.contextmanager
def _writing_alone(layout: StageLayout) -> Iterator[None]:
    """Wait until an earlier attempt writes no more; one whose torchrun was killed still saves.

    Raises:
        StageFailure: it goes on for longer than a save may take (WorkerLost).
        OSError: the lock cannot be written.
    """
    with layout.writer.open("ab") as stream:
        end = time.monotonic() + GRACE_SECONDS
        while not _locked(stream):
            if time.monotonic() > end:
                raise errors.StageFailure(
                    ErrorCode.WORKER_LOST,
                    f"an earlier attempt still writes to {layout.root} (it holds "
                    f"{layout.writer.name}): end its processes",
                )
            time.sleep(_LOOK_SECONDS)
        yield


def _locked(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # As above: whoever starts attempts sees to it that there is one at a time.
        log.warning("%s cannot be locked: %s", stream.name, error.strerror)
    return True


def _sign(directory: Path, rank: int) -> None:
    """Say which process group works here.

    torchrun gives each process a group of its own, so whoever finds the lock held by an attempt
    whose torchrun is gone learns only here whom to end.
    """
    directory.mkdir(exist_ok=True)
    sign(directory, str(rank), os.getpgid(0))


def report(result: StageResult, order: StageOrder, rank: int) -> None:
    """Write the result; of several processes, rank 0 speaks for all.

    Another rank leaves its failure in the attempt's directory before it ends. Rank 0, which is
    then told to end, or loses its connection, finds there why.
    """
    directory = output(order).attempt(order.attempt)
    if rank > 0:
        if result.error:
            _write(directory / f"failure-{rank}.json", result.encode())
        return
    if result.error and result.error.code in _ENDED_BY_OTHERS:
        result = _first_failure(directory) or result
    _write(Path(os.environ.get(RESULT_ENV, RESULT_PATH)), result.encode())
    if result.error:
        log.error("%s: %s", result.error.code.value, result.error.message)


def _first_failure(directory: Path) -> StageResult | None:
    """What another process of the attempt failed with, unless that was only told to end, too."""
    for path in sorted(directory.glob("failure-*.json"), key=lambda item: item.stat().st_mtime):
        found = read_document(path, StageResult)
        if (
            found
            and found.error
            and found.error.code not in (ErrorCode.TERMINATED, ErrorCode.WORKER_LOST)
        ):
            return found
    return None


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError:
        # A pod's termination log is mounted: nothing can be renamed onto it. A full disk may
        # still take what fits into the blocks that the file has.
        try:
            path.write_bytes(data)
        except OSError as error:
            log.error("%s cannot be written: %s; it would say %s", path, error, data.decode())  # noqa: TRY400


if __name__ == "__main__":
    sys.exit(main())
