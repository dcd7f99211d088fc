"""Where runs are, for the commands that look at them: a directory here, or a cluster.

A cluster is offered by another package through an entry point, so that nothing here needs one.
"""

from coldstart.places.discovery import cluster
from coldstart.places.place import (
    Event,
    LogQuery,
    NoAnswer,
    NoLog,
    NoPage,
    NoPlace,
    NoRun,
    NotYet,
    PageQuery,
    Place,
    PlaceError,
    RunView,
    Where,
    bare,
    gone,
    shown_attempt,
)

__all__ = [
    "Event",
    "LogQuery",
    "NoAnswer",
    "NoLog",
    "NoPage",
    "NoPlace",
    "NoRun",
    "NotYet",
    "PageQuery",
    "Place",
    "PlaceError",
    "RunView",
    "Where",
    "bare",
    "cluster",
    "gone",
    "shown_attempt",
]
