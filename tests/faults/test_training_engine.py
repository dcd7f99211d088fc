"""`coldstart run` killed, denied the disk, started twice: the run goes on, and nobody is left."""

import errno
import json
import random
import signal
import time

import pytest
from faults.engine import Project
from faults.interposing import Action, Fault, Operation, recorded
from faults.undisturbed import kills, points

KILLS, DENIALS, FRESH, STORIES = 48, 10, 8, 40
SEED = 5

COMMANDS = [
    (),
    ("--fresh",),
    *((*fresh, "--stage", stage) for fresh in ((), ("--fresh",)) for stage in ("sft", "grpo")),
]


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run that nothing befalls."""
    project = Project(tmp_path_factory.mktemp("whole-run") / "project")
    assert project.run() == 0, project.said()
    return project


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path / "project", {"sft": {"steps": 2}, "grpo": {"steps": 2}})
    yield made
    assert made.at_work() == []
    assert not (made.folder / "two-at-work").exists()


def succeeded(project, failures=0):
    """Whether the run is at its end, with every stage's checkpoint."""
    found = project.stages()
    assert [entry["state"] for entry in found.values()] == ["Succeeded"] * 2, project.said()
    assert all(entry["checkpoint"] for entry in found.values())
    assert sum(entry.get("failures", 0) for entry in found.values()) == failures, project.said()
    assert project.layout.report.exists()


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_file_operation_the_same_command_goes_on(number, whole, project):
    """What the killed one had started is ended first; a kill of it is no failure of a stage."""
    fault = kills(tuple(recorded(whole.record)), KILLS, SEED)[number]
    print(fault)
    assert project.run(fault=fault) == -9, project.said()
    assert project.run() == 0, project.said()
    succeeded(project)


@pytest.mark.parametrize("number", range(8))
def test_killed_at_any_moment_the_same_command_goes_on(number, project):
    generator = random.Random(number)
    for _ in range(2):
        process = project.start()
        process.join(generator.uniform(0, 2))
        process.kill()
        process.join()
    assert project.run() == 0, project.said()
    succeeded(project)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("number", range(DENIALS))
def test_where_it_cannot_write_it_says_so_and_leaves_nobody_at_work(number, error, whole, project):
    """A stage that it has started is ended with it; it would train on unseen."""
    generator = random.Random(SEED)
    operations = tuple(recorded(whole.record))
    operation = points(operations, DENIALS, generator, all_kinds=False)[number]
    print(operation)
    code = project.run(fault=Fault(operation, Action.FAIL_ON, error))
    assert project.at_work() == [], project.said()
    if code:
        assert code == 2, project.said()
        assert "runs/r" in project.said()
        assert "Traceback" not in project.said()
    assert project.run() == 0, project.said()
    succeeded(project)


@pytest.mark.parametrize("stage", [(), ("--stage", "sft")], ids=["all", "sft"])
@pytest.mark.parametrize("number", range(FRESH))
def test_killed_while_it_moves_the_old_aside_a_plain_run_ends_whole(number, stage, project):
    """Whatever has been moved by then, the status tells of nothing that is not there."""
    assert project.run() == 0, project.said()
    options = ("--fresh", *stage)
    operation = moves(project, options)[number % len(moves(project, options))]
    way = Action.KILL_AFTER if number % 2 else Action.KILL_BEFORE
    print(way, operation)
    assert project.run(*options, fault=Fault(operation, way)) == -9, project.said()
    if project.layout.status.exists():
        for name, entry in project.stages().items():
            if entry["state"] == "Succeeded":
                assert (project.layout.stage(name).root / "saved.json").exists(), entry
    assert project.run() == 0, project.said()
    succeeded(project)


@pytest.mark.parametrize("number", range(STORIES))
def test_whatever_was_asked_for_and_ended_a_plain_run_ends_whole(number, whole, project):
    """Commands one after the other, each ended somewhere; no two processes work on a stage."""
    steps = {"sft": {"steps": 4, "sleep": 0.1}, "grpo": {"steps": 3, "sleep": 0.1}}
    (project.folder / "script.json").write_text(json.dumps(steps))
    generator, operations = random.Random(number), recorded(whole.record)
    for _ in range(generator.randint(2, 5)):
        code = ended_somewhere(project, generator, operations)
        # 2: a stage was asked for whose input is not there.
        assert code != 2 or "has not finished" in project.said(), project.said()
        assert code in (0, 2, 130, -signal.SIGTERM, -signal.SIGKILL), project.said()
    assert project.run() == 0, project.said()
    succeeded(project)


def ended_somewhere(project, generator, operations):
    """The exit code of a command that is killed at an operation, or ended after a while."""
    options = generator.choice(COMMANDS)
    if generator.random() < 0.5:
        way = generator.choice([Action.KILL_BEFORE, Action.KILL_AFTER])
        fault = Fault(generator.choice(operations), way)
        print(*options, fault)
        return project.run(*options, fault=fault)
    seconds, way = generator.uniform(0, 3), generator.choice(["kill", "terminate"])
    print(*options, way, f"after {seconds:.2f} s")
    process = project.start(*options)
    process.join(seconds)
    getattr(process, way)()
    process.join()
    return process.exitcode


def moves(project, options):
    """The operations with which a fresh start puts away what is there."""
    names = ["report.html", "status.json", "sft", "grpo"]
    if len(options) > 1:
        return [Operation("rename", "status.json")] + [
            Operation(kind, f"old-1/{name}")
            for kind, name in (("rename", "sft"), ("rename", "grpo"))
        ]
    return [Operation("mkdir", "old-1")] + [Operation("rename", f"old-1/{n}") for n in names]


def test_of_two_at_once_the_second_is_refused_and_the_first_ends_well(project):
    (project.folder / "script.json").write_text('{"sft": {"steps": 40, "sleep": 0.05}}')
    first = project.start()
    end = time.monotonic() + 60
    while project.at_work() != ["sft"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    second = Project(project.folder, {"sft": {"steps": 40, "sleep": 0.05}})
    assert second.run() == 2
    assert "another coldstart run works here" in second.said()
    first.join()
    assert first.exitcode == 0
    succeeded(project)
