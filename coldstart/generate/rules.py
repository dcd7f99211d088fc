"""What the models check between fields, said in CEL for the API server; nothing of one field.

Every rule of `RunSpec` has its counterpart here, judged on the values that will count: what the
file says, else its preset, else the default. Left to the operator, which validates with the models
themselves and answers with the condition `Accepted=False`:

- `evaluation.responseKinds[].pattern` compiles: CEL's regular expressions are not Python's;
- `reflection.words` holds no word twice, and each can be found: CEL folds the case of ASCII alone;
- how deep is nested what is passed on as it is: no schema can say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from coldstart import preset
from coldstart.benchmarks import NAMES
from coldstart.dataset import Columns
from coldstart.evaluation import RESERVED, Benchmark
from coldstart.generate.structural import Path
from coldstart.lexicon import LISTS
from coldstart.run import RunSpec
from coldstart.spec import From, Part, Stage

Rule = dict[str, str]

MUTABLE = ("suspend", "retry", "ttlSecondsAfterFinished", "scheduling")
"""What may change in a spec after the run has started; nothing of it changes a result."""

NAME: Rule = {
    "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') "
    "&& size(self.metadata.name) <= 40",
    "message": "metadata.name must be a DNS label that starts with a letter, "
    "of at most 40 characters, so that the names of the jobs fit theirs",
}
"""The run's name, in which those of its jobs, pods and Services begin."""


def root_rules() -> list[Rule]:
    """The rules on a whole object: its name, and what may not change after the start.

    A rule sees the status of the stored object only from the root. The API server puts that
    status back before it validates a change of the spec, so nobody gets around these by leaving
    the status out (apiextensions-apiserver, customResourceStrategy.PrepareForUpdate).
    """
    fixed = [
        (info.alias or name, info.is_required())
        for name, info in RunSpec.model_fields.items()
        if (info.alias or name) not in MUTABLE
    ]
    return [NAME, *(_fixed(name, required and (name,) not in filled()) for name, required in fixed)]


def spec_rules() -> list[Rule]:
    """The rules between the fields of a spec."""
    stages = " || ".join(f"has(self.{stage.value})" for stage in Stage)
    conversation = f"{value('conversation', 'minPixels')} <= {value('conversation', 'maxPixels')}"
    return [
        _rule(stages, "has no stage: add distill, sft, grpo or evaluation"),
        *_cold_start(),
        *(_required(path) for path in sorted(filled())),
        _rule(
            "!(has(self.sft) && has(self.grpo) && has(self.grpo.from))",
            "grpo.from names another run's stage, but this run has its own sft",
            "grpo.from",
        ),
        _rule(conversation, "minPixels must not be greater than maxPixels", "conversation"),
        _sft_batch(),
        *_grpo_batch(),
        *_grpo_groups(),
        *_rollout(),
        *(rule for stage in ("sft", "grpo") for rule in _gate(stage)),
        _checkpoints(),
        *_words(),
        _rule(
            "!has(self.evaluation) || !has(self.evaluation.matcher) || "
            "self.evaluation.matcher != 'judge' || has(self.evaluation.judge)",
            "matcher is judge, but judge is not set",
            "evaluation",
        ),
        _evaluation_engines(),
        *_teacher(),
    ]


