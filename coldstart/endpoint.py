"""A model that somebody else serves: how a spec names it; nothing is asked here."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from coldstart.schema import Contract, Name

# Printable ASCII without @: a password has no place in a spec.
_URL = r"^https?://[!-?A-~]+$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


BaseUrl = Annotated[str, StringConstraints(pattern=_URL, max_length=512)]
"""Where an endpoint is, without a password."""

Variable = Annotated[str, StringConstraints(pattern=_VARIABLE, max_length=128)]
"""The name of an environment variable."""


class Endpoint(Contract):
    """A model behind an OpenAI-compatible endpoint, as vLLM serves it."""

    base_url: BaseUrl
    """Where it is, as `https://host/v1`; requests go to `chat/completions` below it."""
    model: Name
    """What the endpoint calls the model."""
    api_key_env: Variable | None = None
    """The environment variable that holds the key; absent: none is sent. On a cluster it comes
    from a secret in `podTemplate.secrets` or `podTemplate.env`."""
