"""A whole sampling step of the quickstart's GRPO, by the stage's trainer and by stock TRL's.

Rows, model, rewards and every option are the same; what is timed is from one optimizer step's end
to the next one's: rows fetched, images processed, completions sampled, rewarded and learnt from.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpo_rig as rig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from coldstart import runfile
from coldstart.order import build_order
from coldstart.spec import Stage
from coldstart_trainer import data, grpo, model, options, rewards
from coldstart_trainer.policy.groups import GroupTrainer
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.training import TrainingStage

ROUNDS = 2
"""How often each trainer has its turn."""


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note it."""
        self.ends.append(time.perf_counter())


def step_speedup(repeats: int) -> float:
    """Stock's median time of a step by ours."""
    if not (rig.QUICKSTART / "build" / "model").is_dir():
        subprocess.run([sys.executable, "prepare.py"], cwd=rig.QUICKSTART, check=True)
    taken: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(ROUNDS):
        for name, seconds in taken.items():
            seconds.extend(_steps(repeats, ours=name == "ours"))
    stock, ours = (statistics.median(taken[name]) for name in ("stock", "ours"))
    print(f"quickstart's step: stock {stock:.2f} s, ours {ours:.2f} s, {stock / ours:.2f} times")
    return stock / ours


def _steps(count: int, *, ours: bool) -> list[float]:
    """Seconds of each of `count` steps, after one that is not counted."""
    run = runfile.load(rig.QUICKSTART / "run.yaml")
    with tempfile.TemporaryDirectory() as storage:
        order = build_order(run, Stage.GRPO, 1, {}, storage=storage, workdir=str(rig.QUICKSTART))
        stage = TrainingStage(order, _NO_INPUT, ProgressLog(Path(storage), 1, enabled=False))
        clock = Clock()
        conversation = run.spec.conversation
        assert run.spec.grpo is not None
        # Stock trains on groups whose rewards are all equal; here ours has to as well.
        spec = run.spec.grpo.model_copy(update={"zero_variance": "keep"})
        directory = _start()
        processor = model.load_processor(directory, conversation)
        rows = data.load(
            spec.dataset,
            target="answer",
            conversation=conversation,
            processor=processor,
            workdir=rig.QUICKSTART,
            seed=spec.seed,
            field="spec.grpo.dataset",
        )
        owned = grpo.arguments(stage, spec, count + 1) | {"save_strategy": "no"}
        with rewards.rewards(spec.rewards, workdir=rig.QUICKSTART) as scores:
            given: dict[str, Any] = {
                "model": model.load_model(directory, precision="fp32"),
                "reward_funcs": [*scores.functions],
                "args": options.configuration(GRPOConfig, stage, owned),
                "train_dataset": data.conversations(rows.data, conversation),
                "processing_class": processor,
                "callbacks": [clock],
            }
            trainer: Any = GroupTrainer(spec=spec, **given) if ours else GRPOTrainer(**given)
            trainer.train()
    return [end - begin for begin, end in zip(clock.ends, clock.ends[1:], strict=False)]


def _start() -> Path:
    """The checkpoint that GRPO starts from: the quickstart's SFT if it has run, else its base."""
    trained = rig.QUICKSTART.parents[1] / "runs" / "quickstart" / "sft" / "final"
    return trained if trained.is_dir() else rig.QUICKSTART / "build" / "model"


_NO_INPUT: Any = None
