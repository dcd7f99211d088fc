"""The definition of a ReasoningRun as earlier versions had it: fields and rules are missing."""

import yaml
from operating import MANIFEST


def lacking(*fields, of_stages=()):
    """The definition without its rules, fields of the status and fields of its stages."""
    crd = yaml.safe_load(MANIFEST.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema.pop("x-kubernetes-validations")
    status = schema["properties"]["status"]["properties"]
    for name in of_stages:
        del status["stages"]["items"]["properties"][name]
    for name in fields:
        del status[name]
    return crd
