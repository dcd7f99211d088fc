"""The reference pages: every field of a run.yaml and every metric, as the models describe them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coldstart.metrics import COMMON_LABELS, METRICS, PHASES, PREFIX, Metric
from coldstart.run import ReasoningRun
from coldstart.status import ErrorCode
from coldstart.study.spec import Study

_HEAD = "<!-- Made by `make generate` from the models; edit those. -->\n\n"


def run_page() -> str:
    """Every section of a ReasoningRun as a table of fields."""
    parts = [f"{_HEAD}# The run file\n", *_model_sections(ReasoningRun), _error_codes()]
    return "\n".join(parts) + "\n"


def study_page() -> str:
    """Every section of a Study as a table of fields."""
    parts = [f"{_HEAD}# The study file\n", *_model_sections(Study)]
    return "\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every metric with its type, unit, labels and meaning."""
    common = ", ".join(f"`{label}`" for label in COMMON_LABELS)
    intro = (
        "# Metrics\n\nRank 0 of every stage serves these on `/metrics`: on port 9400 of its pod, "
        "and on one machine where `coldstart run --metrics-port` says. Without the prefix they "
        "stand in `metrics.jsonl` in the stage's directory, a histogram as the mean since the line "
        f"before. Every series has the labels {common}. A resumed attempt goes on counting "
        "where its checkpoint left off. "
        "`/healthz` answers 200 until the attempt has ended, then 503 for as long as its process "
        "lingers; silence, as in a long rollout, is no illness.\n"
    )
    table = ["| metric | type | unit | stages | meaning |", "|---|---|---|---|---|"]
    phases = ["| phase | what it is |", "|---|---|"]
    phases += [f"| `{name}` | {text} |" for name, text in PHASES.items()]
    parts = [intro, "\n".join(table + [_metric_row(metric) for metric in METRICS])]
    return _HEAD + "\n".join([*parts, "", "## Phases", "", *phases]) + "\n"


def _metric_row(metric: Metric) -> str:
    labels = f"{{{', '.join(metric.labels)}}}" if metric.labels else ""
    needs = f" Needs {metric.needs}." if metric.needs else ""
    stages = ", ".join(metric.stages)
    name = f"`{PREFIX}{metric.name}{labels}`"
    return f"| {name} | {metric.kind} | {metric.unit} | {stages} | {metric.help}{needs} |"


def _error_codes() -> str:
    rows = [
        f"| `{code}` | {code.exit_code} | {'yes' if code.retryable else 'no'} |"
        for code in ErrorCode
    ]
    table = ["| code | exit code | tried again |", "|---|---|---|", *rows]
    return "\n## Error codes\n\n" + "\n".join(table)


def _model_sections(model: type[BaseModel]) -> Iterator[str]:
    """A section for a model and for each model that its fields hold, in order of appearance."""
    queue, seen = [model], {model}
    while queue:
        current = queue.pop(0)
        yield _section(current)
        for info in current.model_fields.values():
            for inner in _models(info.annotation):
                if inner not in seen:
                    seen.add(inner)
                    queue.append(inner)


def _section(model: type[BaseModel]) -> str:
    summary = " ".join((model.__doc__ or "").split())
    lines = [f"## {model.__name__}\n", f"{summary}\n", "| field | type | default | meaning |"]
    lines.append("|---|---|---|---|")
    for name, info in model.model_fields.items():
        meaning = " ".join((info.description or "").split()).replace("|", "\\|")
        type_ = kind(info.annotation) + bounds(info)
        lines.append(f"| `{info.alias or name}` | {type_} | {_default(info)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def kind(annotation: Any) -> str:
    """A type in the words of a YAML file."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return _plain_kind(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(a) for a in arguments if a is not type(None))
    names = {Annotated: "{}", tuple: "list of {}", dict: "mapping"}
    return names[origin].format(kind(arguments[0]))


def _plain_kind(annotation: Any) -> str:
    name = getattr(annotation, "__name__", str(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{name}](#{name.lower()})"
    return _WORDS.get(name, name)


def bounds(info: FieldInfo) -> str:
    """The range of a field, in parentheses."""
    found = []
    for item in info.metadata:
        for kind, sign, attribute in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le")):
            if isinstance(item, kind):
                found.append(f"{sign} {getattr(item, attribute)}")
        if isinstance(item, Lt):
            found.append(f"< {item.lt}")
        if isinstance(item, MaxLen):
            found.append(f"at most {item.max_length}")
    return f" ({', '.join(found)})" if found else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        names = ", ".join(getattr(item, "name", str(item)) for item in value)
        return f"`[{names}]`"
    text = str(value).replace("\\", "\\\\") if isinstance(value, str) else str(value)
    return f"`{text}`" if text not in ("", "{}") else "empty"
