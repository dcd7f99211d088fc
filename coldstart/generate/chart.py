"""The files of the Helm chart that are made: its metadata, values, schema, README and CRD; pure.

The templates are written by hand. What they render to is `rendered`'s business.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coldstart import __version__
from coldstart.generate.crd import KIND, NAME, definition, plain_yaml
from coldstart.generate.reference import bounds, kind
from coldstart.generate.values import Values

FOLDER = "charts/coldstart"

_MADE = "# Made by `make generate` from coldstart/generate/values.py; edit that.\n"
_COLUMNS = 100

_METADATA = f"""\
# Made by `make generate`.
apiVersion: v2
name: coldstart
description: Trains vision-language models that reason, on Kubernetes.
type: application
version: {__version__}
appVersion: "{__version__}"
kubeVersion: ">=1.29.0-0"
keywords: [training, grpo, sft, vision-language, operator]
annotations:
  artifacthub.io/license: Apache-2.0
  artifacthub.io/operator: "true"
  artifacthub.io/operatorCapabilities: Seamless Upgrades
"""

_README = """\
# The chart

Installs the operator of Coldstart, and the definition of a `{kind}`. What runs are, and how to look
at them: [On a cluster](../../docs/cluster.md).

```sh
helm install coldstart charts/coldstart --namespace coldstart-system --create-namespace
```

- **Definition.** It is a template, so `helm upgrade` upgrades it, and it stays with all runs when
  the release is uninstalled (`crds.keep`); `kubectl delete crd {crd}` deletes both.
- **Some namespaces only.** `watchNamespaces: [ml]` gives the operator a Role in each, and no
  ClusterRole. Two releases must not work in the same namespace, and only one has `crds.enabled`.
- **One pod.** A run's status has one writer, so there is one replica, replaced and never doubled.
  Runs go on while it is away.
- **Webhook.** `webhook.enabled` needs cert-manager; without it, give a certificate of yours:
  `webhook.certManager.enabled=false`, `webhook.secretName` and `webhook.caBundle`.
- **Monitoring.** `serviceMonitor`, `podMonitor` and `prometheusRule` need the Prometheus Operator,
  `dashboards` the sidecar of Grafana's chart. All are off by default.

## Values

| value | type | default | meaning |
|---|---|---|---|
"""


def chart_metadata() -> str:
    """The text of `Chart.yaml`."""
    return _METADATA


def values_file() -> str:
    """The text of `values.yaml`: every default below its meaning."""
    return _MADE + "\n" + "\n".join(_lines(Values, ""))


def _lines(model: type[BaseModel], indent: str) -> Iterator[str]:
    for info, name, value in _fields(model):
        for line in textwrap.wrap(meaning(info), _COLUMNS - len(indent) - 2):
            yield f"{indent}# {line}"
        inner = section(info)
        if inner:
            yield f"{indent}{name}:"
            yield from _lines(inner, indent + "  ")
        else:
            text = yaml.safe_dump({name: value}, sort_keys=False, width=_COLUMNS)
            yield textwrap.indent(text, indent).rstrip("\n")
        if not indent:
            yield ""


def values_schema() -> str:
    """The text of `values.schema.json`."""
    schema = _bare(Values.model_json_schema())
    # Of a chart that another one needs, Helm sets this.
    schema["properties"]["global"] = {"type": "object"}
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _bare(node: Any) -> Any:
    """A schema without the titles that pydantic makes up from the names."""
    if isinstance(node, dict):
        titled = isinstance(node.get("title"), str)
        return {key: _bare(one) for key, one in node.items() if not (titled and key == "title")}
    return [_bare(one) for one in node] if isinstance(node, list) else node


def readme() -> str:
    """The text of the chart's README."""
    rows = "\n".join(_rows(Values, ""))
    return (
        "<!-- Made by `make generate` from coldstart/generate/; edit that. -->\n\n"
        f"{_README.format(kind=KIND, crd=NAME)}{rows}\n"
    )


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for info, name, value in _fields(model):
        if inner := section(info):
            yield from _rows(inner, f"{prefix}{name}.")
        else:
            shown = f"{kind(info.annotation)}{bounds(info)}"
            default = json.dumps(value, ensure_ascii=False)
            yield f"| `{prefix}{name}` | {shown} | `{default}` | {meaning(info)} |"


def definition_spec() -> str:
    """The `spec` of the CustomResourceDefinition, to which a template adds the rest."""
    return "# Made by `make generate` from the models; edit those.\n" + plain_yaml(
        definition()["spec"]
    )


def section(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section of its own."""
    found = info.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def meaning(info: FieldInfo) -> str:
    """What a field or a section is, in one line."""
    inner = section(info)
    text = (inner.__doc__ if inner else info.description) or ""
    return " ".join(text.split())


def _fields(model: type[BaseModel]) -> Iterator[tuple[FieldInfo, str, Any]]:
    """Each field with its name in the file and its default."""
    defaults = model().model_dump(mode="json", by_alias=True)
    for name, info in model.model_fields.items():
        alias = info.alias or name
        yield info, alias, defaults[alias]