def list_rules() -> Mapping[Path, list[Rule]]:
    """The rules on the lists of a spec, by the list's path in it."""
    parts = len(get_args(Part))
    freeze = [
        _rule("self.all(a, self.exists_one(b, b == a))", "names a part twice"),
        _rule(f"size(self) < {parts}", "freezes every part: nothing would be trained"),
    ]
    unnamed = Benchmark.model_fields["name"].default
    name = f"(has({{0}}.name) ? {{0}}.name : '{unnamed}')".format
    return {
        ("distill", "patterns"): [
            _rule("self.all(a, self.exists_one(b, b.name == a.name))", "names a pattern twice")
        ],
        ("sft", "freeze"): freeze,
        ("grpo", "freeze"): freeze,
        ("grpo", "rewards"): [
            _rule("self.all(a, self.exists_one(b, b.name == a.name))", "names a reward twice")
        ],
        ("evaluation", "checkpoints"): [
            _rule("self.all(a, self.exists_one(b, b == a))", "names a checkpoint twice")
        ],
        ("evaluation", "references"): [
            _rule("self.all(a, self.exists_one(b, b.name == a.name))", "names a reference twice"),
            _rule(
                f"self.all(a, !(a.name in {list(RESERVED)}))",
                f"is called what is taken: {', '.join(RESERVED)}",
            ),
            _rule("self.all(a, has(a.model) != has(a.from))", "needs either model or from, each"),
            _rule(
                "self.all(a, has(a.model) || !has(a.revision))",
                "has a revision without a model",
            ),
        ],
        ("evaluation", "benchmarks"): [
            _rule(
                f"self.all(a, self.exists_one(b, {name('b')} == {name('a')}))",
                "names a benchmark twice",
            ),
            _rule(
                f"self.all(a, has(a.dataset) || {name('a')} in {list(NAMES)})",
                "names no published benchmark, and has no dataset",
            ),
            _rule(
                f"self.all(a, !({name('a')} in {list(NAMES)}) || !has(a.dataset) || "
                f"!has(a.dataset.columns) || ({_default_columns('a.dataset.columns')}))",
                "names a published benchmark, whose layout is known, so dataset.columns has no say",
            ),
        ],
    }


def _default_columns(place: str) -> str:
    """Whether a section of columns says nothing but the defaults."""
    defaults = Columns().document()
    return " && ".join(
        f"(!has({place}.{name}) || {place}.{name} == '{value}')" for name, value in defaults.items()
    )


@cache
def filled() -> frozenset[Path]:
    """Fields that a spec must have unless its preset gives them."""
    return frozenset(_filled(RunSpec, list(_presets().values()), ()))


def value(*path: str) -> str:
    """The CEL expression for the value that counts of a field of the spec.

    The caller makes sure that a stage's section is there; inner sections may be absent.
    """
    name = ".".join(path)
    there = " && ".join(
        f"has(self.{'.'.join(path[:n])})" for n in range(_first(path), len(path) + 1)
    )
    return f"({there} ? self.{name} : {_absent(path)})"


def _first(path: Path) -> int:
    """From which part on a path may be absent: a stage's own section is known to be there."""
    return 2 if path[0] in list(Stage) else 1


def _absent(path: Path) -> str:
    """What counts where a field is not written: the preset's value, else the default."""
    fallback = default(path)
    dug = {name: _dug(document, path) for name, document in _presets().items()}
    values = {name: fallback if found is None else found for name, found in dug.items()}
    result = _literal(fallback)
    if set(values.values()) == {fallback}:
        return result
    if len(set(values.values())) == 1:
        return f"(has(self.preset) ? {_literal(next(iter(values.values())))} : {result})"
    for name, found in sorted(values.items()):
        if found != fallback:
            result = f"has(self.preset) && self.preset == '{name}' ? {_literal(found)} : {result}"
    return f"({result})"


@cache
def _presets() -> Mapping[str, dict[str, Any]]:
    return {name: preset.load(name) for name in preset.names()}


