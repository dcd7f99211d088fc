"""What reads the answers of a vLLM server: parsers as those of `hostile_parsers`, without a socket.

`requests` has a transport of ours, which gives an answer's bytes; all else is as in a stage.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
import torch
import urllib3
from hostile_parsers import Parser, Seeds, as_json
from requests.adapters import BaseAdapter, HTTPAdapter

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import server
from coldstart_trainer.rollout.answers import Models, document, shaped
from coldstart_trainer.rollout.asking import Server, lost
from coldstart_trainer.rollout.client import Client
from coldstart_trainer.rollout.generation import Generation
from coldstart_trainer.rollout.mismatch import mismatched
from coldstart_trainer.rollout.settings import EXTENSION
from coldstart_trainer.rollout.weights import Holding, digest

URL = "http://vllm"
IMAGE, END, VOCABULARY, LONGEST = 5, 2, 10, 4
PROMPTS = [[3, IMAGE, IMAGE, 4], [9]]
LAYER = "model.language_model.layers.0"
TRAINED = {
    f"{LAYER}.self_attn.q_proj.weight": torch.zeros(4, 4),
    f"{LAYER}.self_attn.k_proj.weight": torch.zeros(2, 4),
    f"{LAYER}.self_attn.v_proj.weight": torch.zeros(2, 4),
    f"{LAYER}.self_attn.o_proj.weight": torch.zeros(4, 4),
}


class Canned(BaseAdapter):
    """A transport whose answers are always the same."""

    def __init__(self, data: bytes, status: int = 200) -> None:
        super().__init__()
        self.data, self.status = data, status

    def send(self, request: Any, **_: Any) -> requests.Response:
        """The answer to any question."""
        raw = urllib3.HTTPResponse(io.BytesIO(self.data), status=self.status, preload_content=False)
        return HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        """Nothing is open."""


def client(data: bytes, status: int = 200) -> Client:
    """Ours, as it is once it is connected; its constructor wants vLLM to be installed."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Canned(data, status))
    made = Client.__new__(Client)
    made.base_url, made.model = URL, "m"
    made.session = Server(URL, session)  # type: ignore[assignment]
    made.end_token, made.vocabulary, made._sampling = END, VOCABULARY, False
    return made


# What it tells of itself


def _models() -> list[bytes]:
    model = {"id": "org/m", "root": "/models/m", "max_model_len": 4096, "permission": [{}]}
    return as_json({"object": "list", "data": [model]}, {"data": [{"id": "m"}]})


def _model(data: bytes, _: Path) -> object:
    try:
        model = shaped(Models, document(data)).data[0]
    except ValueError as error:  # it is waited for
        raise lost(URL, error) from error
    server._require_model(URL, model, ("org/m",), 4096)
    return client(data)._get(f"{URL}/v1/models")["data"][0]["id"]


def _infos() -> list[bytes]:
    config = {
        "model_config": {"logprobs_mode": "processed_logprobs", "model": "m"},
        "parallel_config": {"worker_extension_cls": EXTENSION, "tensor_parallel_size": 1},
        "weight_transfer_config": {"backend": "nccl"},
    }
    return as_json({"vllm_config": config}, {"vllm_config": config | {"seed": 0}})


def _info(data: bytes, _: Path) -> object:
    server._require_flags(URL, data)
    return client(data).get_server_info()["model_config"]["logprobs_mode"]


def _sizes() -> list[bytes]:
    return as_json({"world_size": 2}, {"world_size": 1, "more": None})


def _size(data: bytes, _: Path) -> object:
    return client(data).get_world_size() + 1


# Which weights it has


def _told() -> list[bytes]:
    place = "language_model.model.layers.0.self_attn"
    shapes = {f"{place}.qkv_proj.weight": [8, 4], f"{place}.o_proj.weight": [4, 4]}
    worker = {"worker": 0, "rank": 0, "size": 1, "shapes": shapes}
    worker["dtypes"] = dict.fromkeys(shapes, "torch.bfloat16")
    halves = {f"{place}.qkv_proj.weight": [4, 4], f"{place}.o_proj.weight": [4, 2]}
    two = [worker | {"worker": n, "rank": n, "size": 2, "shapes": halves} for n in range(2)]
    return as_json({"results": [worker]}, {"results": two})


def _compared(data: bytes, _: Path) -> object:
    shapes = {name: tuple(matrix.shape) for name, matrix in TRAINED.items()}
    held = [Holding.of(told, TRAINED, shapes) for told in client(data).held_weights()]
    return [
        digest(part.ours(TRAINED[part.name]), holding.dtype(part.place))
        for holding in held
        for part in holding.parts
    ]


def _digests() -> list[bytes]:
    return as_json({"results": [["a" * 64, "b" * 64], ["c" * 64]]})


