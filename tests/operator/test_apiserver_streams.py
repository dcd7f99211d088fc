"""The stand-in API server behaves as a real one where an operator can notice: lists, watches,
and the faults that tests put in.
"""

import asyncio
import threading
import time
from http.client import IncompleteRead
from itertools import islice

import pytest
from apiserver import crds, faults
from apiserver.authorization import allowing
from apiserver.client import RUNS, Client
from apiserver.server import ApiServer
from apiserver.threaded import running_server


@pytest.fixture
def server():
    with running_server(bookmark_seconds=0.1) as server:
        server.create("customresourcedefinitions", crds.reasoningruns())
        yield server


@pytest.fixture
def call(server):
    return Client(server.port)


def run(name="a"):
    kind = {"apiVersion": "coldstart.dev/v1alpha1", "kind": "ReasoningRun"}
    return {**kind, "metadata": {"name": name}}


def make(server, *names, **labels):
    for name in names:
        document = {"metadata": {"name": name, "labels": labels}, "spec": {"n": 0}}
        server.create("reasoningruns", document)


def touch(server, name, value=1):
    server.patch("reasoningruns", name, {"spec": {"n": value}})


def now_at(call):
    return call("GET", RUNS)[1]["metadata"]["resourceVersion"]


def names(found):
    return [one["metadata"]["name"] for one in found["items"]]


def seen(events):
    return [(one["type"], one["object"]["metadata"].get("name")) for one in events]


def in_the_background(action):
    thread = threading.Thread(target=action)
    thread.start()
    return thread


SELECTORS = {
    "app=a": ["one"],
    "app==a,tier": ["one"],
    "app!=a": ["three", "two"],
    "app in (a, b)": ["one", "two"],
    "app notin (a,b)": ["three"],
    "!tier": ["three", "two"],
    "tier": ["one"],
    "app in (a,b),app=b": ["two"],
    "": ["one", "three", "two"],
}


@pytest.mark.parametrize("selector", SELECTORS)
def test_label_selectors(server, call, selector):
    make(server, "one", app="a", tier="t")
    make(server, "two", app="b")
    make(server, "three", app="c")
    assert names(call("GET", RUNS, labelSelector=selector)[1]) == SELECTORS[selector]


def test_field_selectors(server, call):
    make(server, "one", "two")
    assert names(call("GET", RUNS, fieldSelector="metadata.name=two")[1]) == ["two"]
    assert names(call("GET", RUNS, fieldSelector="metadata.name!=two")[1]) == ["one"]
    everywhere = RUNS.replace("/namespaces/default", "")
    assert names(call("GET", everywhere, fieldSelector="metadata.namespace=no")[1]) == []


def test_chunked_lists_are_one_snapshot_until_it_is_compacted(server, call):
    make(server, *"abcde")
    _, first = call("GET", RUNS, limit=2)
    assert first["metadata"]["remainingItemCount"] == 3
    server.delete("reasoningruns", "c")
    make(server, "f")
    token = first["metadata"]["continue"]
    _, second = call("GET", RUNS, limit=2, **{"continue": token})
    assert (names(first), names(second)) == (["a", "b"], ["c", "d"])
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    last = second["metadata"]["continue"]
    assert names(call("GET", RUNS, limit=2, **{"continue": last})[1]) == ["e"]
    server.compact()
    code, status = call("GET", RUNS, limit=2, **{"continue": token})
    assert (code, status["reason"]) == (410, "Expired")
    assert call("GET", RUNS, **{"continue": "x"})[0] == 400


