"""How a cluster is found: by the entry point of a package that can ask one, if there is any."""

from __future__ import annotations

from importlib.metadata import entry_points

from coldstart.places.place import NoPlace, Place, Where

GROUP = "coldstart.places"
"""Entry points `cluster`: a function that makes a Place of a Where."""

INSTALL = "install coldstart-operator[operator]"


def cluster(where: Where) -> Place:
    """The cluster that is meant.

    Raises:
        NoPlace: nothing that can ask a cluster is installed.
    """
    found = next(iter(entry_points(group=GROUP, name="cluster")), None)
    if found is None:
        raise NoPlace(f"a cluster cannot be asked from here: {INSTALL}")
    try:
        make = found.load()
    except ImportError as error:
        lacking = (error.name or str(error)).partition(".")[0]
        raise NoPlace(f"a cluster cannot be asked without {lacking}: {INSTALL}") from error
    place: Place = make(where)
    return place
