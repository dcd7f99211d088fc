"""How much of the faults a run covers, the safety rules after every test, and how to repeat one.

`--share 0.1 --seed 7` runs a tenth of the items, drawn by the seed over all test functions.
Whatever happened in a world is held to `oracles` when its test is over.
"""

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from faults.undisturbed import disturb
from hypothesis.internal.conjecture.providers import HypothesisProvider
from operating import JUDGED
from tiny import tiny_model, tiny_rows

__all__ = ["disturb", "tiny_model", "tiny_rows"]

HERE = Path(__file__).parent

COUNTED = pytest.StashKey[dict[str, tuple[int, int]]]()
"""How many items were chosen of how many, by test function."""

LOG_BYTES = 3_000
"""So much of each operator's log is shown where a test fails."""


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--share", type=_share, default=1.0, help="which part of the faults to run")
    group.addoption("--seed", type=int, default=0, help="which faults that part has, and no others")


def _share(text):
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError(f"--share {text}: must be more than 0 and at most 1")
    return share


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Choose, after all others have."""
    share, seed = _drawn(config)
    names = [item.nodeid for item in items if item.path.is_relative_to(HERE)]
    chosen = set(chosen_of(names, share, seed))
    known, taken = Counter(map(_function, names)), Counter(map(_function, chosen))
    config.stash[COUNTED] = {name: (taken[name], known[name]) for name in known}
    left_out = set(names) - chosen
    if left_out:
        config.hook.pytest_deselected(items=[one for one in items if one.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def chosen_of(names, share, seed):
    """A share of the items by a seed, spread over the test functions.

    Each gives the whole part of its share; who gives one more is drawn by what is left of that.
    """
    functions = defaultdict(list)
    for name in names:
        functions[_function(name)].append(name)
    left = {}
    for function, items in functions.items():
        shuffled = random.Random(f"{seed} {function}").sample(items, len(items))
        count = int(share * len(items))
        yield from shuffled[:count]
        if count < len(items):
            left[shuffled[count]] = share * len(items) - count
    draw = random.Random(seed)
    order = sorted(left, key=lambda name: draw.random() ** (1 / max(left[name], 1e-9)))
    yield from order[len(order) - round(sum(left.values())) :]


def _drawn(config):
    """Share and seed; where pytest came here from a folder above, it does not know the options."""
    return config.getoption("--share", 1.0), config.getoption("--seed", 0)


def _function(name):
    """The test function of an item."""
    return name.partition("[")[0]


def pytest_sessionfinish(session):
    """Tell the process that started this one, if there is one (pytest-xdist)."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = session.config.stash.get(COUNTED, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Every worker collects the same, so the last word will do."""
    output = getattr(node, "workeroutput", {})
    if "faults" in output:
        node.config.stash[COUNTED] = output["faults"]


def pytest_terminal_summary(terminalreporter, config):
    counted = config.stash.get(COUNTED, {})
    share, seed = _drawn(config)
    terminalreporter.section("faults")
    for name, (chosen, known) in counted.items():
        terminalreporter.line(f"{chosen:5} of {known:5}  {name}")
    chosen, known = (sum(one[index] for one in counted.values()) for index in (0, 1))
    terminalreporter.line(f"{chosen:5} of {known:5} points (--share {share} --seed {seed})")
    for report in terminalreporter.getreports("failed"):
        terminalreporter.line(f"repeat one: {command(config, report.nodeid)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        report.sections.append(("repeat it alone", command(item.config, item.nodeid)))
        folder = item.funcargs.get("tmp_path")
        for log in sorted(folder.glob("operator-*.log"))[-3:] if folder else ():
            report.sections.append((log.name, log.read_text(errors="replace")[-LOG_BYTES:]))
    return report


def command(config, nodeid):
    """What repeats one item."""
    return f"pytest '{nodeid}' --seed {_drawn(config)[1]}"


@pytest.fixture
def seed(request):
    """What `--seed` says, for tests that draw something themselves."""
    return _drawn(request.config)[1]


@pytest.fixture(autouse=True, scope="session")
def _drawn_by_the_seed_alone():
    """Have hypothesis draw the same for an item alone as for one among others.

    It mixes in the constants of all modules of the project that are imported when it draws.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HypothesisProvider, "_maybe_draw_constant", lambda *_, **__: None)
        yield


@pytest.fixture(autouse=True)
def _judged():
    """Hold every world of a test to the safety rules."""
    token = JUDGED.set(True)
    yield
    JUDGED.reset(token)
