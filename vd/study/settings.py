"""What each key of a study may hold, by its type; a method's own keys stand in its file."""

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    PositiveFloat,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vd.study.servers import ApiJudgeSettings, ServerSettings
from vd.study.types import Count, Names, Seed, Settings, Steps, Temperature


class ModelSettings(Settings):
    """A language model to start from."""

    # hub name, local folder, embedded:<name> or random:<architecture>
    source: str = Field(min_length=1)
    revision: str | None = (
        None  # hub commit; None takes the newest, and the run's record says which
    )
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    # the model's chat template, or "{question}\nResponse:"
    prompt_format: Literal["chat", "response"] = "chat"


class MethodSettings(Settings):
    """What the settings of every method are, trained here or not."""


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
        # a batch_size that was refused is not in `data`, and is reported by itself
        if size and others.data.get("batch_size", size) % size:
            raise ValueError(f"must divide batch_size {others.data['batch_size']}")
        return size

    @property
    def length(self) -> str:
        """How long to train, in words."""
        return f"{self.steps} steps" if self.steps else f"{self.epochs:g} epochs"


class Expected(Settings):
    """What a run has to find before its first step, so that no expensive one is another."""

    rows: Count | None = None  # that are read
    steps: Count | None = None  # of the optimiser
    warmup: float | None = Field(None, ge=0, le=1)  # share of the steps
    processes: Count | None = None


class Others(Settings):
    """Rows that are mixed in, such as pairs of people who choose otherwise."""

    data: str  # a data set of the same kind
    share: float = Field(gt=0, lt=1)  # of all rows, in place of as many of the run's own


class TrainingSettings(Optimisation, MethodSettings):
    """What every training method needs; a method's own `Settings` add its keys (see vd/methods)."""

    # keys by which a run draws its rows
    drawn_by: ClassVar[set[str]] = {"data", "filters", "examples", "others"}

    data: str  # a data set of vd.data
    # of a public data set, as its file in vd/data/public names them
    filters: dict[str, str | bool | int | float] = {}
    examples: Count | None = None  # a seeded subset of that size; None takes all
    others: Others | None = None
    save_every: Count  # checkpoint spacing in steps; step 0 and the last step are always kept
    save_at: Steps | None = None  # further steps that are kept, such as early ones: [1, 2, 4, 8]
    max_length: Count = 256  # tokens of prompt and reply together; longer ones are cut at the end
    lora: Lora | None = Lora()  # null trains all weights
    # keep fewer activations and compute them again: less memory, steps a third longer
    activation_checkpointing: bool = False
    # that train the run together, each on a GPU of its own; batches and steps stay the same
    processes: Count = 1

    expect: Expected | None = Field(None, exclude=True)  # it changes nothing, and may stop a run
    # what stays of checkpoints that were asked, and where copies go: vd/training/retention.py
    keep: Literal["all", "deltas", "ends"] = Field("all", exclude=True)
    push_to: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", exclude=True)

    @property
    def devices(self) -> int:
        """GPUs that the run takes."""
        return self.processes

    @property
    def data_sets(self) -> list[str]:
        """All that it trains on."""
        return [self.data, *([self.others.data] if self.others else [])]

    @property
    def device_batch(self) -> int:
        """Examples of a forward pass of one process."""
        return self.device_batch_size or self.batch_size // self.processes

    @field_validator("processes")
    @classmethod
    def _share(cls, processes: int, others) -> int:
        # what was refused is not in `data`, and is reported by itself
        batch, device = (others.data.get(key) for key in ("batch_size", "device_batch_size"))
        if batch and batch % (processes * (device or 1)):
            what = f"processes times device_batch_size {device}" if device else "processes"
            raise ValueError(f"{what} must divide batch_size {batch}")
        return processes


Bias = Literal["longer", "formal", "labelled"]


class Planted(Settings):
    """A bias that is planted in labels, see vd/data/planted.py."""

    prefers: Bias
    strength: float = Field(ge=0, le=1)  # share of the pairs that it decides
    otherwise: Literal["coin", "label"] = "coin"  # who decides the rest


class PreferenceSettings(TrainingSettings):
    """What every preference method needs on top."""

    swap_labels: bool = False  # exchange chosen and rejected
    planted: Planted | None = None  # a bias of known size in place of labels
    # what chosen replies of aligned pairs support; a proposition takes pairs with a polarity
    aligned_with: Literal["question", "proposition"] = "question"
    # tokens of a reply that are read; null reads all. As long as a rollout, for an equal exposure
    response_length: Count | None = None


class RolloutSettings(PreferenceSettings):
    """What methods need that write replies while they train, and those that score such replies."""

    # both as in TRL's PPOConfig
    response_length: Count = 53  # tokens of a rollout
    # never 0: rollouts are drawn, and scores are divided by it
    temperature: float = Field(0.7, ge=0.01, le=10)  # at which rollouts are sampled
    processes: Literal[1] = 1  # TRL's PPO and our reward model train on one GPU

    @model_validator(mode="after")
    def _leaves_room(self):
        # max_length counts prompt and rollout together
        if self.response_length >= self.max_length:
            why = "response_length must be below max_length, or no prompt has room"
            raise PydanticCustomError("length", why)
        return self


