"""The matcher `judge`: a model behind an OpenAI-compatible endpoint says whether answers are right.

It is no part of the reward, which is the rule matcher's (`coldstart.grading`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coldstart import tasks
from coldstart.chat import Client, EndpointError
from coldstart.evaluation import JudgeModel
from coldstart.judging.judge import Judge, Prompt, client_of

__all__ = ["EndpointError", "Judge", "Prompt", "client_of", "judge_factory"]


def judge_factory(model: JudgeModel | None, workdir: Path) -> Callable[[Path], Judge]:
    """What makes the judge of the responses in a directory, once its endpoint has answered.

    Args:
        model: who judges.
        workdir: the directory that the prompt's file is relative to.

    Raises:
        EndpointError: the endpoint does not serve, or the key is missing.
        ValueError: nobody is named, or the prompt is none.
    """
    if model is None:
        raise ValueError("spec.evaluation.judge: the run names no judge: say who it is")
    prompt = Prompt.read(workdir / Path(model.prompt).expanduser() if model.prompt else None)
    client = client_of(model)
    tasks.run(_probe(client))
    return lambda directory: Judge(client, prompt, directory)


async def _probe(client: Client) -> None:
    async with client:
        await client.probe()
