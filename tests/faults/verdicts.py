"""What is asked at the end of a test of faults: the run ended well, and no rule was ever broken."""

import time
import urllib.error
import urllib.request

from operating import holds
from oracles import at_rest, violations


def well_ended(w, name="r", attempts=None, failures=None, seconds=60):
    """A run comes to succeed, each stage at the attempt and with the failures that it should."""
    run = w.end(name, seconds)
    assert holds(run, "Succeeded"), run["status"]
    stages = {entry["name"]: entry for entry in run["status"]["stages"]}
    wanted, failed = attempts or {}, failures or {}
    for key, entry in stages.items():
        assert entry["attempt"] == wanted.get(key, 1), entry
        assert entry["failures"] == failed.get(key, 0), entry
    no_rule_was_broken(w)
    return run


def no_rule_was_broken(w, seconds=20):
    """The safety oracles, now that everything comes to rest and for all that was."""
    end = time.monotonic() + seconds
    while found := at_rest(w.server):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    assert violations(w.server) == []


def healthz(port):
    """The code and the text of an operator's /healthz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode()


def health_turns(port, code, seconds=60):
    """Wait until /healthz answers with a code; the text that it says then."""
    end = time.monotonic() + seconds
    while (found := healthz(port))[0] != code:
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found[1]
