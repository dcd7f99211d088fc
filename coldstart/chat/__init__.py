"""Chat endpoints as their clients meet them: one client, for teachers and judges."""

from coldstart.chat.client import Client, EndpointError, Limits
from coldstart.chat.completion import Answer, CallFailed

__all__ = ["Answer", "CallFailed", "Client", "EndpointError", "Limits"]
