"""Settings of labels: which states are labelled, by whom, and how a served teacher is asked."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from reflect_rl.settings.base import Section
from reflect_rl.settings.server import ServerSettings

OPENAI = "openai"
"""The name of the teacher behind a server, as `annotate.teacher`."""
PLACEHOLDERS = ("task", "history", "notes", "observation", "actions", "mistake", "expert", "words")
"""What a teacher's prompt can show, in braces."""


class SelectSettings(Section):
    """The states that the teacher labels."""

    strategy: Literal[
        "none",
        "random",
        "facility-location",
        "k-center",
        "mean-entropy",
        "least-confidence",
        "mean-margin",
        "min-margin",
        "max-token-uncertainty",
        "uncertain-then-diverse",
    ] = Field(
        default="none",
        description="'none': take states in the pool's seeded order; any other strategy picks annotate.reflections "
        "distinct states. The last six rank states by what reflector.model, which must be pretrained, writes before "
        "training.",
    )
    embedding: Literal["words", "cells", "model"] = Field(
        default="words",
        description="How states are compared. 'words': by words and pairs of words; 'cells': by characters and their "
        "positions, for worlds that draw a picture; 'model': by the hidden states of reflector.model, which must be "
        "pretrained.",
    )

    @property
    def by_model(self) -> bool:
        """Whether a model has to read the pool."""
        return self.embedding == "model" or self.strategy not in ("none", "random", "facility-location", "k-center")


class AnnotateSettings(Section):
    """The labels: whose, and how many."""

    teacher: str = Field(
        default="blocked",
        description="Style of the world's scripted teacher; or 'openai', a language model behind a server (see "
        "teacher).",
    )
    actions: int = Field(default=1000, ge=1, description="Budget of action labels (the expert's choice in a state).")
    actions_by: Literal["expert", "teacher"] = Field(
        default="expert",
        description="Who labels actions: the world's expert, or the served teacher, for a world without an expert.",
    )
    reflections: int = Field(
        default=2000, ge=0, description="Budget of reflection labels (the teacher's text for a state)."
    )
    distinct: bool = Field(
        default=False,
        description="Spend the budgets on distinct states; otherwise as the trajectories come, repeats included.",
    )
    order: Literal["auto", "states", "episodes"] = Field(
        default="auto",
        description="What the budgets buy: 'states' drawn from all episodes, or whole 'episodes', which "
        "prompt.reflections needs. 'auto': episodes if prompt.reflections is above 0. In a comparison, all arms label "
        "episodes if the recipe does.",
    )
    holdout: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of the reflection labels kept aside to measure the reflector."
    )


class TeacherSettings(ServerSettings):
    """The served teacher, which `annotate.teacher: openai` asks."""

    temperature: float = Field(
        default=0.7, ge=0, description="Sampling temperature; at 0, asking once more gives the same text."
    )
    reflect: str = Field(
        default="",
        description="The prompt that asks for a reflection; by default the world's, or a general one. @FILE reads it "
        "from a file, when the recipe is loaded. It shows what it names in braces (docs/teachers.md).",
    )
    act: str = Field(default="", description="The prompt that asks for an action, likewise.")
    hint: bool = Field(
        default=True,
        description="Tell the teacher what the expert would do. Reflections that give it away are asked once more.",
    )
    history: int = Field(default=10, ge=0, description="Maximum past steps shown to the teacher.")
    max_words: int = Field(
        default=80, ge=1, description="Longest reflection, in words. Longer ones are asked once more, then left out."
    )
    max_tokens: int = Field(
        default=400, ge=1, description="Tokens after which an answer is cut; models that reason need more."
    )

    @field_validator("reflect", "act")
    @classmethod
    def _names_what_is_known(cls, value: str) -> str:
        unknown = [name for name in re.findall(r"\{(\w+)\}", value) if name not in PLACEHOLDERS]
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"it names {{{unknown[0]}}}, which is unknown; it can show {known}")
        return value
