"""What is asked: a study, validated on load, and the runs it asks for with their lineage.

A study is one YAML file, `notebooks/configs/<study>.yaml`. All that later stages do follows from
it, so its mistakes are reported before any work starts, as a `StudyError` that names file, key and
fix:

    vd/study_file.py     how the file is written
    this file            what each key may hold, by its type
    vd/study_checks.py   what keys have to do with each other
    vd/study_inputs.py   what has to be there: models, data sets, probes, prompts, methods
"""

import importlib
import ipaddress
import math
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
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

from vd import paths, study_checks, study_file, study_inputs
from vd.study_file import StudyError

OPENAI = "https://api.openai.com/v1"
ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[!-~]*)?", re.ASCII)
WORDS = r"^\S(.*\S)?$"  # on one line, without white space around them


def _once(values: list) -> list:
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{twice[0]} is written twice; remove one")
    return values


def _sampled(temperature: float) -> float:
    if 0 < temperature < 0.01:
        raise ValueError("must be 0 or at least 0.01, for scores are divided by it")
    return temperature


def _has_place(url: str) -> bool:
    """Whether the server's name and port can be some."""
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        if ":" in host or not re.search("[a-z_-]", host):  # numbers
            ipaddress.ip_address(host)
    except ValueError:
        return False
    return port != 0


Count = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_once)]
Steps = Annotated[list[Count], Field(min_length=1), AfterValidator(_once)]
Names = Annotated[list[str], Field(min_length=1), AfterValidator(_once)]
Temperature = Annotated[float, Field(ge=0, le=10), AfterValidator(_sampled)]


class Settings(BaseModel):
    """Base of all settings: unknown keys and wrong types are errors, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # what was given may hold a password
    )


class ModelSettings(Settings):
    """A language model to start from."""

    # hub name, local folder, embedded:<name> or random:<architecture>
    source: str = Field(min_length=1)
    revision: str | None = None  # hub commit; None takes the newest, and the run's record says which
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    prompt_format: Literal["chat", "response"] = "chat"  # the model's chat template, or "{question}\nResponse:"


class Lora(Settings):
    """Low-rank adapters on all linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    r: Count = 16
    alpha: Count = 32
    dropout: float = Field(0.0, ge=0, lt=1)


class Optimisation(Settings):
    """How long and how fast weights are trained."""

    steps: Count | None = None  # optimiser steps; write either these or epochs
    epochs: float | None = Field(None, gt=0, le=10_000)  # passes over the data
    batch_size: Count = 8  # effective: examples (or pairs) per optimiser step
    device_batch_size: Count | None = None  # examples per forward pass; None takes batch_size
    learning_rate: PositiveFloat
    schedule: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    warmup_steps: int = Field(0, ge=0, lt=2**31)
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
    examples: Count | None = None  # a seeded subset of that size; None takes all
    save_every: Count  # checkpoint spacing in steps; step 0 and the last step are always kept
    max_length: Count = 256  # tokens of prompt and reply together; longer ones are cut at the end
    lora: Lora | None = Lora()  # null trains all weights


class PreferenceSettings(TrainingSettings):
    """What every preference method needs on top."""

    swap_labels: bool = False  # exchange chosen and rejected


class Probing(Settings):
    """How every checkpoint is asked."""

    probes: str = "probes"  # an embedded probe set, or a .jsonl file with the columns that vd.data.probes names
    per_topic: Count | None = None  # a seeded draw of that many probes per topic; None asks all
    samples: Count = 5  # replies per probe
    temperature: Temperature = 0.7  # 0 decodes greedily
    max_new_tokens: Count = 256
    batch_size: Count = 32
    # steps to ask, beside the last, from which children start; step 0 always comes from the parent
    checkpoints: Literal["all", "last"] | Steps = "all"


class ServerSettings(Settings):
    """An OpenAI-compatible server, and how it is asked.

    Keys that change no answer are left out when settings are written down or hashed, so changing them re-runs nothing.
    """

    # the name that the server gives it; a dated one, since what others mean changes
    model: str = Field(min_length=1, pattern=WORDS)
    base_url: str = OPENAI  # mostly ends in /v1
    # the name by which it signs its answers, where that is another: an alias, a deployment
    answers_as: str | None = Field(None, min_length=1, pattern=WORDS, exclude=True)
    max_in_flight: PositiveInt = Field(32, exclude=True)  # requests at a time
    # seconds per request, from sending it to the last byte of its answer
    timeout: PositiveFloat = Field(60.0, exclude=True, le=86400)
    retries: int = Field(10, ge=0, exclude=True)  # after 408, 409, 429, 5xx, lost connections and broken replies
    price_in: float = Field(0.0, ge=0, exclude=True)  # dollars for a million prompt tokens
    price_out: float = Field(0.0, ge=0, exclude=True)  # dollars for a million reply tokens
    budget_dollars: float | None = Field(None, ge=0, exclude=True)  # of a study in all its runs; None sets no limit
    budget_calls: int | None = Field(None, ge=0, exclude=True)

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        if re.search(r"[?#@]", url):
            raise ValueError("write the address alone; a key goes into OPENAI_API_KEY")
        if not ADDRESS.fullmatch(url) or not _has_place(url):
            raise ValueError("write http:// or https://, the server's name, and mostly /v1")
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

    # encoder that the offline judge is trained from
    source: str = Field("embedded:minilm", min_length=1)
    epochs: Count = 5
    learning_rate: PositiveFloat = 5.0e-5
    batch_size: Count = 16
    max_length: int = Field(384, ge=8, lt=2**31)  # tokens of question and reply together
    # a seeded subset to train on, of at least 1,500 rows; None takes the whole judge corpus
    examples: int | None = Field(None, gt=0, le=1500)
    seed: Seed = 0
    api: ApiJudgeSettings | None = None  # a second judge, asked for a share of the replies or all of them


