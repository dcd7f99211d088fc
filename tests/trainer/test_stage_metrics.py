"""What real stages serve over HTTP while they run, and that their tripwires trip."""

import http.client
import itertools
import json
import re
import socket
import time
from pathlib import Path

import pytest
from scraping import families, fetch, lint, scraped, total, value
from stage_attempts import CONVERSATION, here, lines, order, read_result, start, with_words, workdir

from coldstart.layout import output
from coldstart.metrics import METRICS, PREFIX, TABLE
from coldstart.stage import METRICS_PORT_ENV, StageOrder
from coldstart_operator.progress import numbers
from coldstart_trainer import evaluation, inputs, phases
from coldstart_trainer.exporter import Exporter
from coldstart_trainer.meter import Meter
from coldstart_trainer.progress import ProgressLog

LABELS = ("run", "stage", "model")
WORDS = ("is", "of", "the", "your", "3")
WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b")


def result_of(given):
    return read_result(Path(given.storage).parent / "result.json")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


NOTING = """
import json
from pathlib import Path

def score(completions, **_):
    texts = [c[0]["content"] for c in completions]
    with Path(__file__).with_name("noted.jsonl").open("a") as notes:
        notes.write(json.dumps(texts) + "\\n")
    return [float(sum(map(ord, text[:5])) % 7) for text in texts]
"""


@pytest.fixture(scope="module")
def grpo(tiny_model, tiny_rows, tmp_path_factory):
    """A GRPO stage in a process of its own, and every page that was fetched until its end."""
    directory = tmp_path_factory.mktemp("grpo-metrics")
    given = order("grpo", directory / "runs", tiny_model, tiny_rows, maxSteps=6)
    given = with_words(given, *WORDS)
    (workdir(given.storage) / "length_reward.py").write_text(NOTING)
    port, pages, health = free_port(), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(METRICS_PORT_ENV, str(port))
        process = start(given, directory / "result.json")
    while process.poll() is None:
        try:
            pages.append(fetch(port)[1])
            health.append(fetch(port, "/healthz")[0])
        except (OSError, http.client.HTTPException):
            pass  # it does not listen yet, or no longer
        time.sleep(0.05)
    assert read_result(directory / "result.json").error is None
    assert set(health[:-5]) == {200}
    assert health == sorted(health), "ill once, ill for good"
    return given, pages


def at_step(pages, step):
    """The last page that shows this update as the latest."""
    return [text for text in pages if numbers(text).get("coldstart_step") == step][-1]


def test_it_is_there_from_the_beginning_and_tells_how_far_it_is(grpo):
    _, pages = grpo
    first = pages[0]
    assert set(families(first)) <= {f"{PREFIX}info", f"{PREFIX}restarts_total"}
    assert value(first, "coldstart_info", run="run", stage="grpo", attempt="1") == 1
    told = [numbers(text) for text in pages]
    steps = [found["coldstart_step"] for found in told if "coldstart_step" in found]
    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    assert told[-1].keys() == {
        "coldstart_step",
        "coldstart_max_steps",
        "coldstart_reward_total_mean",
    }
    assert (told[-1]["coldstart_step"], told[-1]["coldstart_max_steps"]) == (6, 6)


def test_it_shows_all_of_the_table_that_it_can_and_nothing_else(grpo):
    _, pages = grpo
    shown = {name.removeprefix(PREFIX) for name in families(pages[-1])}
    always = {row.name for row in METRICS if "grpo" in row.stages and not row.needs}
    own = {"kl_nats", "prompt_reuse_ratio", "packed_selfcheck_nats", "samples_dropped_total"}
    assert shown - always == own
    assert always - shown == set()
    for name, family in families(pages[-1]).items():
        assert family.documentation.endswith(f"Unit: {TABLE[name.removeprefix(PREFIX)].unit}.")
        for sample in family.samples:
            assert [sample.labels[label] for label in LABELS[:2]] == ["run", "grpo"]


def test_no_prompt_leaves_the_process(grpo):
    assert not any("sum of the digits" in text for text in grpo[1])


def test_promtool_has_no_complaint(grpo):
    assert lint(grpo[1][-1]) == ""


def test_the_file_has_the_same_numbers(grpo):
    given, pages = grpo
    line = next(line for line in lines(given) if line["done"] == 6 and "loss" in line["values"])
    text = at_step(pages, 6)
    for name in ("loss", "grad_norm", "learning_rate", "kl_nats", "policy_entropy_nats"):
        assert value(text, PREFIX + name) == line["values"][name]
    told = {k: v for line in lines(given) for k, v in line["values"].items()}
    assert value(text, "coldstart_reward_mean", reward="length_reward:score") == pytest.approx(
        told["reward_mean{length_reward:score}"]
    )


