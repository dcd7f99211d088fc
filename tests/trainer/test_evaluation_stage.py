"""The evaluation stage: what it keeps, what survives a kill, what is never mixed."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import pytest
import released
from fake_judge import MODEL, judging
from PIL import Image
from stage_attempts import with_words

from coldstart import layout, record
from coldstart.checkpoint import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    base_fingerprint,
    conversation_fingerprint,
    files_fingerprint,
)
from coldstart.judging import EndpointError
from coldstart.results import BenchmarkResult, Sample
from coldstart.run import ReasoningRun
from coldstart.stage import Fingerprints, RunRef, StageInput, StageOrder
from coldstart.status import ErrorCode
from coldstart.summary import read_samples, regrade, regrade_run
from coldstart_trainer import data, evaluation
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.inputs import Input
from coldstart_trainer.model import load_model
from coldstart_trainer.progress import ProgressLog

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def order(tmp_path, tiny_model, tiny_rows, conversation):
    def make(**evaluation):
        section = {
            "benchmarks": [{"name": "digits", "dataset": {"name": "rows.jsonl", "limit": 5}}],
            "checkpoints": ["base"],
            "resources": {"gpusPerNode": 0},
            "precision": "fp32",
            "batchSize": 2,
        } | evaluation
        spec = {
            "model": {"name": str(tiny_model)},
            "conversation": conversation.document() | {"maxCompletionTokens": 8},
            "sft": {"dataset": {"name": "rows.jsonl"}, "resources": {"gpusPerNode": 0}},
            "evaluation": section,
        }
        return StageOrder(
            run=RunRef(name="r", uid="u"),
            stage="evaluation",
            attempt=1,
            spec=spec,
            inputs=(StageInput(name="base", location=str(tiny_model)),),
            storage=str(tmp_path / "runs"),
            workdir=str(tiny_rows.parent),
        )

    return make


@pytest.fixture
def source(tiny_model):
    def make(order, name="base", digest=None):
        prints = Fingerprints(
            base_model=base_fingerprint(tiny_model),
            tokenizer=files_fingerprint(tiny_model, TOKENIZER_FILES),
            processor=files_fingerprint(tiny_model, PROCESSOR_FILES),
            conversation=conversation_fingerprint(order.spec.conversation),
        )
        return Input(name, tiny_model, prints, digest)

    return make


@pytest.fixture
def run(source, tmp_path):
    def call(order, *sources):
        progress = ProgressLog(tmp_path / "metrics.jsonl", 1)
        return evaluation.run(order, sources or (source(order),), progress)

    return call


@pytest.fixture
def directory(tmp_path):
    return layout.RunLayout(tmp_path / "runs" / "r").benchmark("base", "digits")


def lines(directory):
    return [json.loads(line) for line in layout.samples(directory).read_text().splitlines()]


def read_result(directory):
    return BenchmarkResult.parse(json.loads(layout.results(directory).read_text()))


def test_every_response_is_kept_and_adds_up(run, order, directory, tmp_path):
    numbers = run(order())
    kept = [Sample.parse(line) for line in lines(directory)]
    assert len(kept) == 5
    assert {sample.problem for sample in kept} == {"What is the sum of the digits?"}
    assert all(sample.gold == sample.id.removeprefix("q") for sample in kept)
    assert all(0 < sample.tokens <= 8 for sample in kept)
    result = read_result(directory)
    assert (result.n, result.problems, result.checkpoint) == (5, 5, "base")
    assert sum(result.outcomes.values()) == 5
    assert result.decoding["maxCompletionTokens"] == 8
    assert result.low <= result.accuracy <= result.high
    assert numbers == {
        "accuracy_base": result.accuracy,
        "accuracy_low_base": pytest.approx(result.low),
        "accuracy_high_base": pytest.approx(result.high),
        "responses_base": 5,
        "boxed_share_base": result.boxed_share,
        "mean_tokens_base": result.mean_tokens,
    }
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["done"], line["total"]) for line in told]
    assert steps == [(0, 5), (2, 5), (4, 5), (5, 5), (5, 5)]
    assert told[-1]["values"]["eval_accuracy_ratio{digits,base}"] == result.accuracy
    assert {line["label"] for line in told} == {"base/digits"}
    assert {line["phase"] for line in told} == {"evaluate"}
    page = (tmp_path / "runs" / "r" / "report.html").read_text()
    assert "What is the sum of the digits?" in page


def test_the_report_is_left_to_coldstart_run_and_fails_no_stage(run, order, tmp_path, caplog):
    where = layout.RunLayout(tmp_path / "runs" / "r")
    where.root.mkdir(parents=True)
    recorded = ReasoningRun(
        api_version="coldstart.dev/v1alpha1",
        kind="ReasoningRun",
        metadata={"name": "r", "uid": "u"},
        spec=order().spec,
    )
    record.save(recorded, where)
    numbers = run(order())
    assert not where.report.exists()
    where.status.write_text("{")
    assert run(order()) == numbers
    assert f"{where.report} could not be written" in caplog.text
    assert not where.report.exists()


def test_thumbnails_are_small_pngs_named_by_their_content(
    run, order, directory, tmp_path, tiny_rows, picture
):
    large = tiny_rows.parent / "large.png"
    large.write_bytes(picture(1200, 300, mode="RGBA"))
    row = {"images": ["large.png"], "problem": "q", "answer": "1"}
    (tiny_rows.parent / "large.jsonl").write_text(json.dumps(row))
    run(order(benchmarks=[{"name": "digits", "dataset": {"name": "large.jsonl"}}]))
    (name,) = lines(directory)[0]["images"]
    path = layout.RunLayout(tmp_path / "runs" / "r").images / f"{name}.png"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    image = Image.open(path)
    assert (image.format, image.size) == ("PNG", (384, 96))


SAMPLED = {"decoding": {"temperature": 1.0, "samples": 2}}


@pytest.mark.parametrize("section", [{}, SAMPLED])
@pytest.mark.parametrize("kept_bytes", [0.0, 0.3, 0.77])
def test_a_killed_evaluation_goes_on_as_if_it_had_not_been(
    run, order, directory, section, kept_bytes
):
    run(order(**section))
    whole = lines(directory)
    text = layout.samples(directory).read_bytes()
    expected = read_result(directory)
    layout.results(directory).unlink()
    # As a kill leaves it: some responses, the last of them torn.
    layout.samples(directory).write_bytes(text[: int(len(text) * kept_bytes)])
    before = [sample.response for sample in read_samples(directory)]
    run(order(**section))
    again = read_samples(directory)
    assert [sample.response for sample in again][: len(before)] == before
    by_key = {(sample.id, sample.sample): sample for sample in again}
    assert by_key == {(line["id"], line.get("sample", 0)): Sample.parse(line) for line in whole}
    assert read_result(directory) == expected


def test_nothing_is_generated_when_every_response_is_there(run, order, directory, monkeypatch):
    numbers = run(order())
    text = layout.samples(directory).read_bytes()
    monkeypatch.setattr(evaluation.model, "load_model", lambda *_, **__: pytest.fail("loaded"))
    assert run(order()) == numbers
    assert layout.samples(directory).read_bytes() == text


@pytest.mark.parametrize(
    "change",
    [
        {"decoding": {"temperature": 0.5}},
        {"decoding": {"maxCompletionTokens": 4}},
        {"seed": 7},
        {"batchSize": 3},
        {"benchmarks": [{"name": "digits", "dataset": {"name": "rows.jsonl", "limit": 6}}]},
    ],
)
def test_responses_of_another_origin_are_moved_aside_not_mixed(run, order, directory, change):
    run(order())
    old = layout.samples(directory).read_bytes()
    run(order(**change))
    shelf = directory.parents[1] / "superseded" / "base"
    assert layout.samples(shelf / "digits-1").read_bytes() == old
    count = 6 if "benchmarks" in change else 5
    assert len(lines(directory)) == count
    run(order())
    assert (shelf / "digits-2").is_dir()
    assert layout.samples(directory).read_bytes() == old


def test_responses_of_another_checkpoint_are_not_taken_for_these(run, order, source, tmp_path):
    spec = order(checkpoints=["sft"])
    run(spec, source(spec, "sft", DIGEST))
    run(spec, source(spec, "sft", DIGEST.replace("1", "2")))
    evaluated = tmp_path / "runs" / "r" / "evaluation"
    assert (evaluated / "superseded" / "sft" / "digits-1").is_dir()
    assert read_result(evaluated / "sft" / "digits").digest == DIGEST.replace("1", "2")


def test_a_samples_file_without_its_origin_is_moved_aside(run, order, directory):
    run(order())
    (directory / "origin.json").write_text("{")
    run(order())
    assert (directory.parents[1] / "superseded" / "base" / "digits-1").is_dir()
    assert len(lines(directory)) == 5


def test_several_checkpoints_and_benchmarks(run, order, source):
    benchmarks = [
        {"name": name, "dataset": {"name": "rows.jsonl", "limit": limit}}
        for name, limit in (("a", 2), ("b", 3))
    ]
    spec = order(benchmarks=benchmarks, checkpoints=["base", "sft"])
    numbers = run(spec, source(spec), source(spec, "sft", DIGEST))
    assert {name for name in numbers if name.startswith("accuracy")} == {
        f"accuracy_{name}"
        for checkpoint in ("base", "sft")
        for name in (
            checkpoint,
            f"low_{checkpoint}",
            f"high_{checkpoint}",
            f"{checkpoint}_a",
            f"{checkpoint}_b",
        )
    }
    assert numbers["responses_sft"] == 5
    mean = (numbers["accuracy_sft_a"] + numbers["accuracy_sft_b"]) / 2
    assert numbers["accuracy_sft"] == mean


def test_a_bad_benchmark_is_named_by_its_place_in_the_spec(run, order):
    bad = {"name": "b", "dataset": {"name": "gone.jsonl"}}
    good = {"name": "a", "dataset": {"name": "rows.jsonl", "limit": 2}}
    with pytest.raises(data.DataError, match=r"spec\.evaluation\.benchmarks\[1\]\.dataset\.name"):
        run(order(benchmarks=[good, bad]))


def test_gpus_that_are_not_there_are_not_replaced_by_the_cpu(run, order):
    with pytest.raises(StageFailure, match=r"evaluation\.resources\.gpusPerNode is 64") as error:
        run(order(resources={"gpusPerNode": 64}))
    assert error.value.code is ErrorCode.RESOURCES_MISSING


WEMATH = {
    "benchmarks": [{"name": "wemath", "dataset": {"name": "wemath.jsonl"}}],
    "decoding": {"temperature": 1.0, "samples": 2},
}


def test_a_published_benchmark_is_scored_by_its_own_metric_and_goes_on_after_a_kill(
    run, order, tmp_path, tiny_rows
):
    text = "".join(json.dumps(row | {"image_path": "1.png"}) + "\n" for row in released.WEMATH)
    (tiny_rows.parent / "wemath.jsonl").write_text(text)
    run(order(**WEMATH))
    directory = layout.RunLayout(tmp_path / "runs" / "r").benchmark("base", "wemath")
    kept = [Sample.parse(line) for line in lines(directory)]
    assert {sample.facets["step"] for sample in kept} == {row["key"] for row in released.WEMATH}
    assert {sample.cluster for sample in kept} == {"2steps/1", "3steps/1"}
    result = read_result(directory)
    assert (result.n, result.problems, result.published, result.partial) == (14, 7, 1740, True)
    assert (result.wemath.composites, result.wemath.torn) == (4, 0)
    assert list(result.repeats.pass_at) == ["1", "2"]
    assert result.repeats.majority is not None
    assert len(result.breakdown["step"]) == 7
    page = (tmp_path / "runs" / "r" / "report.html").read_text()
    assert "wemath is partial: 7 of its 1,740 problems were asked" in page
    assert "We-Math testmini: CC BY-NC 4.0" in page
    whole = layout.samples(directory).read_bytes()
    layout.samples(directory).write_bytes(whole[: len(whole) // 2])
    layout.results(directory).unlink()
    run(order(**WEMATH))
    assert read_result(directory) == result
    assert regrade(directory).result == result


def test_regrading_needs_no_model(run, order, directory, tmp_path):
    given = order(responseKinds=[{"name": "boxed", "pattern": "boxed"}])
    given = with_words(given, "wait", "7")
    run(given)
    before = read_result(directory)
    assert (before.reflection.word_list, list(before.reflection.words)) == ("own", ["wait", "7"])
    # Had the model said so, it would have been right.
    kept = lines(directory)
    for line in kept[:3]:
        line["response"] = f"\\boxed{{{line['gold']}}} wait"
    layout.samples(directory).write_text("".join(json.dumps(line) + "\n" for line in kept))
    after = regrade(directory).result
    assert after == read_result(directory)
    assert after.outcomes["correct"] == 3
    assert after.accuracy == 0.6
    assert after.reflection.words["wait"] == 3
    assert after.decoding == before.decoding
    regraded = read_samples(directory)
    assert [sample.correct for sample in regraded[:3]] == [True] * 3
    assert regraded[0].extracted == regraded[0].gold

    status = {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": "r"},
        "spec": given.spec.document(),
    }
    root = tmp_path / "runs" / "r"
    (root / "status.json").write_text(json.dumps(status))
    (regraded,) = regrade_run(root)
    result = regraded.result
    assert result.kinds["boxed"].n == 3
    assert result.kinds["boxed"].accuracy == 1
    assert result.reflection.word_list == "own"
    assert result.reflection.words["wait"] == 3


def test_a_judge_grades_and_is_asked_once(run, order, directory, tmp_path):
    with judging(lambda _: "Answer: 3\nVerdict: yes") as (fake, url):
        judged = {"matcher": "judge", "judge": {"baseUrl": url, "model": MODEL}}
        numbers = run(order(**judged))
        result = read_result(directory)
        # Of an empty response nobody is asked.
        asked = sum(bool(sample.response.strip()) for sample in read_samples(directory))
        assert (result.matcher, result.judge.asked) == ("judge", len(set(fake.prompts)))
        assert 0 < len(fake.prompts) <= asked
        assert result.matcher_version.startswith("fake-judge, prompt ")
        assert numbers["accuracy_base"] == result.accuracy > 0
        # A kill after the judging, and before the responses were kept.
        kept = layout.samples(directory).read_bytes()
        layout.samples(directory).write_bytes(kept[: len(kept) // 2])
        before = len(fake.prompts)
        assert run(order(**judged)) == numbers
        assert len(fake.prompts) == before
        assert read_result(directory) == result
    # The rules grade what the judge has graded, and the other way round, without an endpoint.
    run(order())
    rules = read_result(directory)
    assert (rules.matcher, rules.judge) == ("rule", None)
    assert rules.matcher_version.startswith("rules 3, math-verify ")
    assert {sample.matcher for sample in read_samples(directory)} == {"rule"}


def test_a_judge_that_does_not_serve_is_named_before_anything_is_generated(
    run, order, directory, monkeypatch
):
    monkeypatch.setattr(evaluation.model, "load_model", lambda *_, **__: pytest.fail("loaded"))
    with judging() as (_, url):
        wrong = {"matcher": "judge", "judge": {"baseUrl": url, "model": "another"}}
        with pytest.raises(EndpointError, match=r"spec\.evaluation\.judge\.model: .*another"):
            run(order(**wrong))
        wrong["judge"] = {"baseUrl": url, "model": MODEL, "prompt": "absent.txt"}
        with pytest.raises(StageFailure, match=r"judge\.prompt: there is no file .*absent\.txt"):
            run(order(**wrong))
    assert not directory.exists()


def test_an_unfinished_evaluation_is_not_regraded(run, order, directory):
    run(order())
    layout.samples(directory).write_text(json.dumps(lines(directory)[0]))
    with pytest.raises(ValueError, match="holds 1 of 5 responses"):
        regrade(directory)


def test_probe_takes_the_gold_of_a_response_without_an_answer(
    tiny_model, tiny_rows, processor, conversation, monkeypatch
):
    rows = data.load(
        data.Dataset(name="rows.jsonl"),
        target="response",
        conversation=conversation,
        processor=processor,
        workdir=tiny_rows.parent,
        seed=0,
        field="spec.sft.dataset",
    ).data.select(range(4))
    policy = load_model(tiny_model, precision="fp32", device="cpu")
    real = evaluation.generate

    def telling(*arguments, **keywords):
        """Responses that say the row's number, of which the first is not boxed."""
        for completions in real(*arguments, **keywords):
            yield [
                type(c)(c.row, c.sample, f"\\boxed{{{c.row}}}" if c.row else "0", 3, False)
                for c in completions
            ]

    monkeypatch.setattr(evaluation, "generate", telling)

    def numbers(rows):
        return evaluation.probe(
            policy, processor, rows, conversation=conversation, batch_size=4, seed=0
        )

    expected = {
        "probe_accuracy": 0.75,
        "probe_boxed_share": 0.75,
        "probe_mean_tokens": 3.0,
        "probe_n": 4.0,
    }
    assert numbers(rows) == expected
    assert numbers(rows.remove_columns("answer")) == expected
    assert numbers(rows.remove_columns(["answer", "response"])) == {"probe_n": 0.0}


