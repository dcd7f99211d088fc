"""Attempts as processes that are forked from one that has imported the trainer: cheap to start.

They differ from those that torchrun starts only in that nobody passes a signal on to all.
"""

import gc
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

from stage_attempts import environment

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "coldstart_trainer.grpo",
        "coldstart_trainer.sft",
        # What DeepSpeed imports when an engine is made, where there is one; two seconds.
        "deepspeed.runtime.zero.muon.original_muon",
        "torch._inductor.compile_fx",
    ]
)


class Rank(CONTEXT.Process):
    """One process of an attempt."""

    def poll(self):
        """Its exit code, if it has ended; as a Popen says it."""
        return self.exitcode


def ranks(given, result, world=1, prepare=None):
    """Start the processes of an attempt; `prepare` is called in each before it begins."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = environment(given, result) | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    started = []
    for rank in range(world):
        own = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = Rank(target=_work, args=(own, f"{result}.log", prepare))
        process.start()
        started.append(process)
    return started


def ended(processes, seconds=240):
    """The exit codes of processes that are let to end."""
    for process in processes:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def carried_out(given, result, world=1, prepare=None):
    """Let an attempt end well.

    Raises:
        AssertionError: it did not; with the end of its log.
    """
    codes = ended(ranks(given, result, world, prepare))
    assert codes == [0] * world, Path(f"{result}.log").read_text()[-3000:]
    return json.loads(Path(result).read_bytes())


def _work(variables, log, prepare):
    # What was imported before the fork is here for good: collections need not look through it.
    gc.freeze()
    os.environ.clear()
    os.environ.update(variables)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    if prepare is not None:
        prepare()
    from coldstart_trainer.__main__ import main

    sys.exit(main())