def test_the_phases_are_the_update_and_no_more(grpo):
    _, pages = grpo
    text = pages[-1]
    inside = ("prepare", "generate", "score", "old_logprob", "ref_logprob")
    inside += ("forward_backward", "optimizer")
    took = {name: value(text, "coldstart_phase_seconds_sum", phase=name) for name in inside}
    assert min(took.values()) > 0
    whole = value(text, "coldstart_step_seconds_sum")
    assert 0.8 * whole < sum(took.values()) <= whole
    updates = value(text, "coldstart_phase_seconds_count", phase="forward_backward")
    assert updates == value(text, "coldstart_step_seconds_count") == 6
    assert value(text, "coldstart_phase_seconds_count", phase="generate") == 3
    assert value(text, "coldstart_phase_seconds_count", phase="checkpoint") == 2
    assert value(text, "coldstart_checkpoint_seconds_count") == 2
    assert 0 < value(text, "coldstart_checkpoint_time_ratio") < 1


def test_every_sampled_token_is_counted(grpo):
    given, pages = grpo
    text = pages[-1]
    assert value(text, "coldstart_samples_total") == 3 * 16
    means = [line["values"].get("completion_tokens_mean") for line in lines(given)]
    sampled = sum(mean * 16 for mean in means if mean)
    assert value(text, "coldstart_tokens_total", kind="completion") == pytest.approx(sampled)
    assert 0 < value(text, "coldstart_tokens_total", kind="image") < 48 * 16


def test_reflecting_completions_are_counted_as_they_are_sampled(grpo):
    given, pages = grpo
    noted = (workdir(given.storage) / "noted.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in noted[1:]]  # the first are the reward's trial
    assert [len(texts) for texts in rounds] == [16] * 3
    found = [[WORD.findall(text.lower()) for text in texts] for texts in rounds]
    every = [set(words) for each in found for words in each]
    assert any(every)
    assert not all(every)
    text = pages[-1]
    for word in WORDS:
        seen = sum(word in words for words in every)
        assert value(text, "coldstart_reflection_words_total", word=word) == seen
    outcomes = "coldstart_reflection_outcomes_total"
    reflecting = sum(map(bool, every))
    assert value(text, outcomes, reflects="yes", outcome="unknown") == reflecting
    assert value(text, outcomes, reflects="no", outcome="unknown") == 48 - reflecting
    told = [line["values"].get("reflection_ratio{all}") for line in lines(given)]
    assert [share for share in told if share is not None] == [
        sum(map(bool, each)) / 16 for each in found
    ]
    assert not any(key.startswith("reflection") for key in result_of(given).metrics)


@pytest.fixture
def exporter():
    """An exporter of a stage in this process, and the meter that the stage takes."""
    meter = Meter()
    serving = Exporter(meter, ("run", "some", "model"), 0)
    yield meter, serving.port
    serving.close()


def test_sft_shows_all_of_the_table_that_it_can(exporter, tiny_model, tiny_rows, tmp_path):
    meter, port = exporter
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, evalSteps=4, maxSteps=4)
    with scraped(port) as pages:
        here(given, meter)
    text = fetch(port)[1]
    assert len(pages) > 3
    shown = {name.removeprefix(PREFIX) for name in families(text)}
    always = {row.name for row in METRICS if "sft" in row.stages and not row.needs}
    packing = {"packed_selfcheck_nats", "padding_avoided_ratio"}
    assert shown == always - {"info", "restarts_total"} | {"eval_loss"} | packing
    spent = {
        name: value(text, "coldstart_phase_seconds_sum", phase=name)
        for name in ("prepare", "forward_backward", "optimizer")
    }
    whole = value(text, "coldstart_step_seconds_sum")
    assert 0.8 * whole < sum(spent.values()) <= whole
    # Held-out rows after updates 4, and the probe.
    assert value(text, "coldstart_phase_seconds_count", phase="eval") == 2
    state = json.loads((output(given).checkpoints / "checkpoint-4/trainer_state.json").read_text())
    assert total(text, "coldstart_tokens_total") == state["num_input_tokens_seen"]
    assert value(text, "coldstart_samples_total") == 16


