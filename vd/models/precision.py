"""What a machine computes in.

A study's `dtype` says how its weights are rounded. Many CPUs (without AVX-512, say) and older GPUs
have no instructions for bfloat16 and emulate them: on such a CPU a training step in bfloat16 took
thirty times as long as in float32. There the same weights are held and multiplied in float32.
Replies then differ as between any two machines, and a run's record names its own.
"""


def computed_in(dtype: str):
    """The torch dtype that weights of a study's dtype are held and multiplied in here."""
    import torch

    return torch.bfloat16 if dtype == "bfloat16" and has_bfloat16() else torch.float32


def has_bfloat16() -> bool:
    """Whether this machine, its GPU if there is one, has instructions for bfloat16."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
