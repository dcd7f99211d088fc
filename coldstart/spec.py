"""The sections of a run's spec: model, data, stages and their knobs; `run` ties them together.

The field docstrings are the only description of the API: schema, reference page and errors are
generated from them. Sections hold no unions: an absent section means that the stage is absent.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from coldstart.dataset import Dataset
from coldstart.schema import Contract, Name, Open, Positive, RunName, Seed, Share, Text
from coldstart.trainer_args import GRPO_ARGS, SFT_ARGS, refuse_owned

PAPER_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."


# Not `\w`: to an API server that is ASCII, to pydantic every letter there is.
_REWARD = r"^[A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_]*)?$"

_GPU_MEMORY = r"^[1-9][0-9]{0,5}(\.[0-9]{1,3})?(M|G|T|Mi|Gi|Ti)$"

GpuMemory = Annotated[str, StringConstraints(pattern=_GPU_MEMORY)]
"""An amount of memory with its unit."""


class Stage(StrEnum):
    """The stages, in the order in which a run goes through them."""

    DISTILL = "distill"
    SFT = "sft"
    GRPO = "grpo"
    EVALUATION = "evaluation"


Part = Literal["vision", "aligner", "language"]
"""A part of a model: vision tower, aligner (merger), language model; text models have the last."""

CheckpointName = RunName
"""A checkpoint that a run knows: `base`, what a training stage ended with, or a reference."""


class Model(Contract):
    """The base model that the run starts from."""

    name: Name
    """A hub id (`Qwen/Qwen2.5-VL-7B-Instruct`), or a directory: beside the run.yaml on one
    machine, in the storage on a cluster. Qwen2-VL, Qwen2.5-VL and Qwen3-VL are supported, and the
    text models Qwen2, Qwen2.5 and Qwen3."""
    revision: Name | None = None
    """The commit of a hub id; always set it, since a branch moves."""


class Storage(Contract):
    """Where checkpoints and results are kept on a cluster; one machine uses `--dir`."""

    claim_name: Name | None = None
    """The PersistentVolumeClaim that every stage mounts."""
    sub_path: Text = ""
    """A directory in the claim."""


class Conversation(Contract):
    """One prompt, pixel and length spec for every stage."""

    system: Text = PAPER_PROMPT
    """The system prompt; empty for none."""
    suffix: Text = ""
    """Appended to every problem."""
    min_pixels: Annotated[int, Field(ge=784, le=100_000_000)] = 262_144
    """Smaller images are scaled up to this many pixels."""
    max_pixels: Annotated[int, Field(ge=784, le=100_000_000)] = 1_204_224
    """Larger images are scaled down to this many pixels (784 of them make an image token)."""
    max_prompt_tokens: Positive = 2048
    """Rows whose prompt, image tokens included, is longer are dropped and counted, never cut."""
    max_completion_tokens: Positive = 2048
    """SFT rows whose response is longer are dropped; sampled completions end here."""

    @model_validator(mode="after")
    def _pixel_range(self) -> Self:
        if self.min_pixels > self.max_pixels:
            raise ValueError("minPixels must not be greater than maxPixels")
        return self


class Resources(Contract):
    """What one stage runs on."""

    nodes: Annotated[int, Field(ge=1, le=512)] = 1
    """Machines (pods)."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs on each, one process per GPU; 0 trains on the CPU with one process."""
    gpu_memory: GpuMemory | None = None
    """Memory of one GPU, as a Kubernetes quantity (`80Gi`): `coldstart validate` and `coldstart
    run` refuse a stage that cannot fit into it. Absent: `validate` says what it would fit."""
    cpu: Name | None = None
    """CPU request of each pod, as a Kubernetes quantity."""
    memory: Name | None = None
    """Memory request of each pod, as a Kubernetes quantity."""

    @property
    def processes_per_node(self) -> int:
        """How many processes torchrun starts on each machine."""
        return max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """How many processes the stage has in all."""
        return self.nodes * self.processes_per_node


class Parallelism(Contract):
    """How a stage is spread over its GPUs."""

    zero: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage; 0 for plain data parallelism without DeepSpeed."""
    offload: bool = False
    """Keep optimizer states (and, in ZeRO-3, parameters) in host memory."""


class Probe(Contract):
    """A small set scored at the end of a training stage; its numbers feed the gate."""

    dataset: Dataset | None = None
    """Where the problems come from; absent: the stage's held-out rows."""
    size: Annotated[int, Field(ge=0, le=100_000)] = 64
    """How many problems, decoded greedily; 0 for no probe."""


