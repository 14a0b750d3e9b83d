"""All settings of a run with their defaults, ranges and meanings. Invalid combinations are refused here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from reflect_rl.settings.base import Section
from reflect_rl.settings.checks import check
from reflect_rl.settings.labels import OPENAI, AnnotateSettings, SelectSettings, TeacherSettings
from reflect_rl.settings.server import ServerSettings
from reflect_rl.settings.training import PolicySftSettings, ReflectorSftSettings, RlSettings


class EnvSettings(Section):
    """The world."""

    name: str = Field(default="taxi", description="A registered world, or module:Class for your own.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the environment.")
    horizon: int = Field(default=20, ge=1, description="Steps after which an episode is cut.")
    processes: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="0: the world lives in the run's own process. Above 0, for worlds that are slow, hang or die: each "
        "instance lives in a process of its own, at most so many at once, however many rl.num_envs asks for.",
    )
    timeout: float = Field(
        default=60, gt=0, description="With env.processes: seconds that a call may take; then its process is killed."
    )
    memory: float = Field(
        default=1000,
        gt=0,
        description="With env.processes: megabytes by which a process may grow before a new one takes its place, "
        "between two episodes.",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the world's constructor."""
        return {"horizon": self.horizon, **self.options}

    @property
    def identity(self) -> dict[str, Any]:
        """What results depend on: not where the world lives."""
        return {"name": self.name, "options": self.options, "horizon": self.horizon}


class CollectSettings(Section):
    """The trajectories that form the pool of states."""

    episodes: int = Field(default=600, ge=1, description="Episodes to collect, over the train tasks in turn.")
    perturb: float = Field(
        default=0.5, ge=0, lt=1, description="Share of steps that are random (negative examples); 0 turns them off."
    )
    file: str = Field(
        default="",
        description="Episodes of your own, in the form of episodes.jsonl (docs/files.md): all of them are taken, and "
        "none is played.",
    )


class PromptSettings(Section):
    """How a state is written as text."""

    history: int = Field(default=1, ge=0, description="Maximum past steps shown; the oldest are dropped first.")
    history_shows: Literal["actions", "steps"] = Field(
        default="actions", description="'actions': the past actions only; 'steps': past observations too."
    )
    reflections: int = Field(
        default=0,
        ge=0,
        description="Maximum number of past reflections shown to both players, as notes of the reflector to itself.",
    )
    notes: bool = Field(
        default=False,
        description="Append the world's scripted notes to the action lines (pointer head). The notes are given, not "
        "learned.",
    )
    reflector_choices: bool = Field(
        default=False,
        description="With the pointer head, show the reflector the action lines, as its teacher sees them. The label "
        "head always shows them.",
    )
    max_tokens: int = Field(default=1024, ge=16, description="Token budget of a policy prompt.")
    format: Literal["auto", "plain", "chat"] = Field(
        default="auto",
        description="'plain': one text that the players continue; 'chat': messages in the model's own chat template; "
        "'auto': chat for pretrained models that have a template.",
    )
    task: str = Field(
        default="", description="Replaces the world's task text. @FILE reads it from a file, when the recipe is loaded."
    )
    reflect: str = Field(
        default="",
        description="The instruction to the reflector; by default a short one in the chat format, and none in the "
        "plain one. @FILE as for task.",
    )
    act: str = Field(default="", description="The instruction to the policy, likewise.")


