"""What is asked: a study, validated on load, and the runs it asks for with their lineage.

A study is one YAML file, `notebooks/configs/<study>.yaml`. Everything that later stages do follows from it, so mistakes
in its keys are reported here, before any work starts, as a `StudyError` that names the file, the key and the fix.
"""

import importlib
import math
import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vd import paths, public

OPENAI = "https://api.openai.com/v1"


class StudyError(ValueError):
    """A mistake in a study file: which file, which key, what to write instead."""


class Settings(BaseModel):
    """Base of all settings: unknown keys and wrong types are errors, values never change after loading."""

    # what was given is not quoted: it may hold a password
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class ModelSettings(Settings):
    """A language model to start from."""

    source: str  # hub name, local folder, embedded:<name> or random:<architecture>
    revision: str | None = None  # hub commit; None takes the newest, and the run's record says which
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    prompt_format: Literal["chat", "response"] = "chat"  # the model's chat template, or "{question}\nResponse:"


class Lora(Settings):
    """Low-rank adapters on all linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: float = Field(0.0, ge=0, lt=1)


class Optimisation(Settings):
    """How long and how fast weights are trained."""

    steps: PositiveInt | None = None  # optimiser steps; write either these or epochs
    epochs: PositiveFloat | None = None  # passes over the data
    batch_size: PositiveInt = 8  # effective: examples (or pairs) per optimiser step
    device_batch_size: PositiveInt | None = None  # examples per forward pass; None takes batch_size
    learning_rate: PositiveFloat
    schedule: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _one_length(self):
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("length", "write either steps or epochs")
        return self

    @field_validator("device_batch_size")
    @classmethod
    def _divides(cls, size: int | None, others) -> int | None:
        if size and others.data.get("batch_size", size) % size:
            raise ValueError(f"must divide batch_size {others.data['batch_size']}")
        return size

    @property
    def length(self) -> str:
        """How long to train, in words."""
        return f"{self.steps} steps" if self.steps else f"{self.epochs:g} epochs"

    def total_steps(self, n_examples: int) -> int:
        """Optimiser steps on a data set of that size; the last step of every epoch may be a short one."""
        return self.steps or math.ceil(self.epochs * math.ceil(n_examples / self.batch_size))


class TrainingSettings(Optimisation):
    """What every training method needs; a method's own `Settings` add its keys (see vd/methods)."""

    data: str  # a data set of vd.data
    filters: dict[str, str | bool | int | float] = {}  # of a public data set, as vd/public.py names them
    examples: PositiveInt | None = None  # a seeded subset of that size; None takes all
    save_every: PositiveInt  # checkpoint spacing in steps; step 0 and the last step are always kept
    max_length: PositiveInt = 256  # tokens of prompt and reply together; longer ones are cut at the end
    lora: Lora | None = Lora()  # null trains all weights


class PreferenceSettings(TrainingSettings):
    """What every preference method needs on top."""

    swap_labels: bool = False  # exchange chosen and rejected


class Probing(Settings):
    """How every checkpoint is asked."""

    probes: str = "probes"  # an embedded probe set, or a .jsonl file with the columns that vd.data.probes names
    per_topic: PositiveInt | None = None  # a seeded draw of that many probes per topic; None asks all
    samples: PositiveInt = 5  # replies per probe
    temperature: float = Field(0.7, ge=0)  # 0 decodes greedily
    max_new_tokens: PositiveInt = 256
    batch_size: PositiveInt = 32
    checkpoints: Literal["all", "last"] | list[PositiveInt] = "all"  # steps to ask; step 0 always comes from the parent


class ServerSettings(Settings):
    """An OpenAI-compatible server, and how it is asked.

    Keys that change no answer are left out when settings are written down or hashed, so changing them re-runs nothing.
    """

    model: str = Field(min_length=1)  # the name that the server gives it; a dated one, since others change
    base_url: str = OPENAI  # mostly ends in /v1
    answers_as: str | None = Field(None, exclude=True)  # its name in answers, where the server knows it by another
    max_in_flight: PositiveInt = Field(32, exclude=True)  # requests at a time
    timeout: PositiveFloat = Field(60.0, exclude=True, le=86400)  # seconds per request, from sending to the last byte
    retries: int = Field(10, ge=0, exclude=True)  # after 408, 409, 429, 5xx, lost connections and broken replies
    price_in: float = Field(0.0, ge=0, exclude=True)  # dollars for a million prompt tokens
    price_out: float = Field(0.0, ge=0, exclude=True)  # dollars for a million reply tokens
    budget_dollars: float | None = Field(None, ge=0, exclude=True)  # of a study in all its runs; None sets no limit
    budget_calls: int | None = Field(None, ge=0, exclude=True)

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        if re.search(r"[?#@]", url):
            raise PydanticCustomError(
                "secret", "write the address alone, without name, password, '?' or '#'; the key goes into OPENAI_API_KEY"
            )
        if not re.fullmatch(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[!-~]*)?", url, re.ASCII):
            raise ValueError("write http:// or https://, the server's name and mostly /v1, without spaces")
        if url.rstrip("/").endswith("/completions"):
            raise ValueError("leave out what follows /v1")
        return url

    @model_validator(mode="after")
    def _priced(self):
        if self.budget_dollars is not None and not self.price_in + self.price_out:
            raise PydanticCustomError("price", "budget_dollars needs price_in and price_out")
        return self


