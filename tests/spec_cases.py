"""Specs, right and wrong, on which everything that judges a ReasoningRun must agree."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

DROP = object()
"""The field is taken away."""

NARROW = {"grpo.promptsPerStep": 1, "grpo.updatesPerStep": 1, "grpo.microBatchSize": 5}
"""One prompt at a time, in two halves of its group."""
SERVER = {"engine": "vllm", "mode": "server"}

DATASET = {"name": "d.parquet"}
BENCHMARKS = [{"name": "a", "dataset": DATASET}, {"name": "b", "dataset": DATASET}]
PUBLISHED = {"name": "wemath", "dataset": {"name": "wemath.parquet", "limit": 9}}
RENAMED = {"name": "wemath", "dataset": {"name": "d.parquet", "columns": {"answer": "gold"}}}
DEFAULTED = {"name": "wemath", "dataset": {"name": "d.parquet", "columns": {"answer": "answer"}}}


@dataclass(frozen=True)
class Case:
    """A change to the plain run, and whether the run is right with it."""

    name: str
    valid: bool
    spec: dict[str, Any] = field(default_factory=dict)
    run: str = "r"

    @property
    def document(self) -> dict[str, Any]:
        return document(self.spec, self.run)


def document(changes: dict[str, Any] | None = None, name: str = "r") -> dict[str, Any]:
    """A run with all three stages, with the given fields of its spec changed by dotted path."""
    spec: dict[str, Any] = {
        "model": {"name": "m"},
        "sft": {"dataset": copy.deepcopy(DATASET)},
        "grpo": {"dataset": copy.deepcopy(DATASET)},
        "evaluation": {"benchmarks": copy.deepcopy(BENCHMARKS)},
    }
    for path, value in (changes or {}).items():
        place(spec, path.split("."), value)
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": name},
        "spec": spec,
    }


def place(spec: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value into a nested mapping, whose missing parts are made."""
    *parents, last = path
    for part in parents:
        spec = spec.setdefault(part, {})
    if value is DROP:
        spec.pop(last, None)
    else:
        spec[last] = copy.deepcopy(value)


def bare(stage: str) -> dict[str, Any]:
    """The changes that leave one stage only."""
    return {other: DROP for other in ("sft", "grpo", "evaluation") if other != stage}


TEACHER = {"baseUrl": "https://host/v1", "model": "teacher", "apiKeyEnv": "KEY"}
SERVED = {"model": "Qwen/teacher", "revision": "abc"}
DISTILL = {"sft.dataset": DROP, "distill": {"dataset": DATASET, "teacher": TEACHER}}
REFERENCES = [
    {"name": "released", "model": "org/m", "revision": "abc"},
    {"name": "other-sft", "from": {"run": "o", "stage": "sft"}},
]
GATE = {"minAccuracy": 0.5}
JUDGE = {"baseUrl": "http://judge:8000/v1", "model": "judge"}
PRESET = {"preset": "paper-7b", "model": DROP, "sft.dataset": DROP, "grpo.dataset": DROP}

