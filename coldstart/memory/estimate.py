"""What one GPU, or one process on a CPU, holds in each phase of a stage, at the longest lengths.

Upper bounds as far as the spec bounds: every prompt and completion as long as the conversation
allows, with one image of `maxPixels`. Weights, gradients and optimizer states are exact for what
the trainer does; what autograd keeps is counted; working memory, vLLM beyond its share, libraries
and the allocator's waste are estimates, named where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from coldstart.evaluation import Evaluation
from coldstart.memory import activations, quantity
from coldstart.memory.activations import AUTOCAST, PLAIN_BF16, PLAIN_FP32, Load, Widths
from coldstart.memory.quantity import GIB
from coldstart.memory.shapes import Shape
from coldstart.memory.states import PARTITIONED_WEIGHTS, States, Training
from coldstart.spec import GRPO, SFT, Conversation, ModelSpec, Rollout, TrainingSpec

CONTEXT = 2 * GIB
"""Estimate: CUDA context, cuBLAS and NCCL buffers, and what a card has less than it is called."""

WASTE = 0.05
"""Estimate: share of its memory that PyTorch's allocator cannot use for being in pieces."""

ENGINE = 2 * GIB
"""Estimate: what vLLM needs besides weights and cache: its own activations, CUDA graphs."""

ASLEEP = 1 * GIB
"""Estimate: what is left of vLLM while it sleeps (level 2: neither weights nor cache)."""

PROCESS = 4 * GIB
"""Estimate: host memory of one process with its libraries, rows and decoded images."""

LOGIT_COPIES = 4
"""Estimate: fp32 copies of the next token's logits while one is sampled."""

PROBE_BATCH = 16
"""Responses of the probe that one process makes at once (`coldstart_trainer.training`)."""

VARLEN_FROM = 1024
"""Tokens from which a packed row is computed by another kernel
(`coldstart_trainer.shared.attention`)."""

Parts = Mapping[str, int]


