"""The process of `coldstart data check`: a `CheckRequest` comes in, a `DataReport` is written."""

from __future__ import annotations

import sys
from pathlib import Path

from coldstart.files import write_atomic
from coldstart.findings import CheckRequest
from coldstart_trainer.check.scan import Scan


def main() -> int:
    """Check what the standard input asks for; the report goes to the file that is named."""
    request = CheckRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        report = Scan(request).report()
    except KeyboardInterrupt:
        return 130  # whoever asked was told to stop, too
    write_atomic(Path(sys.argv[1]), report.model_dump_json(exclude_none=True).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
