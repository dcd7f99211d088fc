"""Orders for the tiny model, and attempts that carry them out: here, or as real processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from coldstart.files import json_lines
from coldstart.layout import output
from coldstart.lexicon import WordList
from coldstart.stage import ORDER_ENV, RESULT_ENV, StageOrder, StageResult

CONVERSATION = {
    "minPixels": 784,
    "maxPixels": 16 * 784,
    "maxPromptTokens": 200,
    "maxCompletionTokens": 16,
}

TRAINING = {
    "heldOut": 0.1,
    "learningRate": 1e-3,
    "resources": {"gpusPerNode": 0},
    "precision": "fp32",
    "gradientCheckpointing": False,
    "saveSteps": 2,
    "probe": {"size": 2},
}

SFT = TRAINING | {"epochs": 2, "batchSize": 4, "microBatchSize": 2, "freeze": ["vision"]}
"""22 rows in batches of 4: 6 updates a pass, 12 in all; the last of a pass is smaller."""

GRPO = TRAINING | {
    "epochs": 2,
    "groupSize": 4,
    "promptsPerStep": 4,
    "updatesPerStep": 2,
    "microBatchSize": 4,
    "saveSteps": 3,
    "rewards": [{"name": "length_reward:score"}],
}
"""22 prompts, 4 a sampling step, 2 updates each: 10 updates a pass, 20 in all; saved at 3, 6, ...,
every other time in the middle of a sampling step."""

REWARD = '''
def score(completions, **_):
    """Differs from completion to completion, and is the same for the same one."""
    return [float(sum(map(ord, c[0]["content"][:5])) % 7) for c in completions]
'''


def order(stage, storage, model, rows, *, inputs=None, attempt=1, conversation=None, **section):
    """An order for `stage`, `sft` or `grpo`; `section` changes its values."""
    document = {"sft": SFT, "grpo": GRPO}[stage] | {"dataset": {"name": str(rows)}} | section
    spec = {"conversation": CONVERSATION | (conversation or {}), stage: document}
    return stage_order(
        stage, model, storage, workdir(storage), spec, inputs=inputs, attempt=attempt
    )


def stage_order(stage, model, storage, directory, spec, *, inputs=None, attempt=1):
    """An order for any stage, from the base model unless other inputs are given.

    `spec` is the rest of the run's; paths in it are relative to `directory`.
    """
    return StageOrder.parse(
        {
            "run": {"name": "run", "uid": "u"},
            "stage": stage,
            "attempt": attempt,
            "spec": {"model": {"name": str(model)}, **spec},
            "inputs": inputs or [{"name": "base", "location": str(model)}],
            "storage": str(storage),
            "workdir": str(directory),
        }
    )


def workdir(storage):
    """A directory beside the storage with the reward function that the GRPO orders name."""
    directory = Path(storage).parent / "workdir"
    directory.mkdir(exist_ok=True)
    (directory / "length_reward.py").write_text(REWARD)
    return directory


def again(given, **changes):
    """The same order for another attempt, or with other values."""
    return given.model_copy(update={"attempt": given.attempt + 1, **changes})


def with_words(given, *words):
    """The same order with words of its own that mark reflection."""
    reflection = WordList(name="own", words=words)
    return given.model_copy(
        update={"spec": given.spec.model_copy(update={"reflection": reflection})}
    )


def here(given, meter=None):
    """Carry out a training order in this process; without the entry point's handling of errors.

    Its numbers can be read from `meter` while it runs.
    """
    import importlib

    from coldstart_trainer import inputs, phases
    from coldstart_trainer.meter import Meter
    from coldstart_trainer.progress import ProgressLog

    layout = output(given)
    layout.root.mkdir(parents=True, exist_ok=True)
    stage = importlib.import_module(f"coldstart_trainer.{given.stage.value}")
    progress = ProgressLog(layout.metrics, given.attempt, meter=meter or Meter())
    with phases.recorded(progress.meter):
        return stage.run(given, inputs.resolve(given)[0], progress)


def environment(given, result):
    return os.environ | {
        ORDER_ENV: json.dumps(given.document()),
        RESULT_ENV: str(result),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def start(given, result, *, command=(), **options):
    """Start an attempt as a process of its own, its output in a file beside the result."""
    with Path(f"{result}.log").open("ab") as log:
        return subprocess.Popen(
            [*(command or (sys.executable,)), "-m", "coldstart_trainer"],
            env=environment(given, result),
            stdout=log,
            stderr=subprocess.STDOUT,
            **options,
        )


def carried_out(given, result, **options):
    """The exit code and the result of an attempt that is let to end."""
    code = start(given, result, **options).wait(timeout=300)
    return code, read_result(result)


def read_result(path):
    found = StageResult.parse(json.loads(Path(path).read_bytes()))
    assert isinstance(found, StageResult)
    return found


def lines(given):
    """The stage's lines of progress."""
    return list(json_lines(output(given).metrics))


def losses(given):
    """Loss, gradient norm and mean reward of each update, as reported last."""
    found = {}
    for line in lines(given):
        values = line["values"]
        if line["phase"] == "train" and "loss" in values:
            found[line["done"]] = (
                values["loss"],
                values["grad_norm"],
                values.get("reward_total_mean"),
            )
    return found


def wait_for(path, process, seconds=120):
    """Wait until a process has made a file."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end, path
        time.sleep(0.02)


def wait_for_update(given, process, update, seconds=180):
    """Wait until an attempt has reported an update."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reached = max(
            (line["done"] for line in lines(given) if line["phase"] == "train"), default=0
        )
        if reached >= update:
            return
        assert process.poll() is None, "it ended before"
        time.sleep(0.005)
    raise AssertionError(f"update {update} was not reached in {seconds} seconds")