class ModelSettings(Section):
    """A causal language model: from scratch, from a folder, or from the hub."""

    source: str = Field(
        default="scratch",
        description="'scratch', a local folder, or a hub name such as gpt2-xl: of a model, or of LoRA adapters that "
        "name their base.",
    )
    architecture: Literal["gpt2", "lookup"] = Field(
        default="gpt2",
        description="From scratch: 'gpt2'; or 'lookup', with a short causal convolution and no positional encoding, "
        "which learns far sooner to look things up in its prompt.",
    )
    kernel: int = Field(default=8, ge=1, description="From scratch, lookup: tokens that the convolution sees.")
    width: int = Field(default=64, ge=8, description="From scratch: hidden size.")
    layers: int = Field(default=2, ge=1, description="From scratch: number of blocks.")
    heads: int = Field(default=4, ge=1, description="From scratch: attention heads.")
    context: int = Field(
        default=0, ge=0, description="From scratch: minimum context length in tokens; raised if the pool needs more."
    )
    lora_rank: int = Field(
        default=0,
        ge=0,
        description="Rank of LoRA adapters: new ones, or those in source, which are trained further. 0 trains all "
        "weights; adapters in source are merged first.",
    )
    bits: Literal[4, 8, 16, 32] = Field(
        default=32,
        description="4 and 8 quantise the base model (LoRA only; meant for GPUs, slow on a CPU). 16 computes in "
        "bfloat16: with LoRA the base weights are bfloat16; otherwise they stay float32, which small updates need.",
    )

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if self.source == "scratch" and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; choose e.g. heads: 4")
        if self.source == "scratch" and (self.lora_rank or self.bits < 32):
            raise ValueError("lora_rank and bits need a pretrained model; set source, or drop them")
        if self.bits in (4, 8) and not self.lora_rank:
            raise ValueError(f"bits: {self.bits} cannot be trained by itself; set lora_rank (for example 16)")
        return self


class ReflectorSettings(Section):
    """The author of the reflections that the policy reads."""

    kind: Literal["none", "scripted", "local", "served", "prompted"] = Field(
        default="local",
        description="'none'; 'scripted': the world's teacher itself; 'local': a model trained on its texts; 'served': "
        "a model that was trained before, behind a server; 'prompted': an instruct model as it is, from "
        "reflector.model.source or behind a server, told what to write by prompt.reflect.",
    )
    model: ModelSettings = Field(default_factory=ModelSettings)
    max_new_tokens: int = Field(default=100, ge=1, description="Longest reflection, in tokens.")
    batch: int = Field(
        default=0,
        ge=0,
        description="Prompts decoded in one batch. 0: a default for the device (8 on a CPU, 64 on mps, 256 on cuda). "
        "With compute.exact, smaller batches are filled up with copies.",
    )
    decoding: Literal["greedy", "sample"] = Field(default="greedy", description="How a reflection is decoded.")
    temperature: float = Field(default=1.0, gt=0, description="Sampling temperature.")
    warn_below: float = Field(
        default=0.95, ge=0, le=1, description="Warn if the reflector's agreement with the teacher is below this."
    )
    server: ServerSettings = Field(default_factory=ServerSettings)

    @property
    def is_served(self) -> bool:
        """Whether the reflector's model is behind a server."""
        return self.kind == "served" or (self.kind == "prompted" and bool(self.server.model))

    @property
    def asked(self) -> ServerSettings:
        """The server of a served reflector, with the model's name and the temperature."""
        warmth = self.temperature if self.decoding == "sample" else 0.0
        return self.server.model_copy(update={"model": self.server.model or self.model.source, "temperature": warmth})

    @property
    def is_loaded(self) -> bool:
        """Whether the reflector's model is loaded here."""
        return self.kind in ("local", "prompted") and not self.is_served