WORKER = """
import os
import sys
from pathlib import Path
from coldstart.checkpoint import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    base_fingerprint,
    conversation_fingerprint,
    files_fingerprint,
)
from coldstart.stage import Fingerprints, StageOrder
from coldstart_trainer import evaluation
from coldstart_trainer.inputs import Input
from coldstart_trainer.progress import ProgressLog

def main():
    order = StageOrder.model_validate_json(Path(sys.argv[1]).read_text())
    model = Path(order.spec.model.name)
    prints = Fingerprints(
        base_model=base_fingerprint(model),
        tokenizer=files_fingerprint(model, TOKENIZER_FILES),
        processor=files_fingerprint(model, PROCESSOR_FILES),
        conversation=conversation_fingerprint(order.spec.conversation),
    )
    log = ProgressLog(Path(sys.argv[2]), 1, enabled=os.environ["RANK"] == "0")
    evaluation.run(order, (Input("base", model, prints),), log)

if __name__ == "__main__":
    main()
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_processes_make_the_responses_that_one_makes(run, order, directory, tmp_path):
    run(order(**SAMPLED))
    alone = {(s.id, s.sample): s for s in read_samples(directory)}
    two = order(**SAMPLED, resources={"gpusPerNode": 0, "nodes": 2})
    two = two.model_copy(update={"storage": str(tmp_path / "two")})
    (tmp_path / "order.json").write_text(two.model_dump_json())
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "worker.py", "order.json", "log.jsonl"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    other = layout.RunLayout(tmp_path / "two" / "r").benchmark("base", "digits")
    assert {(s.id, s.sample): s for s in read_samples(other)} == alone
    assert len(lines(other)) == len(alone)
