"""What the `[operator]` extra brings, and what the operator imports: no torch."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pkgutil import walk_packages

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import coldstart_operator

HEAVY = {"torch", "transformers", "trl", "accelerate", "datasets", "vllm", "deepspeed", "pillow"}
PROJECT = "coldstart-operator"


def brought(name, extras):
    """Everything that installing a distribution brings, as far as it is installed here."""
    found, left = set(), [(name, frozenset(extras))]
    while left:
        name, extras = left.pop()
        try:
            declared = requires(name) or ()
        except PackageNotFoundError:
            continue  # for another platform
        for wanted in map(Requirement, declared):
            kinds = extras or {""}
            if wanted.marker and not any(wanted.marker.evaluate({"extra": e}) for e in kinds):
                continue
            item = (canonicalize_name(wanted.name), frozenset(wanted.extras))
            if item not in found:
                found.add(item)
                left.append(item)
    return {name for name, _ in found}


def test_the_operator_is_installed_without_torch():
    found = brought(PROJECT, {"operator"})
    assert {"kopf", "kubernetes", "prometheus-client", "pydantic", "aiohttp"} <= found
    assert not found & HEAVY


def test_the_trainer_is_not():
    assert {"torch", "transformers", "trl"} <= brought(PROJECT, {"trainer"})


PROGRAM = """
import importlib, json, sys
blocked, modules = json.loads(sys.argv[1])
for name in blocked:
    sys.modules[name] = None
for name in modules:
    importlib.import_module(name)
"""


def imported(modules, blocked):
    """What goes wrong when modules are imported where others are not installed."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([sorted(blocked), modules])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stderr if done.returncode else ""


def test_every_module_of_the_operator_is_imported_without_torch():
    names = [
        item.name for item in walk_packages(coldstart_operator.__path__, "coldstart_operator.")
    ]
    assert {"coldstart_operator.handlers", "coldstart_operator.webhook"} <= set(names)
    assert imported(names, HEAVY | {"coldstart_trainer", "PIL"}) == ""


def test_a_module_that_is_missing_is_seen():
    assert "import of kopf halted" in imported(["coldstart_operator.handlers"], {"kopf"})