class ApiJudgeSettings(ServerSettings):
    """A judge behind an API, on top of the offline one."""

    prompt: str = "stance-v1"  # a file of vd/prompts
    share: float = Field(1.0, gt=0, le=1)  # of the replies, drawn at random; the offline judge scores all
    temperature: float = Field(0.0, ge=0)
    votes: PositiveInt = 5  # answers per reply where the server gives no log-probabilities
    vote_temperature: float = Field(1.0, ge=0)
    seed: int = 0  # of the draw and of the requests
    batch: bool = Field(False, exclude=True)  # the Batch API: half the price, within a day


class JudgeSettings(Settings):
    """Who tells support from neutral from oppose."""

    source: str = "embedded:minilm"  # encoder that the offline judge is trained from
    epochs: PositiveInt = 5
    learning_rate: PositiveFloat = 5.0e-5
    batch_size: PositiveInt = 16
    max_length: PositiveInt = 384  # tokens of question and reply together
    examples: PositiveInt | None = None  # train on a seeded subset; None takes the whole judge corpus
    seed: int = 0
    api: ApiJudgeSettings | None = None  # a second judge, asked for a share of the replies or all of them


class VPrismSettings(Settings):
    """How probes are built from opening prompts (vd/vprism.py); by default from our own, to show the steps."""

    source: list[str] = ["probes", "sft_neutral"]  # data sets of vd.data with prompts
    filters: dict[str, str | bool | int | float | list[str]] = {}  # of a public source, as vd/public.py names them
    embedding: ModelSettings = ModelSettings(source="embedded:minilm", dtype="float32")
    n_neighbors: PositiveInt = 15  # UMAP; PRISM's, as are the next and min_cluster_size 80
    n_components: PositiveInt = 20  # UMAP
    min_cluster_size: PositiveInt = 12  # HDBSCAN
    topic_similarity: float = Field(0.5, gt=-1, lt=1)  # least cosine between a cluster's centre and a topic's
    duplicate_similarity: float = Field(0.9, gt=0, le=1)  # questions that close are one
    per_topic: PositiveInt = 50
    seed: int = 42  # PRISM's
    writer: ServerSettings | None = None  # reads and rewrites prompts; None: kept labels and rules


class Bootstrap(Settings):
    """Intervals of the drift tables."""

    resamples: PositiveInt = 2000
    alpha: float = Field(0.05, gt=0, lt=1)
    seed: int = 0


class Ablation(Settings):
    """Preference runs that differ in one key, drawn against it."""

    key: str  # a key of the runs' settings, such as kl_coef
    runs: list[str] = Field(min_length=2)  # lineages, as in Roles


class Roles(Settings):
    """Which run plays which part in the paper's findings (vd/findings.py); findings without their runs are left out.

    A run is named by its lineage without model and seed: `SFT run` or `SFT run/preference run`.
    """

    sft_neutral: str | None = None  # SFT on replies that take no side
    sft_support: str | None = None  # SFT on replies that take the question's side
    low_gap: str | None = None  # preference run on low-gap pairs
    dpo: str | None = None  # DPO on support-aligned value-gap pairs, from an SFT run that favours support
    dpo_oppose: str | None = None  # the same with labels switched
    simpo: str | None = None  # as dpo
    ppo: str | None = None  # as dpo
    dpo_neutral: str | None = None  # as dpo, but from an SFT run that takes no side, so that a drift has room
    simpo_neutral: str | None = None
    ppo_neutral: str | None = None
    ppo_small_kl: str | None = None
    ppo_large_kl: str | None = None
    low_gap_data: str | None = None  # data sets
    value_gap_data: str | None = None


class Run(Settings):
    """One trajectory: a model under one training method, or the untrained base model, with one seed."""

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


