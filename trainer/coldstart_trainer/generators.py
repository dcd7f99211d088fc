"""The random number generators of this process: their states taken and put back, never seeded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Generators:
    """The states at one moment of all generators that a checkpoint holds."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    gpu: torch.Tensor | None

    @classmethod
    def taken(cls) -> Generators:
        """The states at this moment."""
        return cls(
            random.getstate(),
            np.random.get_state(),  # noqa: NPY002 - the one that libraries draw from
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        )

    def restore(self) -> None:
        """Go back to that moment."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)
