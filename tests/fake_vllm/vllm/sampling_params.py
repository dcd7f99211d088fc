"""As in vLLM."""

from enum import Enum


class RequestOutputKind(Enum):
    """When a request has outputs."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2
