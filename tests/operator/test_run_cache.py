"""The caches: ordered by resourceVersion, healed by LISTs, and the dead stay dead."""

import pytest

from coldstart_operator import cache as module
from coldstart_operator.cache import Cache, Key, key_of, slim_child, slim_run


def thing(name="a", version=1, uid="u", run="r", **more):
    return {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"run": run},
        },
        **more,
    }


def make_cache():
    return Cache(
        slim=lambda document: document,
        owner=lambda document: Key("ns", document["metadata"]["labels"]["run"]),
        mark=lambda document: document.get("word"),
    )


A = Key("ns", "a")


def test_a_newer_version_replaces_an_older_one_and_never_the_other_way_round():
    cache = make_cache()
    assert cache.put(thing(version=9, word="nine"))
    assert not cache.put(thing(version=9, word="nine again"))
    assert not cache.put(thing(version=8, word="eight"))
    assert cache.get(A)["word"] == "nine"
    assert cache.put(thing(version=10, word="ten"))
    assert cache.get(A)["word"] == "ten"
    assert cache.version(A) == 10


def test_what_is_handed_out_is_a_copy():
    cache = make_cache()
    cache.put(thing())
    cache.get(A)["metadata"]["name"] = "changed"
    assert cache.get(A)["metadata"]["name"] == "a"


def test_a_deleted_object_does_not_come_back_by_a_late_message():
    cache = make_cache()
    cache.put(thing(version=1))
    assert cache.drop(thing(version=2))
    assert not cache.put(thing(version=1))
    assert not cache.put(thing(version=99))
    assert A not in cache


def test_the_deletion_of_an_earlier_object_does_not_take_the_later_one_of_its_name():
    cache = make_cache()
    cache.put(thing(version=5, uid="new"))
    assert not cache.drop(thing(version=6, uid="old"))
    assert A in cache


def test_a_recreated_object_replaces_the_one_that_was_not_seen_to_go():
    cache = make_cache()
    cache.put(thing(version=5, uid="old"))
    assert cache.put(thing(version=8, uid="new"))
    assert cache.get(A)["metadata"]["uid"] == "new"


def test_objects_are_found_by_their_run():
    cache = make_cache()
    for name in "cab":
        cache.put(thing(name, uid=name))
    cache.put(thing("other", uid="o", run="s"))
    assert [item["metadata"]["name"] for item in cache.of(Key("ns", "r"))] == ["a", "b", "c"]
    cache.put(thing("a", version=2, uid="a", run="s"))
    assert [item["metadata"]["name"] for item in cache.of(Key("ns", "r"))] == ["b", "c"]
    assert [item["metadata"]["name"] for item in cache.of(Key("ns", "s"))] == ["a", "other"]
    for name in "bc":
        cache.drop(thing(name, uid=name))
    assert cache.of(Key("ns", "r")) == []


def test_a_full_list_brings_what_was_missed_and_takes_what_is_gone():
    cache = make_cache()
    cache.put(thing("same", version=1, uid="1"))
    cache.put(thing("changed", version=2, uid="2", run="s"))
    cache.put(thing("gone", version=3, uid="3", run="t"))
    cache.put(thing("later", version=50, uid="4"))
    listing = cache.listing()
    listing.add([thing("same", version=1, uid="1")])
    listing.add(
        [
            thing("changed", version=9, uid="2", run="s"),
            thing("new", version=10, uid="5", run="v"),
        ]
    )
    assert listing.finish("40") == [(Key("ns", "t"), Key("ns", "gone"))]
    assert listing.stale == [
        (Key("ns", "s"), Key("ns", "changed"), 9),
        (Key("ns", "v"), Key("ns", "new"), 10),
    ]
    assert Key("ns", "later") in cache  # created after the list was taken
    assert not cache.put(thing("gone", version=4, uid="3"))


def test_a_list_taken_before_a_deletion_does_not_undo_it():
    cache = make_cache()
    cache.put(thing(version=5))
    cache.drop(thing(version=6))
    listing = cache.listing()
    listing.add([thing(version=5)])
    assert (listing.finish("5"), listing.stale) == ([], [])
    assert A not in cache


def test_the_memory_of_the_dead_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "GRAVES", 10)
    cache = make_cache()
    for number in range(100):
        cache.put(thing(str(number), uid=str(number)))
        cache.drop(thing(str(number), version=2, uid=str(number)))
    assert len(cache._graves) == 10
    assert len(cache) == 0


def test_marks_are_at_hand_without_reading_the_objects():
    cache = make_cache()
    cache.put(thing("a", uid="1", word="x"))
    cache.put(thing("b", uid="2", word="y"))
    assert dict(cache.marks()) == {A: "x", Key("ns", "b"): "y"}
    assert sorted(cache.marks_of(Key("ns", "r"))) == ["x", "y"]
    assert cache.marks_of(Key("ns", "nobody")) == []
    assert (cache.mark_of(A), cache.mark_of(Key("ns", "c"))) == ("x", None)


@pytest.mark.parametrize("version", ["", "abc"])
def test_a_version_that_is_no_number_is_older_than_any(version):
    cache = make_cache()
    cache.put(thing(version=3))
    assert not cache.put(thing(version=version))


def test_a_run_is_kept_without_what_others_write_into_its_metadata():
    document = thing(spec={"a": 1}, status={"b": 2})
    document["metadata"] |= {"managedFields": [1], "annotations": {"x": "y"}, "generation": 4}
    kept = slim_run(document)
    assert kept["metadata"].keys() == {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "labels",
    }
    assert (kept["spec"], kept["status"]) == ({"a": 1}, {"b": 2})


def test_a_child_is_kept_without_its_containers_but_with_its_grace_period():
    pod = {"spec": {"containers": [{"env": ["x" * 10_000]}], "terminationGracePeriodSeconds": 7}}
    pytorch = thing(
        spec={
            "runPolicy": {"suspend": True, "cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": pod}},
        },
        status={"conditions": []},
    )
    kept = slim_child(pytorch)
    assert kept["spec"] == {
        "runPolicy": {"suspend": True},
        "pytorchReplicaSpecs": {
            "Master": {"replicas": 1, "template": {"spec": {"terminationGracePeriodSeconds": 7}}}
        },
    }
    assert key_of(kept) == A
    plain = slim_child(thing(spec={"parallelism": 2, "suspend": False, "template": pod}))
    assert plain["spec"]["parallelism"] == 2
    assert plain["spec"]["suspend"] is False
