"""How large a model is, from its config.json; those that a hub keeps back are known here."""

from dataclasses import dataclass

from vd import paths
from vd.store.files import read_json
from vd.study.settings import ModelSettings
from vd.study.sources import TINY


@dataclass(frozen=True)
class Shape:
    """A decoder as Llama, Qwen 3 and Gemma 3 have it: gated MLP, grouped-query attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool  # one matrix for embeddings and output

    @property
    def in_layers(self) -> int:
        """Weights of all layers' matrices."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def output(self) -> int:
        """Weights of the output matrix."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights; norms and biases, a thousandth, are left out."""
        return self.in_layers + self.output * (1 if self.tied else 2)

    @property
    def cache(self) -> int:
        """Bytes of a token's keys and values, in 2 bytes each."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size

    def adapters(self, r: int) -> int:
        """Weights of adapters of rank r on all linear layers but the output: r (in + out) each."""
        wide = self.head_size * self.heads
        narrow = self.head_size * self.kv_heads
        attention = 2 * (self.hidden + wide) + 2 * (self.hidden + narrow)
        return self.layers * r * (attention + 3 * (self.hidden + self.intermediate))


# config.json of models that are embedded, or of which the hub asks for an account
KNOWN = {
    "embedded:smollm2-135m-instruct": Shape(30, 576, 9, 3, 64, 1536, 49152, True),
    "embedded:gemma3-270m": Shape(18, 640, 4, 1, 256, 2048, 262144, True),
    "meta-llama/Llama-3.2-1B": Shape(16, 2048, 32, 8, 64, 8192, 128256, True),
    "meta-llama/Llama-3.2-3B": Shape(28, 3072, 24, 8, 128, 8192, 128256, True),
    "meta-llama/Llama-3.1-8B": Shape(32, 4096, 32, 8, 128, 14336, 128256, False),
    "Qwen/Qwen3-4B-Base": Shape(36, 2560, 32, 8, 128, 9728, 151936, True),
    "Qwen/Qwen3-8B-Base": Shape(36, 4096, 32, 8, 128, 12288, 151936, False),
}


def shape_of(model: ModelSettings) -> Shape:
    """The shape of a study's model.

    LookupError, with the fix, for a model of the hub that is neither known nor fetched.
    """
    kind, _, name = model.source.partition(":")
    if kind == "random":
        return _of_config(TINY[name] | {"vocab_size": 1000, "tie_word_embeddings": False})
    if model.source in KNOWN:
        return KNOWN[model.source]
    folder = paths.data_file(model.source)
    if (folder / "config.json").exists():
        return _of_config(read_json(folder / "config.json"))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(model.source, "config.json", revision=model.revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        fix = "fetch it first, or correct the source"
        raise LookupError(f"'{model.source}': its size is not known: {said}; {fix}") from None
    return _of_config(read_json(file))


def _of_config(config: dict) -> Shape:
    config = config.get("text_config", config)  # models that also read images
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", True),
    )
