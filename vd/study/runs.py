"""Runs: one trajectory each, named by its lineage; how their ids are made, read and shown."""

from typing import Literal

from pydantic import (
    SerializeAsAny,
)

from vd.study.settings import ModelSettings, TrainingSettings
from vd.study.types import Settings


class Run(Settings):
    """One trajectory.

    A model under one training method, or the untrained base model, with one seed.
    """

    study: str
    model: str
    model_settings: ModelSettings
    phase: Literal["base", "sft", "preference"]
    name: str
    method: str | None  # module of vd.methods; None for the base model
    settings: SerializeAsAny[TrainingSettings] | None
    seed: int
    parent: str | None  # run id whose last checkpoint is this run's step 0
    id: str

    @property
    def lineage(self) -> str:
        """The run's name in a study: its id without model and seed."""
        return self.id.removeprefix(f"{self.model}/").removesuffix(f"/seed-{self.seed}")