def _dug(document: Any, path: Path) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def default(path: Path) -> Any:
    """The default of a field of the spec; `None` where it has none."""
    model: type[BaseModel] = RunSpec
    holder: BaseModel | None = None
    found: Any = None
    for part in path:
        name, info = next(
            (name, info)
            for name, info in model.model_fields.items()
            if (info.alias or name) == part
        )
        found = getattr(holder, name) if holder is not None else info.default
        holder = found if isinstance(found, BaseModel) else None
        model = _model(info.annotation) or model
    return found


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, itself or optionally; none for lists and scalars."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _literal(value: Any) -> str:
    """A scalar in CEL, whose checker knows no number that is both an integer and a double."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    assert isinstance(value, (int, float)), f"no CEL literal for {value!r}"
    return repr(value)


def _filled(model: type[BaseModel], presets: list[dict[str, Any]], path: Path) -> Iterator[Path]:
    for name, info in model.model_fields.items():
        key = info.alias or name
        values = [document[key] for document in presets if key in document]
        if len(values) < len(presets):
            continue
        if info.is_required():
            yield (*path, key)
        section = _model(info.annotation)
        if section and all(isinstance(value, dict) for value in values):
            yield from _filled(section, values, (*path, key))


def _rule(rule: str, message: str, field: str = "", reason: str = "FieldValueInvalid") -> Rule:
    return {
        "rule": rule,
        "message": message,
        "reason": reason,
        **({"fieldPath": f".{field}"} if field else {}),
    }


def _required(path: Path) -> Rule:
    name, parent = ".".join(path), path[:-1]
    absent = [f"!has(self.{'.'.join(parent[:n])})" for n in range(1, len(parent) + 1)]
    return _rule(
        " || ".join(["has(self.preset)", *absent, f"has(self.{name})"]),
        "is required where no preset gives it",
        name,
        "FieldValueRequired",
    )


def _fixed(name: str, required: bool) -> Rule:
    same = f"self.spec.{name} == oldSelf.spec.{name}"
    if not required:
        both = f"has(self.spec.{name}) == has(oldSelf.spec.{name})"
        same = f"{both} && (!has(self.spec.{name}) || {same})"
    return _rule(
        f"!has(oldSelf.status) || !has(oldSelf.status.startedAt) || ({same})",
        f"cannot change after the run has started; only {', '.join(MUTABLE)} can",
        f"spec.{name}",
        "FieldValueForbidden",
    )


def _processes(stage: str) -> str:
    """How many processes a stage has in all, as `Resources.world_size` has it."""
    gpus = value(stage, "resources", "gpusPerNode")
    return f"{value(stage, 'resources', 'nodes')} * ({gpus} > 0 ? {gpus} : 1)"


def _cold_start() -> Iterator[Rule]:
    """One source of the rows that SFT learns; a preset's gives way to any other."""
    yield _rule(
        "!has(self.sft) || !has(self.sft.dataset) || !has(self.distill)",
        "sft.dataset is given, but sft trains on what this run's distill makes: "
        "leave one of the two out",
        "sft.dataset",
    )
    yield _rule(
        "!has(self.sft) || !has(self.sft.from) || (!has(self.sft.dataset) && !has(self.distill))",
        "sft.from names another run's rows, but this run has its own: leave sft.dataset "
        "and distill out",
        "sft.from",
    )
    yield _rule(
        "!has(self.sft) || has(self.sft.dataset) || has(self.sft.from) || has(self.distill) || "
        "has(self.preset)",
        "is required where neither a preset nor distill gives the rows",
        "sft.dataset",
        "FieldValueRequired",
    )


def _sft_batch() -> Rule:
    per_pass = f"({value('sft', 'microBatchSize')} * {_processes('sft')})"
    return _rule(
        f"!has(self.sft) || {value('sft', 'batchSize')} % {per_pass} == 0",
        "batchSize is not a multiple of microBatchSize x processes",
        "sft",
    )


def _grpo_batch() -> Iterator[Rule]:
    prompts, updates = value("grpo", "promptsPerStep"), value("grpo", "updatesPerStep")
    yield _rule(
        f"!has(self.grpo) || {prompts} % {updates} == 0",
        "promptsPerStep is not a multiple of updatesPerStep",
        "grpo",
    )
    per_update = f"({prompts} * {value('grpo', 'groupSize')} / {updates})"
    per_pass = f"({value('grpo', 'microBatchSize')} * {_processes('grpo')})"
    yield _rule(
        f"!has(self.grpo) || {per_update} % {per_pass} == 0",
        "promptsPerStep x groupSize / updatesPerStep completions per update are not a multiple of "
        "microBatchSize x processes",
        "grpo",
    )


def _grpo_groups() -> Iterator[Rule]:
    size, group = value("grpo", "microBatchSize"), value("grpo", "groupSize")
    alone = f"!has(self.grpo) || !{value('grpo', 'sharedPrompt')}"
    yield _rule(
        f"{alone} || {size} % {group} == 0 || {group} % {size} == 0",
        "microBatchSize is neither a multiple nor a divisor of groupSize, so groups would be torn; "
        "change it, or set sharedPrompt to false",
        "grpo",
    )
    prompts, updates = value("grpo", "promptsPerStep"), value("grpo", "updatesPerStep")
    yield _rule(
        f"{alone} || ({prompts} / {updates}) % ({_processes('grpo')}) == 0",
        "promptsPerStep / updatesPerStep prompts per update do not share out over the processes, "
        "so groups would be torn; change it, or set sharedPrompt to false",
        "grpo",
    )


