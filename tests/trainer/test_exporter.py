"""Meter, phases and exporter by themselves: what they count, show, refuse and survive."""

import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from scraping import families, fetch, lint, value

from coldstart.metrics import METRICS, PREFIX, SECONDS_BUCKETS, TABLE, series
from coldstart.stage import METRICS_PORT_ENV, StageOrder
from coldstart_trainer import meter as metering
from coldstart_trainer import phases
from coldstart_trainer.exporter import Exporter, exposed
from coldstart_trainer.meter import Meter
from coldstart_trainer.progress import ProgressLog

LABELS = ("a-run", "sft", 'a/"model"')


@pytest.fixture
def meter():
    return Meter()


@pytest.fixture
def exporter(meter):
    serving = Exporter(meter, LABELS, 0)
    yield serving
    serving.close()


@pytest.fixture
def order(tmp_path):
    """An order that nobody carries out."""
    spec = {"model": {"name": "m"}, "sft": {"dataset": {"name": "d.jsonl"}}}
    return StageOrder.parse(
        {
            "run": {"name": "a-run", "uid": "u"},
            "stage": "sft",
            "attempt": 3,
            "spec": spec,
            "inputs": [{"name": "base", "location": "m"}],
            "storage": str(tmp_path),
            "workdir": str(tmp_path),
        }
    )


def fill(meter):
    """Give every row of the table a value."""
    for metric in METRICS:
        key = series(metric.name, *(f"some {label}" for label in metric.labels))
        if metric.kind == "histogram":
            meter.observe(key, 0.5)
        else:
            meter.put({key: 1.5})
    meter.publish()


def test_every_row_of_the_table_is_shown_with_help_unit_type_and_labels(meter, exporter):
    fill(meter)
    found = families(fetch(exporter.port)[1])
    assert set(found) == {PREFIX + name for name in TABLE}
    for metric in METRICS:
        family = found[PREFIX + metric.name]
        assert family.type == metric.kind
        assert family.documentation == f"{metric.help} Unit: {metric.unit}."
        for sample in family.samples:
            labels = {name: text for name, text in sample.labels.items() if name != "le"}
            assert labels == dict(zip(("run", "stage", "model"), LABELS, strict=True)) | {
                label: f"some {label}" for label in metric.labels
            }


def test_promtool_has_no_complaint(meter, exporter):
    fill(meter)
    assert lint(fetch(exporter.port)[1]) == ""


def test_a_histogram_adds_up(meter, exporter):
    for seconds in (0.02, 0.03, 5, 10_000):
        meter.observe("step_seconds", seconds)
    meter.publish()
    text = fetch(exporter.port)[1]
    assert value(text, "coldstart_step_seconds_sum") == pytest.approx(10_005.05)
    assert value(text, "coldstart_step_seconds_count") == 4
    at = {
        bound: value(text, "coldstart_step_seconds_bucket", le=bound) for bound in ("0.03", "3.0")
    }
    assert at == {"0.03": 2, "3.0": 2}
    assert value(text, "coldstart_step_seconds_bucket", le=str(SECONDS_BUCKETS[-1])) == 3
    assert value(text, "coldstart_step_seconds_bucket", le="+Inf") == 4


def test_what_is_not_published_is_not_shown(meter, exporter):
    meter.put({"loss": 1.0})
    assert families(fetch(exporter.port)[1]) == {}
    meter.publish()
    meter.put({"loss": 2.0})
    assert value(fetch(exporter.port)[1], "coldstart_loss") == 1.0


def test_a_page_leaves_in_one_piece(meter, exporter, monkeypatch):
    """So that a process that ends while it answers leaves a whole page or none."""
    fill(meter)
    pieces, write = [], socket.SocketIO.write
    monkeypatch.setattr(
        socket.SocketIO, "write", lambda file, data: pieces.append(len(data)) or write(file, data)
    )
    _, page = fetch(exporter.port)
    assert len(pieces) == 1
    assert pieces[0] > len(page)


def test_other_pages_are_not_there(exporter):
    assert fetch(exporter.port, "/")[0] == 404


def test_a_client_that_says_nothing_keeps_nobody_waiting(exporter):
    with socket.create_connection(("127.0.0.1", exporter.port)):
        began = time.monotonic()
        assert fetch(exporter.port, "/healthz") == (200, "ok\n")
        assert time.monotonic() - began < 5


def test_it_is_healthy_until_the_stage_has_ended(exporter):
    assert fetch(exporter.port, "/healthz") == (200, "ok\n")
    exporter.end()
    assert fetch(exporter.port, "/healthz") == (503, "the stage has ended\n")


def test_it_is_ill_when_the_stages_thread_is_gone(meter):
    made = []
    thread = threading.Thread(target=lambda: made.append(Exporter(meter, LABELS, 0)))
    thread.start()
    thread.join()
    assert fetch(made[0].port, "/healthz")[0] == 503
    made[0].close()


def test_a_tensor_is_refused(meter):
    import torch

    with pytest.raises(AssertionError, match="loss is no plain number"):
        meter.put({"loss": torch.tensor(1.0)})


def test_a_series_without_its_label_is_refused(meter):
    with pytest.raises(AssertionError, match="reward"):
        meter.put({"reward_mean": 1.0})
    with pytest.raises(KeyError):
        meter.put({"no_such_metric": 1.0})


