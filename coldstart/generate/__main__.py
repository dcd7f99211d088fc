"""`python -m coldstart.generate [--check]`: write the generated files, or name what differs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from coldstart.files import write_atomic
from coldstart.generate import FILES
from coldstart.generate.rendered import manifests


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; name the files that differ.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="The repository.",
)
def main(check: bool, root: Path) -> None:
    """Write the files that are made from the models."""
    stale = []
    for name, text in _files(root):
        path, data = root / name, text.encode()
        if path.is_file() and path.read_bytes() == data:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
    for name in stale:
        click.echo(f"{name}: {'differs; run make generate' if check else 'written'}")
    sys.exit(1 if check and stale else 0)


def _files(root: Path) -> Iterator[tuple[str, str]]:
    """The name and text of each file; those made from others come after them."""
    for name, text in FILES.items():
        yield name, text()
    yield from manifests(root)


if __name__ == "__main__":
    main()
