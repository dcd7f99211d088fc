"""Strict checks of manifests: Kubernetes' own schemas, and kubeflow's models of a PyTorchJob."""

import re
from functools import cache

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

VERSIONS = ("1.31", "1.37")


def check(manifest: dict, version: str = VERSIONS[-1]) -> None:
    """Refuse an object with a wrong or unknown field.

    Raises:
        jsonschema.ValidationError: it has one.
    """
    group, _, name = manifest["apiVersion"].rpartition("/")
    api = f"{group.partition('.')[0]}-{name}".lstrip("-")
    _validator(f"{manifest['kind'].lower()}-{api}", version).validate(manifest)


@cache
def _validator(name: str, version: str) -> jsonschema.Draft202012Validator:
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    schema = utils.schema_contents(f"{folder}/{name}.json", version)
    definitions = utils.schema_contents(f"{folder}/_definitions.json", version)
    registry = Resource.from_contents(definitions) @ Registry()
    return jsonschema.Draft202012Validator(schema, registry=registry)


def as_pod(template: dict) -> dict:
    """A pod made of a template, to be checked as one."""
    metadata = {"name": "p", **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def unknown_fields(manifest: dict, model: str = "KubeflowOrgV1PyTorchJob") -> list[str]:
    """The paths of a PyTorchJob that kubeflow's models do not have, or have as another type."""
    return list(_unknown(manifest, model, ""))


# The two packages write their types differently.
_DICTIONARY = re.compile(r"[dD]ict[(\[]str, (.*)[)\]]")
_LIST = re.compile(r"[lL]ist\[(.*)\]")
_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def _unknown(value, type_: str, path: str):
    if type_ in _PLAIN:
        wrong_bool = isinstance(value, bool) and type_ in ("int", "float")
        if not isinstance(value, _PLAIN[type_]) or wrong_bool:
            yield f"{path}: is no {type_}"
    elif match := _DICTIONARY.fullmatch(type_):
        for key, item in value.items():
            yield from _unknown(item, match[1], f"{path}[{key}]")
    elif match := _LIST.fullmatch(type_):
        for i, item in enumerate(value):
            yield from _unknown(item, match[1], f"{path}[{i}]")
    else:
        yield from _unknown_in_model(value, type_, path)


def _unknown_in_model(value, type_: str, path: str):
    # Some hundred classes each, which take seconds to make.
    from kubeflow.training import models as kubeflow_models
    from kubernetes.client import models as kubernetes_models

    model = getattr(kubeflow_models, type_, None) or getattr(kubernetes_models, type_)
    names = {alias: name for name, alias in model.attribute_map.items()}
    for key, item in value.items():
        if key in names:
            yield from _unknown(item, model.openapi_types[names[key]], f"{path}.{key}")
        else:
            yield f"{path}.{key}: is unknown"
