"""torchrun that ends as its worker ended: `python -m coldstart_trainer.launch [OPTIONS]`.

torchrun itself ends with 1 whatever happened to a worker, so that a killed one (retry) cannot be
told from a wrong spec (do not) where no result was written. The options are torchrun's; as
there, each may come from the environment as `PET_<OPTION>`, which is what PyTorchJob sets.
"""

from __future__ import annotations

import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from coldstart.status import RETRYABLE_FROM

MODULE = ("-m", "coldstart_trainer")


def main(options: list[str]) -> int:
    """Start the workers, wait for them, and return the exit code of the first that failed."""
    try:
        run.run(run.parse_args([*options, *MODULE]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return _code(failure.exitcode)
    except SignalException as error:
        return _code(-error.sigval)
    return 0


def _code(code: int) -> int:
    """The code as a shell has it: 128 and the number of the signal that killed the worker."""
    return RETRYABLE_FROM - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