class Study(Settings):
    """A whole study. `runs()` expands it to every run of every model and seed, parents first."""

    name: str
    seeds: list[int] = Field(min_length=1)
    models: dict[str, ModelSettings] = Field(min_length=1)
    sft: dict[str, dict] = Field(min_length=1)
    preference: dict[str, dict] = {}
    vprism: VPrismSettings = VPrismSettings()
    probing: Probing = Probing()
    judge: JudgeSettings = JudgeSettings()
    bootstrap: Bootstrap = Bootstrap()
    ablations: dict[str, Ablation] = {}
    findings: Roles = Roles()

    def runs(self) -> dict[str, Run]:
        """All runs by id, every parent before its children."""
        found = {}
        for model in self.models:
            for seed in self.seeds:
                for run in self._lineage(model, seed):
                    found[run.id] = run
        return found

    @property
    def asks_vprism(self) -> bool:
        """Whether the probes are the V-PRISM that the study builds, results/<study>/vprism.jsonl."""
        return paths.data_file(self.probing.probes) == paths.vprism(self.name)

    def run(self, run_id: str) -> Run:
        """The run with this id."""
        runs = self.runs()
        if run_id not in runs:
            raise StudyError(f"{paths.config(self.name)}: no run '{run_id}'; its runs are {', '.join(runs)}")
        return runs[run_id]

    def _lineage(self, model: str, seed: int):
        def make(phase, name, entry, parent, folder):
            method = entry.get("method", "sft") if entry else None
            settings = _method_settings(self.name, f"{phase}.{name}", entry) if entry else None
            return Run(
                study=self.name,
                model=model,
                model_settings=self.models[model],
                phase=phase,
                name=name,
                method=method,
                settings=settings,
                seed=seed,
                parent=parent,
                id=f"{folder}/seed-{seed}",
            )

        base = make("base", "base", None, None, f"{model}/base")
        yield base
        for name, entry in self.sft.items():
            yield make("sft", name, entry, base.id, f"{model}/{name}")
        for name, entry in self.preference.items():
            for parent in _parents(entry) if seed in entry.get("seeds", self.seeds) else []:
                yield make("preference", name, entry, f"{model}/{parent}/seed-{seed}", f"{model}/{parent}/{name}")


def load_study(name: str) -> Study:
    """Read and validate `notebooks/configs/<name>.yaml`; raises StudyError with file, key and fix."""
    path = paths.config(name)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in paths.configs().glob("*.yaml")))
        raise StudyError(f"{path}: no such study; there are {known}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: empty or not a mapping; start from {paths.config('smoke')}")
    if "name" in content:
        raise StudyError(f"{path}: name: remove it; a study is named by its file")
    try:
        study = Study(name=name, **content)
    except ValidationError as error:
        raise StudyError(_explain(path, "", error)) from None
    _check(path, study)
    return study


def _check(path: Path, study: Study) -> None:
    """Checks that need more than one key: names, parents, and each method's own settings."""
    for section, entries in (("models", study.models), ("sft", study.sft), ("preference", study.preference)):
        for name in entries:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "base" or name.startswith("seed-"):
                raise StudyError(
                    f"{path}: {section}.{name}: not a run name; use letters, digits, '-', '_' and '.', and "
                    "neither 'base' nor 'seed-...'"
                )
    if study.judge.api and not (prompt := paths.prompt(study.judge.api.prompt)).exists():
        raise StudyError(f"{path}: judge.api.prompt: no file {prompt}; write stance-v1 or add it")
    for name, entry in study.preference.items():
        if "method" not in entry:
            raise StudyError(f"{path}: preference.{name}.method: missing; write method: dpo")
        if not _parents(entry):
            raise StudyError(
                f"{path}: preference.{name}.parent: missing; write the SFT run it starts from, one of "
                f"{', '.join(study.sft)}"
            )
        for parent in _parents(entry):
            if parent not in study.sft:
                raise StudyError(
                    f"{path}: preference.{name}.parent: no SFT run '{parent}'; there are {', '.join(study.sft)}"
                )
        if not set(entry.get("seeds", [])) <= set(study.seeds):
            raise StudyError(f"{path}: preference.{name}.seeds: {entry['seeds']} are not all among seeds {study.seeds}")
    runs = study.runs()
    lineages = {run.lineage for run in runs.values()}
    named = {f"findings.{role}": [run] for role, run in study.findings if run and not role.endswith("_data")}
    named |= {f"ablations.{name}.runs": ablation.runs for name, ablation in study.ablations.items()}
    for key, wanted in named.items():
        for lineage in wanted:
            if lineage not in lineages:
                raise StudyError(f"{path}: {key}: no run '{lineage}'; there are {', '.join(sorted(lineages))}")
    for name, ablation in study.ablations.items():
        for run in runs.values():
            if run.lineage in ablation.runs and not hasattr(run.settings, ablation.key):
                raise StudyError(f"{path}: ablations.{name}.key: '{ablation.key}' is not a key of {run.lineage}")
    for name in study.vprism.source:
        if not _is_data(name):
            raise StudyError(f"{path}: vprism.source: no data set '{name}'; write one of {_known()}")
        _check_filters(f"{path}: vprism", name, study.vprism.filters)
    for run in runs.values():
        if run.settings:
            _check_data(f"{path}: {run.phase}.{run.name}", run)
        if run.phase == "preference" and run.settings.lora != runs[run.parent].settings.lora:
            raise StudyError(
                f"{path}: preference.{run.name}.lora: differs from that of its parent "
                f"{run.parent.split('/')[1]}, whose adapters it trains on; write the same"
            )


