"""What a user asks for: the `ReasoningRun`, its spec as a whole, and what follows from it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from coldstart.distill import Distill
from coldstart.evaluation import Evaluation, Reference
from coldstart.lexicon import WordList
from coldstart.schema import Contract, Name, Open, RunName
from coldstart.spec import (
    GRPO,
    SFT,
    Conversation,
    From,
    FromDistill,
    Model,
    Stage,
    StageSpec,
    Storage,
)
from coldstart.status import RunStatus


class Retry(Contract):
    """How often a failed stage is tried again, from its last valid checkpoint."""

    limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Attempts of a stage that may follow a retryable failure."""
    backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 10
    """Wait before the first retry; doubles with each."""
    max_backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 600
    """The longest wait."""


class DataChecks(Contract):
    """What becomes of equal rows, which are looked for before the first training stage."""

    # Not `off`: YAML 1.1, which kubectl reads, takes it for false.
    leakage: Literal["refuse", "warn", "ignore"] = "warn"
    """Problems of a benchmark or a probe that are also trained on, with the same text, but for case
    and white space, and the same image files: the run fails before it trains, or the log tells.
    All rows of a data set are compared, whatever its limit."""
    duplicates: Literal["refuse", "warn", "ignore"] = "warn"
    """Rows of a data set that are equal to an earlier one; several responses to one problem are
    not."""


class PodTemplate(Contract):
    """What the pods of a run get besides what Coldstart sets; as the fields of a pod are called."""

    labels: Annotated[dict[str, str], Field(max_length=50)] = {}
    """Labels of the pods."""
    annotations: Annotated[dict[str, str], Field(max_length=50)] = {}
    """Annotations of the pods."""
    node_selector: Annotated[dict[str, str], Field(max_length=50)] = {}
    """Labels that a node must have."""
    tolerations: Annotated[tuple[dict[str, Open], ...], Field(max_length=50)] = ()
    """Taints that are tolerated."""
    affinity: dict[str, Open] = {}
    """Affinity rules."""
    priority_class_name: Name | None = None
    """The pods' PriorityClass."""
    scheduler_name: Name | None = None
    """The scheduler, if not the default one."""
    runtime_class_name: Name | None = None
    """The container runtime, if not the default one."""
    service_account_name: Name | None = None
    """The pods' service account; its token is not mounted."""
    image_pull_secrets: Annotated[tuple[Name, ...], Field(max_length=20)] = ()
    """Names of secrets to pull images with."""
    env: Annotated[tuple[dict[str, Open], ...], Field(max_length=100)] = ()
    """Environment variables: `{name, value}`, or `{name, valueFrom: {secretKeyRef: …}}`."""
    secrets: Annotated[tuple[Name, ...], Field(max_length=20)] = ()
    """Names of secrets whose keys become environment variables, such as a hub token."""
    volumes: Annotated[tuple[dict[str, Open], ...], Field(max_length=50)] = ()
    """Further volumes."""
    volume_mounts: Annotated[tuple[dict[str, Open], ...], Field(max_length=50)] = ()
    """Where the further volumes are mounted."""
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=86_400)] = 300
    """How long a stopped pod may take to save its checkpoint."""


class Scheduling(Contract):
    """How a run's jobs wait for resources."""

    queue_name: Name | None = None
    """Kueue's LocalQueue; becomes the label `kueue.x-k8s.io/queue-name` of every job."""
    priority_class: Name | None = None
    """Kueue's WorkloadPriorityClass; becomes `kueue.x-k8s.io/priority-class`."""