def test_no_metric_gets_more_series_than_a_page_can_take(meter, caplog):
    for number in range(metering.SERIES + 50):
        meter.put({series("reward_mean", f"r{number}"): 1.0})
    meter.publish()
    assert len(meter.snapshot.values) == metering.SERIES
    assert caplog.text.count("reward_mean has more than") == 1


def test_an_attempt_is_served_where_the_environment_says(order, meter, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv(METRICS_PORT_ENV, "0")
    with exposed(order, meter, 0) as exporter:
        text = fetch(exporter.port)[1]
        assert value(text, "coldstart_info", run="a-run", stage="sft", model="m", attempt="3") == 1
        assert value(text, "coldstart_restarts_total") == 2
        assert fetch(exporter.port, "/healthz")[0] == 200
    assert fetch(exporter.port, "/healthz")[0] == 503
    exporter.close()
    assert f"on port {exporter.port}" in caplog.text


@pytest.mark.parametrize(("rank", "port"), [(0, None), (1, "0")])
def test_nothing_is_served_by_other_ranks_or_unasked(order, meter, monkeypatch, rank, port):
    if port:
        monkeypatch.setenv(METRICS_PORT_ENV, port)
    with exposed(order, meter, rank) as exporter:
        assert exporter is None


@pytest.mark.parametrize("text", ["taken", "no number", "70000"])
def test_a_port_that_cannot_be_had_costs_the_numbers_only(
    order, meter, exporter, monkeypatch, caplog, text
):
    port = str(exporter.port) if text == "taken" else text
    monkeypatch.setenv(METRICS_PORT_ENV, port)
    with exposed(order, meter, 0) as second:
        assert second is None
    assert f"COLDSTART_METRICS_PORT: port {port} cannot be had" in caplog.text
    assert "it goes on" in caplog.text


class Clock:
    """A clock that is set by hand."""

    time = 0.0

    def __call__(self):
        return self.time


def seconds(meter, name):
    return meter.observed(series("phase_seconds", name))


def test_nested_phases_are_counted_once(meter):
    clock = Clock()
    with phases.recorded(meter, clock):
        with phases.phase("forward_backward"):
            clock.time += 1
            with phases.phase("generate"):
                clock.time += 10
                with phases.phase("generate"):
                    clock.time += 100
            clock.time += 2
        clock.time += 1000
        with phases.phase("forward_backward"):
            clock.time += 4
        assert seconds(meter, "generate") == 0
        phases.lap()
    assert seconds(meter, "generate") == 110
    assert seconds(meter, "forward_backward") == 7
    assert meter.told() == {
        "phase_seconds{forward_backward}": 7,
        "phase_seconds{generate}": 110,
    }


def test_a_phase_that_fails_ends(meter):
    def fail_after_a_second():
        clock.time += 1
        raise TimeoutError

    clock = Clock()
    with phases.recorded(meter, clock):
        with pytest.raises(TimeoutError), phases.phase("generate"):
            fail_after_a_second()
        clock.time += 10
        phases.lap()
    assert seconds(meter, "generate") == 1


def test_a_save_is_observed_when_it_ends(meter):
    clock = Clock()
    with phases.recorded(meter, clock), phases.phase("checkpoint"):
        clock.time += 3
    assert meter.snapshot.histograms["phase_seconds{checkpoint}"].total == 3


def test_another_threads_phases_do_not_count(meter):
    def work():
        with phases.phase("score"):
            time.sleep(0.01)

    with phases.recorded(meter):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        phases.lap()
    assert meter.told() == {}


def test_a_phase_that_the_table_does_not_have_is_refused(meter):
    with phases.recorded(meter), pytest.raises(AssertionError, match="sleeping"):
        phases.Stopwatch(meter).enter("sleeping")


def test_the_file_has_what_the_exporter_shows(tmp_path, meter):
    progress = ProgressLog(tmp_path / "metrics.jsonl", 1, meter=meter)
    meter.observe("step_seconds", 1.0)
    meter.observe("step_seconds", 3.0)
    meter.put({"grad_norm": float("nan"), "loss": 2.0})
    progress.write("save", 1, 4)
    progress.write("train", 1, 4, values={"epoch": 0.5})
    progress.write("train", 2, 4, values={"loss": 1.0})
    told = [json.loads(line)["values"] for line in progress.path.read_text().splitlines()]
    assert told == [
        {},
        {"loss": 2.0, "step": 1.0, "max_steps": 4.0, "epoch": 0.5, "step_seconds": 2.0},
        {"loss": 1.0, "step": 2.0, "max_steps": 4.0},
    ]
    assert meter.snapshot.values == {"loss": 1.0, "step": 2.0, "max_steps": 4.0, "epoch": 0.5}


@pytest.mark.parametrize(
    ("gpu", "bf16", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", True, 2 * 9.89e14),
        ("NVIDIA H100 80GB HBM3", False, 0),
        ("A card of tomorrow", True, 0),
    ],
)
def test_of_a_gpu_whose_peak_is_known_the_share_in_use_is_told(monkeypatch, gpu, bf16, peak):
    import torch

    from coldstart_trainer.measuring import _peak_flops, mfu

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: gpu)
    arguments = SimpleNamespace(device=torch.device("cuda"), bf16=bf16, world_size=2)
    assert _peak_flops(arguments) == peak
    # A second of two GPUs is enough for so many tokens of 1,000 parameters.
    assert mfu(1000, 9.89e14 / 3000, 1 * peak) == pytest.approx(1 if peak else 0)