class Gate(Contract):
    """What the stage's result must reach before the next stage may start."""

    min_accuracy: Share | None = None
    """Least share of right answers on the probe."""
    min_boxed_share: Share | None = None
    """Least share of probe responses with a closed `\\boxed{}`."""
    max_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Greatest final training loss."""

    @property
    def needs_probe(self) -> bool:
        """Whether a threshold is on a number that only the probe gives."""
        return self.min_accuracy is not None or self.min_boxed_share is not None


class From(Contract):
    """A finished stage of another run to start from, so that arms of a study share it."""

    run: RunName
    """The other run's name, in the same storage."""
    stage: Literal["sft", "grpo"] = "sft"
    """Which of its stages."""


class FromDistill(Contract):
    """Another run's finished distillation to learn from, so that a teacher is paid once."""

    run: RunName
    """The other run's name, in the same storage."""
    stage: Literal["distill"] = "distill"
    """Which of its stages."""


class StageSpec(Contract):
    """What every stage has."""

    resources: Resources = Resources()
    """What the stage runs on."""
    seed: Seed = 42
    """Seed of shuffling, held-out rows, dropout and sampling."""
    timeout_seconds: Positive | None = None
    """How long one attempt may run; then it is stopped and counts as a failure."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"resources", "timeoutSeconds"})

    def recipe(self) -> dict[str, Any]:
        """The part of the section that decides the result, without how and where it is run."""
        return {k: v for k, v in self.document().items() if k not in self.OPERATIONAL}


class ModelSpec(StageSpec):
    """What every stage has that runs the model itself."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """Compute precision; bf16 training keeps fp32 master weights."""


class TrainingSpec(ModelSpec):
    """What both training stages have."""

    dataset: Dataset | None
    """The rows to train on."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the rows that is not trained on, but evaluated and probed."""
    max_steps: Positive | None = None
    """Stop after this many optimizer updates, whatever the epochs say."""
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"]
    """Schedule of the learning rate."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """AdamW weight decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW beta 1."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW beta 2."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    """Gradients are clipped to this norm; 0 for no clipping."""
    micro_batch_size: Positive
    """Rows (SFT) or completions (GRPO) in one forward pass of one process."""
    freeze: Annotated[tuple[Part, ...], Field(max_length=3)] = ()
    """Parts of the model that are not trained; those that it lacks are passed over (a text model
    has nothing but `language`)."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass instead of keeping them."""
    parallelism: Parallelism = Parallelism()
    """How the stage is spread over its GPUs."""
    save_steps: Positive = 20
    """Optimizer updates between checkpoints; a killed stage loses at most these."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    """How many of them are kept; the final and the pinned ones always are."""
    log_steps: Positive = 1
    """Optimizer updates between two lines of metrics."""
    probe: Probe = Probe()
    """What is scored at the end of the stage."""
    gate: Gate = Gate()
    """What the result must reach before the next stage starts."""
    trainer_args: Annotated[dict[str, Open], Field(max_length=100)] = {}
    """Further options of TRL's trainer, passed on as they are, except those that this file owns."""

    OPERATIONAL: ClassVar[frozenset[str]] = StageSpec.OPERATIONAL | {
        "parallelism",
        "saveSteps",
        "keepCheckpoints",
        "logSteps",
        "evalSteps",
        "probe",
        "gate",
    }

    @field_validator("freeze")
    @classmethod
    def _something_trains(cls, value: tuple[Part, ...]) -> tuple[Part, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a part twice")
        if len(value) == len(get_args(Part)):
            raise ValueError("freezes every part: nothing would be trained")
        return value

    @model_validator(mode="after")
    def _gate_has_its_probe(self) -> Self:
        if self.gate.needs_probe and self.probe.size == 0:
            raise ValueError("gate has a threshold on the probe, but probe.size is 0")
        if self.gate.needs_probe and self.probe.dataset is None and self.held_out == 0:
            raise ValueError(
                "gate has a threshold on the probe, but heldOut is 0: set heldOut or probe.dataset"
            )
        return self


class SFT(TrainingSpec):
    """Supervised fine-tuning on chain of thought: the cold start."""

    dataset: Dataset | None = None
    """The rows to train on; absent: those that this run's `distill` makes, or `from` names."""
    from_: FromDistill | None = Field(default=None, alias="from")
    """Train on the rows that another run's `distill` has made."""
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-5
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "cosine"
    """Schedule of the learning rate."""
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 3
    """Passes over the rows."""
    batch_size: Positive = 64
    """Rows per optimizer update, over all processes."""
    micro_batch_size: Positive = 1
    """Rows in one forward pass of one process."""
    freeze: Annotated[tuple[Part, ...], Field(max_length=3)] = ("vision",)
    """Parts of the model that are not trained; those that it lacks are passed over (a text model
    has nothing but `language`)."""
    eval_steps: Positive | None = None
    """Optimizer updates between two evaluations of the loss on the held-out rows."""
    packing: bool = True
    """Put the rows of a micro-batch end to end, without padding, each attending to itself only;
    loss and gradients are those of the padded rows, which the first step checks. One row has no
    padding: it is a greater microBatchSize that this makes cheap. Left off, with the reason in the
    log, for models whose layers do not allow it."""
    trainer_args: Annotated[
        dict[Annotated[str, AfterValidator(refuse_owned("sft", SFT_ARGS))], Open],
        Field(max_length=100),
    ] = {}
    """Further options of TRL's SFTTrainer, passed on as they are, except those that this file
    owns."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        per_pass = self.micro_batch_size * self.resources.world_size
        if self.batch_size % per_pass:
            raise ValueError(
                f"batchSize {self.batch_size} is not a multiple of microBatchSize x processes = "
                f"{self.micro_batch_size} x {self.resources.world_size}"
            )
        return self


class Reward(Contract):
    """One reward function and its weight."""

    name: Annotated[str, StringConstraints(pattern=_REWARD)]
    """`accuracy` (the last `\\boxed{}` equals the gold answer), `format` (the response ends with
    one closed box), or `module:function` of a module below the working directory: on one machine
    the run file's, on a cluster the claim's."""
    weight: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 1.0
    """What its score counts in the sum."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How long a `module:function` may take for one batch of completions; then they score 0 and
    are counted. `accuracy` has 2 seconds for each answer."""


class Rollout(Contract):
    """How completions are sampled."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates them."""
    mode: Literal["colocate", "server"] = "colocate"
    """vLLM in the training processes, or as a server of its own."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of each GPU's memory that colocated vLLM takes."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that one vLLM engine is spread over."""
    sleep: bool = True
    """Colocated vLLM gives its memory back while the policy is updated."""
    server_url: Name | None = None
    """Where the vLLM server is, as `http://host:port`; needed in mode `server`."""
    max_mismatch: Annotated[float, Field(gt=0, le=100)] = 0.3
    """Greatest mean difference, in nats per token, between vLLM's log-probabilities of a sampling
    step's completions and the trainer's. Rounding gives about 0.01; wrong prompts or stale
    weights give more than 1."""
    on_mismatch: Literal["stop", "mask"] = "stop"
    """What happens above that: the stage stops, or the completions that are above it, each by its
    own mean, are left out of the loss."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with this much probability."""


class Loss(Contract):
    """The policy loss, in TRL's terms."""

    type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "vespo"] = "bnpo"
    """TRL's loss type: how token losses are clipped and averaged; `bnpo` is the mean over the
    tokens of the batch."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip range of the importance ratio (TRL: epsilon)."""
    clip_high: Annotated[float, Field(gt=0, le=10)] = 0.3
    """Upper clip range (TRL: epsilon_high)."""
    dual_clip: Annotated[float, Field(gt=1, le=1000)] = 3.0
    """Bound of the ratio where the advantage is negative (TRL: delta); 1000 bounds nothing in
    practice."""
    kl: Annotated[float, Field(ge=0, le=100)] = 0.01
    """Weight of the KL divergence from the stage's start model (TRL: beta); 0 loads no
    reference model."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantages are divided by: the standard deviation of the group, of the batch, or
    nothing."""


