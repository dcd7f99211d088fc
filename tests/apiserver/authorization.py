"""RBAC rules as the server's `authorize`: verbs, groups, resources, names; no roles, no users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apiserver.faults import Request


def allowing(rules: Iterable[Mapping[str, Any]]) -> Callable[[Request], str | None]:
    """What the rules of a Role or ClusterRole let pass; the rest is told why not."""
    rules = list(rules)

    def refusal(request: Request) -> str | None:
        if any(_allows(rule, request) for rule in rules):
            return None
        where = f'in the namespace "{request.namespace}"' if request.namespace else "in the cluster"
        resource = f'resource "{request.target}" in API group "{request.group}"'
        return f'User "test" cannot {request.verb} {resource} {where}'

    return refusal


def _allows(rule: Mapping[str, Any], request: Request) -> bool:
    names = rule.get("resourceNames")
    return (
        _has(rule.get("verbs"), request.verb)
        and _has(rule.get("apiGroups"), request.group)
        and _has(rule.get("resources"), request.target)
        and (not names or request.name in names)
    )


def _has(listed: Iterable[str] | None, wanted: str) -> bool:
    found = set(listed or ())
    return wanted in found or "*" in found
