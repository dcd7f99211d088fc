"""The CustomResourceDefinition of a ReasoningRun, made from the models; pure, and never by hand.

What the API server accepts is what the models accept, as far as schema and CEL can say it; what
they cannot say is listed in `rules`. The API server is stricter in two ways: it converts no types
(`"3"` is no integer), and it bounds what the models leave unbounded (`structural`).
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from coldstart.generate.rules import default, filled, list_rules, root_rules, spec_rules
from coldstart.generate.structural import NUMBER, Path, Schema, at, structural
from coldstart.run import ReasoningRun, RunSpec
from coldstart.status import RunStatus
from coldstart.trainer_args import GRPO_ARGS, SFT_ARGS, owner

GROUP = "coldstart.dev"
VERSION = "v1alpha1"
KIND = "ReasoningRun"
PLURAL = "reasoningruns"
NAME = f"{PLURAL}.{GROUP}"

_HEAD = "# Made by `make generate` from the models; edit those.\n"

_COLUMNS = (
    # The stage that the run is at is the first that has not succeeded.
    ("Stage", "string", '.status.stages[?(@.state!="Succeeded")].name', 0, "The stage it is at."),
    ("Phase", "string", ".status.phase", 0, "Where that stage is, in a word."),
    ("Progress", "string", ".status.progress.text", 0, "What is done of what there is to do."),
    ("Reward", "number", ".status.progress.reward", 0, "Mean reward of the latest update."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "When the run was created."),
    ("Queue", "string", ".spec.scheduling.queueName", 1, "Kueue's LocalQueue."),
    ("Backend", "string", ".status.backend", 1, "What runs the stages."),
    ("Message", "string", ".status.message", 1, "What the run does or waits for."),
)

DEFAULTED: tuple[Path, ...] = (
    ("suspend",),
    ("backend",),
    ("retry",),
    ("retry", "limit"),
    ("retry", "backoffSeconds"),
    ("retry", "maxBackoffSeconds"),
)
"""Fields of a spec whose default the API server writes: those that no preset may ever set
(docs/decisions/0004)."""


class _Plain(yaml.SafeDumper):
    """YAML without anchors: what is there twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether a value is written out again: always."""
        del data
        return True


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition as a document."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": NAME,
            "labels": {
                "app.kubernetes.io/name": "coldstart",
                "app.kubernetes.io/part-of": "coldstart",
            },
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["rrun"],
                "categories": ["all", "coldstart"],
            },
            "versions": [_version()],
        },
    }


def crd_manifest() -> str:
    """The CustomResourceDefinition as the text of `manifests/crd.yaml`."""
    return _HEAD + plain_yaml(definition())


def plain_yaml(document: dict[str, Any]) -> str:
    """A document as YAML without anchors."""
    text: str = yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
    return text


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {
                "name": name,
                "type": kind,
                "jsonPath": path,
                # The API server drops a 0; left in, every `kubectl apply` would be a change.
                **({"priority": priority} if priority else {}),
                "description": description,
            }
            for name, kind, path, priority, description in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": _root()},
    }


def _root() -> Schema:
    """The schema of the whole object; of its metadata the API server knows more than a schema."""
    return {
        "type": "object",
        "description": ReasoningRun.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this document."},
            "kind": {"type": "string", "description": "The kind of this document."},
            "metadata": {"type": "object"},
            "spec": _spec(),
            "status": _status(),
        },
        "x-kubernetes-validations": root_rules(),
    }


def _spec() -> Schema:
    schema = structural(RunSpec, filled(), NUMBER)
    for path in DEFAULTED:
        value = default(path)
        at(schema, *path)["default"] = {} if isinstance(value, BaseModel) else value
    for path, rules in list_rules().items():
        at(schema, *path)["x-kubernetes-validations"] = rules
    for stage, owned in (("sft", SFT_ARGS), ("grpo", GRPO_ARGS)):
        at(schema, stage, "trainerArgs")["properties"] = {
            option: _owned(stage, field) for option, field in sorted(owned.items())
        }
    return schema | {"x-kubernetes-validations": spec_rules()}


def _owned(stage: str, field: str) -> Schema:
    """An option that no value satisfies: a field of the spec decides it (`refuse_owned`)."""
    return {
        "description": f"Owned by {owner(stage, field)}: set that.",
        "x-kubernetes-preserve-unknown-fields": True,
        "not": {},
    }


def _status() -> Schema:
    schema = structural(RunStatus)
    for name, key in (("conditions", "type"), ("stages", "name")):
        at(schema, name).update(
            {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
        )
    return schema