class GRPO(TrainingSpec):
    """Group relative policy optimization."""

    dataset: Dataset
    """The problems to train on."""
    from_: From | None = Field(default=None, alias="from")
    """Start from another run's finished stage, not from this run's previous one."""
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-6
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    """Schedule of the learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """AdamW weight decay."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.002
    """Share of the rows that is not trained on, but probed."""
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 2
    """Passes over the prompts (the paper's episodes)."""
    group_size: Annotated[int, Field(ge=2, le=1024)] = 10
    """Completions per prompt; advantages are relative to their group."""
    prompts_per_step: Positive = 512
    """Prompts that one sampling step draws."""
    updates_per_step: Annotated[int, Field(ge=1, le=1024)] = 4
    """Optimizer updates on the completions of one sampling step."""
    micro_batch_size: Positive = 10
    """Completions in one forward pass of one process."""
    rewards: Annotated[tuple[Reward, ...], Field(min_length=1, max_length=20)] = (
        Reward(name="accuracy"),
    )
    """What is rewarded; the scores are summed by weight."""
    rollout: Rollout = Rollout()
    """How completions are sampled."""
    loss: Loss = Loss()
    """The policy loss."""
    shared_prompt: bool = True
    """Compute each prompt, its images included, once for all completions of its group in a
    micro-batch, in every pass; log-probabilities and gradients are those of computing it anew for
    each. Left off, with the reason in the log, for models whose layers do not allow it."""
    self_check_tolerance: Annotated[float, Field(gt=0, le=100)] | None = None
    """Greatest difference, in nats a token, between a completion's log-probabilities with and
    without sharing that the first step accepts on one group; absent: 0.0001 in fp32, 0.05 in
    bf16."""
    zero_variance: Literal["drop", "keep"] = "drop"
    """Groups whose rewards are all equal: left out of the update, or kept, where only the KL
    term learns from them."""
    refill_limit: Annotated[int, Field(ge=0, le=100)] = 0
    """Rounds in which one sampling step may draw further prompts in place of those whose group's
    rewards are all equal; 0 for none."""
    truncated: Literal["keep", "mask"] = "keep"
    """Completions that reach the length limit: trained on, or left out of the loss."""
    trainer_args: Annotated[
        dict[Annotated[str, AfterValidator(refuse_owned("grpo", GRPO_ARGS))], Open],
        Field(max_length=100),
    ] = {}
    """Further options of TRL's GRPOTrainer, passed on as they are, except those that this file
    owns."""

    @field_validator("rewards")
    @classmethod
    def _rewards_differ(cls, value: tuple[Reward, ...]) -> tuple[Reward, ...]:
        names = [reward.name for reward in value]
        if len(set(names)) != len(names):
            raise ValueError("names a reward twice")
        return value

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.prompts_per_step % self.updates_per_step:
            raise ValueError(
                f"promptsPerStep {self.prompts_per_step} is not a multiple of "
                f"updatesPerStep {self.updates_per_step}"
            )
        per_pass = self.micro_batch_size * self.resources.world_size
        if self.completions_per_update % per_pass:
            raise ValueError(
                f"promptsPerStep x groupSize / updatesPerStep = {self.completions_per_update} "
                f"completions per update is not a multiple of microBatchSize x processes = "
                f"{self.micro_batch_size} x {self.resources.world_size}"
            )
        return self

    @model_validator(mode="after")
    def _groups_stay_whole(self) -> Self:
        size, group = self.micro_batch_size, self.group_size
        if not self.shared_prompt:
            return self
        if size % group and group % size:
            raise ValueError(
                f"microBatchSize {size} is neither a multiple nor a divisor of groupSize {group}, "
                "so groups would be torn; change it, or set sharedPrompt to false"
            )
        per_update = self.prompts_per_step // self.updates_per_step
        if per_update % self.resources.world_size:
            raise ValueError(
                f"promptsPerStep / updatesPerStep = {per_update} prompts do not share out over "
                f"{self.resources.world_size} processes, so groups would be torn; change it, or "
                "let sharedPrompt be false"
            )
        return self

    @model_validator(mode="after")
    def _engine_has_its_place(self) -> Self:
        rollout = self.rollout
        if rollout.engine != "vllm":
            return self
        if rollout.mode == "server" and rollout.server_url is None:
            raise ValueError("rollout.mode is server, but rollout.serverUrl is not set")
        if rollout.mode == "colocate" and self.resources.world_size % rollout.tensor_parallel_size:
            raise ValueError(
                f"{self.resources.world_size} processes are not a multiple of "
                f"rollout.tensorParallelSize {rollout.tensor_parallel_size}"
            )
        return self

    @property
    def completions_per_step(self) -> int:
        """Completions that one sampling step draws."""
        return self.prompts_per_step * self.group_size

    @property
    def completions_per_update(self) -> int:
        """Completions that one optimizer update sees."""
        return self.completions_per_step // self.updates_per_step