def test_what_is_dropped_is_counted(exporter, tiny_model, tiny_rows, tmp_path):
    meter, port = exporter
    short = {"maxCompletionTokens": 15}
    given = order(
        "sft",
        tmp_path / "runs",
        tiny_model,
        tiny_rows,
        conversation=short,
        maxSteps=1,
        probe={"size": 0},
    )
    here(given, meter)
    (entry,) = json.loads((output(given).final / "coldstart.json").read_text())["datasets"]
    assert entry["dropped"]
    for reason, count in entry["dropped"].items():
        assert value(fetch(port)[1], "coldstart_samples_dropped_total", reason=reason) == count


def test_an_evaluation_shows_all_of_the_table_that_it_can(
    exporter, tiny_model, tiny_rows, tmp_path
):
    meter, port = exporter
    given = StageOrder.parse(
        {
            "run": {"name": "run", "uid": "u"},
            "stage": "evaluation",
            "attempt": 1,
            "spec": {
                "model": {"name": str(tiny_model)},
                "conversation": CONVERSATION,
                "evaluation": {
                    "benchmarks": [
                        {"name": "digits", "dataset": {"name": str(tiny_rows), "limit": 5}}
                    ],
                    "resources": {"gpusPerNode": 0},
                    "precision": "fp32",
                    "batchSize": 2,
                },
            },
            "inputs": [{"name": "base", "location": str(tiny_model)}],
            "storage": str(tmp_path / "runs"),
            "workdir": str(tmp_path),
        }
    )
    began = time.monotonic()
    with phases.recorded(meter):
        found = evaluation.run(
            given, inputs.resolve(given), ProgressLog(tmp_path / "metrics.jsonl", 1, meter=meter)
        )
    took = time.monotonic() - began
    text = fetch(port)[1]
    shown = {name.removeprefix(PREFIX) for name in families(text)}
    always = {row.name for row in METRICS if "evaluation" in row.stages and not row.needs}
    assert shown == always - {"info", "restarts_total"}
    which = {"benchmark": "digits", "checkpoint": "base"}
    assert value(text, "coldstart_eval_samples_total", **which) == 5
    assert value(text, "coldstart_eval_accuracy_ratio", **which) == found["accuracy_base"]
    assert numbers(text) == {"coldstart_step": 5, "coldstart_max_steps": 5}
    assert value(text, "coldstart_tokens_total", kind="completion") == pytest.approx(
        5 * found["mean_tokens_base"]
    )
    assert 0 < total(text, "coldstart_phase_seconds_sum") <= took
    assert value(text, "coldstart_phase_seconds_count", phase="generate") >= 3


DYING = '''
import time
from pathlib import Path

CALLS = Path(__file__).with_name("calls")

def score(completions, **_):
    """Scores nothing; raises in its fourth call, and hangs in its fifth."""
    CALLS.write_text(CALLS.read_text() + "x" if CALLS.exists() else "x")
    if CALLS.stat().st_size == 4:
        raise ValueError("no")
    if CALLS.stat().st_size == 5:
        time.sleep(600)
    return [0.0] * len(completions)
'''


def test_rewards_that_raise_hang_or_are_never_given_are_told(
    exporter, tiny_model, tiny_rows, tmp_path, caplog
):
    meter, port = exporter
    given = order(
        "grpo",
        tmp_path / "runs",
        tiny_model,
        tiny_rows,
        conversation={"maxCompletionTokens": 2},
        updatesPerStep=1,
        epochs=10,
        maxSteps=11,
        saveSteps=100,
        loss={"kl": 0},
        probe={"size": 0},
        rewards=[{"name": "dying:score", "timeoutSeconds": 2}],
    )
    (workdir(given.storage) / "dying.py").write_text(DYING)
    here(given, meter)
    text = fetch(port)[1]
    assert value(text, "coldstart_reward_errors_total") == 1
    assert value(text, "coldstart_reward_timeouts_total") == 1
    assert value(text, "coldstart_reward_zero_steps", reward="dying:score") == 11
    assert value(text, "coldstart_groups_zero_variance_ratio", outcome="wrong") == 1
    warned = [record for record in caplog.records if "every reward" in record.message]
    assert len(warned) == 1
    assert "(dying:score) was 0 for every completion of the last 10 sampling" in warned[0].message


def test_counters_never_fall(grpo):
    _, pages = grpo
    counters = {PREFIX + row.name for row in METRICS if row.kind == "counter"}
    for before, after in itertools.pairwise(families(text) for text in pages):
        for name in counters & before.keys():
            sums = [sum(s.value for s in page[name].samples) for page in (before, after)]
            assert sums == sorted(sums)
