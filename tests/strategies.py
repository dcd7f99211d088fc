"""Runs for hypothesis: valid ones from the models' own fields and bounds, and damaged ones.

What the JSON schema of the models says of a field is what is drawn for it; what only their
validators say (`_fitted`) is mended afterwards, so that every document drawn is a right one.
`COLDSTART_FUZZ_EXAMPLES` asks for more than the few examples of an ordinary test run.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

from child_objects import _pod_template
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from coldstart import preset
from coldstart.evaluation import RESERVED
from coldstart.run import RunSpec

EXAMPLES = int(os.environ.get("COLDSTART_FUZZ_EXAMPLES", "0"))
"""Examples of each property; 0: each test's own few."""

Path = tuple[str | int, ...]
_SCHEMA = RunSpec.model_json_schema(by_alias=True)
_STAGES = ("distill", "sft", "grpo", "evaluation")
_WORLD = 512 * 64
"""The most processes that a stage may have."""


def fuzzed(few: int) -> settings:
    """The settings of a property: the same examples each time, or as many as were asked for."""
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        # Runs are large: to make one that fails small takes minutes, and says little more.
        phases=(Phase.explicit, Phase.generate),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# Valid runs

_run_names = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
_names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
_text = st.text(st.characters(codec="utf-8"), max_size=30)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text
)
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3)
)
_options = st.sampled_from(["optim", "neftune_noise_alpha", "x", "lr_scheduler_kwargs", "ü", ""])
_quantities = st.sampled_from(["8", "500m", "1.5", "64Gi", "1e3", "128974848", "0", "9E"])

_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.none(),
    "podTemplate": _pod_template(),
    "storage": st.fixed_dictionaries(
        {"claimName": _names}, optional={"subPath": st.sampled_from(["", "a", "a/b", "ä b"])}
    ),
    "scheduling": st.fixed_dictionaries({}, optional={"queueName": _names}),
    "image": st.sampled_from(["coldstart/trainer:1", "r.example:5000/a/b@sha256:" + "0" * 64]),
    "cpu": _quantities,
    "memory": _quantities,
    "gpuMemory": st.sampled_from(["80Gi", "79.6Gi", "141G", "24576Mi"]),
    "freeze": st.lists(st.sampled_from(["vision", "aligner", "language"]), unique=True, max_size=2),
    "trainerArgs": st.dictionaries(_options, _json, max_size=3),
    "reflection": st.sampled_from(
        [{}, {"name": "maye"}, {"name": "own", "words": ["wait", "that's wrong", "等等"]}]
    ),
    "pattern": st.sampled_from(["a+", r"\bwait\b", "(?i)hmm", "[^<]*", "Ω|ä"]),
}
"""Fields of which the schema does not say enough, by name."""


def _drawn(schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """Values of a schema."""
    if name in _SPECIAL:
        return _SPECIAL[name]
    if "$ref" in schema:
        return _drawn(_SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        return _drawn(kinds[0], name)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    return {
        "string": _string,
        "integer": _integer,
        "number": _number,
        "array": _array,
        "object": _object,
        "boolean": lambda _: st.booleans(),
    }[schema["type"]](schema)


def _string(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    longest = min(schema.get("maxLength", 4096), 4096)
    if "pattern" in schema:
        found = st.from_regex(schema["pattern"].strip("^$"), fullmatch=True)
        return found.filter(lambda text: len(text) <= longest)
    least = schema.get("minLength", 0)
    # Half a character is none: JSON between two programs in Go and Python cannot hold it.
    letters = st.characters(codec="utf-8")
    return st.text(letters, min_size=least, max_size=20) | st.just("é" * longest)


def _integer(schema: dict[str, Any]) -> st.SearchStrategy[int]:
    return st.integers(schema.get("minimum", -(2**53)), schema.get("maximum", 2**53))


def _number(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1e9))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 1e17))
    return st.floats(
        least,
        most,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
        allow_nan=False,
    ) | st.integers(int(least) + 1, max(int(least) + 1, int(most) - 1)).filter(
        lambda number: least < number < most
    )