class PolicySettings(Section):
    """The policy."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    head: Literal["labels", "pointer"] = Field(
        default="labels", description="'labels': one token per action; 'pointer': a score at each action's line end."
    )

    gated_mixture: bool = Field(
        default=False,
        description="Mix the action distributions with and without the reflection, weighted by a learned gate that "
        "starts at the reflector's held-out agreement. Labels head only.",
    )

    @model_validator(mode="after")
    def _check(self) -> PolicySettings:
        if self.gated_mixture and self.head == "pointer":
            raise ValueError("gated_mixture needs head: labels (a pointer reads the actions after the reflection)")
        return self


class EvaluateSettings(Section):
    """How the agent is evaluated."""

    sampled_episodes: int = Field(default=4, ge=1, description="Sampled episodes per task (greedy: one).")
    within: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="Also report success within each of these numbers of steps; beyond the horizon: left out.",
    )
    shown_episodes: int = Field(
        default=12, ge=0, description="Episodes of the test panel kept step by step for the report."
    )


class ComputeSettings(Section):
    """Device, threads and numerics."""

    device: Literal["cpu", "cuda", "mps"] = Field(default="cpu", description="Where torch computes.")
    threads: int = Field(
        default=2, ge=1, le=1024, description="CPU threads of torch. Changing it changes rounding: stages run again."
    )
    exact: Literal[True, False, "auto"] = Field(
        default="auto",
        description="true: results do not depend, to the bit, on what is batched together, so rl.num_envs never "
        "changes them; false: prompts with a common prefix are packed, which is faster and "
        "changes results by rounding. auto: exact for models from scratch on a CPU.",
    )
    tokens: int = Field(
        default=0,
        ge=0,
        description="Maximum tokens in a forward pass, unless a single prompt is longer; lower it for a large model. "
        "0: a default for the device (packed: 600 on a CPU, 2,048 on mps, 4,096 on cuda; exact: 2,048, 8,192, 32,768, "
        "and with gradients what fits into about 192 MiB). Halved, with a warning, when a GPU runs out of memory. "
        "Where prompts are not packed, a reflector decodes reflector.batch of them at once.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute each layer's activations again in the backward pass instead of keeping them: far less "
        "memory, about a third more time, the same results. Pretrained players only.",
    )
    shard: bool = Field(
        default=False,
        description="For a base model that does not fit one GPU: the processes of a launcher share its layers (FSDP2) "
        "instead of the work, which all of them do alike. Pretrained players need lora_rank above 0 and bits 16 or 32.",
    )


class Settings(Section):
    """All settings of a run."""

    seed: int = Field(default=0, ge=0, description="All randomness of the run is derived from it.")
    guard: bool = Field(default=False, description="Also train without reflection; keep the better on the valid tasks.")
    track: Literal["none", "tensorboard", "wandb", "trackio"] = Field(
        default="none", description="Where metrics go besides metrics.jsonl."
    )
    env: EnvSettings = Field(default_factory=EnvSettings)
    collect: CollectSettings = Field(default_factory=CollectSettings)
    select: SelectSettings = Field(default_factory=SelectSettings)
    annotate: AnnotateSettings = Field(default_factory=AnnotateSettings)
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)
    prompt: PromptSettings = Field(default_factory=PromptSettings)
    reflector: ReflectorSettings = Field(default_factory=ReflectorSettings)
    reflector_sft: ReflectorSftSettings = Field(default_factory=ReflectorSftSettings)
    policy: PolicySettings = Field(default_factory=PolicySettings)
    policy_sft: PolicySftSettings = Field(default_factory=PolicySftSettings)
    rl: RlSettings = Field(default_factory=RlSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    compute: ComputeSettings = Field(default_factory=ComputeSettings)

    @property
    def selects(self) -> bool:
        """Whether a strategy picks the states that get reflections."""
        return self.select.strategy != "none" and self.reflector.kind not in ("none", "prompted")

    @property
    def labels_episodes(self) -> bool:
        """Whether whole episodes are labelled, rather than states drawn from all of them."""
        order = self.annotate.order
        return self.prompt.reflections > 0 if order == "auto" else order == "episodes"

    @property
    def served_teacher(self) -> bool:
        """Whether the teacher is a language model behind a server."""
        return self.annotate.teacher == OPENAI

    @model_validator(mode="after")
    def _check(self) -> Settings:
        check(self)
        return self


def setting_keys(section: type[BaseModel] = Settings, prefix: str = "") -> dict[str, Any]:
    """All dotted keys with their pydantic FieldInfo, in the order of a recipe file."""
    keys: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys |= setting_keys(info.annotation, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = info
    return keys