def _rollout() -> Iterator[Rule]:
    other = f"!has(self.grpo) || {value('grpo', 'rollout', 'engine')} != 'vllm'"
    mode = value("grpo", "rollout", "mode")
    yield _rule(
        f"{other} || {mode} != 'server' || (has(self.grpo.rollout) && "
        "has(self.grpo.rollout.serverUrl))",
        "rollout.mode is server, but rollout.serverUrl is not set",
        "grpo",
    )
    parallel = value("grpo", "rollout", "tensorParallelSize")
    yield _rule(
        f"{other} || {mode} != 'colocate' || {_processes('grpo')} % {parallel} == 0",
        "the processes are not a multiple of rollout.tensorParallelSize",
        "grpo",
    )


def _evaluation_engines() -> Rule:
    gpus, parallel = (
        value("evaluation", *path)
        for path in (("resources", "gpusPerNode"), ("tensorParallelSize",))
    )
    return _rule(
        f"!has(self.evaluation) || {value('evaluation', 'engine')} != 'vllm' || "
        f"({gpus} > 0 ? {gpus} : 1) % {parallel} == 0",
        "the processes of a machine are not a multiple of tensorParallelSize",
        "evaluation",
    )


def _teacher() -> Iterator[Rule]:
    there = "has(self.distill.teacher.baseUrl)"
    yield _rule(
        f"!has(self.distill) || !{there} || !has(self.distill.teacher.revision)",
        "revision is given, but what is behind baseUrl has its own",
        "distill.teacher",
    )
    yield _rule(
        f"!has(self.distill) || {there} || !has(self.distill.teacher.apiKeyEnv)",
        "apiKeyEnv is given, but without baseUrl nobody asks for a key",
        "distill.teacher",
    )
    yield _rule(
        f"!has(self.distill) || !{there} || {value('distill', 'resources', 'gpusPerNode')} == 0",
        "resources.gpusPerNode is given, but the teacher is behind baseUrl: leave one of the two "
        "out",
        "distill",
    )


def _gate(stage: str) -> Iterator[Rule]:
    none = " && ".join(
        f"!has(self.{stage}.gate.{name})" for name in ("minAccuracy", "minBoxedShare")
    )
    needless = f"!has(self.{stage}) || !has(self.{stage}.gate) || ({none})"
    yield _rule(
        f"{needless} || {value(stage, 'probe', 'size')} > 0",
        "gate has a threshold on the probe, but probe.size is 0",
        f"{stage}.gate",
    )
    own = f"(has(self.{stage}.probe) && has(self.{stage}.probe.dataset))"
    yield _rule(
        f"{needless} || {own} || {value(stage, 'heldOut')} > 0.0",
        "gate has a threshold on the probe, but heldOut is 0: set heldOut or probe.dataset",
        f"{stage}.gate",
    )


def _words() -> Iterator[Rule]:
    given = (
        "(has(self.reflection) && has(self.reflection.words) && size(self.reflection.words) > 0)"
    )
    known = f"({value('reflection', 'name')} in {list(LISTS)})"
    yield _rule(
        f"!{given} || !{known}",
        "words is given, but name is that of a known list: give the list another name",
        "reflection",
    )
    yield _rule(
        f"{given} || {known}",
        f"name is that of no known list ({', '.join(LISTS)}), so words is required",
        "reflection",
    )


def _checkpoints() -> Rule:
    unnamed = From.model_fields["stage"].default

    def borrowed(section: str, stage: str) -> str:
        source = f"self.{section}.from"
        named = f"(has({source}.stage) ? {source}.stage : '{unnamed}') == '{stage}'"
        return f"(has(self.{section}) && has({source}) && {named})"

    known = " || ".join(
        f"(c == '{stage}' && (has(self.{stage}) || {borrowed('grpo', stage)} || "
        f"{borrowed('evaluation', stage)}))"
        for stage in ("sft", "grpo")
    )
    reference = (
        "(has(self.evaluation.references) && self.evaluation.references.exists(r, r.name == c))"
    )
    return _rule(
        "!has(self.evaluation) || !has(self.evaluation.checkpoints) || "
        f"self.evaluation.checkpoints.all(c, c == 'base' || {known} || {reference})",
        "evaluation.checkpoints names a stage or a reference that this run does not have",
        "evaluation.checkpoints",
    )