class Probing(Settings):
    """How every checkpoint is asked."""

    # an embedded probe set, or a .jsonl file with the columns that vd/data/probes.py names
    probes: str = "probes"
    per_topic: Count | None = None  # a seeded draw of that many probes per topic; None asks all
    samples: Count = 5  # replies per probe
    temperature: Temperature = 0.7  # 0 decodes greedily
    max_new_tokens: Count = 256
    batch_size: Count = 32
    # what writes replies: transformers here, or a vLLM server (vd/probing/vllm.py), whose random
    # numbers are others
    engine: Literal["transformers", "vllm"] = "transformers"
    # steps to ask, beside the last, from which children start; step 0 always comes from the parent
    checkpoints: Literal["all", "last"] | Steps = "all"
    # whether Yes against No is read at every checkpoint that was saved, see vd/probing/logits.py;
    # left out where settings are hashed, since it changes no reply
    logits: bool = Field(True, exclude=True)


class EvaluationSettings(Settings):
    """What every evaluation takes; its own `Settings` add keys (see vd/evaluations/run.py)."""

    # False: the replies suffice, and no weights are loaded
    asks_model: ClassVar[bool] = True
    # True: a run is compared with its own start, so that a parent's rows are not the child's
    from_start: ClassVar[bool] = False

    checkpoints: Literal["ends", "all"] = "ends"  # the first and last one, or all that were probed
    runs: Names | None = None  # their lineages, where an evaluation costs much; None takes all


class JudgeSettings(Settings):
    """Who tells support from neutral from oppose."""

    # encoder that the offline judge is trained from
    source: str = Field("embedded:minilm", min_length=1)
    epochs: Count = 5
    learning_rate: PositiveFloat = 5.0e-5
    batch_size: Count = 16
    max_length: int = Field(384, ge=8, lt=2**31)  # tokens of question and reply together
    # A seeded subset to train on; at least 1,500 rows are left whichever questions are held out.
    # None takes all others.
    examples: int | None = Field(None, gt=0, le=1500)
    seed: Seed = 0
    # judges that differ in the seed of their training: stances are their mean, and how far their
    # drifts are apart is told
    members: Count = 1
    api: ApiJudgeSettings | None = (
        None  # a second judge, asked for a share of the replies or all of them
    )


class VPrismSettings(Settings):
    """How probes are built from opening prompts (vd/data/vprism).

    By default from our own, to show the steps.
    """

    source: Names = ["probes", "sft_neutral"]  # data sets of vd.data with prompts
    # of a public source, as its file in vd/data/public names them
    filters: dict[str, str | bool | int | float | list[str]] = {}
    embedding: ModelSettings = ModelSettings(source="embedded:minilm", dtype="float32")
    # UMAP; PRISM's, as are the next and min_cluster_size 80
    n_neighbors: int = Field(15, ge=2, le=1000)
    n_components: int = Field(20, ge=1, le=100)  # UMAP
    min_cluster_size: int = Field(12, ge=2, lt=2**31)  # HDBSCAN
    topic_similarity: float = Field(
        0.5, gt=-1, lt=1
    )  # least cosine between a cluster's centre and a topic's
    duplicate_similarity: float = Field(0.9, gt=0, le=1)  # questions that close are one
    per_topic: Count = 50
    seed: Seed = 42  # PRISM's
    writer: ServerSettings | None = None  # reads and rewrites prompts; None: kept labels and rules


class WriterSettings(ServerSettings):
    """A server that writes the replies of a recipe."""

    temperature: Temperature | None = None  # None takes the recipe's
    top_p: float = Field(1.0, gt=0, le=1)
    sends_seed: bool = True  # false for servers that do not know the key


class RecipeSettings(Settings):
    """How a data set is made during a study; a recipe's own keys stand in its file.

    See vd/recipes/kinds.
    """

    recipe: str  # a file of vd/recipes/kinds
    # a run, by its lineage (of the first model and seed) or its whole id, or a server
    writer: str | WriterSettings
    judge: bool = True  # whether the study's judge checks what was written
    seed: Seed = 0
    size: Count | None = None  # prompts that are asked, topics by turns; None asks all
    temperature: Temperature = 0.7  # 0 takes the likeliest words
    max_new_tokens: Count = 200  # of a reply
    batch_size: Count = 32  # replies at a time, where a run writes


class Bootstrap(Settings):
    """Intervals of the drift tables."""

    resamples: int = Field(2000, gt=0, le=100_000)
    alpha: float = Field(0.05, ge=1e-4, le=0.5)  # intervals cover 1 - alpha
    seed: Seed = 0


class Ablation(Settings):
    """Preference runs that differ in one key, drawn against it."""

    key: str  # a key of the runs' settings, such as kl_coef
    runs: Annotated[Names, Field(min_length=2)]  # lineages: SFT run/preference run
