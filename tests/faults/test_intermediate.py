"""Every state between two writes: the operator is killed before and after each of them."""

import time

import pytest
from apiserver.scripts import Behaviour, scripted
from apiserver.wire import within
from faults import story
from faults.proxied import faulty
from operating import all_succeeded_once, world


def test_no_write_is_left_out(tmp_path, record_property):
    """What an operator writes to which nothing happens is what the points below are."""
    with faulty(tmp_path, story.SCRIPT) as w:
        with w.operators(speed=story.SPEED):
            story.carried_out(w)
            last = story.WRITES_MADE[-1]
            within(20, lambda: last in map(story.said, w.requests.writes()), last)
        written = [story.said(one) for one in w.requests.writes()]
        assert sorted(written) == sorted(story.WRITES_MADE)
        assert story.children(w) == story.CHILDREN
        assert story.stages(w) == story.STAGES
        assert story.conditions(w) == story.CONDITIONS
    record_property("points", 2 * len(written))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", story.WRITES_MADE)
def test_killed_at_any_write_the_run_ends_the_same(tmp_path, point, after):
    with faulty(tmp_path, story.SCRIPT) as w:
        with w.operators(speed=story.SPEED) as operators:
            fault = w.faults.add(
                w.killing(None, None, after=after, where=lambda one: story.said(one) == point)
            )
            story.carried_out(w)
            within(20, lambda: len(operators.processes) > 1, f"the operator to be killed: {point}")
            operators.process.ports()
        assert fault.hits == operators.kills == len(operators.codes) == 1
        assert story.children(w) == story.CHILDREN
        assert story.stages(w) == story.STAGES
        assert story.conditions(w) == story.CONDITIONS
        told = [story.said(one) for one in w.requests.of("create", "events") if one.done == 201]
        assert len(told) == len(set(told))
        assert set(told) <= set(story.WRITES_MADE)


@pytest.mark.parametrize("round_", range(3))
def test_killed_again_and_again_every_run_ends(tmp_path, round_):
    names = [f"r{number}" for number in range(12)]
    with world(tmp_path, scripted({}, Behaviour(pending=0.2, running=0.5))) as w:
        for name in names:
            w.apply(name)
        for turn in range(4):
            with w.process() as operator:
                operator.ports()
                time.sleep(0.3 + 0.17 * (round_ * turn % 5))
                operator.kill()
        with w.process():
            all_succeeded_once(w, names)
