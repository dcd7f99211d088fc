"""Good inputs of every parser, changed at random by hypothesis, which makes what fails small.

The benchmark `hostile_input.py` feeds far more of the same.
"""

import socket
import subprocess
from pathlib import Path

import hostile_models
import hostile_parsers
import hostile_storage
import pytest
from hostile_corpus import kept, slug
from hostile_inputs import mutated
from hostile_watch import Watch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INPUTS = 250
"""For a usual parser."""
LEAST = 12

# Pillow warns of what is wrong with an image.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

watch = Watch()
PARSERS = (*hostile_parsers.PARSERS, *hostile_storage.PARSERS, *hostile_models.PARSERS)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: slug(parser.name))
def test_no_input_crashes_stalls_or_leaves_its_directory(parser, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    parser.prepare(home)
    seeds = [*parser.seeds(), *kept(parser.name).values()]
    for good in parser.seeds()[:2]:  # loads what is loaded once
        watch(parser.feed, good, home, parser.documented)

    @settings(
        max_examples=max(LEAST, INPUTS * parser.weight // 100),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def feed(chance):
        data = mutated(chance, seeds, parser.form)
        seen = watch(parser.feed, data, home, parser.documented)
        assert [each for each in seen.faults if not (parser.starts and "Popen" in each)] == [], data

    feed()


class _Refused(ValueError):
    pass


FAULTS = {
    "writes beside": (lambda home: (home.parent / "x").write_bytes(b""), "opened"),
    "writes above": (lambda home: (home / "../x").touch(), "opened"),
    "reads elsewhere": (lambda _: Path("/etc/passwd").read_bytes(), "opened '/etc/passwd'"),
    "follows a link": (lambda home: (home / "link").read_bytes(), "opened"),
    "renames itself": (lambda home: home.rename(home.parent / "x"), "os.rename"),
    "removes beside": (lambda home: (home.parent / "y").unlink(), "os.remove"),
    "starts a process": (lambda _: subprocess.run(["true"], check=True), "Popen"),
    "connects": (lambda _: socket.create_connection(("127.0.0.1", 1)), "socket"),
    "crashes": (lambda _: 1 / 0, "ZeroDivisionError"),
    "is slow": (lambda _: sum(range(200_000_000)), "took"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_watch_sees_what_must_not_be(name, tmp_path):
    act, fault = FAULTS[name]
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "y").touch()
    (home / "link").symlink_to(tmp_path / "y")
    assert any(fault in each for each in watch(lambda _, at: act(at), b"", home, ()).faults)


def test_the_watch_lets_be_what_may_be(tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    def feed(data, home):
        (home / "a").mkdir()
        (home / "a" / "b").write_bytes(data)
        (home / "a" / "b").rename(home / "c")
        raise _Refused

    seen = watch(feed, b"x", home, (_Refused,))
    assert (seen.faults, seen.refused[:8]) == ([], "_Refused")
