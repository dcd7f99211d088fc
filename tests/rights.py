"""The rights that manifests/operator.yaml gives the operator; asks for nothing."""

from pathlib import Path

import yaml

DOCUMENTS = yaml.safe_load_all(
    (Path(__file__).parents[1] / "manifests" / "operator.yaml").read_text()
)
(RULES,) = (item["rules"] for item in DOCUMENTS if item["kind"] == "ClusterRole")

UNSEEN = {
    ("coldstart.dev", "reasoningruns/finalizers", "update"): "the admission plugin "
    "OwnerReferencesPermissionEnforcement asks for it when a job that blocks its owner's deletion "
    "is created; the operator itself never uses it",
}
"""What is granted and no request of ours is about, each with its reason."""


def granted(rules):
    """Group, resource and verb of everything that rules allow."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
