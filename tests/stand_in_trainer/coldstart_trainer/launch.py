"""What `coldstart run` starts: the stand-in stage, which also scores checkpoints as told below."""

import random
import sys

from sample_run import summed
from stand_in_stage import end, main, order_given

from coldstart import layout
from coldstart.layout import RunLayout
from coldstart.results import Sample
from coldstart.spec import Stage
from coldstart.stage import failure
from coldstart.status import ErrorCode

RIGHT = {"base": 0.05, "sft": 0.4, "grpo": 0.15, "sft+grpo": 0.85}
"""How often each checkpoint is right, by the stages behind it."""

WILD = 1.0
"""The learning rate with which nothing is learnt."""


def score(order):
    """Write responses and results as the evaluation does; each seed has its own luck."""
    spec = order.spec
    for given in order.inputs:
        behind = "sft+grpo" if spec.grpo and spec.grpo.from_ else given.name
        trained = spec.grpo or spec.sft
        seed = trained.seed if trained else 0
        for benchmark in spec.evaluation.benchmarks:
            answered = [response(number, behind, seed) for number in range(60)]
            place = RunLayout(order_storage(order)).benchmark(given.name, benchmark.name)
            place.mkdir(parents=True)
            lines = [sample.model_dump_json() for sample in answered]
            layout.samples(place).write_text("\n".join(lines) + "\n")
            result = summed(given.name, benchmark.name, answered)
            result = result.model_copy(update={"digest": given.digest})
            layout.results(place).write_text(result.model_dump_json(exclude_none=True))


def order_storage(order):
    return layout.output(order).root.parent


def response(number, behind, seed):
    right = random.Random(f"{number} {seed}").random() < RIGHT[behind]
    return Sample(
        id=str(number),
        problem=f"{number} + 0?",
        gold=str(number),
        response=f"\\boxed{{{number if right else number + 1}}}",
        tokens=3,
        truncated=False,
        boxed=True,
        outcome="correct" if right else "wrong",
    )


def launch():
    order = order_given()
    section = order.spec.stage(order.stage)
    if order.stage is Stage.EVALUATION:
        score(order)
    elif getattr(section, "learning_rate", 0) == WILD:
        return end(order, failure(order, ErrorCode.DATASET_INVALID, "row 7 is torn"))
    return main()


if __name__ == "__main__":
    sys.exit(launch())
