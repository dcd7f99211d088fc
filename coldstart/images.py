"""The container images of a release, by name; what is in them, Dockerfile says."""

from __future__ import annotations

from coldstart import __version__

OPERATOR = "coldstart/operator"
"""The operator."""

TRAINER = "coldstart/trainer"
"""What runs in a stage's pods, for GPUs."""

TRAINER_CPU = "coldstart/trainer-cpu"
"""The same for CPUs, with the quickstart."""


def tagged(repository: str) -> str:
    """An image of this release."""
    return f"{repository}:{__version__}"
