"""The proxy and the harness themselves: each thing that it can do, done once."""

import time

import pytest
from apiserver.faults import (
    Fault,
    answer,
    cut,
    drop,
    duplicate,
    error,
    hide,
    silence,
    stale,
    stall,
    swap,
    timeout,
)
from apiserver.scripts import FOREVER, Behaviour, scripted
from faults.proxied import faulty
from operating import SFT_ONLY, holds, run_starts, stage

FIRST_JOB = ("pytorchjobs", "r-sft-1")
BUSY = {"headers": {"Retry-After": "1"}}

FAULTS = {
    "409": answer("patch", "reasoningruns/status", 409, nth=2),
    "429": answer("create", "pytorchjobs", 429, **BUSY),
    "500": answer("create", "pytorchjobs", 500),
    "503": answer("patch", "reasoningruns/status", 503, nth=2, **BUSY),
    "500 after the commit": answer("create", "pytorchjobs", 500, after=True),
    "no answer before": drop("create", "pytorchjobs", after=False),
    "no answer after": drop("create", "pytorchjobs", after=True),
    "an event twice": duplicate("pytorchjobs", times=None),
    "events out of order": swap("pytorchjobs", times=3),
    "a stream that is cut": cut("pytorchjobs"),
    "a stream that ends in an error": error("pytorchjobs", 410),
    "a stream that stalls": stall("pytorchjobs", 0.5),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_time_only(tmp_path, name):
    with faulty(tmp_path) as w, w.operators():
        w.watched("reasoningruns", "pytorchjobs")
        fault = w.faults.add(FAULTS[name])
        w.apply(**SFT_ONLY)
        run = w.end(seconds=20)
        assert holds(run, "Succeeded"), run["status"]
        assert fault.hits
        assert w.created() == ["r-sft-1"]
        assert stage(run, "sft")["attempt"] == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_killed_operator_is_started_again(tmp_path, after):
    with faulty(tmp_path) as w, w.operators() as operators:
        fault = w.faults.add(w.killing("create", "pytorchjobs", after=after))
        w.apply(**SFT_ONLY)
        assert holds(w.end(seconds=20), "Succeeded")
        asked = w.requests.of("create", "pytorchjobs")
        assert [(one.status, one.done) for one in asked] == (
            [(-1, 201)] if after else [(-1, 0), (201, 201)]
        )
    assert (fault.hits, operators.codes, len(operators.processes)) == (1, [-9], 2)


def test_minutes_pass_in_a_moment(tmp_path):
    """What neither stream tells, the full LIST after five minutes finds."""
    with faulty(tmp_path) as w, w.operators(speed=100):
        w.watched("reasoningruns")
        w.faults.add(hide("reasoningruns", times=None))
        w.apply(**SFT_ONLY)
        assert holds(w.end(seconds=20), "Succeeded")


def test_no_answer_is_waited_for_in_vain(tmp_path):
    with faulty(tmp_path) as w, w.operators(speed=20):
        fault = w.faults.add(timeout("create", "pytorchjobs", after=True))
        w.apply(**SFT_ONLY)
        assert holds(w.end(seconds=30), "Succeeded")
        assert fault.hits
        assert w.created() == ["r-sft-1"]


def test_a_silent_stream_is_made_up_for_by_lists(tmp_path):
    with faulty(tmp_path) as w, w.operators(speed=100):
        w.watched("reasoningruns")
        fault = w.faults.add(silence("reasoningruns", times=None))
        w.apply(**SFT_ONLY)
        assert holds(w.end(seconds=20), "Succeeded")
        assert fault.hits


def test_a_list_of_the_past_shows_what_was(tmp_path):
    """The second operator is told that the first attempt, which has failed, runs still."""
    script = scripted({("sft", 1): FOREVER, ("sft", 2): FOREVER})
    with faulty(tmp_path, script) as w, w.operators() as operators:
        w.watched("reasoningruns", "pytorchjobs")
        w.apply(**SFT_ONLY)
        w.until(run_starts)
        then = int(w.server.get("pytorchjobs", "r-sft-1")["metadata"]["resourceVersion"])
        w.controllers.finish("r-sft-1", Behaviour(exit_code=137, message=None))
        w.until(lambda run: run_starts(run, attempt=2))
        past = w.faults.add(stale("pytorchjobs", then))
        operators.kill()
        deadline = time.monotonic() + 20
        while not past.hits:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        w.controllers.finish("r-sft-2")
        assert holds(w.end(seconds=20), "Succeeded")
        assert w.created() == w.jobs() == ["r-sft-1", "r-sft-2"]


def test_what_goes_before_the_streams_open_is_found_by_the_second_list(tmp_path):
    """No stream tells of a job that is deleted between the operator's first LIST and kopf's."""
    script = scripted({("sft", 1): FOREVER})
    with faulty(tmp_path, script) as w:
        with w.process() as operator:
            w.apply(**SFT_ONLY)
            w.until(run_starts)
            operator.kill()
        w.faults.add(
            Fault("list", "pytorchjobs", nth=2, hook=lambda _: w.server.delete(*FIRST_JOB))
        )
        with w.process("--resync", "100000", speed=20):
            assert holds(w.end(seconds=60), "Succeeded")
        assert w.created() == ["r-sft-1", "r-sft-2"]
