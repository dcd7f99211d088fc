"""The past as a proxy has seen it go by: lists and events, from which older lists are made."""

from bisect import bisect_right


class Past:
    """What each list said, and what its watches told since; by path and selectors."""

    def __init__(self):
        self._lists = {}
        self._events = {}

    def listed(self, request, path, document):
        """Keep (a page of) a list."""
        version = _version(document)
        kept = self._lists.setdefault(_place(request, path), {})
        if request.query.get("continue") and version in kept:
            kept[version]["items"] = [*kept[version]["items"], *document["items"]]
        else:
            kept[version] = document

    def told(self, request, path, kind, document):
        """Keep an event of a watch."""
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            kept = self._events.setdefault(_place(request, path), {})
            kept[_version(document)] = (kind, document)

    def at(self, request, path, version):
        """The list as it was at a version.

        Raises:
            LookupError: nobody has listed it that early.
        """
        place = _place(request, path)
        lists = self._lists.get(place, {})
        early = sorted(lists)[: bisect_right(sorted(lists), version)]
        if not early:
            raise LookupError(f"{path} was first listed after version {version}: {sorted(lists)}")
        base = lists[early[-1]]
        there = {_key(item): item for item in base["items"]}
        events = self._events.get(place, {})
        for when in sorted(events):
            kind, document = events[when]
            if early[-1] < when <= version:
                there.pop(_key(document), None)
                if kind != "DELETED":
                    there[_key(document)] = document
        return {
            **base,
            "metadata": {"resourceVersion": str(version)},
            "items": list(there.values()),
        }


def _place(request, path):
    """What a list and the watches that follow it have in common."""
    return path, request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")


def _key(document):
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _version(document):
    return int(document["metadata"]["resourceVersion"])
