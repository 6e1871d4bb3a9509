"""Runs: one trajectory each, a model under one method with one seed."""

from typing import Literal

from pydantic import SerializeAsAny

from vd import lineages
from vd.study.settings import MethodSettings, ModelSettings, TrainingSettings
from vd.study.types import Settings

Reads = Literal["texts", "pairs", "steps", "prompts"]  # readers of vd/data/sets.py
Makes = Literal["policy", "scorer"]  # what is probed and judged, and what gives scores to texts
Section = Literal["base", "sft", "scorers", "preference"]


class Run(Settings):
    """One trajectory: a model under one method, or the untrained base model, with one seed."""

    study: str
    model: str
    model_settings: ModelSettings
    section: Section  # of the study's file
    name: str
    method: str | None  # a file of vd/methods; None for the base model
    reads: Reads | None  # None: it trains on nothing
    makes: Makes
    # Otherwise a dump, and so a record, holds the keys of MethodSettings alone, which has none.
    settings: SerializeAsAny[MethodSettings] | None
    seed: int
    parent: str | None  # run id whose last checkpoint is this run's step 0
    # run id of the scorer that it is trained against, or of the rewriter that it is asked through
    scorer: str | None = None
    id: str

    @property
    def lineage(self) -> str:
        """The run's name in a study: its id without model and seed."""
        return self.id.removeprefix(f"{self.model}/").removesuffix(f"/seed-{self.seed}")

    @property
    def training(self) -> TrainingSettings | None:
        """The settings of a run that is trained here; None for others, such as the base model."""
        return self.settings if isinstance(self.settings, TrainingSettings) else None

    @property
    def is_base(self) -> bool:
        """Whether this is the model as it came."""
        return self.lineage == lineages.BASE