def _digested(data: bytes, _: Path) -> object:
    (holding,) = (
        Holding.of(told, TRAINED, {name: matrix.shape for name, matrix in TRAINED.items()})
        for told in client(_told()[0]).held_weights()
    )
    parts = {0: holding.parts[:2], 1: holding.parts[:1]}
    told = client(data).weight_digests(parts)
    return [
        ours == theirs
        for given, digests in zip(parts.values(), told, strict=True)
        for ours, theirs in zip(given, digests, strict=True)
    ]


# What it samples

COMPLETIONS = [[7, END], [8, 8, 8, 8], [9, END], [END]]


def _completions() -> list[bytes]:
    choices = []
    for row, ids in enumerate(COMPLETIONS):
        names = [f"token_id:{token}" for token in ids]
        logprobs = {"tokens": names, "token_logprobs": [-0.5] * len(ids), "text_offset": [0]}
        logprobs["top_logprobs"] = [{name: -0.5} for name in names]
        choices.append(
            {"index": row, "text": "", "logprobs": logprobs, "token_ids": ids}
            | {"prompt_token_ids": PROMPTS[row // 2], "finish_reason": "stop"}
        )
    return as_json({"id": "c", "choices": choices, "usage": {"total_tokens": 9}})


def _generated() -> list[bytes]:
    choices = []
    for ids in COMPLETIONS[:2]:
        content = [
            {"token": f"token_id:{token}", "logprob": -0.5, "top_logprobs": []} for token in ids
        ]
        choices.append({"index": 0, "logprobs": {"content": content}, "token_ids": ids})
    return as_json({"request_id": "r", "choices": choices})


def _sampled(features: list[Any] | None) -> Callable[[bytes, Path], object]:
    def feed(data: bytes, _: Path) -> object:
        prompts = PROMPTS if features is None else PROMPTS[: len(features)]
        found = client(data).generate(prompts, features, n=2, max_tokens=LONGEST, logprobs=0)
        return _learnt_from(found)

    return feed


def _learnt_from(found: dict[str, Any]) -> object:
    """As TRL's trainer makes tensors of it."""
    sampled = [[first[0] for first in row] for row in found["logprobs"]]
    rows = [torch.tensor([float("nan") if x is None else x for x in row]) for row in sampled]
    tokens = [torch.tensor(ids) for ids in found["completion_ids"]]
    table = torch.nn.Embedding(VOCABULARY, 2)
    for ids, values in zip(tokens, rows, strict=True):
        assert table(ids).shape[:1] == values.shape
        mask = torch.ones_like(ids)[None]
        left = mismatched(values[None], torch.zeros(1, len(ids)), mask, bound=0.1, action="mask")
        assert bool(left.any()) or values.nanmean().abs() <= 0.1 or values.isnan().all()
    return tokens


FEATURES = {
    "mm_hashes": {"image": ["a"]},
    "mm_placeholders": {"image": [{"offset": 3, "length": 2}]},
    "kwargs_data": {"image": ["AAAA"]},
}


def _features() -> list[bytes]:
    return as_json({"token_ids": [1, 2], "features": FEATURES}, {"features": FEATURES})


def _placed(data: bytes, _: Path) -> object:
    (features,) = client(data).image_features([[SimpleNamespace(save=lambda *_, **__: None)]])
    generation = Generation.__new__(Generation)
    generation.processing_class = SimpleNamespace(image_token_id=IMAGE)
    generation.settings = SimpleNamespace(  # type: ignore[assignment]
        conversation=SimpleNamespace(min_pixels=1, max_pixels=2)
    )
    generation.server_base_url = URL
    placed = generation._place_features(features, PROMPTS[0])
    return placed["mm_placeholders"]["image"]


CODES = (ErrorCode.WORKER_LOST, ErrorCode.INVALID_ORDER, ErrorCode.SAMPLER_MISMATCH)


def _parser(
    name: str, seeds: Seeds, feed: Callable[[bytes, Path], object], weight: int = 50
) -> Parser:
    """One that holds a failure to its form, too."""

    def judged(data: bytes, home: Path) -> object:
        try:
            return feed(data, home)
        except StageFailure as error:
            if error.code not in CODES or not str(error).isprintable() or len(str(error)) > 1000:
                raise AssertionError(f"a failure that says nothing: {error!r}") from error
            raise

    return Parser(name, "json", seeds, judged, (StageFailure,), weight)


PARSERS: tuple[Parser, ...] = (
    _parser("vLLM's models", _models, _model),
    _parser("vLLM's flags", _infos, _info),
    _parser("vLLM's world", _sizes, _size, 25),
    _parser("vLLM's weights", _told, _compared),
    _parser("vLLM's digests", _digests, _digested, 25),
    _parser("vLLM's completions", _completions, _sampled(None)),
    _parser("vLLM's completions of images", _generated, _sampled([FEATURES])),
    _parser("vLLM's images", _features, _placed),
)