def _array(schema: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    most = min(schema.get("maxItems", 3), 3)
    return st.lists(_drawn(schema["items"]), min_size=schema.get("minItems", 0), max_size=most)


def _object(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema:
        return st.dictionaries(_text, _text, max_size=3)
    required = schema.get("required", ())
    fields = {name: _drawn(field, name) for name, field in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: field for name, field in fields.items() if name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    )


_spec = _object(_SCHEMA)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A run that is right, on a cluster, too."""
    spec = draw(_spec)
    kept = draw(st.sets(st.sampled_from(_STAGES), min_size=1))
    spec = {key: value for key, value in spec.items() if key not in _STAGES or key in kept}
    for name in kept:
        if name not in spec:
            spec[name] = draw(_drawn(_SCHEMA["properties"][name]))
    spec.setdefault("storage", {"claimName": "runs"})
    if draw(st.booleans()):
        spec["preset"] = draw(st.sampled_from(preset.names()))
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": draw(_run_names)},
        "spec": _fitted(spec),
    }


def _fitted(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with what its validators ask for between fields."""
    spec = copy.deepcopy(spec)
    pixels = sorted(
        (spec.get("conversation") or {}).get(key, default)
        for key, default in (("minPixels", 262_144), ("maxPixels", 1_204_224))
    )
    spec.setdefault("conversation", {}).update(minPixels=pixels[0], maxPixels=pixels[1])
    if "distill" in spec:
        _make_unique(spec["distill"].get("patterns"), "")
        _fit_teacher(spec["distill"])
    if "sft" in spec:
        _fit_rows(spec["sft"], distilled="distill" in spec)
    for name in ("sft", "grpo"):
        if name in spec:
            _fit_batch(name, spec[name])
            _fit_gate(spec[name])
    if "grpo" in spec:
        _fit_rollout(spec["grpo"])
        if "sft" in spec:
            spec["grpo"].pop("from", None)
        _make_unique(spec["grpo"].get("rewards"), "accuracy")
    if "evaluation" in spec:
        _fit_evaluation(spec)
    return spec


def _fit_rows(section: dict[str, Any], *, distilled: bool) -> None:
    """One source of rows."""
    if distilled:
        section.pop("from", None)
    if distilled or section.get("from"):
        section.pop("dataset", None)
    else:
        section.setdefault("dataset", {"name": "d"})


def _fit_batch(name: str, section: dict[str, Any]) -> None:
    resources = section.setdefault("resources", {})
    nodes, gpus = resources.setdefault("nodes", 1), resources.setdefault("gpusPerNode", 1)
    world = nodes * max(1, gpus)
    updates = section.setdefault("updatesPerStep", 4) if name == "grpo" else 1
    most = 10**9 // (world * updates)
    per_pass = min(section.get("microBatchSize", 1), most)
    group = section.setdefault("groupSize", 10) if name == "grpo" else 1
    if per_pass % group and section.get("sharedPrompt", True):
        if group > most:
            section["sharedPrompt"] = False
        else:
            per_pass = max(1, per_pass // group) * group
    section["microBatchSize"] = per_pass
    section["promptsPerStep" if name == "grpo" else "batchSize"] = per_pass * world * updates


def _fit_rollout(section: dict[str, Any]) -> None:
    rollout = section.setdefault("rollout", {})
    if rollout.get("mode") == "server":
        rollout.setdefault("serverUrl", "http://vllm:8000")
    rollout["tensorParallelSize"] = 1


def _fit_gate(section: dict[str, Any]) -> None:
    probe = section.get("probe") or {}
    if probe.get("size") == 0 or (section.get("heldOut") == 0 and "dataset" not in probe):
        section.pop("gate", None)


def _make_unique(items: list[dict[str, Any]] | None, unnamed: str) -> None:
    seen: set[str] = set()
    for item in list(items or ()):
        name = item.get("name", unnamed)
        if name in seen and items is not None:
            items.remove(item)
        seen.add(name)


def _fit_evaluation(spec: dict[str, Any]) -> None:
    section = spec["evaluation"]
    for item in section.get("benchmarks") or ():
        item.setdefault("dataset", {"name": "rows.jsonl"})
    _make_unique(section.get("benchmarks"), "test")
    if section.get("judge") is None:
        section.pop("matcher", None)
    section["tensorParallelSize"] = 1
    _fit_references(section)
    _fit_checkpoints(spec)


def _fit_teacher(section: dict[str, Any]) -> None:
    teacher = section["teacher"]
    if teacher.get("baseUrl") is None:
        teacher.pop("apiKeyEnv", None)
        return
    teacher.pop("revision", None)
    section.setdefault("resources", {})["gpusPerNode"] = 0


def _fit_references(section: dict[str, Any]) -> None:
    _make_unique(section.get("references"), "")
    for number, item in enumerate(section.get("references") or ()):
        if item["name"] in RESERVED:
            item["name"] = f"reference-{number}"
        if item.get("from") is not None:
            item.pop("model", None)
            item.pop("revision", None)
        elif item.get("model") is None:
            item["model"] = "org/model"


def _fit_checkpoints(spec: dict[str, Any]) -> None:
    own = {"base", *(name for name in ("sft", "grpo") if name in spec)}
    sources = [spec[name].get("from") for name in ("grpo", "evaluation") if name in spec]
    own |= {source.get("stage", "sft") for source in sources if source}
    own |= {item["name"] for item in spec["evaluation"].get("references") or ()}
    wanted = spec["evaluation"].get("checkpoints")
    if wanted is not None:
        known = dict.fromkeys(name for name in wanted if name in own)
        spec["evaluation"]["checkpoints"] = list(known)


# Damage

HUGE = (2**53, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e308, 1e-320)
ODD_TEXTS = (
    "",
    " ",
    "null",
    "500m",
    "1e5",
    "-0",
    "0x10",
    "ｎａｍｅ",  # noqa: RUF001 - letters that look like others
    "naïve\u202etxt",
    "\x1b[31mred\x1b[0m",
    "a\nb\tc\0d",
    "\U0001f600\U0002070e",
    "{{ jinja }} $(HOME) ${X} `id`",
    "../../etc/passwd",
    "a" * 5000,
    "2026-01-01T00:00:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999+00:00",
)


def nested(depth: int, inner: Any = 0) -> Any:
    """A list in a list in a list, so many deep."""
    for _ in range(depth):
        inner = [inner]
    return inner


_WRONG = (
    st.sampled_from([None, True, False, [], {}, [[]], [None], {"": None}, 0, -1, 0.5])
    | st.sampled_from(HUGE)
    | st.sampled_from(ODD_TEXTS)
    | st.integers(21, 60).map(nested)
)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of everything in a document, from the outside in."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def at(document: Any, path: Path) -> Any:
    """What is at a path."""
    for part in path:
        document = document[part]
    return document


def _renamed(key: str, draw: st.DrawFn) -> str:
    return draw(
        st.sampled_from(
            [
                key + "s",
                key[:-1],
                key.upper(),
                key.replace("S", "_s"),
                key + "\u200b",
                *ODD_TEXTS,
            ]
        )
    )


@st.composite
def damaged(draw: st.DrawFn, within: Path = ("spec",)) -> dict[str, Any]:
    """A run with one to three things wrong in it, or strange."""
    return draw(broken(draw(documents()), within))


@st.composite
def broken(draw: st.DrawFn, document: dict[str, Any], within: Path = ()) -> dict[str, Any]:
    """A copy of a document with one to three things wrong in it, below a path."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        known = [path for path in paths(document) if path[: len(within)] == within]
        if known:
            path = draw(st.sampled_from(known))
            _damage(draw, at(document, path[:-1]), path[-1])
    return document


def _damage(draw: st.DrawFn, holder: Any, key: Any) -> None:
    deed = draw(st.sampled_from(["delete", "replace", "replace", "rename", "add", "copy"]))
    if deed == "replace":
        holder[key] = draw(_WRONG)
    elif deed == "delete":
        del holder[key]
    elif isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[:1]) * draw(st.sampled_from([1, 2, 60, 1100])))
    elif deed == "rename":
        holder[_renamed(key, draw)] = holder.pop(key)
    elif deed == "add":
        holder[_renamed("x", draw)] = draw(_WRONG)
    else:
        holder[key] = copy.deepcopy(holder)


def text(document: Any) -> str:
    """A document as JSON, which is YAML."""
    return json.dumps(document, indent=1).replace("\x7f", "\\u007f")


@st.composite
def damaged_texts(draw: st.DrawFn) -> str:
    """The text of a right run with a few lines or characters taken away, doubled or put in."""
    import yaml

    words = yaml.safe_dump(draw(documents()), allow_unicode=True, sort_keys=False)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(words)))
        end = min(len(words), begin + draw(st.sampled_from([0, 0, 1, 2, 40])))
        put = draw(st.sampled_from(PIECES))
        words = words[:begin] + put + words[end:]
    return words


PIECES = (
    "",
    "\n",
    " ",
    "\t",
    ": ",
    "- ",
    "---\n",
    "...\n",
    "&a ",
    "*a ",
    "<<: *a\n",
    "!!python/object:os.system ",
    "!!binary ",
    "!!timestamp x",
    "!!int ''",
    "!!bool x",
    "2026-13-45",
    "12:30:45",
    "0b_",
    "1" * 5000,
    "'",
    '"',
    '"\\ud800"',
    "{",
    "[" * 200,
    "]",
    "? [a]\n: b\n",
    "%YAML 9.9\n",
    "# ",
    "|\n",
    ">-\n",
    "\x07",
    "\x85",
    "\ufeff",
    "\u2028",
    "=",
    "~",
    "null",
    ".nan",
    "-.inf",
    "1e999",
)
