"""An operator whose clock is wrong: how long ago something was, it asks of the API server's."""

import pytest
from apiserver.scripts import Behaviour, scripted
from faults.proxied import faulty
from operating import SFT_ONLY, holds, run_starts, stage

BACKENDS = {"PyTorchJob": "pytorchjobs", "Job": "jobs"}


def suspended(w, _):
    """Suspend the run and resume it while its pods end."""
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": True}})
    w.until(lambda run: stage(run, "sft")["state"] != "Running", seconds=20)
    w.server.patch("reasoningruns", "r", {"spec": {"suspend": False}})


def deleted(w, plural):
    """Delete the job behind the operator's back; its pods take time to end."""
    w.server.delete(plural, "r-sft-1")


@pytest.mark.parametrize("minutes", [-10, 10, 600])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("happens", [suspended, deleted])
def test_pods_that_still_end_are_waited_for_whatever_the_clock_says(
    tmp_path, happens, backend, minutes
):
    """They may write; an operator that is ahead must not take them for lost with their node."""
    script = scripted({("sft", 1): Behaviour(running=None, shutdown=3.0)})
    options = {"pytorch": backend == "PyTorchJob"}
    with faulty(tmp_path, script, **options) as w, w.operators(ahead=60.0 * minutes):
        w.apply(**SFT_ONLY)
        w.until(run_starts, seconds=20)
        happens(w, BACKENDS[backend])
        run = w.end(seconds=60)
        assert holds(run, "Succeeded")
        assert stage(run, "sft")["attempt"] == 2
        told = {one["reason"] for one in w.server.list("events")}
        assert "JobChanged" not in told
