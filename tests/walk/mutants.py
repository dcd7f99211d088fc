"""Mistakes that an operator could have, each put into the real one for a while."""

from __future__ import annotations

from coldstart import plan
from coldstart_operator import jobs, sight


def _never_adopts(patch):
    """A job whose creation was answered by nobody is somebody else's."""
    patch.setattr(jobs, "owner_uid", lambda _: None)


def _tries_once_more(patch):
    """A stage has one retry more than its limit."""
    failed = plan._failed

    def patient(run, *rest):
        retry = run.spec.retry
        retry = retry.model_copy(update={"limit": retry.limit + 1})
        spec = run.spec.model_copy(update={"retry": retry})
        return failed(run.model_copy(update={"spec": spec}), *rest)

    patch.setattr(plan, "_failed", patient)


def _believes_anybody(patch):
    """The result of another run is taken for this one's."""
    patch.setattr(plan, "_mismatch", lambda *_: "")


def _starts_at_once(patch):
    """The next attempt does not wait until the pods of the one before have ended."""
    patch.setattr(sight, "_lives", lambda *_: False)


MUTANTS = {
    "never adopts": (_never_adopts, 7),
    "tries once more": (_tries_once_more, 5),
    "believes anybody": (_believes_anybody, 3),
    "starts at once": (_starts_at_once, 4),
}
"""With a seed by which it is found soon."""
