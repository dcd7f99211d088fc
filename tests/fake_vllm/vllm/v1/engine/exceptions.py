"""As in vLLM."""


class EngineDeadError(Exception):
    """The engine's process is gone."""
