"""What may become of an attempt in a walk, by name, and what an attempt that ended so counts as."""

from __future__ import annotations

from apiserver.scripts import Behaviour, error, success


def _torn(attempt):
    return success(attempt)[:-40]


def _refused(attempt):
    return success(attempt, loss=9.0)


def _foreign(attempt):
    return success(attempt).replace(attempt.uid.encode(), b"somebody-else")


def _pod(seconds, **more):
    return Behaviour(pending=1.0, running=seconds, **more)


FATES = {
    "well": _pod(30.0),
    "lasts": _pod(None),
    "slow to end": _pod(None, shutdown=25.0),
    "waits": Behaviour(pending=None, unschedulable="0/3 nodes are available"),
    "queued": _pod(30.0, queued=60.0),
    "killed": _pod(20.0, exit_code=137, message=None),
    "out of memory": _pod(20.0, exit_code=137, message=None, reason="OOMKilled"),
    "evicted": _pod(20.0, exit_code=137, message=None, reason="Evicted"),
    "endpoint down": _pod(20.0, exit_code=128, message=error("EndpointDown")),
    "bad data": _pod(1.0, exit_code=2, message=error("DatasetInvalid")),
    "mistake": _pod(1.0, exit_code=1, message=None),
    "torn": _pod(20.0, message=_torn),
    "silent": _pod(20.0, message=None),
    "foreign": _pod(20.0, message=_foreign),
    "refused": _pod(20.0, message=_refused),
    "lost node": _pod(None, lost=True),
}
"""The first is what an attempt does of which nothing is said."""

GOOD = {"well", "queued"}
RETRIED = {"killed", "out of memory", "evicted", "endpoint down", "torn", "silent", "foreign"}
"""Ends that cost a retry."""

FINAL = {"bad data", "mistake", "refused"}
"""Ends after which there is no other attempt."""
