"""What the hub said when it refused something, as errors may show it; nothing is asked here."""

from __future__ import annotations

from huggingface_hub import get_token


def without_token(text: str) -> str:
    """A text without the token that was sent, which a mirror or a proxy may send back."""
    token = get_token()
    return text.replace(token, "***") if token else text
