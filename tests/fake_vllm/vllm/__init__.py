"""What stands in for vLLM where it is not installed: its offline engine, without a model.

Responses are tokens drawn from a generator that the request's seed alone starts; requests join and
leave the batch as in vLLM's, at most `max_num_seqs` at once. `LLM.plan` tells what goes wrong.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from types import SimpleNamespace

from vllm.v1.engine.exceptions import EngineDeadError

STOP = 0.1
"""How likely each token is the last."""


class SamplingParams(SimpleNamespace):
    """Whatever is given; a temperature above 2 is vLLM's to refuse."""


class Plan(SimpleNamespace):
    """At which step an engine says that it is dead, is killed, or its user is told to end; how
    many times the right number of image tokens it counts; every engine that was made.
    """

    def __init__(self):
        super().__init__(dies=None, killed=None, told=None, images=1, engines=[])


class LLM:
    """The offline engine; every one that was made is in `plan.engines`."""

    plan = Plan()

    def __init__(self, **arguments):
        # Here, so that a server is started quickly.
        from transformers import AutoTokenizer
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

        processors = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil
        self.arguments = arguments
        self.environment = dict(os.environ)
        self.images = processors.from_pretrained(
            arguments["model"], **arguments.get("mm_processor_kwargs", {})
        )
        tokenizer = AutoTokenizer.from_pretrained(arguments["model"])
        self.pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.llm_engine = self.engine_core = self
        if self.plan.killed:
            process = multiprocessing.get_context("spawn").Process
            self.process = process(target=time.sleep, args=(600,), daemon=True)
            self.process.start()
        self.waiting, self.calls = {}, []
        self.most_open = self.steps = self.ended = 0
        self.closed = False
        self.plan.engines.append(self)

    def collective_rpc(self, method, args=()):
        self.calls.append((method, args))

    def add_request(self, name, prompt, params):
        assert name not in self.waiting
        self.waiting[name] = SimpleNamespace(
            prompt=self._written_out(prompt),
            params=params,
            tokens=[],
            draw=random.Random(
                f"{params.temperature and params.seed} {prompt['prompt_token_ids']}"
            ),
        )
        self.most_open = max(self.most_open, len(self.waiting))

    def step(self):
        self.steps += 1
        if self.steps == self.plan.told:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.steps == self.plan.dies:
            raise EngineDeadError
        if self.steps == self.plan.killed:
            self.process.kill()
            threading.Event().wait()
        running = itertools.islice(self.waiting.items(), self.arguments["max_num_seqs"])
        ended = [output for name, each in list(running) if (output := self._advanced(name, each))]
        for output in ended:
            del self.waiting[output.request_id]
        self.ended += len(ended)
        return ended

    def shutdown(self):
        self.closed = True
        if self.plan.killed:
            self.process.kill()

    def _advanced(self, name, request):
        """Sample one token; the output of a request that has ended by it."""
        stops = request.draw.random() < STOP
        token = request.params.stop_token_ids[0] if stops else request.draw.randrange(20, 200)
        request.tokens.append(token)
        if not stops and len(request.tokens) < request.params.max_tokens:
            return None
        reason = "stop" if stops else "length"
        one = SimpleNamespace(token_ids=request.tokens, finish_reason=reason)
        return SimpleNamespace(request_id=name, prompt_token_ids=request.prompt, outputs=[one])

    def _written_out(self, prompt):
        pictures = iter(prompt.get("multi_modal_data", {}).get("image", ()))
        found = []
        for token in prompt["prompt_token_ids"]:
            if token == self.pad:
                picture = next(pictures)
                patches = self.images.get_number_of_image_patches(picture.height, picture.width, {})
                found += [token] * (patches // self.images.merge_size**2 * self.plan.images)
            else:
                found.append(token)
        return found
