"""A stage without a model, for tests of the engine: counts steps, saves, and fails as told.

It obeys the same contract as the trainer: order from the environment, progress lines, result
file, exit codes, the lock that says it is alive. `script.json` in the order's workdir says what
each stage does: `steps`, `sleep`, and `die` (an error code, a signal number, or an exit code).
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from coldstart import layout
from coldstart.files import append_json_line, write_atomic
from coldstart.layout import StageLayout
from coldstart.metrics import Progress
from coldstart.stage import ORDER_ENV, RESULT_ENV, StageOrder, StageResult, failure
from coldstart.status import CheckpointRef, ErrorCode


def order_given() -> StageOrder:
    return StageOrder.parse(json.loads(os.environ[ORDER_ENV]))


def main() -> int:
    order = order_given()
    place = layout.output(order)
    place.root.mkdir(parents=True, exist_ok=True)
    with place.alive.open("w") as lock, alone(order):
        fcntl.flock(lock, fcntl.LOCK_SH)
        return work(order, place)


def alone(order: StageOrder) -> TextIO:
    """What one process at a time may hold; that a second one came is left in `two-at-work`."""
    stream = (Path(order.workdir) / f"{order.stage}.lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        append_json_line(Path(order.workdir) / "two-at-work", order.document())
    return stream


def work(order: StageOrder, place: StageLayout) -> int:
    script = json.loads((Path(order.workdir) / "script.json").read_text()).get(order.stage, {})
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    saved = place.root / "saved.json"
    step = json.loads(saved.read_text()) if saved.exists() else 0
    print(f"begins at step {step}")
    total = script.get("steps", 3)
    die = script.get("die") if order.attempt <= script.get("attempts_that_die", 99) else None
    while step < total:
        time.sleep(script.get("sleep", 0.01))
        step += 1
        write_atomic(saved, json.dumps(step).encode())
        line = Progress(
            time=time.time(), attempt=order.attempt, phase="train", done=step, total=total
        )
        append_json_line(place.metrics, line.document())
        if stopped:
            return end(order, failure(order, ErrorCode.TERMINATED, "was told to stop"))
        if die is not None and step >= script.get("die_at", 1):
            if isinstance(die, str):
                return end(order, failure(order, ErrorCode(die), "as the script says"))
            if die < 0:
                os.kill(os.getpid(), -die)
            print("Traceback: something broke")
            return die
    checkpoint = CheckpointRef(
        location=f"{order.output}/final", digest="sha256:" + "1" * 64, step=step
    )
    metrics = {"loss": 0.5, "probe_accuracy": script.get("accuracy", 1.0)}
    return end(
        order,
        StageResult(
            run=order.run,
            stage=order.stage,
            attempt=order.attempt,
            checkpoint=checkpoint,
            metrics=metrics,
        ),
    )


def end(order: StageOrder, result: StageResult) -> int:
    write_atomic(Path(os.environ[RESULT_ENV]), result.encode())
    return result.error.code.exit_code if result.error else 0


if __name__ == "__main__":
    sys.exit(main())
