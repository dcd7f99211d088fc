"""What kopf is told: to look for no changes, to keep nothing, to write nothing."""

import asyncio
import getpass
import pwd

import kopf
import pytest
from operating import SFT_ONLY, holds, world

from coldstart_operator.handlers import _NoMemories, _settings
from coldstart_operator.settings import Settings


def test_kopf_neither_copies_nor_keeps_what_it_sees():
    body = kopf.Body({"metadata": {"name": "r"}, "spec": {"a": 1}, "status": {"b": 2}})
    persistence = _settings(Settings()).persistence
    diffs, progress = persistence.diffbase_storage, persistence.progress_storage
    patch = kopf.Patch()
    essence = diffs.build(body=body, extra_fields=None)
    assert not essence
    assert progress.clear(essence=essence) is essence
    diffs.store(body=body, patch=patch, essence=essence)
    progress.store(key="k", record={}, body=body, patch=patch)
    progress.touch(body=body, patch=patch, value="x")
    progress.purge(key="k", body=body, patch=patch)
    progress.flush()
    assert diffs.fetch(body=body) is None
    assert progress.fetch(key="k", body=body) is None
    assert not patch
    memories = _NoMemories()
    assert asyncio.run(memories.recall({"metadata": {"uid": "u"}}, noticed_by_listing=True))
    assert not list(memories.iter_all_memories())


def test_nothing_is_posted_and_a_namespaced_operator_scans_nothing():
    assert not _settings(Settings()).posting.enabled
    assert not _settings(Settings()).scanning.disabled
    assert _settings(Settings(namespaces=("a",))).scanning.disabled


def test_the_operators_user_needs_no_name(tmp_path, monkeypatch):
    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(KeyError):
        getpass.getuser()
    with world(tmp_path) as w, w.operator():
        w.apply(**SFT_ONLY)
        assert holds(w.end(), "Succeeded")
