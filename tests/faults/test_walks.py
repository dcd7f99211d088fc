"""Random walks: stories of users, pods, faults and operators, told by a seed and made short.

A part of them fails with the shortest story that hypothesis finds, line by line, and with all that
was stored meanwhile. What is bypassed: sockets, kopf (`walk.wire` does its part), the process with
its pages (`walk.operators`), and pods' metrics, which none answers.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test
from walk.machine import Story
from walk.mutants import MUTANTS

PARTS = 30
WALKS = 22
"""Walks of one part."""

STEPS = 40
"""Steps of a walk, at the most."""

ENOUGH = 150
"""Walks by which every mistake that is known to be one has been found."""

SHORT = 6
"""Steps in which a story of one retry too many can be told, its beginning and end among them."""


def walk(number, walks, *phases):
    """Walk so often from a seed."""
    told = settings(
        max_examples=walks,
        stateful_step_count=STEPS,
        phases=phases,
        database=None,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    # A class of its own, since that is where hypothesis keeps the seed.
    run_state_machine_as_test(seeded(number)(type("Story", (Story,), {})), settings=told)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_story_comes_to_its_end(part, seed):
    walk(seed * PARTS + part, WALKS, Phase.generate, Phase.shrink)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_found(name, monkeypatch):
    mutate, number = MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises(AssertionError, match="apply"):
        walk(number, ENOUGH, Phase.generate)


def test_a_mistake_is_told_as_a_short_story(monkeypatch):
    mutate, number = MUTANTS["tries once more"]
    mutate(monkeypatch)
    with pytest.raises(AssertionError, match="apply") as found:
        walk(number, ENOUGH, Phase.generate, Phase.shrink)
    steps = [note for note in found.value.__notes__ if note.startswith("state.")]
    assert len(steps) <= SHORT, "\n".join(steps)