@dataclass(frozen=True)
class Phase:
    """A time in the life of a stage, and what is held then, in bytes."""

    name: str
    parts: Parts

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Stage:
    """A stage of a run on its devices."""

    spec: ModelSpec
    shape: Shape
    conversation: Conversation
    card: int | None
    """Bytes of one GPU, where they are known."""

    @property
    def gpu(self) -> bool:
        """Whether it runs on GPUs."""
        return self.spec.resources.gpus_per_node > 0

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Its phases, in order."""
        if isinstance(self.spec, GRPO):
            found = (self._sampling(self.spec), *self._training(self.spec))
        elif isinstance(self.spec, TrainingSpec):
            found = self._training(self.spec)
        else:
            assert isinstance(self.spec, Evaluation)
            found = (self._evaluation(self.spec),)
        return tuple(Phase(phase.name, self._with_overhead(phase.parts)) for phase in found)

    @property
    def peak(self) -> Phase:
        """The phase that holds the most."""
        return max(self.phases, key=lambda phase: phase.total)

    @cached_property
    def states(self) -> States:
        """What training keeps."""
        assert isinstance(self.spec, TrainingSpec)
        spec = self.spec
        frozen = set(spec.freeze)
        return Training(
            shape=self.shape,
            trained=sum(n for part, n in self.shape.parts.items() if part not in frozen),
            zero=spec.parallelism.zero,
            offload=spec.parallelism.offload,
            world=spec.resources.world_size,
            bf16=spec.precision == "bf16",
            gpu=self.gpu,
            reference=isinstance(spec, GRPO) and spec.loss.kl > 0,
        ).states

    @property
    def host(self) -> int:
        """Host memory of one node, at its highest: while loading, or while training.

        Without ZeRO-3 each process reads the whole model into memory as fp32, or bf16 to evaluate,
        before it goes to the GPU; with it the file is mapped and shared out matrix by matrix.
        """
        processes = self.spec.resources.processes_per_node
        if not self.gpu:
            return processes * self.peak.total
        kept = loading = 0
        if isinstance(self.spec, TrainingSpec):
            spread = self.spec.parallelism.zero >= PARTITIONED_WEIGHTS
            loading = 0 if spread else activations.FP32 * self.shape.parameters
            kept = self.states.host
        else:
            loading = self._widths.compute * self.shape.parameters
        if isinstance(self.spec, GRPO):
            kept += self._pixels(self.spec.prompts_per_step // self.spec.resources.world_size)
        return processes * (PROCESS + max(kept, loading))

    @property
    def engine(self) -> int:
        """The least that vLLM runs in: weights, one sequence's cache, and what it needs itself.

        Sequences are as long as a prompt and a completion may be.
        """
        limit = None
        if isinstance(self.spec, Evaluation):
            limit = self.spec.decoding.max_completion_tokens
        limit = limit or self.conversation.max_completion_tokens
        longest = self.conversation.max_prompt_tokens + limit
        cache = activations.cache(self.shape.language, PLAIN_BF16) * longest
        weights = PLAIN_BF16.compute * self.shape.parameters
        return (weights + cache) // self._vllm_section.tensor_parallel_size + ENGINE

    @property
    def share(self) -> int:
        """What vLLM takes while it is awake: its share, or at least what it needs."""
        part = self._vllm_section.gpu_memory_utilization
        return int(part * self.card) if self.card else self.engine

    @property
    def colocated(self) -> bool:
        """Whether vLLM is on the stage's GPUs."""
        if isinstance(self.spec, Evaluation):
            return self.spec.engine == "vllm"
        if not isinstance(self.spec, GRPO):
            return False
        return (self.spec.rollout.engine, self.spec.rollout.mode) == ("vllm", "colocate")

    @property
    def _vllm_section(self) -> Rollout | Evaluation:
        """The section with vLLM's settings."""
        assert isinstance(self.spec, GRPO | Evaluation)
        return self.spec.rollout if isinstance(self.spec, GRPO) else self.spec

    @property
    def _widths(self) -> Widths:
        """How wide numbers are: DeepSpeed has bf16 weights, without it autocast casts fp32 ones."""
        if self.spec.precision == "fp32":
            return PLAIN_FP32
        plain = not isinstance(self.spec, TrainingSpec) or self.spec.parallelism.zero > 0
        return PLAIN_BF16 if plain else AUTOCAST

    def _training(self, spec: TrainingSpec) -> tuple[Phase, ...]:
        """Both halves of an update, and the probe at the end of the stage."""
        states, asleep = self.states, self._vllm(awake=False)
        step = {"gradients": states.gradients, "optimizer's work": states.step}
        phases = (
            Phase("backward", self._resident | self._backward(spec) | asleep),
            Phase("optimizer", self._resident | step | asleep),
        )
        if not spec.probe.size:
            return phases
        answers = self._generation(min(PROBE_BATCH, spec.probe.size), None)
        copies = {"copies of weights": states.copies}
        return (*phases, Phase("probe", self._resident | copies | answers | asleep))

    def _backward(self, spec: TrainingSpec) -> dict[str, int]:
        """What one forward and backward pass holds besides what is always there."""
        load, frozen = self._load(spec), frozenset(spec.freeze)
        kept = activations.kept(
            self.shape,
            load,
            self._widths,
            checkpointing=spec.gradient_checkpointing,
            frozen=frozen,
        )
        trained = "language" not in frozen
        return {
            "copies of weights": self.states.copies,
            "gradients": self.states.gradients,
            "activations": kept + activations.working(self.shape, load, self._widths),
            "logits": activations.logits(self.shape.language, load, self._widths, trained=trained),
            "pixels": self._pixels(self._images(load)),
        }

    def _sampling(self, spec: GRPO) -> Phase:
        parts = self._resident | {"gradients": self.states.idle_gradients}
        if self.colocated:
            return Phase("sampling", parts | self._vllm(awake=True))
        if spec.rollout.engine == "vllm":
            return Phase("sampling", parts)
        # TRL hands `generate` all completions of the process at once.
        answers = spec.completions_per_step // spec.resources.world_size
        parts |= {"copies of weights": self.states.whole}
        return Phase("sampling", parts | self._generation(max(1, answers), None))

    def _evaluation(self, spec: Evaluation) -> Phase:
        if self.colocated:
            return Phase("sampling", {"vLLM": self.share})
        weights = {"weights": self._widths.compute * self.shape.parameters}
        limit = spec.decoding.max_completion_tokens
        return Phase("sampling", weights | self._generation(spec.batch_size, limit))

    @property
    def _resident(self) -> dict[str, int]:
        states = self.states
        return {
            "weights": states.weights,
            "reference model": states.reference,
            "optimizer states": states.optimizer,
        }

    def _vllm(self, *, awake: bool) -> dict[str, int]:
        if not self.colocated:
            return {}
        assert isinstance(self.spec, GRPO)
        there = awake or not self.spec.rollout.sleep
        return {"vLLM": self.share if there else ASLEEP}

    def _generation(self, answers: int, limit: int | None) -> dict[str, int]:
        """What `generate` holds besides the weights for so many responses at once."""
        longest = limit or self.conversation.max_completion_tokens
        prompt, model = self.conversation.max_prompt_tokens, self.shape.language
        load = Load(answers * prompt, answers * self._image_tokens, 0)
        return {
            "key-value cache": answers
            * (prompt + longest)
            * activations.cache(model, self._widths),
            "activations": activations.forward_only(self.shape, load, self._widths),
            "logits": answers * model.vocabulary * activations.FP32 * LOGIT_COPIES,
            "pixels": self._pixels(answers),
        }

    def _load(self, spec: TrainingSpec) -> Load:
        """What one forward pass goes over: rows of their own, or one packed row.

        With a shared prompt, that of each group stands in the row once, without its last token,
        with which each completion begins in place of its own.
        """
        prompt = self.conversation.max_prompt_tokens
        completion = self.conversation.max_completion_tokens
        rows = spec.micro_batch_size
        image, scored = self._image_tokens, rows * completion
        if isinstance(spec, GRPO) and spec.shared_prompt:
            prompts, prompt = max(1, rows // spec.group_size), prompt - 1
            tokens = prompts * prompt + rows * completion
            seen = tokens + rows * prompt
            return Load(tokens, prompts * image, scored, seen=seen, varlen=self._has_varlen(tokens))
        tokens = rows * (prompt + completion)
        if isinstance(spec, SFT) and spec.packing:
            return Load(tokens, rows * image, scored, seen=tokens, varlen=self._has_varlen(tokens))
        masked = tokens**2 // rows if rows > 1 else 0
        return Load(tokens, rows * image, scored, masked)

    def _has_varlen(self, tokens: int) -> bool:
        """Whether a packed row goes to the variable-length kernel, as the trainer chooses."""
        return self.gpu and self._widths == PLAIN_BF16 and tokens >= VARLEN_FROM

    @property
    def _image_tokens(self) -> int:
        """Of one image of the largest size, as far as a prompt has room for it."""
        if not self.shape.vision:
            return 0
        most = self.conversation.max_pixels // self.shape.vision.pixels
        return min(most, self.conversation.max_prompt_tokens)

    def _images(self, load: Load) -> int:
        return load.image_tokens // self._image_tokens if self._image_tokens else 0

    def _pixels(self, images: int) -> int:
        """So many images as fp32 patches, as the processor makes them."""
        vision = self.shape.vision
        if not vision:
            return 0
        patches = images * self._image_tokens * vision.patches
        return patches * vision.pixel_values * activations.FP32

    def _with_overhead(self, parts: Parts) -> Parts:
        found = {name: size for name, size in parts.items() if size}
        if not self.gpu:
            return found | {"libraries": PROCESS}
        own = sum(size for name, size in found.items() if name != "vLLM")
        return found | {"CUDA and libraries": CONTEXT, "allocator's waste": int(WASTE * own)}


def stage(
    spec: ModelSpec, shape: Shape, conversation: Conversation, card: int | None = None
) -> Stage:
    """A stage on its devices; without a card, on GPUs of the size that its spec names."""
    named = spec.resources.gpu_memory
    return Stage(spec, shape, conversation, card or (quantity.parsed(named) if named else None))
