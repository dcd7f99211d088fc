"""The licence of a data set, as the header of its card says; nothing is fetched or concluded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from coldstart import yamlfile
from coldstart.dataset import Dataset
from coldstart.uses import Use

UNKNOWN = "unknown"

_LONGEST_HEADER = 100_000
_SHOWN = 200


def licence(use: Use, workdir: Path) -> str:
    """What the card of a data set names, beside local files or in the hub's cache.

    Without a card, that of a published benchmark is what our table of them says.
    """
    named = _named(_header(_card(use.dataset, workdir)))
    if named == UNKNOWN and use.known:
        return use.known.licence
    return named


def _header(card: Path | None) -> str:
    """The beginning of a card; empty where there is none, or none that can be read."""
    if card is None:
        return ""
    try:
        with card.open(encoding="utf-8") as stream:
            return stream.read(_LONGEST_HEADER)
    except (OSError, UnicodeDecodeError):
        return ""


def _card(dataset: Dataset, workdir: Path) -> Path | None:
    local = dataset.place(workdir)
    if local.exists():
        return (local if local.is_dir() else local.parent) / "README.md"
    if dataset.looks_local:
        return None
    try:
        cached = try_to_load_from_cache(
            dataset.name, "README.md", revision=dataset.revision, repo_type="dataset"
        )
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _named(text: str) -> str:
    """The licence in the header of a card, between two lines of dashes."""
    head, *rest = text.removeprefix("\ufeff").split("\n---", 1)
    if not head.startswith("---") or not rest:
        return UNKNOWN
    try:
        [header] = yamlfile.documents(head.removeprefix("---"))
    except ValueError:  # none, several, or none that is plain
        return UNKNOWN
    if not isinstance(header, dict):
        return UNKNOWN
    # A licence of no code of its own is `other`, with its name beside it.
    own, named = header.get("license"), header.get("license_name")
    found = named if own in (None, "other") and named else own
    names = found if isinstance(found, list) else [found]
    shown = ", ".join(str(name) for name in names if isinstance(name, str) and name.strip())
    return shown[:_SHOWN] or UNKNOWN