CASES = (
    Case("plain", True),
    Case("sft alone", True, bare("sft")),
    Case("grpo alone", True, bare("grpo")),
    Case("evaluation alone", True, bare("evaluation")),
    Case("no stage", False, {"sft": DROP, "grpo": DROP, "evaluation": DROP}),
    Case("no model", False, {"model": DROP}),
    Case("model without name", False, {"model": {"revision": "x"}}),
    Case("empty model name", False, {"model.name": ""}),
    Case("sft without dataset", False, {"sft.dataset": DROP}),
    Case("grpo dataset without name", False, {"grpo.dataset": {"limit": 3}}),
    Case("benchmark without dataset", False, {"evaluation.benchmarks": [{"name": "a"}]}),
    Case("published benchmark", True, {"evaluation.benchmarks": [{"name": "mathvista"}]}),
    Case("published benchmark elsewhere", True, {"evaluation.benchmarks": [PUBLISHED]}),
    Case("published benchmark, its columns", False, {"evaluation.benchmarks": [RENAMED]}),
    Case("published benchmark, default columns", True, {"evaluation.benchmarks": [DEFAULTED]}),
    Case("own benchmark, its columns", True, {"evaluation.benchmarks": [RENAMED | {"name": "a"}]}),
    Case("evaluation without benchmarks", False, {"evaluation.benchmarks": DROP}),
    Case("no benchmark", False, {"evaluation.benchmarks": []}),
    # distill
    Case("distill before sft", True, DISTILL),
    Case("distill alone", True, {**bare("distill"), "distill": DISTILL["distill"]}),
    Case("distill beside a data set of sft", False, {"distill": DISTILL["distill"]}),
    Case("distill with a preset", True, {**PRESET, **DISTILL}),
    Case(
        "distill with a preset and a data set",
        False,
        {**PRESET, "distill": DISTILL["distill"], "sft.dataset": DATASET},
    ),
    Case("rows of another run", True, {"sft.dataset": DROP, "sft.from": {"run": "x"}}),
    Case("rows of another run with a preset", True, {**PRESET, "sft.from": {"run": "x"}}),
    Case("rows of another run beside a data set", False, {"sft.from": {"run": "x"}}),
    Case("rows of another run beside distill", False, {**DISTILL, "sft.from": {"run": "x"}}),
    Case(
        "rows of a stage that makes none",
        False,
        {"sft.dataset": DROP, "sft.from": {"run": "x", "stage": "sft"}},
    ),
    Case("distill without teacher", False, {**DISTILL, "distill": {"dataset": DATASET}}),
    Case(
        "distill with a key in the URL",
        False,
        {**DISTILL, "distill.teacher.baseUrl": "https://me:secret@host/v1"},
    ),
    Case("distill of a teacher it serves", True, {**DISTILL, "distill.teacher": SERVED}),
    Case(
        "distill of a teacher it serves on GPUs",
        True,
        {**DISTILL, "distill.teacher": SERVED, "distill.resources": {"gpusPerNode": 4}},
    ),
    Case(
        "distill of a teacher it serves, with a key",
        False,
        {**DISTILL, "distill.teacher.baseUrl": DROP},
    ),
    Case("distill of a revision behind a URL", False, {**DISTILL, "distill.teacher.revision": "r"}),
    Case("distill without a model", False, {**DISTILL, "distill.teacher.model": DROP}),
    Case(
        "distill with a mixture",
        True,
        {
            **DISTILL,
            "distill.patterns": [{"name": "caption-cot", "weight": 3}, {"name": "self-critic-cot"}],
        },
    ),
    Case(
        "distill with a pattern twice",
        False,
        {
            **DISTILL,
            "distill.patterns": [{"name": "caption-cot", "weight": 3}, {"name": "caption-cot"}],
        },
    ),
    Case(
        "distill with an unknown pattern", False, {**DISTILL, "distill.patterns": [{"name": "cot"}]}
    ),
    Case("distill on a GPU", False, {**DISTILL, "distill.resources": {"gpusPerNode": 1}}),
    Case("distill with a yield", True, {**DISTILL, "distill.gate": {"minYield": 0.5}}),
    Case("distill with a yield above one", False, {**DISTILL, "distill.gate": {"minYield": 2}}),
    # names
    Case("name of 40", True, run="a" * 40),
    Case("name of 41", False, run="a" * 41),
    Case("name with a capital", False, run="Run"),
    Case("name with a dot", False, run="a.b"),
    Case("name that starts with a digit", False, run="1a"),
    Case("name that ends with a dash", False, run="a-"),
    # data checks
    Case("data checks", True, {"dataChecks": {"leakage": "refuse", "duplicates": "ignore"}}),
    Case("a data check is no other word", False, {"dataChecks.leakage": "stop"}),
    Case("a data check is no boolean", False, {"dataChecks.duplicates": False}),
    Case("no such data check", False, {"dataChecks.near": "warn"}),
    # reflection
    Case("words by a name of their own", True, {"reflection": {"name": "own", "words": ["wait"]}}),
    Case("the known words by name", True, {"reflection": {"name": "maye"}}),
    Case("words by the name of a known list", False, {"reflection": {"words": ["wait"]}}),
    Case("a list that nobody knows", False, {"reflection": {"name": "own"}}),
    Case("a list of no words", False, {"reflection": {"name": "own", "words": []}}),
    Case("a very long word", False, {"reflection": {"name": "own", "words": ["a" * 101]}}),
    # presets
    Case("preset alone", True, PRESET),
    Case("preset with another data set", True, {**PRESET, "sft.dataset": DATASET}),
    Case("preset with a revision", True, {**PRESET, "model": {"revision": "x"}}),
    Case("preset with columns", True, {**PRESET, "sft.dataset": {"columns": {"answer": "a"}}}),
    Case("preset, benchmark without dataset", False, {**PRESET, "evaluation.benchmarks": [{}]}),
    Case("preset's benchmarks", True, {**PRESET, "evaluation": {}}),
    Case("unknown preset", False, {"preset": "paper-9b"}),
    Case("preset: batch fits its four GPUs", True, {**PRESET, "sft.batchSize": 4}),
    Case("preset: batch does not fit its four GPUs", False, {**PRESET, "sft.batchSize": 2}),
    Case(
        "preset: batch fits the written GPUs",
        True,
        {**PRESET, "sft.batchSize": 2, "sft.resources.gpusPerNode": 2},
    ),
    Case(
        "preset: rollouts do not fit its eight GPUs", False, {**PRESET, "grpo.promptsPerStep": 16}
    ),
    Case(
        "preset: pixels against its bound", False, {**PRESET, "conversation.minPixels": 2_000_000}
    ),
    # from
    Case("grpo from with sft", False, {"grpo.from": {"run": "other"}}),
    Case("grpo from without sft", True, {"sft": DROP, "grpo.from": {"run": "other"}}),
    Case("from without run", False, {"sft": DROP, "grpo.from": {"stage": "sft"}}),
    Case("from a bad run name", False, {"sft": DROP, "grpo.from": {"run": "Other"}}),
    Case("from evaluation", False, {"evaluation.from": {"run": "o", "stage": "evaluation"}}),
    # checkpoints
    Case("checkpoints of its own", True, {"evaluation.checkpoints": ["base", "sft", "grpo"]}),
    Case("checkpoint of no stage", False, {"sft": DROP, "evaluation.checkpoints": ["sft"]}),
    Case("checkpoint grpo of no stage", False, {"grpo": DROP, "evaluation.checkpoints": ["grpo"]}),
    Case(
        "checkpoint borrowed by grpo",
        True,
        {"sft": DROP, "grpo.from": {"run": "o"}, "evaluation.checkpoints": ["sft"]},
    ),
    Case(
        "checkpoint borrowed by evaluation",
        True,
        {
            **bare("evaluation"),
            "evaluation.from": {"run": "o", "stage": "grpo"},
            "evaluation.checkpoints": ["grpo"],
        },
    ),
    Case(
        "another checkpoint than the borrowed",
        False,
        {
            **bare("evaluation"),
            "evaluation.from": {"run": "o", "stage": "grpo"},
            "evaluation.checkpoints": ["sft"],
        },
    ),
    Case("unknown checkpoint", False, {"evaluation.checkpoints": ["final"]}),
    Case(
        "evaluation by engines of two GPUs",
        True,
        {
            "evaluation.engine": "vllm",
            "evaluation.tensorParallelSize": 2,
            "evaluation.resources": {"gpusPerNode": 4},
        },
    ),
    Case(
        "evaluation by an engine of more GPUs than there are",
        False,
        {"evaluation.engine": "vllm", "evaluation.tensorParallelSize": 2},
    ),
    Case(
        "evaluation by an engine of two GPUs on the CPU",
        False,
        {
            "evaluation.engine": "vllm",
            "evaluation.tensorParallelSize": 2,
            "evaluation.resources": {"gpusPerNode": 0},
        },
    ),
    Case("evaluation with generate, whatever vLLM's", True, {"evaluation.tensorParallelSize": 2}),
    Case("evaluation by an unknown engine", False, {"evaluation.engine": "sglang"}),
    Case("references", True, {"evaluation.references": REFERENCES}),
    Case(
        "references chosen",
        True,
        {"evaluation.references": REFERENCES, "evaluation.checkpoints": ["base", "released"]},
    ),
    Case("a reference twice", False, {"evaluation.references": [REFERENCES[0]] * 2}),
    Case(
        "a reference called sft", False, {"evaluation.references": [{"name": "sft", "model": "m"}]}
    ),
    Case("a reference to nothing", False, {"evaluation.references": [{"name": "a"}]}),
    Case(
        "a reference to two models",
        False,
        {"evaluation.references": [REFERENCES[0] | {"from": {"run": "o"}}]},
    ),
    Case(
        "a reference to a revision of another run",
        False,
        {"evaluation.references": [REFERENCES[1] | {"revision": "r"}]},
    ),
    Case("four checkpoints", False, {"evaluation.checkpoints": ["base"] * 4}),
    # batches
    Case("batch of one pass", True, {"sft.batchSize": 8, "sft.microBatchSize": 8}),
    Case("batch of half a pass", False, {"sft.batchSize": 8, "sft.microBatchSize": 16}),
    Case(
        "batch over nodes",
        True,
        {"sft.batchSize": 64, "sft.resources": {"nodes": 4, "gpusPerNode": 8}},
    ),
    Case(
        "batch not over nodes",
        False,
        {"sft.batchSize": 60, "sft.resources": {"nodes": 4, "gpusPerNode": 8}},
    ),
    Case("a GPU's memory", True, {"sft.resources.gpuMemory": "79.6Gi"}),
    Case("a GPU's memory without a unit", False, {"sft.resources.gpuMemory": "80"}),
    Case("a GPU's memory as a number", False, {"sft.resources.gpuMemory": 80}),
    Case("no memory in a GPU", False, {"grpo.resources.gpuMemory": "0Gi"}),
    Case("a CPU is one process", True, {"sft.batchSize": 1, "sft.resources.gpusPerNode": 0}),
    Case("prompts over updates", False, {"grpo.promptsPerStep": 511}),
    Case(
        "completions over passes",
        True,
        {"grpo.promptsPerStep": 8, "grpo.updatesPerStep": 2, "grpo.microBatchSize": 20},
    ),
    Case(
        "completions not over passes",
        False,
        {"grpo.promptsPerStep": 8, "grpo.updatesPerStep": 2, "grpo.microBatchSize": 30},
    ),
    # groups
    Case("half a group at once", True, {"grpo.microBatchSize": 5}),
    Case("a torn group", False, {"grpo.microBatchSize": 4}),
    Case("a torn group, not shared", True, {"grpo.microBatchSize": 4, "grpo.sharedPrompt": False}),
    Case("more processes than prompts", False, {**NARROW, "grpo.resources.gpusPerNode": 2}),
    Case(
        "more processes than prompts, not shared",
        True,
        {**NARROW, "grpo.resources.gpusPerNode": 2, "grpo.sharedPrompt": False},
    ),
    # rollout
    Case("a server", True, {"grpo.rollout": {**SERVER, "serverUrl": "http://vllm:8000"}}),
    Case("a server without its address", False, {"grpo.rollout": SERVER}),
    Case("no server without vLLM", True, {"grpo.rollout": {"mode": "server"}}),
    Case("one GPU for two", False, {"grpo.rollout": {"engine": "vllm", "tensorParallelSize": 2}}),
    Case(
        "two GPUs for two",
        True,
        {
            "grpo.rollout": {"engine": "vllm", "tensorParallelSize": 2},
            "grpo.resources.gpusPerNode": 2,
        },
    ),
    Case("preset: a server", False, {**PRESET, "grpo.rollout.mode": "server"}),
    # conversation
    Case(
        "least above greatest pixels",
        False,
        {"conversation": {"minPixels": 9999, "maxPixels": 999}},
    ),
    Case("least above default greatest", False, {"conversation.minPixels": 2_000_000}),
    Case("greatest below default least", False, {"conversation.maxPixels": 784}),
    Case("one size", True, {"conversation": {"minPixels": 784, "maxPixels": 784}}),
    # freeze
    Case("nothing frozen", True, {"sft.freeze": []}),
    Case("two parts frozen", True, {"sft.freeze": ["vision", "aligner"]}),
    Case("a part twice", False, {"grpo.freeze": ["vision", "vision"]}),
    Case("every part frozen", False, {"sft.freeze": ["vision", "aligner", "language"]}),
    Case("unknown part", False, {"sft.freeze": ["head"]}),
    # gates
    Case("gate on the probe", True, {"sft.gate": GATE}),
    Case("gate without probe", False, {"sft.gate": GATE, "sft.probe.size": 0}),
    Case("boxed gate without probe", False, {"grpo.gate.minBoxedShare": 1, "grpo.probe.size": 0}),
    Case("loss gate without probe", True, {"sft.gate.maxLoss": 1, "sft.probe.size": 0}),
    Case("gate without held-out rows", False, {"grpo.gate": GATE, "grpo.heldOut": 0}),
    Case("gate without held-out rows, 0.0", False, {"grpo.gate": GATE, "grpo.heldOut": 0.0}),
    Case(
        "gate on another probe",
        True,
        {"grpo.gate": GATE, "grpo.heldOut": 0, "grpo.probe.dataset": DATASET},
    ),
    Case("great loss", True, {"grpo.gate.maxLoss": 1e17}),
    # lists
    Case("a reward twice", False, {"grpo.rewards": [{"name": "accuracy"}, {"name": "accuracy"}]}),
    Case("two rewards", True, {"grpo.rewards": [{"name": "accuracy"}, {"name": "my.mod:score"}]}),
    Case("reward without name", False, {"grpo.rewards": [{"weight": 1}]}),
    Case("bad reward name", False, {"grpo.rewards": [{"name": "a b"}]}),
    Case("no reward", False, {"grpo.rewards": []}),
    Case("a benchmark twice", False, {"evaluation.benchmarks": [BENCHMARKS[0]] * 2}),
    Case("unnamed benchmark", True, {"evaluation.benchmarks": [{"dataset": DATASET}]}),
    Case("two unnamed benchmarks", False, {"evaluation.benchmarks": [{"dataset": DATASET}] * 2}),
    Case(
        "unnamed benchmark beside its name",
        False,
        {"evaluation.benchmarks": [{"dataset": DATASET}, {"name": "test", "dataset": DATASET}]},
    ),
    Case(
        "very long benchmark name",
        False,
        {"evaluation.benchmarks": [{"name": "a" * 129, "dataset": DATASET}]},
    ),
    # trainerArgs
    Case("a free option", True, {"sft.trainerArgs": {"optim": "adamw_torch", "x": {"y": [1]}}}),
    Case("an owned option", False, {"sft.trainerArgs": {"learning_rate": 1}}),
    Case("an owned option as text", False, {"grpo.trainerArgs": {"use_vllm": "yes"}}),
    Case("an owned option as mapping", False, {"grpo.trainerArgs": {"beta": {"a": 1}}}),
    Case("code of the model", False, {"sft.trainerArgs": {"trust_remote_code": True}}),
    Case("a token", False, {"grpo.trainerArgs": {"hub_token": "hf_x"}}),
    Case("an option owned by grpo only", True, {"sft.trainerArgs": {"beta": 1}}),
    Case("too many options", False, {"sft.trainerArgs": {f"o{i}": 1 for i in range(101)}}),
    # pods and operations
    Case(
        "pod template",
        True,
        {
            "podTemplate": {
                "labels": {"a": "b"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "env": [{"name": "A", "value": "1"}],
                "secrets": ["hub"],
            }
        },
    ),
    Case("label that is no text", False, {"podTemplate.labels": {"a": 1}}),
    Case("short grace", False, {"podTemplate.terminationGracePeriodSeconds": 29}),
    Case("queue", True, {"scheduling": {"queueName": "q", "priorityClass": "p"}}),
    Case("unknown backend", False, {"backend": "TrainJob"}),
    Case("no retry", True, {"retry": {"limit": 0}}),
    Case("negative retry", False, {"retry.limit": -1}),
    Case("time to live", True, {"ttlSecondsAfterFinished": 0, "suspend": True}),
    # shapes
    Case("unknown key", False, {"sft.epoch": 3}),
    Case("unknown section", False, {"rlhf": {}}),
    Case("unknown key in a list", False, {"grpo.rewards": [{"name": "accuracy", "wieght": 1}]}),
    Case("section that is a list", False, {"sft": []}),
    Case("fraction for a whole number", False, {"sft.saveSteps": 1.5}),
    Case("whole number for a fraction", True, {"sft.epochs": 1}),
    Case("text for a mapping", False, {"model": "m"}),
    Case("mapping for a text", False, {"image": {"name": "i"}}),
    Case("absent section as null", True, {"grpo.from": None, "image": None, "preset": None}),
    # matcher
    Case("a judge", True, {"evaluation.matcher": "judge", "evaluation.judge": JUDGE}),
    Case("a judge that is kept for later", True, {"evaluation.judge": JUDGE}),
    Case("no judge", False, {"evaluation.matcher": "judge"}),
    Case("unknown matcher", False, {"evaluation.matcher": "nearest"}),
    Case("a judge without a model", False, {"evaluation.judge": {"baseUrl": "http://j/v1"}}),
    Case(
        "a judge with a password", False, {"evaluation.judge": {**JUDGE, "baseUrl": "http://a:b@j"}}
    ),
    Case("a key for a variable", False, {"evaluation.judge": {**JUDGE, "apiKeyEnv": "sk-1"}}),
    Case("response kind", True, {"evaluation.responseKinds": [{"name": "k", "pattern": "a+"}]}),
    Case("bad kind name", False, {"evaluation.responseKinds": [{"name": "K", "pattern": "a"}]}),
)

PYDANTIC_ONLY = (
    Case(
        "kind that does not compile",
        False,
        {"evaluation.responseKinds": [{"name": "k", "pattern": "("}]},
    ),
    Case("a word twice", False, {"reflection": {"name": "own", "words": ["wait", "Wait"]}}),
    Case("no word", False, {"reflection": {"name": "own", "words": ["..."]}}),
)
"""Wrong, but the API server takes them; the operator answers with `Accepted=False`."""

SERVER_ONLY = (
    Case("number as text", False, {"sft.epochs": "3"}),
    Case("switch as text", False, {"suspend": "true"}),
    Case("very long label", False, {"podTemplate.labels": {"a": "b" * 5000}}),
)
"""Refused by the API server only, which converts no types and bounds every text."""

ASCII = (
    Case(
        "letters beyond ASCII",
        False,
        {"evaluation.benchmarks": [{"name": "aéa", "dataset": DATASET}]},
    ),
)
"""Refused by all; `\\w` in a pattern is ASCII to Go, and every letter there is to Python."""

NULLS = (
    Case("switch as null", True, {"suspend": None}),
    Case("section as null", True, {"retry": None}),
)
"""Taken by the API server only: it drops a null and writes the default instead."""

CHANGES = (
    ("suspend", {"suspend": True}, True),
    ("retry", {"retry.limit": 7}, True),
    ("time to live", {"ttlSecondsAfterFinished": 60}, True),
    ("scheduling", {"scheduling.queueName": "q"}, True),
    ("nothing", {}, True),
    ("a preset", {"preset": "paper-3b"}, False),
    ("the model", {"model.revision": "x"}, False),
    ("a stage less", {"grpo": DROP}, False),
    ("a value of a stage", {"sft.epochs": 4}, False),
    ("the benchmarks", {"evaluation.benchmarks": BENCHMARKS[:1]}, False),
    ("the order of the benchmarks", {"evaluation.benchmarks": BENCHMARKS[::-1]}, False),
    ("the conversation", {"conversation": {}}, False),
    ("the storage", {"storage.claimName": "c"}, False),
    ("the backend", {"backend": "Job"}, False),
    ("the image", {"image": "i"}, False),
    ("the pods", {"podTemplate.labels": {"a": "b"}}, False),
)
"""Changes of a spec: what they are, and whether they may be made after the run has started."""