class RunSpec(Contract):
    """What to train, on what, and what to measure."""

    preset: Literal["paper-7b", "paper-3b"] | None = None
    """Values of a published recipe for the sections that this file has; what the file says wins."""
    model: Model
    """The base model."""
    storage: Storage = Storage()
    """Where results are kept on a cluster."""
    conversation: Conversation = Conversation()
    """One prompt, pixel and length spec for every stage."""
    distill: Distill | None = None
    """Making the cold start's data with a teacher; absent: none."""
    sft: SFT | None = None
    """The cold start; absent: none."""
    grpo: GRPO | None = None
    """Reinforcement learning; absent: none."""
    evaluation: Evaluation | None = None
    """Scoring; absent: none."""
    reflection: WordList = WordList()
    """The words that mark reflection in responses."""
    data_checks: DataChecks = DataChecks()
    """What becomes of equal rows in and between the data sets."""
    backend: Literal["Auto", "PyTorchJob", "Job"] = "Auto"
    """What runs a stage on a cluster; `Auto` takes the first that the cluster serves, once, and
    records it."""
    image: Name | None = None
    """The trainer's image on a cluster; absent: the operator's default."""
    pod_template: PodTemplate = PodTemplate()
    """What every pod of the run gets besides."""
    scheduling: Scheduling = Scheduling()
    """How the run's jobs are queued."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Delete the run, and with it its jobs, so long after its end; absent: never. Checkpoints
    stay."""
    suspend: bool = False
    """Stop the running stage after it has saved, and start no other, until this is false."""
    retry: Retry = Retry()
    """How failed stages are tried again."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if not self.stages:
            raise ValueError("has no stage: add distill, sft, grpo or evaluation")
        self._rows_have_one_source()
        if self.grpo and self.grpo.from_ and self.sft:
            raise ValueError("grpo.from names another run's stage, but this run has its own sft")
        missing = [
            name
            for name in (self.evaluation.checkpoints if self.evaluation else ())
            if name not in self.checkpoint_names
        ]
        if missing:
            raise ValueError(
                f"evaluation.checkpoints names {missing[0]}, but this run has no such stage and "
                "no such reference"
            )
        return self

    def _rows_have_one_source(self) -> None:
        if self.sft is None:
            return
        if self.sft.dataset and self.distill:
            raise ValueError(
                "sft.dataset is given, but sft trains on what this run's distill makes: "
                "leave one of the two out"
            )
        if self.sft.from_ and (self.sft.dataset or self.distill):
            raise ValueError(
                "sft.from names another run's rows, but this run has its own: leave sft.dataset "
                "and distill out"
            )
        if not (self.sft.dataset or self.sft.from_ or self.distill):
            raise ValueError("sft.dataset is required where no distill makes the rows")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that this run has, in order."""
        return tuple(stage for stage in Stage if getattr(self, stage.value) is not None)

    def stage(self, stage: Stage) -> StageSpec:
        """The section of a stage.

        Raises:
            KeyError: this run does not have the stage.
        """
        section = getattr(self, stage.value)
        if section is None:
            raise KeyError(stage)
        assert isinstance(section, StageSpec)
        return section

    @property
    def borrowed(self) -> dict[str, From]:
        """The checkpoints that come from another run, by the name they have in this one."""
        sources = [section.from_ for section in (self.grpo, self.evaluation) if section]
        found = {source.stage: source for source in sources if source}
        borrowed = {name: source for name, source in found.items() if getattr(self, name) is None}
        return borrowed | {each.name: each.from_ for each in self.references if each.from_}

    def sources(self, stage: Stage) -> tuple[From | FromDistill, ...]:
        """The stages of other runs that a stage of this one needs."""
        if stage is Stage.SFT and self.sft and self.sft.from_:
            return (self.sft.from_,)
        if stage is Stage.GRPO and self.grpo and self.grpo.from_:
            return (self.grpo.from_,)
        if stage is not Stage.EVALUATION:
            return ()
        return tuple(self.borrowed[name] for name in self.evaluated if name in self.borrowed)

    @property
    def checkpoint_names(self) -> tuple[str, ...]:
        """Every checkpoint that this run can evaluate: references, base model, training stages."""
        own = {stage.value for stage in self.stages} | set(self.borrowed)
        trained = (name for name in ("sft", "grpo") if name in own)
        return (*(each.name for each in self.references), "base", *trained)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The models that are scored beside the run's own."""
        return self.evaluation.references if self.evaluation else ()

    def reference(self, name: str) -> Reference | None:
        """The reference of this name."""
        return next((each for each in self.references if each.name == name), None)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The checkpoints that the evaluation scores."""
        assert self.evaluation is not None
        return self.evaluation.checkpoints or self.checkpoint_names


class Metadata(Contract):
    """Name and bookkeeping, as Kubernetes has them."""

    model_config = ConfigDict(extra="ignore")

    name: RunName
    """The run's name."""
    namespace: Name | None = None
    """The namespace, on a cluster."""
    uid: Name | None = None
    """What tells a run from an earlier one of the same name."""
    generation: Annotated[int, Field(ge=0)] = 1
    """Counts the changes of the spec."""
    labels: dict[str, str] = {}
    """Labels, as on any object."""
    annotations: dict[str, str] = {}
    """Annotations, as on any object."""


class ReasoningRun(Contract):
    """One run of the recipe: what is asked for, and how far it is."""

    api_version: Literal["coldstart.dev/v1alpha1"]
    """The version of this document."""
    kind: Literal["ReasoningRun"]
    """The kind of this document."""
    metadata: Metadata
    """Name and bookkeeping."""
    spec: RunSpec
    """What to do."""
    status: RunStatus | None = None
    """How far it is; written by the operator or by `coldstart run`, never by hand."""
