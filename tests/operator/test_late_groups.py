"""The list of groups lags behind the definitions, as with a real API server: nothing is missed."""

from apiserver.crds import pytorchjobs
from operating import SFT_ONLY, condition, holds, install, world


def test_a_backend_that_is_listed_later_than_it_is_served_is_watched(tmp_path):
    with world(tmp_path, pytorch=False, discovery_seconds=0.5) as w, w.operator():
        w.apply(**SFT_ONLY, backend="PyTorchJob")
        w.until(lambda run: (condition(run, "Queued") or {}).get("reason") == "BackendUnavailable")
        w.server.create("customresourcedefinitions", pytorchjobs())
        assert holds(w.end(), "Succeeded")


def test_a_group_that_is_not_listed_yet_at_the_start_is_watched(tmp_path):
    with world(tmp_path, discovery_seconds=1.0) as w, w.operator():
        w.apply(**SFT_ONLY)
        assert holds(w.end(), "Succeeded")


def test_a_backend_that_comes_back_is_watched_again(tmp_path):
    with world(tmp_path, discovery_seconds=0.5) as w, w.operator(resync=0.3):
        w.apply(**SFT_ONLY)
        assert holds(w.end(), "Succeeded")
        w.server.delete("customresourcedefinitions", "pytorchjobs.kubeflow.org")
        w.apply("s", **SFT_ONLY, backend="PyTorchJob")
        w.until(
            lambda run: (condition(run, "Queued") or {}).get("reason") == "BackendUnavailable",
            "s",
            60,
        )
        w.server.create("customresourcedefinitions", pytorchjobs())
        assert holds(w.end("s", 60), "Succeeded")


def test_the_definition_of_runs_may_be_listed_late(tmp_path):
    with world(tmp_path, crd=False, discovery_seconds=0.5) as w, w.operator():
        install(w.server)
        w.apply(**SFT_ONLY)
        assert holds(w.end(), "Succeeded")
