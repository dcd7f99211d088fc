"""The mirror of a real API server is right in whatever order it is told of changes."""

import pytest
from apiserver.mirror import Mirror

KEY = ("", "pods")


def pod(version, uid="u", name="p"):
    return {"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": version}}


@pytest.fixture
def mirror():
    found = Mirror()
    found.told = []
    found.listeners.append(lambda _, change: found.told.append((change.type, change.version)))
    return found


def versions(mirror):
    return [entry.version for _, entry in mirror.everything()]


def test_what_is_older_changes_nothing(mirror):
    mirror.take(KEY, "ADDED", pod("5"))
    mirror.take(KEY, "MODIFIED", pod("7"))
    mirror.take(KEY, "MODIFIED", pod("6"))
    assert versions(mirror) == [7]
    assert mirror.told == [("ADDED", 5), ("MODIFIED", 7)]


def test_what_is_gone_does_not_come_back(mirror):
    mirror.take(KEY, "MODIFIED", pod("5"))
    mirror.take(KEY, "DELETED", pod("6"))
    mirror.take(KEY, "MODIFIED", pod("7"))
    assert versions(mirror) == []
    assert mirror.told == [("ADDED", 5), ("DELETED", 6)]


def test_another_of_the_same_name_is_another(mirror):
    mirror.take(KEY, "ADDED", pod("5"))
    mirror.take(KEY, "ADDED", pod("9", "v"))
    mirror.take(KEY, "DELETED", pod("8"))
    assert versions(mirror) == [9]
    assert mirror.told == [("ADDED", 5), ("DELETED", 5), ("ADDED", 9)]


def test_a_list_tells_what_is_gone_unless_it_came_later(mirror):
    mirror.take(KEY, "ADDED", pod("5"))
    mirror.take(KEY, "ADDED", pod("9", "v", "later"))
    mirror.replace(KEY, [pod("6", "w", "other")], 7)
    assert sorted(versions(mirror)) == [6, 9]
    assert mirror.told[2:] == [("ADDED", 6), ("DELETED", 5)]