class VPrismSettings(Settings):
    """How probes are built from opening prompts (vd/vprism.py); by default from our own, to show the steps."""

    source: Names = ["probes", "sft_neutral"]  # data sets of vd.data with prompts
    filters: dict[str, str | bool | int | float | list[str]] = {}  # of a public source, as vd/public.py names them
    embedding: ModelSettings = ModelSettings(source="embedded:minilm", dtype="float32")
    # UMAP; PRISM's, as are the next and min_cluster_size 80
    n_neighbors: int = Field(15, ge=2, le=1000)
    n_components: int = Field(20, ge=1, le=100)  # UMAP
    min_cluster_size: int = Field(12, ge=2, lt=2**31)  # HDBSCAN
    topic_similarity: float = Field(0.5, gt=-1, lt=1)  # least cosine between a cluster's centre and a topic's
    duplicate_similarity: float = Field(0.9, gt=0, le=1)  # questions that close are one
    per_topic: Count = 50
    seed: Seed = 42  # PRISM's
    writer: ServerSettings | None = None  # reads and rewrites prompts; None: kept labels and rules


class Bootstrap(Settings):
    """Intervals of the drift tables."""

    resamples: int = Field(2000, gt=0, le=100_000)
    alpha: float = Field(0.05, ge=1e-4, le=0.5)  # intervals cover 1 - alpha
    seed: Seed = 0


class Ablation(Settings):
    """Preference runs that differ in one key, drawn against it."""

    key: str  # a key of the runs' settings, such as kl_coef
    runs: Annotated[Names, Field(min_length=2)]  # lineages, as in Roles


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
    seeds: Seeds
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
        settings = {
            (section, name): _method_settings(section, entry)
            for section, entries in (("sft", self.sft), ("preference", self.preference))
            for name, entry in entries.items()
        }
        found = {}
        for model in self.models:
            for seed in self.seeds:
                for run in self._lineage(model, seed, settings):
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

    def _lineage(self, model: str, seed: int, settings: dict):
        def make(phase, name, entry, parent, folder):
            return Run(
                study=self.name,
                model=model,
                model_settings=self.models[model],
                phase=phase,
                name=name,
                method=entry.get("method", "sft") if phase != "base" else None,
                settings=settings.get((phase, name)),
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


class Lineage(Settings):
    """Keys of a preference entry that no method has: where runs start, and with which seeds."""

    method: str
    parent: str | Names
    seeds: Seeds = [0]  # left out: all of the study


def load_study(name: str) -> Study:
    """Read and validate `notebooks/configs/<name>.yaml`; raises StudyError with file, key and fix."""
    name = str(name)  # Snakemake makes a number of `--config study=2024`
    path = study_file.find(name)
    content = study_file.read(path)
    if "name" in content:
        raise StudyError(f"{path}: name: remove it; a study is named by its file")
    try:
        study = Study(name=name, **content)
    except ValidationError as error:
        raise study_file.error(path, study_file.explain("", content, error)) from None
    mistakes = list(study_checks.of_study(study))
    for section, entries in (("sft", study.sft), ("preference", study.preference)):
        for entry_name, entry in entries.items():
            mistakes += _mistakes(section, entry_name, entry)
    mistakes = mistakes or list(study_checks.of_runs(study, study.runs()))
    if mistakes:
        raise study_file.error(path, mistakes)
    return study


def _parents(entry: dict) -> list[str]:
    parent = entry["parent"]
    return parent if isinstance(parent, list) else [parent]


def _mistakes(section: str, name: str, entry: dict) -> list[tuple[str, str]]:
    """What is wrong with an entry by itself: (key, mistake and fix)."""
    key = f"{section}.{study_file.word(name)}"
    try:
        if section == "preference":
            Lineage(**{k: v for k, v in entry.items() if k in Lineage.model_fields})
        _method_settings(section, entry)
    except ValidationError as error:
        return list(study_file.explain(key, entry, error))
    except LookupError as error:
        return [(f"{key}.method", error.args[0])]
    return []


def _method_settings(section: str, entry: dict) -> TrainingSettings:
    """The settings of a run, checked by its method's; LookupError says why there is no method."""
    settings = _settings_class(section, entry.get("method", "sft"))
    return settings(**{k: v for k, v in entry.items() if k not in Lineage.model_fields})


def _settings_class(section: str, method: str) -> type[TrainingSettings]:
    known, file = study_inputs.methods(), f"vd/methods/{method}.py"
    if method not in known:
        new = isinstance(method, str) and method.isidentifier() and not (paths.ROOT / file).exists()
        raise LookupError(
            f"no method {study_file.shown(method)}; write one of {', '.join(known)}"
            + (f", or add {file} with Settings and train" if new else "")
        )
    try:
        module = importlib.import_module(f"vd.methods.{method}")
    except Exception as error:  # somebody's own method
        said = study_file.word(" ".join(f"{type(error).__name__}: {error}".split()))
        raise LookupError(f"{file} cannot be imported ({said}); correct it") from None
    if not (isinstance(module.Settings, type) and issubclass(module.Settings, TrainingSettings)):
        bases = "TrainingSettings or PreferenceSettings"
        raise LookupError(f"{file}: Settings must build on {bases}")
    if issubclass(module.Settings, PreferenceSettings) != (section == "preference"):
        others = ", ".join(name for name in known if name != "sft")
        fit = "sft takes sft" if section == "sft" else f"write one of {others}"
        raise LookupError(f"'{method}' is not a method of this section; {fit}")
    if section == "preference" and not hasattr(module, "CURVES"):
        raise LookupError(f"{file} has no CURVES, the metrics that 02_preference draws; add them")
    return module.Settings
