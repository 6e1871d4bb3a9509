"""What devices can do: their makers' numbers, and the share of them that is assumed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A device; rates without sparsity."""

    name: str
    memory: float  # bytes
    peak: float  # FLOP/s of dense products in bfloat16
    bandwidth: float  # bytes/s
    training: float = 0.40  # share of the peak that training reaches
    writing: float = 0.50  # share of its limits that writing replies reaches
    # a CPU without bfloat16: numbers of 4 bytes, attention is not fused (vd/models/precision.py)
    wide: bool = False
    start: float = 60.0  # seconds until a job has started, its libraries and weights are loaded
    process: float = 0.0  # bytes of a process beside its model, where that is the same memory
    held: float = 1.0  # bytes that are held for a byte of activations in use


CARDS = {
    "a100-40": Card("A100 40 GB", 40e9, 312e12, 1.56e12),
    "a100": Card("A100 80 GB", 80e9, 312e12, 2.04e12),
    "h100": Card("H100 SXM 80 GB", 80e9, 989e12, 3.35e12),
    "h200": Card("H200 141 GB", 141e9, 989e12, 4.8e12),
    "b200": Card("B200 180 GB", 180e9, 2250e12, 7.7e12),
    "l40s": Card("L40S 48 GB", 48e9, 362e12, 0.86e12),
    # one core of an AMD EPYC without AVX-512, of two with 24 GB. Measured: a product of matrices, a
    # process of a tiny model. Set once for all jobs by those of the study `pocket`: the share in
    # training, and what C's allocator holds. A guess: the bandwidth
    "cpu": Card("CPU core", 12e9, 51e9, 12e9, 0.66, 0.50, wide=True, process=0.7e9, held=2.7),
    "rtx4090": Card("RTX 4090 24 GB", 24e9, 165e12, 1.01e12),
}
SPARE = 0.10  # of a card's memory: the library's context, fragments, buffers