def _check_data(place: str, run: Run) -> None:
    """The data set of a run is known, of the right kind, and has the filters that are set."""
    name = run.settings.data
    if not _is_data(name):
        raise StudyError(f"{place}.data: no data set '{name}'; write one of {_known()}")
    if name in public.PUBLIC and public.PUBLIC[name].kind != run.phase:
        fit = ", ".join(other for other, entry in public.PUBLIC.items() if entry.kind == run.phase)
        raise StudyError(f"{place}.data: '{name}' holds {public.PUBLIC[name].kind} data; of public sets write {fit}")
    _check_filters(place, name, run.settings.filters)


def _check_filters(place: str, name: str, filters: dict) -> None:
    if unknown := set(filters) - set(public.filters_of(name)):
        known = ", ".join(public.filters_of(name)) or "none: remove the key"
        raise StudyError(f"{place}.filters: '{name}' has no {', '.join(sorted(unknown))}; its filters are {known}")


def _is_data(name: str) -> bool:
    """Whether a data set may have this name; a .jsonl file need not be there before its run starts."""
    return name in public.PUBLIC or name.endswith(".jsonl") or (paths.CORPORA / f"{name}.jsonl").exists()


def _known() -> str:
    ours = sorted(file.stem for file in paths.CORPORA.glob("*.jsonl"))
    return f"{', '.join([*ours, *public.PUBLIC])} or the path of a .jsonl file"


def _parents(entry: dict) -> list[str]:
    parent = entry.get("parent", [])
    return parent if isinstance(parent, list) else [parent]


def _method_settings(study: str, key: str, entry: dict) -> TrainingSettings:
    """The settings of a run, checked by the `Settings` class of its method, which is found by name."""
    path, method = paths.config(study), entry.get("method", "sft")
    try:
        settings = importlib.import_module(f"vd.methods.{method}").Settings
    except ModuleNotFoundError as error:
        if error.name != f"vd.methods.{method}":
            raise
        raise StudyError(f"{path}: {key}.method: no file vd/methods/{method}.py; add it or correct the name") from None
    if issubclass(settings, PreferenceSettings) != key.startswith("preference."):
        raise StudyError(f"{path}: {key}.method: '{method}' is not a method of this section; sft takes sft")
    try:
        return settings(**{k: v for k, v in entry.items() if k not in ("method", "parent", "seeds")})
    except ValidationError as error:
        raise StudyError(_explain(path, key, error)) from None


def _explain(path: Path, prefix: str, error: ValidationError) -> str:
    """All mistakes, one a line: file, key, what is wrong, what to write."""
    keys = [".".join([*prefix.split("."), *map(str, e["loc"])]).strip(".") for e in error.errors()]
    return "\n".join(f"{path}: {key}: {_fix(e)}" for key, e in zip(keys, error.errors(), strict=True))


def _fix(e: dict) -> str:
    given = e.get("input")
    if e["type"] in ("length", "secret"):
        return e["msg"]
    if e["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if e["type"] == "missing":
        return "missing; add it"
    if isinstance(given, str) and e["type"].startswith(("float", "int", "greater_than")):
        try:
            mantissa, _, exponent = given.lower().partition("e")
            wanted = f"{float(mantissa)}e{int(exponent)}" if exponent else repr(float(mantissa))
        except ValueError:
            return f"'{given}' is not a number"
        return f"YAML reads '{given}' as a string; write {wanted}"
    return f"{e['msg']} (got {given!r})"
