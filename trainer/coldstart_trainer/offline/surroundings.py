"""What vLLM's processes find in their environment; nothing is started here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_LAUNCHERS = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""What torchrun tells its processes of each other, besides TORCHELASTIC_*."""

_GPUS = "CUDA_VISIBLE_DEVICES"


def surroundings(environment: Mapping[str, str], gpus: Collection[int] = ()) -> dict[str, str]:
    """The environment without a launcher, and with these of its GPUs only.

    vLLM's processes would take torchrun's variables for theirs: with TORCHELASTIC_USE_AGENT_STORE
    they wait for a store that nobody serves.

    Args:
        environment: of the stage's process.
        gpus: which of its GPUs; none given, all that it has.
    """
    found = {
        name: value
        for name, value in environment.items()
        if name not in _LAUNCHERS and not name.startswith("TORCHELASTIC_")
    }
    if gpus:
        visible = environment.get(_GPUS)
        names = visible.split(",") if visible else [str(gpu) for gpu in range(max(gpus) + 1)]
        found[_GPUS] = ",".join(names[gpu] for gpu in sorted(gpus))
    return found
