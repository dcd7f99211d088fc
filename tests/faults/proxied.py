"""The `world()` of the operator's tests with a proxy between the operator and the API server.

with faulty(tmp_path) as w, w.operators() as operators:
    w.faults.add(w.killing("create", "pytorchjobs", after=True))
    w.apply()
    w.end()
assert operators.kills == 1
"""

from contextlib import contextmanager

from faults.proxy import running_proxy
from operating import world


@contextmanager
def faulty(directory, script=None, **options):
    """A world, as `world()` gives it, in which the operator's every request can go wrong."""
    with world(directory, script, **options) as w, running_proxy(w.credentials()) as proxy:
        w.proxy = proxy
        yield w