def test_a_watch_goes_on_from_a_version(server, call):
    make(server, "a")
    version = now_at(call)
    touch(server, "a")
    make(server, "b")
    server.delete("reasoningruns", "a")
    events = list(islice(call.watch(RUNS, resourceVersion=version), 3))
    assert seen(events) == [("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]
    versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in events]
    assert versions == sorted(versions)
    later = call.watch(RUNS, resourceVersion=versions[-1])
    thread = in_the_background(lambda: touch(server, "b"))
    assert seen([next(later)]) == [("MODIFIED", "b")]
    thread.join()


def test_a_watch_without_a_version_begins_with_what_is_there(server, call):
    make(server, "a", "b")
    events = list(islice(call.watch(RUNS), 2))
    assert seen(events) == [("ADDED", "a"), ("ADDED", "b")]
    query = {"sendInitialEvents": "true", "allowWatchBookmarks": "true"}
    query["resourceVersionMatch"] = "NotOlderThan"
    *first, end = islice(call.watch(RUNS, **query), 3)
    assert seen(first) == [("ADDED", "a"), ("ADDED", "b")]
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_ends_in_time_and_bookmarks_where_it_was(server, call):
    make(server, "a")
    version = now_at(call)
    server.create("configmaps", {"metadata": {"name": "elsewhere"}})
    query = {"timeoutSeconds": 1, "allowWatchBookmarks": "true", "resourceVersion": version}
    start = time.monotonic()
    events = list(call.watch(RUNS, **query))
    assert 0.9 < time.monotonic() - start < 3
    assert {one["type"] for one in events} == {"BOOKMARK"}
    assert int(events[-1]["object"]["metadata"]["resourceVersion"]) > int(version)
    quiet = list(call.watch(RUNS, timeoutSeconds=0.2, resourceVersion=version))
    assert quiet == []


def test_a_watch_from_compacted_history_is_told_so(server, call):
    make(server, "a")
    version = now_at(call)
    touch(server, "a")
    server.compact()
    (event,) = call.watch(RUNS, resourceVersion=version)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    assert event["object"]["reason"] == "Expired"
    fresh = call.watch(RUNS, resourceVersion=now_at(call), timeoutSeconds=0.1)
    assert list(fresh) == []


def test_history_is_bounded():
    with running_server(history=3) as server:
        server.create("customresourcedefinitions", crds.reasoningruns())
        call = Client(server.port)
        make(server, "a")
        version = now_at(call)
        for value in range(1, 4):
            touch(server, "a", value)
        assert len(list(islice(call.watch(RUNS, resourceVersion=version), 3))) == 3
        touch(server, "a", 9)
        assert next(call.watch(RUNS, resourceVersion=version))["type"] == "ERROR"


def test_a_selector_turns_changes_into_arrivals_and_departures(server, call):
    make(server, "a", on="no")
    version = now_at(call)
    for value in ("yes", "still", "no"):
        server.patch("reasoningruns", "a", {"metadata": {"labels": {"on": value}}})
    server.delete("reasoningruns", "a")
    query = {"resourceVersion": version, "timeoutSeconds": 0.2}
    events = list(call.watch(RUNS, labelSelector="on in (yes,still)", **query))
    assert seen(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


# Faults


def test_an_answer_hits_the_nth_and_only_so_often(server, call):
    make(server, "a")
    headers = {"Retry-After": "7"}
    fault = faults.answer("get", "reasoningruns", 429, nth=2, times=2, headers=headers)
    server.faults.add(fault)
    codes = [call("GET", RUNS + "/a")[0] for _ in range(4)]
    assert codes == [200, 429, 429, 200]
    assert (fault.seen, fault.hits) == (4, 2)
    assert call("GET", RUNS)[0] == 200
    assert [one.status for one in server.requests.of("get")] == [200, 429, 429, 200]
    stand_in = Client(server.port, agent="stand-in/x")
    server.faults.add(faults.answer(None, None, 503, times=None))
    assert stand_in("GET", RUNS)[0] == 200
    assert call("GET", RUNS)[0] == 503
    server.faults.clear()
    assert call("GET", RUNS)[0] == 200


def test_an_error_after_the_commit_leaves_the_object(server, call):
    body = run()
    server.faults.add(faults.answer("create", "reasoningruns", 504, after=True))
    assert call("POST", RUNS, body)[0] == 504
    assert call("POST", RUNS, body)[1]["reason"] == "AlreadyExists"


@pytest.mark.parametrize("after", [False, True])
def test_a_dropped_connection_before_and_after_the_commit(server, call, after):
    server.faults.add(faults.drop("create", "reasoningruns", after=after))
    with pytest.raises(OSError):  # noqa: PT011 - reset or closed, as the race goes
        call("POST", RUNS, run())
    assert bool(server.find("reasoningruns", "a")) is after
    assert [one.status for one in server.requests.writes()] == [-1]


def test_a_hook_is_called_after_the_commit_and_before_the_answer(server, call):
    found = []
    hook = lambda request: found.append(server.find("reasoningruns", request.body["metadata"]["name"]))  # noqa: E731, E501  # fmt: skip
    server.faults.add(faults.Fault("create", hook=hook, after=True))
    call("POST", RUNS, run())
    assert found[0]["metadata"]["name"] == "a"


def test_a_fault_may_look_at_what_is_sent(server, call):
    second = lambda request: request.body["metadata"]["name"] == "b"  # noqa: E731
    server.faults.add(faults.answer("create", "reasoningruns", 403, where=second))
    codes = [call("POST", RUNS, run(name))[0] for name in "abb"]
    assert codes == [201, 403, 201]


def test_a_delay(server, call):
    server.faults.add(faults.delay("list", None, 0.2, times=1))
    start = time.monotonic()
    call("GET", RUNS)
    assert time.monotonic() - start > 0.2


def test_a_stale_list_shows_what_was(server, call):
    make(server, "a", "b")
    version = int(now_at(call))
    touch(server, "a", 5)
    server.delete("reasoningruns", "b")
    make(server, "c")
    server.faults.add(faults.stale("reasoningruns", version))
    _, old = call("GET", RUNS)
    assert names(old) == ["a", "b"]
    assert old["items"][0]["spec"]["n"] == 0
    assert old["metadata"]["resourceVersion"] == str(version)
    assert names(call("GET", RUNS)[1]) == ["a", "c"]


STREAM_FAULTS = {
    "hide": (faults.hide, [1, 3]),
    "duplicate": (faults.duplicate, [1, 2, 2, 3]),
    "swap": (faults.swap, [1, 3, 2]),
    "cut": (faults.cut, [1]),
    "silence": (faults.silence, [1]),
}


@pytest.mark.parametrize("case", STREAM_FAULTS)
def test_watch_events_go_wrong(server, call, case):
    fault, expected = STREAM_FAULTS[case]
    make(server, "a")
    server.faults.add(fault("reasoningruns", where=lambda _, it: it["spec"]["n"] == 2))
    impatient = Client(server.port, seconds=1)
    stream = impatient.watch(RUNS, resourceVersion=now_at(call), timeoutSeconds=0.3)
    first = in_the_background(lambda: [touch(server, "a", value) for value in (1, 2, 3)])
    values = []
    try:
        for one in stream:
            values.append(one["object"]["spec"]["n"])  # noqa: PERF401 - kept when the next fails
    except (OSError, IncompleteRead):
        assert case in {"cut", "silence"}
    first.join()
    assert values == expected


def test_an_error_event_ends_the_stream(server, call):
    make(server, "a")
    server.faults.add(faults.error("reasoningruns", 500))
    touch(server, "a")
    *_, last = call.watch(RUNS, resourceVersion=int(now_at(call)) - 1)
    assert (last["type"], last["object"]["code"]) == ("ERROR", 500)


def test_the_record_knows_every_request(server, call):
    call("POST", RUNS, run())
    call("PATCH", RUNS + "/a/status", {"status": {"x": 1}}, patch="merge")
    call("GET", "/version")
    stand_in = Client(server.port, agent="stand-in/x")
    stand_in("DELETE", RUNS + "/a")
    assert [(one.verb, one.target, one.name) for one in server.requests.writes()] == [
        ("create", "reasoningruns", ""),
        ("patch", "reasoningruns/status", "a"),
    ]
    assert server.requests.writes()[1].body == {"status": {"x": 1}}
    assert [one.status for one in server.requests] == [201, 200, 200, 200]


def test_rules_refuse_what_they_do_not_name(server, call):
    rules = [{"apiGroups": ["coldstart.dev"], "resources": ["reasoningruns"], "verbs": ["list"]}]
    server.authorize = allowing(rules)
    assert call("GET", RUNS)[0] == 200
    code, status = call("GET", RUNS + "/a")
    assert (code, status["reason"]) == (403, "Forbidden")
    assert 'cannot get resource "reasoningruns"' in status["message"]
    assert call("PATCH", RUNS + "/a/status", {}, patch="merge")[0] == 403


def test_a_restart_cuts_connections_keeps_objects_and_goes_on_collecting():
    async def main():
        async with ApiServer(collect_seconds=0.05) as server:
            server.create("customresourcedefinitions", crds.reasoningruns())
            make(server, "a")
            owner = {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "never was"}
            orphan = {"name": "orphan", "ownerReferences": [owner]}
            server.create("services", {"metadata": orphan, "spec": {"ports": [{"port": 1}]}})
            port = server.port
            call = Client(port)
            events = await asyncio.to_thread(lambda: next(call.watch(RUNS)))
            await server.restart()
            assert server.port == port
            _, found = await asyncio.to_thread(call, "GET", RUNS + "/a")
            assert events["object"]["metadata"]["uid"] == found["metadata"]["uid"]
            await server.until("services", "orphan", lambda found: found is None)

    asyncio.run(main())


def test_health(call):
    assert [call("GET", f"/{name}")[0] for name in ("healthz", "livez", "readyz")] == [200] * 3
